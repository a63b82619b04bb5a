"""From the records of a run to its tables. A record is one unit: an estimator on one sample of a task, with its cost.

Errors are |estimate - truth| in nats. A failure has no error, is counted, and is left out of every mean and ratio.
"""

import json
from pathlib import Path

import pandas as pd

from lab.oracles.pairs import KIND_OF
from rfmi.files import write_atomically

OURS = "RFMI"
ERROR_FLOOR = 0.02  # errors below this count as equal: a lucky estimate of ours is no yardstick
SAMPLE = ["task", "n", "seed"]
UNIT = ["estimator", *SAMPLE]
COST = ["seconds", "process_seconds", "peak_mebibytes", "mebibytes_before"]


def units_table(records: list[dict]) -> pd.DataFrame:
    """One row a unit: estimate, truth, error, cost, whether a set time ("clock") or its own rule ended it, failure."""
    units = pd.DataFrame(records).astype(dict.fromkeys(["truth", "estimate", *COST], float))
    units["error"] = (units["estimate"] - units["truth"]).abs()
    units["ended_by"] = ["clock" if "seconds" in settings else "itself" for settings in units["settings"]]
    return units[[*UNIT, "truth", "estimate", "error", *COST, "ended_by", "failure"]]


def estimators_table(units: pd.DataFrame) -> pd.DataFrame:
    """One row an estimator, best error first: means, largest memory, and ratios to ours on the samples of both."""
    units = units.assign(mebibytes_added=units["peak_mebibytes"] - units["mebibytes_before"])
    finished = units.dropna(subset="error")
    both = finished.merge(finished[finished["estimator"] == OURS], on=SAMPLE, suffixes=("", "_ours"))
    every, valid, shared = (each.groupby("estimator", sort=False) for each in (units, finished, both))
    columns = {
        "tasks": every["task"].nunique(),
        "units": every.size(),
        "failures": every.size() - every["error"].count(),
        "error": valid["error"].mean(),
        "largest_error": valid["error"].max(),
        "ended_by": every["ended_by"].first(),
        **valid[["seconds", "process_seconds"]].mean(),
        **valid[["peak_mebibytes", "mebibytes_added"]].max(),
        "units_shared_with_ours": shared.size().reindex(list(every.groups), fill_value=0),
        "our_error_there": shared["error_ours"].mean(),
        **{f"{each}_ratio": shared[each].mean() / shared[f"{each}_ours"].mean() for each in ("error", "seconds")},
        "memory_ratio": shared["peak_mebibytes"].max() / shared["peak_mebibytes_ours"].max(),
    }
    return pd.DataFrame(columns).rename_axis("estimator").sort_values("error", kind="stable").reset_index()


def error_against_time(records: list[dict]) -> pd.DataFrame:
    """One row a reading: the error an estimator had after `seconds`. Those read once have one row, their end."""
    rows = [record | point for record in records for point in record["curve"] or [{"steps": None}]]
    table = pd.DataFrame(rows)[[*UNIT, "truth", "steps", "seconds", "estimate"]]
    table = table.astype({"steps": "Int64", "seconds": float, "estimate": float})
    table["error"] = (table["estimate"] - table["truth"]).abs()
    return table.dropna(subset="error", ignore_index=True)


def time_to_our_error(units: pd.DataFrame, readings: pd.DataFrame, floor: float = ERROR_FLOOR) -> pd.DataFrame:
    """When each trained estimator first had our error, from when on it kept it, and both as multiples of our seconds.

    A path that crosses the truth has our error for a moment, so "first" is the kinder and "kept" the stricter reading.
    Where it is not reached, the ratio is of all the time spent: a lower bound where a clock ended the training.
    """
    ours = units[units["estimator"] == OURS].dropna(subset="error").set_index(SAMPLE)[["error", "seconds"]]
    trained = readings[readings["estimator"] != OURS].dropna(subset="steps").merge(ours.add_prefix("our_"), on=SAMPLE)
    trained["error_to_reach"] = trained["our_error"].clip(lower=floor)
    trained["largest_from_here"] = trained[::-1].groupby(UNIT)["error"].cummax()
    last = {"error": "last_error", "steps": "training_steps", "seconds": "training_seconds"}
    table = trained.groupby(UNIT, sort=False).last().rename(columns=last).join(units.set_index(UNIT)["ended_by"])
    for when, error in (("first", "error"), ("kept", "largest_from_here")):
        reached = trained[trained[error] <= trained["error_to_reach"]].groupby(UNIT)["seconds"].first()
        table[f"{when}_seconds"] = reached.reindex(table.index)
        table[f"{when}_ratio"] = table[f"{when}_seconds"].fillna(table["training_seconds"]) / table["our_seconds"]
        table[f"{when}_is_lower_bound"] = table[f"{when}_seconds"].isna()
    columns = [*UNIT, "our_error", "error_to_reach", "our_seconds", *last.values(), "ended_by"]
    columns += [f"{when}_{each}" for each in ("seconds", "ratio", "is_lower_bound") for when in ("first", "kept")]
    return table.reset_index()[columns]


def write_results(folder: Path, records: list[dict], source: dict, pairs: bool = False) -> None:
    """Write the tables and results.json, each in one piece; of pairs by kind, by_kind.csv and by_kind.json alone."""
    units, results = units_table(records), {}
    if pairs:
        units.insert(1, "kind", units["task"].map(KIND_OF))
        tables = {"by_kind": units.rename(columns={"task": "pair", "estimate": "value"})}
    else:
        readings = error_against_time(records)
        tables = {"table": estimators_table(units), "units": units, "error_against_time": readings}
        tables["time_to_our_error"] = time_to_our_error(units, readings)
        results = {"error_floor": ERROR_FLOOR, "table": json.loads(tables["table"].to_json(orient="records"))}
    for name, table in tables.items():
        write_atomically(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    results["units"] = [{name: value for name, value in record.items() if name != "versions"} for record in records]
    installed = {record["environment"]: record["versions"] for record in records if record["versions"]}
    results = {"provenance": source | {"environments": installed}} | results
    name = "by_kind.json" if pairs else "results.json"
    write_atomically(folder / name, json.dumps(results, indent=1, allow_nan=False) + "\n")
