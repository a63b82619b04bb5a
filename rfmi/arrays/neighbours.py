"""Mutual information from distances to nearest neighbours: a second opinion in few dimensions, without a network.

Kraskov, Stoegbauer and Grassberger ("Estimating mutual information", 2004), in the form of Gao, Kannan, Oh and
Viswanath ("Estimating mutual information for discrete-continuous mixtures", 2017), which holds for labels and repeated
values too:

    i(x; y) = psi(k) + psi(n) - psi(n_x) - psi(n_y),

with n_x and n_y the pairs that lie nearer in x, and in y, than the k-th neighbour in both, the pair itself among them.
Where several pairs are as far as the k-th neighbour, all of them count, in all three numbers. Distances are the largest
over the columns, which are normal scores; different labels are infinitely far, and where fewer than k others have a
pair's labels, k is their number. What happens inside a neighbourhood is
lost, so that the value falls with k, the faster the more dimensions and the more information there are.

The second opinion is the value at no neighbours, by a line through those of 3 and 10, and its error half of their
difference. Where 10 say more than 3, which is chance, it is the value of 3.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree
from scipy.special import digamma
from scipy.stats import norm, rankdata

APART = 1e3  # of two labels, in normal scores
ROUNDING = 1e-12  # of distances; normal scores of different ranks are farther apart
FEW, MANY = 3, 10
ERROR_SHARE = 0.5


@dataclass(frozen=True)
class Opinion:
    """value and error of an estimate, in nats; the error is that of the method, without sampling."""

    value: float
    error: float

    def joined(self, other: "Opinion", sampling_error: float) -> "Opinion":
        """The mean of two opinions on the same pairs, each with the inverse of its squared error as its weight.

        other: the other opinion
        sampling_error: of either; a share of it does not cancel between them

        Two that differ by more than their errors are both in doubt: what lies between them is added to both errors
        (DerSimonian and Laird, "Meta-analysis in clinical trials", 1986). The error is that of a mixture of the two,
        which spans both and does not shrink where they agree: on few pairs both miss the same fine structure.
        """
        gap = self.value - other.value
        expected = self.error**2 + other.error**2 + sampling_error**2 / 4
        between = max(0.0, gap**2 - expected) / 2
        one, two = (1 / (each.error**2 + between + 1e-12) for each in (self, other))
        share = one / (one + two)
        square = share * self.error**2 + (1 - share) * other.error**2 + share * (1 - share) * gap**2
        return Opinion(share * self.value + (1 - share) * other.value, float(square**0.5))


def neighbour_opinion(x: np.ndarray, y: np.ndarray) -> Opinion:
    """What neighbours say; x and y: numbers (n, d) or labels (n,)."""
    few, many = (float(values.mean()) for values in neighbour_information(x, y, (FEW, MANY)).values())
    at_none = few + (few - many) * FEW / (MANY - FEW)
    return Opinion(max(few, at_none), ERROR_SHARE * abs(few - many))


def neighbour_information(x: np.ndarray, y: np.ndarray, neighbours: tuple[int, ...]) -> dict[int, np.ndarray]:
    """Point-wise values (n,) in nats for each number of neighbours.

    x, y: numbers (n, d) or labels (n,)
    neighbours: each at least 1
    """
    x, y = _places(x), _places(y)
    n, both = len(x), np.hstack([x, y])
    tree = KDTree(both)
    distances = tree.query(both, max(neighbours) + 2, p=np.inf)[0]
    distances[distances > APART / 2] = np.inf
    others = np.isfinite(distances).sum(1) - 1
    values, row = {}, np.arange(n)
    for k in neighbours:
        inside = np.minimum(k, others)
        reach = distances[row, inside]
        tied = (reach < ROUNDING) | (distances[row, inside + 1] < reach + ROUNDING)
        radius = np.where(tied, reach + ROUNDING, reach - ROUNDING)
        if tied.any():
            inside[tied] = tree.query_ball_point(both[tied], radius[tied], p=np.inf, return_length=True)
        near_x, near_y = _within(x, radius), _within(y, radius)
        values[k] = digamma(inside) + digamma(n) - digamma(near_x) - digamma(near_y)
    return values


def table_information(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Point-wise values (n,) in nats of two labels, x and y (n,), and the error of their mean, without sampling.

    i(x; y) = G(n_xy) + log n - G(n_x) - G(n_y), with G in place of the logarithm of a count: Grassberger, "Entropy
    estimates from insufficient samplings", 2003. Its bias is smaller than its difference from the logarithm, the error.
    """
    table = np.zeros((x.max() + 1, y.max() + 1), int)
    np.add.at(table, (x, y), 1)
    counts = table[x, y], table.sum(1)[x], table.sum(0)[y]
    both, first, second = map(_grassberger, counts)
    values = both + np.log(len(x)) - first - second
    plain = np.log(counts[0] * len(x) / (counts[1] * counts[2]))
    return values, abs(float((values - plain).mean()))


def _grassberger(count: np.ndarray) -> np.ndarray:
    return digamma(count) + (-1.0) ** count * (digamma((count + 1) / 2) - digamma(count / 2)) / 2


def _places(values: np.ndarray) -> np.ndarray:
    if values.ndim == 1:
        return APART * values[:, None].astype(float)
    return norm.ppf((rankdata(values, axis=0) - 0.5) / len(values))


def _within(places: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """How many rows (n,) lie within each row's radius, itself among them."""
    if places.shape[1] > 1:
        return KDTree(places).query_ball_point(places, radius, p=np.inf, return_length=True)
    line = np.sort(places[:, 0])
    upper = np.searchsorted(line, places[:, 0] + radius, side="right")
    return upper - np.searchsorted(line, places[:, 0] - radius, side="left")
