"""One pipeline against another on the same prompts and seeds: paired by prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from rfmi.evaluation.evaluating import Evaluation

MEAN = "mean"
RESAMPLES = 2_000


def compare(
    base: Evaluation | Sequence[Evaluation],
    other: Evaluation | Sequence[Evaluation],
    *,
    column: str = "aligned",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """other - base of a column, by category and in the mean of the categories: value, low, high, n (prompts).

    Several evaluations, as of one method trained from several seeds, are averaged prompt by prompt. 95% bootstrap
    intervals that resample prompts within each category, each prompt with both of its values. Raises ValueError where
    they were not all evaluated on the same prompts and seeds.
    """
    evaluations = [*_listed(base), *_listed(other)]
    keys = ["category", "prompt", "seed"]
    if any(not evaluations[0].images[keys].equals(each.images[keys]) for each in evaluations):
        raise ValueError("the evaluations have other prompts or seeds; evaluate all on the same ones")
    return mean_of_categories(prompt_means(other, column) - prompt_means(base, column), seed, resamples)


def prompt_means(evaluations: Evaluation | Sequence[Evaluation], column: str = "aligned") -> pd.Series:
    """The mean of a column by category and prompt, over the images of each prompt and over the evaluations."""
    return pd.concat([each.by_prompt(column) for each in _listed(evaluations)], axis=1).mean(axis=1)


def mean_of_categories(by_prompt: pd.Series, seed: int, resamples: int = RESAMPLES) -> pd.DataFrame:
    """value, low, high and n (prompts) by category and in the mean of the categories, of numbers by category and
    prompt; 95% bootstrap intervals that resample prompts within each category."""
    random, rows, means = np.random.default_rng(seed), {}, []
    for category, part in by_prompt.groupby("category", sort=False):
        values = part.to_numpy()
        resampled = values[random.integers(len(values), size=(resamples, len(values)))].mean(1)
        rows[category] = _row(values.mean(), resampled, len(values))
        means.append(resampled)
    value = np.mean([row["value"] for row in rows.values()])
    return pd.DataFrame(rows | {MEAN: _row(value, np.mean(means, 0), len(by_prompt))}).T.astype({"n": int})


def share_of_the_way(
    start: pd.Series, reached: pd.Series, goal: pd.Series, seed: int, resamples: int = RESAMPLES
) -> dict[str, float]:
    """(reached - start) / (goal - start) in the mean of the categories: value, low, high, of numbers by category and
    prompt; the interval is that of `mean_of_categories`. NaN where goal and start do not differ."""
    random, sums = np.random.default_rng(seed), np.zeros((2, resamples + 1))
    for _, part in pd.DataFrame({"way": reached - start, "whole": goal - start}).groupby("category", sort=False):
        n = len(part)
        rows = np.vstack([np.arange(n), random.integers(n, size=(resamples, n))])
        sums += np.stack([part[column].to_numpy()[rows].mean(1) for column in ("way", "whole")])
    with np.errstate(invalid="ignore", divide="ignore"):
        share = sums[0] / sums[1]
    low, high = np.quantile(share[1:], [0.025, 0.975])
    return {"value": share[0], "low": low, "high": high}


def _listed(evaluations: Evaluation | Sequence[Evaluation]) -> list[Evaluation]:
    return [evaluations] if isinstance(evaluations, Evaluation) else list(evaluations)


def _row(value: float, resampled: np.ndarray, n: int) -> dict[str, float]:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {"value": value, "low": low, "high": high, "n": n}
