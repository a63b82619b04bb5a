"""Coordinates in which a pair of arrays is as close to a Gaussian pair as coordinate-wise and linear maps can bring it.

Mutual information does not change under invertible maps of x or of y. Three are fitted, each on training rows alone:

    copula     every column to its normal scores, Phi^-1(rank): heavy tails and uniform margins become Gaussian
    whitening  the principal axes of the scores, each to unit variance; axes without variance are dropped
    rotation   the singular vectors of the whitened cross-covariance, so that x_i correlates with y_i alone

In a Gaussian pair the sample correlations r_i are far too large when the dimensions are not small against n: the noise
alone reaches r^2 = d_+ = (sqrt(c_x (1 - c_y)) + sqrt(c_y (1 - c_x)))^2, with c = dimension / n. A correlation rho > 0
above the noise appears at r^2 = rho^2 (1 - c_x + c_x / rho^2)(1 - c_y + c_y / rho^2); `shrink_correlations` inverts
this and sets the rest to zero (Bao, Hu, Pan and Zhou, "Canonical correlation coefficients of high-dimensional Gaussian
vectors", 2019).
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.stats import norm
from sklearn.preprocessing import QuantileTransformer

LARGEST_CORRELATION = 0.9999
SMALLEST_VARIANCE = 1e-6
NOISE_EDGE_MARGIN = 3.0


def normal_scores(fitted: QuantileTransformer, rows: np.ndarray) -> np.ndarray:
    """Phi^-1(rank) of every column (n, d), infinite at and beyond the range of the training rows.

    fitted: on the training rows; rows: (n, d).

    Equal values take the middle of their ranks. scikit-learn's own transform takes values within 1e-7 of the smallest
    or largest for these, whatever the unit, and so knows one value alone in a column of nanometres given in metres.
    """
    ranks, scores = fitted.references_, []
    for values, quantiles in zip(rows.T, fitted.quantiles_.T, strict=True):
        upwards = np.interp(values, quantiles, ranks)
        downwards = -np.interp(-values, -quantiles[::-1], -ranks[::-1])
        middle = 0.5 * (upwards + downwards)
        middle[values >= quantiles[-1]] = 1
        middle[values <= quantiles[0]] = 0
        scores.append(norm.ppf(middle))
    return np.column_stack(scores)


@dataclass(frozen=True)
class Whitening:
    """An affine map fitted on training rows, after normal scores unless the columns are indicators of a label.

    quantiles: of the training rows' columns, None for indicators. limit: the largest score. mean, axes: of the map.
    """

    quantiles: QuantileTransformer | None
    limit: float
    mean: np.ndarray
    axes: np.ndarray

    @classmethod
    def fit(cls, rows: np.ndarray, *, indicators: bool = False) -> Self:
        """rows: (n, d) training rows. With `indicators` the columns go without the copula."""
        quantiles = None if indicators else QuantileTransformer(n_quantiles=len(rows), subsample=None).fit(rows)
        fitted = cls(quantiles, float(norm.ppf(1 - 0.5 / len(rows))), np.zeros(rows.shape[1]), np.eye(rows.shape[1]))
        normal = fitted(rows)
        mean = normal.mean(0)
        variances, axes = np.linalg.eigh(np.cov(normal, rowvar=False).reshape(rows.shape[1], -1))
        kept = variances > SMALLEST_VARIANCE * variances.max()
        return cls(quantiles, fitted.limit, mean, axes[:, kept] / np.sqrt(variances[kept]))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """(n, d) to (n, kept). Rows beyond the training range take the scores of its ends."""
        if self.quantiles is not None:
            rows = np.clip(normal_scores(self.quantiles, rows), -self.limit, self.limit)
        return (rows - self.mean) @ self.axes


@dataclass(frozen=True)
class CanonicalCoordinates:
    """The fitted maps of x and y, and the correlation of each pair of their coordinates.

    correlations: (d_x,) rho_i of x_i and y_i, decreasing, shrunk; zero for the coordinates of x that have no partner.
    """

    x_whitening: Whitening
    y_whitening: Whitening
    x_rotation: np.ndarray
    y_rotation: np.ndarray
    correlations: np.ndarray

    @classmethod
    def fit(cls, x: np.ndarray, y: np.ndarray, *, indicators: bool = False) -> Self:
        """x: (n, d_x) and y: (n, d_y) training rows; `indicators`: y holds the indicator columns of a label."""
        x_whitening, y_whitening = Whitening.fit(x), Whitening.fit(y, indicators=indicators)
        x_white, y_white = x_whitening(x), y_whitening(y)
        left, sample, right = np.linalg.svd(x_white.T @ y_white / len(x), full_matrices=True)
        correlations = np.zeros(x_white.shape[1])
        correlations[: len(sample)] = shrink_correlations(sample, x_white.shape[1], y_white.shape[1], len(x))
        return cls(x_whitening, y_whitening, left, right.T, correlations)

    def __call__(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both arrays in canonical coordinates, (n, d_x) and (n, d_y)."""
        return self.x_whitening(x) @ self.x_rotation, self.y_coordinates(y)

    def y_coordinates(self, y: np.ndarray) -> np.ndarray:
        """y alone in canonical coordinates, (n, d_y)."""
        return self.y_whitening(y) @ self.y_rotation


def shrink_correlations(sample: np.ndarray, x_dimension: int, y_dimension: int, n: int) -> np.ndarray:
    """Population estimates (m,) of sample canonical correlations (m,) from n rows; zero where noise explains them."""
    c_x, c_y = x_dimension / n, y_dimension / n
    if c_x + c_y >= 1:
        return np.zeros_like(sample)
    square = np.minimum(sample, LARGEST_CORRELATION) ** 2
    edge = (np.sqrt(c_x * (1 - c_y)) + np.sqrt(c_y * (1 - c_x))) ** 2 * (1 + NOISE_EDGE_MARGIN * n ** (-2 / 3))
    a, b, c = (1 - c_x) * (1 - c_y), (1 - c_x) * c_y + c_x * (1 - c_y) - square, c_x * c_y
    root = (-b + np.sqrt(np.maximum(b**2 - 4 * a * c, 0))) / (2 * a)
    return np.where(square > edge, np.sqrt(np.clip(root, 0, LARGEST_CORRELATION**2)), 0.0)
