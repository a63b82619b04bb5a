"""One order of rows, of columns and of classes for the same pairs, so that the answer does not depend on any of them.

Folds, first weights and draws follow the rows, the columns and the numbers of the classes. So these are put in an order
that the data alone decide, by ranks, which no unit changes. A row's place is the sum of its squared ranks over the
numeric columns of x and y; a column's key is the sum of rank times place over the rows; a class goes by its number of
pairs, then by the sum of their places.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.stats import rankdata

COLUMNS_COMPARED = 8


@dataclass(frozen=True)
class Order:
    """rows: (n,) their order. x, y: the order of the columns, or the new number of each class."""

    rows: np.ndarray
    x: np.ndarray
    y: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> Self:
        """x and y: numbers (n, d) or labels (n,)."""
        ranked = [_ranks(side) for side in (x, y)]
        numeric = [ranks for ranks in ranked if ranks is not None]
        if not numeric:
            return cls(np.arange(len(x)), np.arange(x.max() + 1), np.arange(y.max() + 1))
        centred = [2 * ranks - len(x) - 1 for ranks in numeric]
        place = rankdata(sum((each**2).sum(1) for each in centred), method="min").astype(np.int64)
        orders = [
            np.argsort(ranks.T @ place, kind="stable") if ranks is not None else _class_numbers(side, place)
            for ranks, side in zip(ranked, (x, y), strict=True)
        ]
        sorted_columns = [ranks[:, order].T for ranks, order in zip(ranked, orders, strict=True) if ranks is not None]
        keys = np.concatenate(sorted_columns)[:COLUMNS_COMPARED]
        labels = [order[side] for side, order in zip((x, y), orders, strict=True) if side.ndim == 1]
        return cls(np.lexsort([*labels, *keys, place]), *orders)

    def apply(self, values: np.ndarray, order: np.ndarray) -> np.ndarray:
        """The rows and columns, or classes, of one side in their order; `order` is `self.x` or `self.y`."""
        return order[values[self.rows]] if values.ndim == 1 else values[np.ix_(self.rows, order)]


def _ranks(side: np.ndarray) -> np.ndarray | None:
    return None if side.ndim == 1 else rankdata(side, method="min", axis=0).astype(np.int64)


def _class_numbers(labels: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The new number of each class."""
    counts, sums = np.bincount(labels), np.bincount(labels, weights=place)
    return np.argsort(np.lexsort([sums, counts]))
