"""One pipeline against another on the same prompts and seeds: paired by prompt."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rfmi.evaluation.evaluating import Evaluation

MEAN = "mean"


def compare(
    base: Evaluation, other: Evaluation, *, column: str = "aligned", seed: int = 0, resamples: int = 2_000
) -> pd.DataFrame:
    """other - base of a column, by category and in the mean of the categories: value, low, high, n (prompts).

    95% bootstrap intervals that resample prompts within each category, each prompt with both of its values. Raises
    ValueError where the two were not evaluated on the same prompts and seeds.
    """
    keys = ["category", "prompt", "seed"]
    if not base.images[keys].equals(other.images[keys]):
        raise ValueError("the two evaluations have other prompts or seeds; evaluate both on the same ones")
    gain = other.by_prompt(column) - base.by_prompt(column)
    random, rows, means = np.random.default_rng(seed), {}, []
    for category, part in gain.groupby("category", sort=False):
        values = part.to_numpy()
        resampled = values[random.integers(len(values), size=(resamples, len(values)))].mean(1)
        rows[category] = _row(values.mean(), resampled, len(values))
        means.append(resampled)
    value = np.mean([row["value"] for row in rows.values()])
    return pd.DataFrame(rows | {MEAN: _row(value, np.mean(means, 0), len(gain))}).T.astype({"n": int})


def _row(value: float, resampled: np.ndarray, n: int) -> dict[str, float]:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {"value": value, "low": low, "high": high, "n": n}
