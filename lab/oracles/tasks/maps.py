"""One-to-one maps that bend a distribution and keep every nat: I(f(X); g(Y)) = I(X; Y).

Each takes an array (n, d) and returns a new one, (n, d) again except for the Swiss roll. The first three act on each
coordinate by itself, as `scipy.special.ndtr` does, which makes a standard normal uniform, and `np.arcsinh`, a signed
logarithm in the tails; the Swiss roll embeds a line in the plane; the spiral turns one plane by an angle proportional
to the squared length,

    x -> exp(speed * ||x||^2 * A) x,    A e_i = e_j,  A e_j = -e_i,

which keeps ||x||, so that the opposite speed undoes it. The choice of maps is that of "Beyond Normal", arXiv
2306.11078.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize.elementwise import find_root
from scipy.special import ndtr


def half_cube(x: np.ndarray) -> np.ndarray:
    """sign(x) |x|^(3/2): longer tails, and a derivative that vanishes at 0."""
    return np.sign(x) * np.abs(x) ** 1.5


def wiggly(x: np.ndarray, waves: Sequence[tuple[float, float, float]]) -> np.ndarray:
    """x + sum of a sin(w x + phase) over waves (a, w, phase); strictly increasing, for a sum of |a w| below 1."""
    steepest = sum(abs(amplitude * frequency) for amplitude, frequency, _ in waves)
    if steepest >= 1:
        raise ValueError(f"waves need a sum of |a w| below 1 to be one-to-one, got {steepest:g}; make them smaller")
    return x + sum(amplitude * np.sin(frequency * x + phase) for amplitude, frequency, phase in waves)


def normal_to_mixture(x: np.ndarray, weights: Sequence[float], means: Sequence[float]) -> np.ndarray:
    """F^-1(Phi(x)) with F the distribution function of sum_k weights_k N(means_k, 1): from N(0, 1) to that mixture.

    Solved by bracketed root finding: the root lies between x + min(means) and x + max(means), where F is below and
    above Phi(x). For x > 0 both sides are taken as survival functions, so that both tails keep their relative
    accuracy.
    """
    weights, means = np.asarray(weights, dtype=float), np.asarray(means, dtype=float)
    if weights.shape != means.shape or np.any(weights <= 0) or not np.isclose(weights.sum(), 1):
        raise ValueError(f"a mixture needs one positive weight per mean, with sum 1; got {weights} for means {means}")
    side = np.where(x > 0, -1.0, 1.0)

    def excess(value: np.ndarray, side: np.ndarray, target: np.ndarray) -> np.ndarray:
        return sum(weight * ndtr(side * (value - mean)) for weight, mean in zip(weights, means, strict=True)) - target

    return find_root(excess, (x + means.min() - 1, x + means.max() + 1), args=(side, ndtr(side * x))).x


def swissroll_x(x: np.ndarray) -> np.ndarray:
    """Embed u in (0, 1), shape (n, 1), in the plane, shape (n, 2): (t cos t, t sin t) / 21 with t = 3/2 pi (1 + 2 u).

    The distance from the origin is t / 21, so u can be read off the roll.
    """
    if x.ndim != 2 or x.shape[1] != 1 or np.any((x < 0) | (x > 1)):
        raise ValueError(
            f"the Swiss roll takes one column in [0, 1], got shape {x.shape} with values from {x.min():g} to "
            f"{x.max():g}; make it uniform first"
        )
    t = 1.5 * np.pi * (1 + 2 * x)
    return np.concatenate([t * np.cos(t), t * np.sin(t)], axis=1) / 21


def spiral(x: np.ndarray, plane: tuple[int, int], speed: float) -> np.ndarray:
    """Turn the coordinates `plane` = (i, j) of each row by the angle speed * ||x||^2, from axis i towards axis j."""
    i, j = plane
    if i == j or not all(0 <= axis < x.shape[1] for axis in plane):
        raise ValueError(
            f"plane {plane} is not two coordinates of an array of shape {x.shape}; choose two of its columns"
        )
    angle = speed * np.square(x).sum(axis=1)
    turned = x.copy()
    turned[:, i] = np.cos(angle) * x[:, i] - np.sin(angle) * x[:, j]
    turned[:, j] = np.sin(angle) * x[:, i] + np.cos(angle) * x[:, j]
    return turned
