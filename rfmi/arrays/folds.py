"""Which pairs are held out together, and how much rows that remember each other are worth.

Pairs are dealt to the folds one by one, but for two kinds of rows:

    equal pairs of continuous numbers    stay together, as a network would be asked about what it has seen; where values
                                         repeat because they are rounded or counted, equal pairs are what the data are
    rows that remember those before      are held out in blocks, and the variance of a mean over them is larger by the
                                         factor 1 + 2 sum_k r_x(k) r_y(k), with r(k) the correlation with the k-th row
                                         before, of the column that remembers most
"""

import numpy as np
from scipy.stats import rankdata

from rfmi.arrays import inputs

MEMORY_Z = 5.0  # correlations of both sides with the row before, in standard errors
BLOCKS = 20
ROUNDED_SHARE = 0.9


def variance_factor(x: np.ndarray, y: np.ndarray) -> float:
    """How many times more a mean over the rows in this order varies than over independent ones; 1 where none remembers.

    x, y: numbers (n, d) or labels (n,); labels are not looked at.
    """
    sides = [_memory(side) for side in (x, y) if side.ndim == 2]
    if not sides or min(abs(side[0]) for side in sides) < MEMORY_Z / len(x) ** 0.5:
        return 1.0
    products = sides[0] * sides[-1]
    above_noise = np.cumprod(products > 2 / len(x))
    return max(1.0, float(1 + 2 * (products * above_noise).sum()))


def _memory(side: np.ndarray) -> np.ndarray:
    """Correlation with the row 1, 2, ... before, of the ranks of the column where the first is largest."""
    n = len(side)
    ranks = rankdata(side, axis=0)
    unit = (ranks - ranks.mean(0)) / ranks.std(0)
    spectrum = np.abs(np.fft.rfft(unit, 2 * n, axis=0)) ** 2
    correlations = np.fft.irfft(spectrum, axis=0)[1 : n // 4] / n
    return correlations[:, np.abs(correlations[0]).argmax()]


def held_together(x: np.ndarray, y: np.ndarray, remembering: np.ndarray | None) -> np.ndarray:
    """Group numbers (n,) of pairs that one fold holds.

    x, y: numbers (n, d) or labels (n,)
    remembering: (n,) the place of each row in time, where rows remember those before; else None
    """
    n = len(x)
    if remembering is not None:
        return remembering * BLOCKS // n
    groups = inputs.repeated(x, y)
    rows = np.unique(groups, return_index=True)[1]
    columns = [column[rows] for side in (x, y) if side.ndim == 2 for column in side.T]
    rounded = any(len(np.unique(column)) < ROUNDED_SHARE * len(rows) for column in columns)
    atoms = np.bincount(groups)[groups] > n / BLOCKS  # so often that it has a probability of its own
    return np.where(rounded | atoms, n + np.arange(n), groups)


def deal(groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold (n,) of every pair: groups in random order, cut into folds of about the same size, none empty."""
    names, place, counts = np.unique(groups, return_inverse=True, return_counts=True)
    folds = min(folds, len(names))
    shuffled = np.random.default_rng(seed).permutation(len(names))
    fold = np.empty(len(names), dtype=np.int64)
    fold[shuffled] = (np.cumsum(counts[shuffled]) - 1) * folds // len(groups)
    return fold[place]


def about_rows(x: np.ndarray, y: np.ndarray, factor: float, repeated: int) -> dict[str, str]:
    """What must be known of the rows, name to sentence; `repeated`: how many pairs repeat others."""
    said = {}
    if factor > 1:
        worth = f"{len(x)} rows are worth {len(x) / factor:.0f} independent ones, as each remembers those before it"
        said["rows_remember"] = f"{worth}; the interval allows for it, the value is less certain than it says"
    if repeated:
        said["repeated_pairs"] = f"{repeated} pairs repeat others; drop those that are one observation stored twice"
    rare = sum(int((np.bincount(side) < inputs.FEWEST_PAIRS).sum()) for side in (x, y) if side.ndim == 1)
    if rare:
        rare_labels = f"{rare} labels have" if rare > 1 else "1 label has"
        said["rare_labels"] = f"{rare_labels} fewer than {inputs.FEWEST_PAIRS} pairs; merge them or get more pairs"
    return said
