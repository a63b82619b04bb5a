"""Sums that give a mutual information where no closed form does.

A smooth density that vanishes at both ends is summed over an even grid, which converges faster than any power of its
step. Where a density has an edge or a jump, each piece between two edges has Gauss-Legendre nodes of its own.

A joint density p at the nodes of two such rules, times both weights, may be treated as the table of a discrete pair:
in H(rows) + H(columns) - H(table) the logarithms of the weights cancel, and the sum of p log p / (p_x p_y) is left.
Cells that a map throws together (rounding, clipping) are added up beforehand.

Adding noise of a density f to a function c(x):   I = h(c(X) + noise) - h(noise).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import entr, ndtr


def grid(low: float, high: float, size: int = 1501) -> tuple[np.ndarray, float]:
    """Nodes (size,) from low to high, and the step that weighs each."""
    return np.linspace(low, high, size), (high - low) / (size - 1)


def circle_grid(size: int = 400) -> np.ndarray:
    """Angles (size,) spread evenly over [0, 2 pi): a mean over them integrates a smooth periodic function."""
    return 2 * np.pi * np.arange(size) / size


def pieces(edges: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights, both (pieces, order), between consecutive edges (pieces + 1,)."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    half = np.diff(edges)[:, None] / 2
    return edges[:-1, None] + half * (1 + nodes), half * weights


def normal_density(value: np.ndarray, deviation: float | np.ndarray = 1.0) -> np.ndarray:
    """Density of N(0, deviation^2)."""
    return np.exp(-((value / deviation) ** 2) / 2) / (deviation * np.sqrt(2 * np.pi))


def normal_nodes(size: int = 601) -> tuple[np.ndarray, np.ndarray]:
    """Values (size,) of a standard normal, and the chance of each."""
    nodes, step = grid(-9, 9, size)
    return nodes, step * normal_density(nodes)


def normal_entropy(deviation: float) -> float:
    """h of N(0, deviation^2)."""
    return np.log(2 * np.pi * np.e * deviation**2) / 2


def binary_entropy(chance: float | np.ndarray) -> float | np.ndarray:
    """H of a coin that falls heads with the chance given."""
    return entr(chance) + entr(1 - np.asarray(chance))


def wrapped_density(angle: np.ndarray, deviation: float) -> np.ndarray:
    """Density on the circle of a normal angle modulo 2 pi."""
    centred = (angle + np.pi) % (2 * np.pi) - np.pi
    return sum(normal_density(centred + 2 * np.pi * turns, deviation) for turns in range(-3, 4))


def wrapped_information(deviation: float) -> float:
    """I of a uniform angle and its sum with wrapped normal noise: log 2 pi - h(noise)."""
    return np.log(2 * np.pi) - 2 * np.pi * entr(wrapped_density(circle_grid(), deviation)).mean()


def table_information(table: np.ndarray) -> float:
    """I of a pair of discrete variables with joint chances (rows, columns)."""
    return entr(table.sum(0)).sum() + entr(table.sum(1)).sum() - entr(table).sum()


def given_information(chances: np.ndarray, table: np.ndarray, weights: float | np.ndarray = 1.0) -> float:
    """I of a node of the chances given (K,) and y, of density (K, points) given the node at points of those weights.

    The points of an atom, or of a y that is discrete, have weight 1 and a chance in place of a density.
    """
    return (weights * (entr(chances @ table) - chances @ entr(table))).sum()


def mixture_entropy(centres: np.ndarray, deviations: float | np.ndarray, chances: float | np.ndarray) -> float:
    """h of a mixture of N(centres_k, deviations_k^2) with the chances given; all (K,)."""
    centres, deviations, chances = np.broadcast_arrays(np.asarray(centres, dtype=float), deviations, chances)
    y, step = grid((centres - 9 * deviations).min(), (centres + 9 * deviations).max())
    return step * entr(chances @ normal_density(y - centres[:, None], deviations[:, None])).sum()


def channel_information(centres: np.ndarray, deviation: float, chances: float | np.ndarray) -> float:
    """I(X; Y) of y = c(x) + N(0, deviation^2), for values c (K,) with the chances given."""
    return mixture_entropy(centres, deviation, chances) - normal_entropy(deviation)


def convolution_information(
    centres: np.ndarray, chances: np.ndarray, noise: Callable[[np.ndarray], np.ndarray]
) -> float:
    """I(X; Y) of y = c(x) + noise, for values c (K,) with the chances given, where y vanishes beyond (-40, 20)."""
    y, step = grid(-40, 20, 1001)
    return step * (entr(chances @ noise(y - centres[:, None])) - entr(noise(y))).sum()


def cell_chances(u: np.ndarray, edges: np.ndarray, correlation: float) -> np.ndarray:
    """Chances (..., edges + 1) that a standard normal lies in each cell, given another one, u (...)."""
    edges = np.concatenate([[-np.inf], edges, [np.inf]])
    return np.diff(ndtr((edges - correlation * u[..., None]) / np.sqrt(1 - correlation**2)), axis=-1)


def cell_table(edges_x: np.ndarray, edges_y: np.ndarray, correlation: float) -> np.ndarray:
    """Chances (edges + 1 of x, of y) of the cells of two standard normals; the outer ones go on to infinity."""
    u, weights = pieces(np.concatenate([[-9.0], edges_x, [9.0]]), order=20)
    return np.einsum("co,coy->cy", weights * normal_density(u), cell_chances(u, edges_y, correlation))
