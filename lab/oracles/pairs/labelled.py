"""Pairs of a vector x and a label y: integers (n,), with dim_y = 0.

    I = H(y) - E H(y | x) = h(x) - E h(x | y).

Parts of x with a part of the label each add their informations: four normal clusters at the corners of a square are
two clusters twice. Columns that say nothing, and one-to-one maps, change nothing. Six clusters at m times plus and
minus each of three axes, in unit noise:

    I = log 6 + m^2 - E log 2 sum_i cosh(m z_i),     z ~ N((m, 0, 0), identity).

A label flipped with chance e, fair before and after:  I = log 2 - H(e). Rings of log-normal radius are normal clusters
on a line. Two centred normals with exchanged widths: I = log 2 - E log(1 + exp(log ratio of their densities)).
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.special import entr, expit, ndtr

from lab.oracles.pairs import truths
from lab.oracles.pairs.samplers import TURN, clusters, coins, known, linear, rotation
from lab.oracles.tasks.families import Pair

CORNERS = 1.5 * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
REACH = 2.66
SIX_MEANS = REACH * np.concatenate([np.eye(3, 4), -np.eye(3, 4)])
SIX_MATRIX = rotation(4, seed=6) * np.array([1.0, 0.5, 2.0, 1.0])
LINE_MEANS, LINE_CHANCES = np.array([0.0, 2.0, 4.5]), np.array([0.9, 0.07, 0.03])
LOG_RADII, RING_WIDTH = np.array([0.0, 0.5, 1.0, 1.5]), 0.2
STRIP_WIDTHS = np.array([[1.0, 0.15], [0.15, 1.0]])
SECTORS, SECTOR_NOISE = 40, 1.2
DIRECTION = 3.0 * rotation(5, seed=5)[0]


def six_clusters_information(reach: float, order: int = 40) -> float:
    """I of six clusters at +-reach on three axes and their label, by a product of Hermite rules."""
    z, weights = np.polynomial.hermite_e.hermegauss(order)
    weights, cosh = weights / weights.sum(), np.cosh(reach * z)
    total = np.cosh(reach * (z + reach))[:, None, None] + cosh[:, None] + cosh
    return np.log(6) + reach**2 - np.einsum("i,j,k,ijk", weights, weights, weights, np.log(2 * total))


def strips_information(wide: float, narrow: float) -> float:
    """I of the label of two centred normals whose two standard deviations are exchanged."""
    z, chances = truths.normal_nodes()
    evidence = (narrow**-2 - wide**-2) / 2 * np.subtract.outer((narrow * z) ** 2, (wide * z) ** 2)
    return np.log(2) - chances @ np.logaddexp(0, evidence) @ chances


def sectors_information(sectors: int, noise: float) -> float:
    """I of an angle and the sector of a noisy copy; the noise, in sectors, is far smaller than half the circle."""
    u, weights = truths.pieces(np.array([0.0, 1.0]), order=16)
    chances = np.diff(ndtr((np.arange(-12, 14)[:, None] - u) / noise), axis=0)
    return np.log(sectors) - (weights * entr(chances)).sum()


def steep_information(slope: float) -> float:
    """I of a normal z and a coin that falls heads with chance 1 / (1 + exp(-slope z))."""
    z, chances = truths.normal_nodes()
    return np.log(2) - chances @ truths.binary_entropy(expit(slope * z))


def on_rings(x: np.ndarray) -> np.ndarray:
    """A log radius and a standard normal as a point of the plane, the normal as an angle spread evenly."""
    turn = TURN * ndtr(x[:, 1])
    return np.exp(x[:, :1]) * np.stack([np.cos(turn), np.sin(turn)], axis=1)


def of_signs(x: np.ndarray, columns: list[int], flips: float) -> np.ndarray:
    """Chance 1 - flips or flips, as the product of those columns is positive or negative."""
    return np.where(x[:, columns].prod(axis=1) > 0, 1 - flips, flips)


def steep(x: np.ndarray) -> np.ndarray:
    """A chance that rises from 0 to 1 along one direction."""
    return expit(x @ DIRECTION)


def _draw_sectors(n: int, generator: np.random.Generator) -> Pair:
    turns = generator.random(n)
    y = np.floor(SECTORS * turns + SECTOR_NOISE * generator.standard_normal(n)).astype(int) % SECTORS
    return np.stack([np.cos(TURN * turns), np.sin(TURN * turns)], axis=1), y


FOUR = 2 * truths.channel_information(CORNERS[1], 1.0, 0.5)
UNBALANCED = truths.channel_information(LINE_MEANS, 1.0, LINE_CHANCES)
ON_A_LINE = partial(clusters, means=np.outer(LINE_MEANS, [1, 0, 0]), chances=LINE_CHANCES)
RINGS = truths.channel_information(LOG_RADII, RING_WIDTH, 1 / 4)
RING_MEANS, RING_WIDTHS = np.outer(LOG_RADII, [1, 0]), np.array([RING_WIDTH, 1])
SIX = partial(clusters, means=SIX_MEANS, transform=linear(SIX_MATRIX))
STRIPS = partial(clusters, means=np.zeros((2, 2)), deviations=STRIP_WIDTHS)
EXCLUSIVE = partial(of_signs, columns=[0, 1], flips=0.1)

LABELS = [
    known("four clusters", FOUR, partial(clusters, means=CORNERS)),
    known("six clusters", six_clusters_information(REACH), SIX),
    known("exclusive signs", np.log(2) - truths.binary_entropy(0.1), partial(coins, dim=2, chance=EXCLUSIVE)),
    known("unbalanced classes", UNBALANCED, ON_A_LINE),
    known("rings", RINGS, partial(clusters, means=RING_MEANS, deviations=RING_WIDTHS, transform=on_rings)),
    known("crossed strips", strips_information(*STRIP_WIDTHS[0]), STRIPS),
    known("forty sectors", sectors_information(SECTORS, SECTOR_NOISE), _draw_sectors),
    known("steep label", steep_information(3.0), partial(coins, dim=5, chance=steep)),
]
