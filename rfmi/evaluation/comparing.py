"""One pipeline against another on the same prompts and seeds: paired image by image.

All prompts are drawn from the same few noises, one a seed, and some noises follow prompts better than others, whatever
the prompt. So prompts and noises are both samples, crossed: intervals resample prompts within each category and, alike
for all of them, noises (the pigeonhole bootstrap, Owen 2007, arXiv 0710.1463). Numbers that have no noise of their own
are one column, and prompts alone are resampled.
"""

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

    Several evaluations, as of one method trained from several seeds, are averaged image by image. 95% bootstrap
    intervals that resample prompts and noises, each image with both of its values. Raises ValueError where they were
    not all evaluated on the same prompts and seeds.
    """
    evaluations = [*_listed(base), *_listed(other)]
    keys = ["category", "prompt", "seed"]
    if any(not evaluations[0].images[keys].equals(each.images[keys]) for each in evaluations):
        raise ValueError("the evaluations have other prompts or seeds; evaluate all on the same ones")
    return mean_of_categories(by_image(other, column) - by_image(base, column), seed, resamples)


def by_image(evaluations: Evaluation | Sequence[Evaluation], column: str = "aligned") -> pd.DataFrame:
    """A column by category and prompt, one column a seed of images, in the mean over the evaluations."""
    keys = ["category", "prompt", "seed"]
    tables = [each.images.set_index(keys)[column].unstack("seed", sort=False) for each in _listed(evaluations)]
    return sum(tables) / len(tables)


def mean_of_categories(values: pd.Series | pd.DataFrame, seed: int, resamples: int = RESAMPLES) -> pd.DataFrame:
    """value, low, high and n (prompts) by category and in the mean of the categories, of numbers by category and
    prompt, or of columns of them, one a noise; 95% bootstrap intervals."""
    rows, means, noises = {}, [], _Noises(values, seed, resamples)
    random = np.random.default_rng(seed)
    for category, part in values.groupby("category", sort=False):
        value, resampled = noises.means(part, random.integers(len(part), size=(resamples, len(part))))
        rows[category] = _row(value, resampled, len(part))
        means.append(resampled)
    value = np.mean([row["value"] for row in rows.values()])
    return pd.DataFrame(rows | {MEAN: _row(value, np.mean(means, 0), len(values))}).T.astype({"n": int})


def share_of_the_way(
    start: pd.Series | pd.DataFrame,
    reached: pd.Series | pd.DataFrame,
    goal: pd.Series | pd.DataFrame,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, float]:
    """(reached - start) / (goal - start) in the mean of the categories: value, low, high, of numbers as
    `mean_of_categories` takes them; the interval is the same. NaN where the goal is no way above the start; so is the
    interval where that holds for more than one resampling in forty."""
    random, noises, sums = np.random.default_rng(seed), _Noises(start, seed, resamples), np.zeros((2, resamples + 1))
    for _, part in start.groupby("category", sort=False):
        rows = random.integers(len(part), size=(resamples, len(part)))
        for total, to in zip(sums, (reached, goal), strict=True):
            value, resampled = noises.means(to.loc[part.index] - part, rows)
            total += [value, *resampled]
    reached_by, way = sums
    share = np.divide(reached_by, way, out=np.full_like(way, np.nan), where=way > 0)
    resampled = share[1:][way[1:] > 0]
    certain = way[0] > 0 and len(resampled) >= 0.975 * resamples
    low, high = np.quantile(resampled, [0.025, 0.975]) if certain else (np.nan, np.nan)
    return {"value": share[0], "low": low, "high": high}


class _Noises:
    """Which noises each resampling draws, the same for all categories."""

    def __init__(self, values: pd.Series | pd.DataFrame, seed: int, resamples: int) -> None:
        n = values.shape[1] if values.ndim == 2 else 1
        self.drawn = np.random.default_rng([seed, 1]).integers(n, size=(resamples, n))

    def means(self, part: pd.Series | pd.DataFrame, rows: np.ndarray) -> tuple[float, np.ndarray]:
        """The mean of all numbers, and that of every resampling, its prompts given as `rows`."""
        numbers = part.to_numpy(float).reshape(len(part), -1)
        return numbers.mean(), np.take_along_axis(numbers[rows].mean(1), self.drawn, 1).mean(1)


def _listed(evaluations: Evaluation | Sequence[Evaluation]) -> list[Evaluation]:
    return [evaluations] if isinstance(evaluations, Evaluation) else list(evaluations)


def _row(value: float, resampled: np.ndarray, n: int) -> dict[str, float]:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {"value": value, "low": low, "high": high, "n": n}
