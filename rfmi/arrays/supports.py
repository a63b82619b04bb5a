"""Arrays whose rows fill fewer dimensions than they have columns, or that repeat values: made to have a density.

A flow needs a density to flow to. Where there is none (unit vectors, angles as cosine and sine, shares that sum to one,
a column beside its square, rounded values), the field is singular at clean data and what is read from it is too large.
Each of the following keeps I(X; Y) exactly, because what is taken away is known from what stays, and what is added is
independent of everything and can be taken off again:

    redundant columns    a column that is a quadratic function of the others is dropped
    ellipsoids           columns z with sum_j a_j (z_j - c_j)^2 = 1 become r sqrt(a) (z - c), r^2 ~ chi^2_d: unit
                         vectors that look in every direction alike become a standard normal vector
    repeated values      a value becomes a uniform draw between it and the next one

Relations are looked for in the columns at unit spread and must hold in every row.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.linalg import qr

EXACT = 1e-5  # what a relation may leave of the columns' spread, in any row: float32 leaves 1e-6
ROWS_A_FEATURE, MOST_FEATURES = 3, 100
SMALLEST_ELLIPSOID = 1e-3


@dataclass(frozen=True)
class Support:
    """Where the rows of an array lie.

    kept: the columns that the others do not determine
    values: of each kept column that repeats values, its distinct values in order; of the others none
    ellipsoids: columns (among the kept ones), centre and axes of each group that lies on one
    """

    kept: np.ndarray
    values: tuple[np.ndarray, ...]
    ellipsoids: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]

    @classmethod
    def of(cls, rows: np.ndarray) -> Self:
        """rows: (n, d) numbers."""
        spread, middle = _spread_and_middle(rows)
        unit = rows / spread - middle
        kept = _independent_columns(unit)
        distinct = [np.unique(rows[:, column]) for column in kept]
        several = np.flatnonzero([len(each) > 2 for each in distinct])  # any two lie on a sphere
        ellipsoids = []
        for columns, centre, axes in _ellipsoids(unit[:, kept[several]]):
            chosen = kept[several[columns]]
            ellipsoids.append((several[columns], (centre + middle[chosen]) * spread[chosen], axes * spread[chosen]))
        values = tuple(each if len(each) < len(rows) else each[:0] for each in distinct)
        return cls(kept, values, tuple(ellipsoids))

    @property
    def dimension(self) -> int:
        """How many dimensions the rows fill."""
        return len(self.kept) - len(self.ellipsoids)

    def reduced(self, rows: np.ndarray) -> np.ndarray:
        """The kept columns (n, k) of rows (n, d)."""
        return rows[:, self.kept]

    def completed(self, rows: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Rows (n, d) with a density, (n, k), and the same information; `generator` makes what is added."""
        full = self.reduced(rows).copy()
        uniform = generator.random(full.shape)
        for column, values in enumerate(self.values):
            if len(values):
                full[:, column] = _spread_out(full[:, column], values, uniform[:, column])
        for columns, centre, axes in self.ellipsoids:
            length = np.sqrt(generator.chisquare(len(columns), (len(rows), 1)))
            full[:, columns] = (full[:, columns] - centre) / axes * length
        return full


def _spread_and_middle(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean absolute deviation of every column, and its mean in units of that; no square that could overflow."""
    largest = np.abs(rows).max(0)
    unit = rows / largest
    middle = unit.mean(0)
    spread = np.abs(unit - middle).mean(0)
    return spread * largest, middle / spread


def _independent_columns(unit: np.ndarray) -> np.ndarray:
    """The columns of (n, d) that no quadratic function of those kept gives; later ones are dropped first."""
    n, d = unit.shape
    linear = np.column_stack([np.ones(n), unit])
    few_features = d * (d + 1) // 2 <= min(n // ROWS_A_FEATURE, MOST_FEATURES)
    if not few_features and np.linalg.svd(linear, compute_uv=False)[-1] > EXACT * n**0.5:
        return np.arange(d)
    kept = list(range(d))
    for column in reversed(range(d)):
        others = [each for each in kept if each != column]
        if others and _explained(unit[:, others], unit[:, column], n // ROWS_A_FEATURE):
            kept = others
    return np.array(kept)


def _explained(others: np.ndarray, column: np.ndarray, most: int) -> bool:
    features = np.column_stack([np.ones(len(others)), others])
    if features.shape[1] > most:
        return False
    first, second = np.triu_indices(others.shape[1])
    if features.shape[1] + len(first) <= min(most, MOST_FEATURES):
        features = np.column_stack([features, others[:, first] * others[:, second]])
    solution = np.linalg.lstsq(features, column, rcond=None)[0]
    return bool(np.abs(features @ solution - column).max() < EXACT)


def _ellipsoids(unit: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Columns, centre and axes of every group of columns that lies on an ellipsoid along the coordinate axes."""
    n, d = unit.shape
    if d < 2 or 2 * d + 1 > n // ROWS_A_FEATURE:
        return []
    features = np.column_stack([unit**2, unit, np.ones(n)])
    scale = np.abs(features).max(0)
    _, singular, directions = np.linalg.svd(features / scale, full_matrices=False)
    null = directions[singular < EXACT * n**0.5] / scale
    null = null[: d // 2]
    if not len(null):
        return []
    pivots = qr(null[:, :d], pivoting=True)[2][: len(null)]  # one group has one pivot: the relations come apart
    if np.linalg.cond(null[:, pivots]) > 1e6:
        return []
    found = []
    for relation in np.linalg.solve(null[:, pivots], null):
        columns = np.flatnonzero(np.abs(relation[:d]) > SMALLEST_ELLIPSOID)
        squares, linear = relation[columns], relation[d + columns]
        centre = -linear / (2 * squares)
        radius = (squares * centre**2).sum() - relation[-1]
        z = unit[:, columns]
        left = (squares * (z - centre) ** 2).sum(1) / radius - 1
        if len(columns) > 1 and (squares > 0).all() and radius > 0 and np.abs(left).max() < 10 * EXACT:
            found.append((columns, centre, np.sqrt(radius / squares)))
    return found


def _spread_out(column: np.ndarray, values: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Each value moved by a uniform share of the way to the next one; the last goes as far as the one before it."""
    gaps = np.diff(values)
    place = np.clip(np.searchsorted(values, column, side="right") - 1, 0, len(values) - 1)
    gap = np.append(gaps, gaps[-1])[place]
    return column + uniform * gap
