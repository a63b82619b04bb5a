"""Means with their intervals.

Every interval is a 95% bootstrap interval and one row: value, low, high, n. Prompts are the independent units. Images
of all prompts are often drawn from the same few noises, and some noises follow prompts better than others, whatever
the prompt; then prompts and noises are both samples, crossed, and both are resampled, noises alike for all prompts (the
pigeonhole bootstrap, Owen 2007, arXiv 0710.1463).
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

Numbers = pd.Series | pd.DataFrame
MEAN = "mean"
RESAMPLES = 2_000
TAILS = (0.025, 0.975)


@dataclass(frozen=True)
class Mean:
    """A mean over n prompts with its 95% interval from low to high."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, value: float, resampled: np.ndarray, n: int) -> Self:
        """The mean of n values, and the same mean of every resampling."""
        low, high = np.quantile(resampled, TAILS)
        return cls(float(value), float(low), float(high), n)


def bootstrap_mean(values: ArrayLike, seed: int, resamples: int = RESAMPLES) -> Mean:
    """The mean of one value a prompt, (P,), on the CPU; ValueError for fewer than two, or values not finite."""
    array = np.asarray(values, float)
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all():
        raise ValueError("a bootstrap needs a vector of at least two finite values; leave out prompts without one")
    chosen = np.random.default_rng(seed).integers(len(array), size=(resamples, len(array)))
    return Mean.of(array.mean(), array[chosen].mean(1), len(array))


def concordance(truth: ArrayLike, scores: ArrayLike) -> float:
    """Of the pairs (i, j) with truth_i > truth_j, the share that the scores order alike, ties counting half.

    truth, scores: (n,). Where the truth is yes or no it is the area under the ROC curve. ValueError where all is alike.
    """
    truth, scores = np.asarray(truth, float), np.asarray(scores, float)
    above = truth[:, None] > truth
    if not above.any():
        raise ValueError("nothing is truer than anything else; leave out groups whose truth is all alike")
    ahead = scores[:, None] - scores
    return float(((np.sign(ahead) + 1) / 2)[above].mean())


def mean_of_categories(values: Numbers, seed: int, resamples: int = RESAMPLES) -> pd.DataFrame:
    """Rows of value, low, high and n (prompts), by category and in the mean of the categories.

    values: numbers by category and prompt, or columns of them, one a noise; prompts are resampled within each category.
    """
    rows, means, noises = {}, [], _Noises(values, seed, resamples)
    random = np.random.default_rng(seed)
    for category, part in values.groupby("category", sort=False):
        value, resampled = noises.means(part, random.integers(len(part), size=(resamples, len(part))))
        rows[category] = vars(Mean.of(value, resampled, len(part)))
        means.append(resampled)
    value = np.mean([row["value"] for row in rows.values()])
    rows[MEAN] = vars(Mean.of(value, np.mean(means, 0), len(values)))
    return pd.DataFrame(rows).T.astype({"n": int})


def share_of_the_way(start: Numbers, reached: Numbers, goal: Numbers, seed: int, resamples: int = RESAMPLES) -> Mean:
    """(reached - start) / (goal - start) in the mean of the categories, of numbers as `mean_of_categories` takes them.

    NaN where the goal is no way above the start; so is the interval where that holds for more than one resampling in
    forty.
    """
    random, noises, sums = np.random.default_rng(seed), _Noises(start, seed, resamples), np.zeros((2, resamples + 1))
    for _, part in start.groupby("category", sort=False):
        rows = random.integers(len(part), size=(resamples, len(part)))
        for total, to in zip(sums, (reached, goal), strict=True):
            value, resampled = noises.means(to.loc[part.index] - part, rows)
            total += [value, *resampled]
    gone, way = sums
    share = np.divide(gone, way, out=np.full_like(way, np.nan), where=way > 0)
    resampled = share[1:][way[1:] > 0]
    if np.isnan(share[0]) or len(resampled) < TAILS[1] * resamples:
        return Mean(float(share[0]), np.nan, np.nan, len(start))
    return Mean.of(share[0], resampled, len(start))


class _Noises:
    """Which noises each resampling draws, the same for all categories."""

    def __init__(self, values: Numbers, seed: int, resamples: int) -> None:
        n = values.shape[1] if values.ndim == 2 else 1
        self.drawn = np.random.default_rng([seed, 1]).integers(n, size=(resamples, n))

    def means(self, part: Numbers, rows: np.ndarray) -> tuple[float, np.ndarray]:
        """The mean of all numbers, and that of every resampling, its prompts given as `rows`."""
        numbers = part.to_numpy(float).reshape(len(part), -1)
        return numbers.mean(), np.take_along_axis(numbers[rows].mean(1), self.drawn, 1).mean(1)
