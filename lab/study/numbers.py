"""A report's results as flat rows, and where those of two runs differ.

A row is a key, as "auc/likelihood", its value, the ends of its interval and n. `x_interval`, or `x_low` and `x_high`,
are the interval of `x` beside them; `low`, `high` and `n` belong to `value`, or else to the one number that lies
between them. A row of a table is named by the texts in it.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ENDS = ("_interval", "_low", "_high")
AGREEING = {"equal", "within", "time"}
TIMES = ("seconds",)  # they differ between any two runs, and are no results


class Row(NamedTuple):
    """One number or text of the results."""

    key: str
    value: Any
    low: float | None = None
    high: float | None = None
    n: float | None = None


def flat(value: Any, key: str = "", interval: Any = None, n: float | None = None, centre: str = "") -> Iterator[Row]:
    """The rows of results: of mappings, lists, numbers and texts.

    interval, n: of the value; centre: the name of the number in it to which its own `low`, `high` and `n` belong
    """
    if isinstance(value, dict):
        centre = centre or between([value])
        for name, item in value.items():
            if centre and name in ("low", "high", "n"):
                continue
            if any(name.endswith(end) and name.removesuffix(end) in value for end in ENDS):
                continue
            ends = value.get(f"{name}_interval", [value.get(f"{name}_low"), value.get(f"{name}_high")])
            ends = [value["low"], value["high"]] if name == centre else ends
            ends = interval.get(name) if isinstance(interval, dict) else ends
            yield from flat(item, f"{key}/{name}".lstrip("/"), ends, value.get("n") if name == centre else None)
    elif isinstance(value, list):
        tables = all(isinstance(each, dict) for each in value)
        centre, seen = between(value) if tables else "", Counter()
        for row in value:
            name = ", ".join(each for each in row.values() if isinstance(each, str)) if tables else ""
            seen[name] += 1
            numbers = {k: each for k, each in row.items() if not isinstance(each, str)} if tables else row
            yield from flat(numbers, f"{key}/{name} {seen[name]}".replace("/ ", "/"), centre=centre)
    else:
        low, high = interval if isinstance(interval, list) and is_number(value) else (None, None)
        yield Row(key, value, low, high, n)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def between(rows: Sequence[dict[str, Any]]) -> str:
    """The name of the number that lies between `low` and `high` in all rows, "value" before others; "" for none."""
    if not rows or not all(is_number(row.get("low")) and is_number(row.get("high")) for row in rows):
        return ""
    if "value" in rows[0]:
        return "value"
    names = sorted({*rows[0]} - {"low", "high", "n"})
    inside = (all(is_number(row.get(k)) and row["low"] <= row[k] <= row["high"] for row in rows) for k in names)
    return next((name for name, each in zip(names, inside, strict=True) if each), "")


def results_of(report: Path) -> dict[str, Any]:
    """All results of a report folder, by the name of their file. Raises ValueError where there are none."""
    files = sorted((report / "results").glob("*.json"))
    if not files:
        raise ValueError(f"{report} holds no results (results/*.json); name the folder of a report")
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


class Pair(NamedTuple):
    """What two runs say of one key, as text, and how that goes together.

    verdict: "equal"; "within", where the intervals overlap (a number without one is its own); "beyond", where they do
        not; "differs", where neither has one; "time"; "only in A" or "only in B"
    """

    key: str
    one: str
    other: str
    verdict: str


def verdict(one: Row | None, other: Row | None) -> str:
    """The verdict on two rows of one key."""
    if one is None or other is None:
        return "only in B" if one is None else "only in A"
    numbers = is_number(one.value) and is_number(other.value)
    if one.value == other.value or (numbers and math.isclose(one.value, other.value, rel_tol=1e-6, abs_tol=1e-12)):
        return "equal"
    if one.key.rpartition("/")[-1] in TIMES:
        return "time"
    if not numbers or (one.low is None and other.low is None):
        return "differs"
    ends = ((row.value, row.value) if row.low is None else (row.low, row.high) for row in (one, other))
    (low, high), (other_low, other_high) = ends
    return "within" if low <= other_high and other_low <= high else "beyond"


def said(row: Row | None) -> str:
    """A row's value and interval, for people."""
    if row is None or not is_number(row.value):
        return "-" if row is None else str(row.value)[:30]
    return f"{row.value:.6g}" + (f" ({row.low:.4g} to {row.high:.4g})" if row.low is not None else "")


def compare(one: Path, other: Path) -> list[Pair]:
    """All results of two report folders, by key. Raises ValueError where a folder holds none."""
    left, right = ({row.key: row for row in flat(results_of(report))} for report in (one, other))
    pairs = {key: (left.get(key), right.get(key)) for key in left | right}
    return [Pair(key, *map(said, pair), verdict(*pair)) for key, pair in pairs.items()]
