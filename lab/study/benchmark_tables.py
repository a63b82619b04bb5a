"""From finished units of the benchmark to the tables and results of its notebook; all information in nats."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from scipy.stats import entropy
from sklearn.datasets import load_digits

from rfmi.statistics import bootstrap_mean


def summary(estimates: pd.DataFrame) -> pd.DataFrame:
    """One row a sample size: error with its 95% interval, tasks within 0.1 nat, coverage, median width, seconds.

    A task's error is the mean of its seeds' absolute errors; the interval is a bootstrap over tasks with a fixed seed;
    a task is within 0.1 nat when the mean of its seeds' estimates is. Raises ValueError for a single task.
    """
    rows = []
    for n, group in estimates.groupby("n"):
        error = group.value - group.true
        by_task = error.abs().groupby(group.task).mean()
        mean = bootstrap_mean(torch.tensor(by_task.tolist()), seed=0)
        first = group[group.seed == group.seed.min()]
        rows.append(
            {
                "n": int(n),
                "tasks": len(by_task),
                "seeds": int(group.seed.nunique()),
                "mae": mean.value,
                "mae_low": mean.low,
                "mae_high": mean.high,
                "within_0.1": int((error.groupby(group.task).mean().abs() < 0.1).sum()),
                "coverage": float(((group.low <= group.true) & (group.true <= group.high)).mean()),
                "median_width": float((group.high - group.low).median()),
                "core_seconds": float(first.seconds.sum()),
            }
        )
    return pd.DataFrame(rows)


def digits_table(units: pd.DataFrame, components: int) -> pd.DataFrame:
    """Means over seeds of the digit tests, with what the laws expect of each and whether it holds (nats).

    Value and interval are means over seeds: the seeds share the digits, so their intervals do not shrink together. A
    law holds where value and expectation differ by no more than both intervals allow, added in squares; the entropy of
    the class is a bound and holds where the value does not exceed it by more than its interval.
    """
    table = units.groupby(["test", "level"], sort=False)[["value", "low", "high"]].mean().reset_index()
    half_width = ((table.high - table.low) / 2).set_axis(table.test)
    full = table[(table.test == "dependence") & (table.level == components)].iloc[0]
    of_class = float(entropy(np.bincount(load_digits().target)))
    expected = {"independence": 0.0, "processing": full.value, "additivity": 2 * full.value, "label": of_class}
    uncertainty = {"processing": (full.high - full.low) / 2, "additivity": full.high - full.low}
    names = {
        "independence": "another digit's half: 0",
        "processing": "with a function of y: unchanged",
        "additivity": "two digits: twice",
        "label": "class of the digit: at most its entropy",
    }

    def holds(row: pd.Series) -> bool | None:
        if row.test not in expected:
            return None
        gap = row.value - expected[row.test]
        allowed = np.hypot(half_width[row.test], uncertainty.get(row.test, 0.0))
        return bool((gap if row.test == "label" else abs(gap)) <= allowed)

    table = table.assign(expected=table.test.map(expected), label=table.test.map(names).fillna("halves"))
    return table.assign(holds=table.apply(holds, axis=1))


def results(
    estimates: pd.DataFrame, summary: pd.DataFrame, digits: pd.DataFrame, exponents: dict[str, float], workers: int
) -> dict:
    """What the report keeps of the benchmark: `reports/results/mi_benchmark.json`. Times are seconds of `workers`."""
    by_n = summary.rename(index=str)
    largest = estimates[estimates.n == estimates.n.max()]
    seconds = largest[largest.seed == largest.seed.min()].seconds.sum() / workers
    keys = ["task", "n", "seed", "true", "value", "low", "high", "seconds"]
    return {
        **{name: by_n[name].to_dict() for name in ("mae", "within_0.1", "coverage", "median_width")},
        "mae_interval": {n: [row.mae_low, row.mae_high] for n, row in by_n.iterrows()},
        "tasks": by_n.tasks.to_dict(),
        "seeds": by_n.seeds.to_dict(),
        "seconds": float(seconds),
        "exponents": exponents,
        "digits": digits.to_dict("records"),
        "estimates": estimates[keys].to_dict("records"),
    }
