"""From the records of a run to its tables. A record is one unit: an estimator on one sample of a task, with its cost.

Errors are |estimate - truth| in nats. A failure has no error, is counted, and is left out of every mean and ratio. A
ratio compares an estimator with ours on exactly the samples where both gave a number.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from rfmi.runs import write_atomically

UNIT = ["task", "n", "seed"]
COST = ["seconds", "process_seconds", "peak_mebibytes", "mebibytes_before"]


def ended_by(record: dict[str, Any]) -> str:
    """What ends the estimator's work: a "clock", its time being a setting of the run, or its own rule, "itself"."""
    return "clock" if "seconds" in record["settings"] else "itself"


def units_table(records: list[dict[str, Any]]) -> pd.DataFrame:
    """One row a unit: estimate, truth, error and cost, or the reason of its failure."""
    numbers = ["truth", "estimate", *COST]
    units = pd.DataFrame([record | {"ended_by": ended_by(record)} for record in records])
    units = units[["estimator", *UNIT, *numbers, "ended_by", "failure"]].astype(dict.fromkeys(numbers, float))
    units.insert(units.columns.get_loc("estimate") + 1, "error", (units["estimate"] - units["truth"]).abs())
    return units


def estimators_table(units: pd.DataFrame, ours: str) -> pd.DataFrame:
    """One row an estimator, best error first: its means, largest memory, and ratios to ours on the same samples."""
    mine = units[(units["estimator"] == ours) & units["error"].notna()].set_index(UNIT)
    rows = []
    for name, group in units.groupby("estimator", sort=False):
        valid = group[group["error"].notna()].set_index(UNIT)
        shared = valid.index.intersection(mine.index)
        theirs, reference = valid.loc[shared], mine.loc[shared]
        row = {
            "estimator": name,
            "tasks": group["task"].nunique(),
            "units": len(group),
            "failures": len(group) - len(valid),
            "error": valid["error"].mean(),
            "largest_error": valid["error"].max(),
            "ended_by": group["ended_by"].iloc[0],
            "seconds": valid["seconds"].mean(),
            "process_seconds": valid["process_seconds"].mean(),
            "peak_mebibytes": valid["peak_mebibytes"].max(),
            "mebibytes_added": (valid["peak_mebibytes"] - valid["mebibytes_before"]).max(),
            "units_shared_with_ours": len(shared),
            "our_error_there": reference["error"].mean(),
            "error_ratio": theirs["error"].mean() / reference["error"].mean(),
            "seconds_ratio": theirs["seconds"].mean() / reference["seconds"].mean(),
            "memory_ratio": theirs["peak_mebibytes"].max() / reference["peak_mebibytes"].max(),
        }
        rows.append(row)
    return pd.DataFrame(rows).sort_values("error", kind="stable", ignore_index=True)


def error_against_time(records: list[dict[str, Any]]) -> pd.DataFrame:
    """One row a reading: the error an estimator had after `seconds`. Those read once have one row, their end."""
    rows = []
    for record in records:
        unit = {name: record[name] for name in ["estimator", *UNIT, "truth"]}
        end = {"steps": None, "seconds": record["seconds"], "estimate": record["estimate"]}
        rows += [unit | point for point in record["curve"] or [end] if point["estimate"] is not None]
    columns = ["estimator", *UNIT, "truth", "steps", "seconds", "estimate"]
    table = pd.DataFrame(rows, columns=columns).astype({"steps": "Int64"})
    return table.assign(error=(table["estimate"] - table["truth"]).abs())


def time_to_our_error(records: list[dict[str, Any]], ours: str, floor: float) -> pd.DataFrame:
    """When each trained estimator first had our error, from when on it kept it, and both as multiples of our seconds.

    The error to reach is ours or `floor`, whichever is larger: a lucky estimate of ours is no yardstick. An estimator
    whose path crosses the truth has that error for a moment, so "first" is the kinder and "kept" the stricter reading.
    Where it is not reached, the ratio is of the time spent without reaching it: a lower bound where a clock ended the
    training (`ended_by`), while an estimator that stopped by its own rule would not have gone on.
    """
    mine = {tuple(r[key] for key in UNIT): r for r in records if r["estimator"] == ours and r["estimate"] is not None}
    rows = []
    for record in records:
        reference = mine.get(tuple(record[key] for key in UNIT))
        points = [point for point in record["curve"] if point["estimate"] is not None]
        if reference is None or not points or record["estimator"] == ours:
            continue
        our_error = abs(reference["estimate"] - reference["truth"])
        level = max(our_error, floor)
        reached = [abs(point["estimate"] - record["truth"]) <= level for point in points]
        first = points[reached.index(True)]["seconds"] if any(reached) else None
        tail = len(points) - next((k for k, good in enumerate(reversed(reached)) if not good), len(points))
        kept = points[tail]["seconds"] if tail < len(points) else None
        spent = points[-1]["seconds"]
        row = {name: record[name] for name in ["estimator", *UNIT]} | {
            "our_error": our_error,
            "error_to_reach": level,
            "our_seconds": reference["seconds"],
            "last_error": abs(points[-1]["estimate"] - record["truth"]),
            "training_steps": points[-1]["steps"],
            "training_seconds": spent,
            "ended_by": ended_by(record),
            "first_seconds": first,
            "kept_seconds": kept,
            "first_ratio": (spent if first is None else first) / reference["seconds"],
            "kept_ratio": (spent if kept is None else kept) / reference["seconds"],
            "first_is_lower_bound": first is None,
            "kept_is_lower_bound": kept is None,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def write_results(
    folder: Path, records: list[dict[str, Any]], source: dict[str, Any], *, ours: str, error_floor: float
) -> None:
    """Write table.csv, units.csv, error_against_time.csv, time_to_our_error.csv and results.json, each in one piece."""
    units = units_table(records)
    tables = {
        "table": estimators_table(units, ours),
        "units": units,
        "error_against_time": error_against_time(records),
        "time_to_our_error": time_to_our_error(records, ours, error_floor),
    }
    for name, table in tables.items():
        write_atomically(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    installed = {record["environment"]: record["versions"] for record in records if record["versions"]}
    results = {
        "provenance": source | {"environments": installed},
        "error_floor": error_floor,
        "table": json.loads(tables["table"].to_json(orient="records")),
        "units": [{name: value for name, value in record.items() if name != "versions"} for record in records],
    }
    write_atomically(folder / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
