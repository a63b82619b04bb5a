"""Pairs of counts and other numbers from a list, and pairs with both atoms and a density.

Counts: I = H(y) - E H(y | x), or a sum over the table of both. A Poisson count of gamma rate is negative binomial, of
exponential rate geometric. Each of n Poisson events kept with chance p: the kept and the lost ones are independent.
Rounding and binning add up the cells of two normals. A symbol kept with chance q, else any of m:  I = log m - H(y | x).
Whole numbers in noise are clusters on a line. If y is a function of x, I = H(y).

Atoms beside a density. If b, a function of x and also of y, says which law both follow, I = H(b) + E I(X; Y | b). If
b is seen in y alone and independent of x, I = E I(X; Y | b). Clipping adds up the chances of all that lies beyond.
Gao et al. (2017): x whole and even on 0 .. m - 1, y uniform on (x, x + 2):  I = log m - (m - 1)/m log 2.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.special import entr, gammaln, ndtri, xlogy

from lab.oracles.pairs import truths
from lab.oracles.pairs.labelled import CORNERS, FOUR
from lab.oracles.pairs.samplers import UNIFORM, channels, clusters, known, noisy, seen, whole
from lab.oracles.tasks.families import Pair

COUNTS = np.arange(120)
TENTHS, UNITS = np.arange(-49.5, 50) / 10, np.arange(-4.5, 5)
DECILES, QUARTILES = ndtri(np.arange(1, 10) / 10), ndtri(np.arange(1, 4) / 4)
SYMBOLS, KEPT = np.array([7, 2, 10, 5, 0, 8, 3, 11, 6, 1, 9, 4]), 0.8
DICE = np.concatenate([np.arange(1, 7), np.arange(5, 0, -1)]) / 36


def poisson(count: np.ndarray, rate: float | np.ndarray) -> np.ndarray:
    """Chance of a count at a rate; 0 below 0."""
    return np.where(count < 0, 0.0, np.exp(xlogy(count, rate) - rate - gammaln(np.maximum(count, 0) + 1)))


def rate_information(shape: float, scale: float, zeros: float = 0.0) -> float:
    """I of a gamma rate and a Poisson count that is replaced by 0 with the chance `zeros`."""
    log_rate, step = truths.grid(-20, 5, 401)
    rate = np.exp(log_rate)
    chances = step * np.exp(shape * (log_rate - np.log(scale)) - rate / scale - gammaln(shape))
    counts = zeros * (COUNTS == 0) + (1 - zeros) * poisson(COUNTS, rate[:, None])
    return entr(chances @ counts).sum() - chances @ entr(counts).sum(axis=1)


def thinned_table(rate: float, kept: float) -> np.ndarray:
    """Chances (x, y) of a Poisson count x and its part y."""
    x, y = np.arange(60)[:, None], np.arange(60)
    return poisson(y, kept * rate) * poisson(x - y, (1 - kept) * rate)


def symbol_information(symbols: int, kept: float) -> float:
    """I of an even symbol and one that is the same, under another name, with chance `kept`, and else any."""
    other = (1 - kept) / symbols
    return np.log(symbols) - entr(kept + other) - (symbols - 1) * entr(other)


def normal_information(correlation: float) -> float:
    """I of two normals."""
    return -np.log(1 - correlation**2) / 2


def clipped_information(correlation: float, order: int = 40) -> float:
    """I of two normals, each clipped to [-1, 1]; rows and columns are nodes but for the first and last, the atoms."""
    u, weights = truths.pieces(np.array([-9.0, -1.0, 1.0, 9.0]), order)
    inside, spread = u[1], np.sqrt(1 - correlation**2)
    u, chances = u.ravel(), (weights * truths.normal_density(u)).ravel()[:, None]
    below, _, above = truths.cell_chances(u, np.array([-1.0, 1.0]), correlation).T[:, :, None]
    middle = weights[1] * truths.normal_density(inside - correlation * u[:, None], spread)
    rows = np.concatenate([[0], np.arange(order, 2 * order + 1)])
    return truths.table_information(np.add.reduceat(chances * np.hstack([below, middle, above]), rows))


def sometimes_rounded_information(correlation: float) -> float:
    """I of two normals, the second of which is rounded half of the time."""
    x, chances = truths.normal_nodes()
    cells = truths.cell_chances(x, UNITS, correlation)
    rounded = entr(chances @ cells).sum() - chances @ entr(cells).sum(axis=1)
    return (rounded + normal_information(correlation)) / 2


def cell(x: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The number of edges below each value, as a float."""
    return np.searchsorted(edges, x).astype(float)


def slab(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """0 with chance 0.7, else normal of deviation 3."""
    return 3 * generator.standard_normal(shape) * (generator.random(shape) >= 0.7)


def _draw_cluster_number(n: int, generator: np.random.Generator) -> Pair:
    x, y = clusters(n, generator, CORNERS)
    return x, y[:, None].astype(float)


def _draw_count(n: int, generator: np.random.Generator, shape: float, scale: float, zeros: float = 0.0) -> Pair:
    x = generator.gamma(shape, scale, (n, 1))
    return x, generator.poisson(x) * (generator.random((n, 1)) >= zeros).astype(float)


def _draw_thinned(n: int, generator: np.random.Generator, rate: float, kept: float) -> Pair:
    x = generator.poisson(rate, (n, 1))
    return x.astype(float), generator.binomial(x, kept).astype(float)


def _draw_symbols(n: int, generator: np.random.Generator) -> Pair:
    x, other = generator.integers(len(SYMBOLS), size=(2, n, 1))
    return x.astype(float), np.where(generator.random((n, 1)) < KEPT, SYMBOLS[x], other).astype(float)


def _draw_dice(n: int, generator: np.random.Generator) -> Pair:
    x = generator.integers(1, 7, size=(n, 2)).astype(float)
    return x, x.sum(axis=1, keepdims=True)


def _draw_both_zero(n: int, generator: np.random.Generator, zeros: float, correlation: float) -> Pair:
    x, y = channels([correlation]).sampler(n, generator)
    present = generator.random((n, 1)) >= zeros
    return x * present, y * present


def _draw_sometimes_rounded(n: int, generator: np.random.Generator, correlation: float) -> Pair:
    x, y = channels([correlation]).sampler(n, generator)
    return x, np.where(generator.random((n, 1)) < 0.5, np.round(y), y)


WHOLE = truths.channel_information(np.arange(10), 0.4, 0.1)
ROUNDED = truths.table_information(truths.cell_table(TENTHS, UNITS, 0.9))
BINNED = truths.table_information(truths.cell_table(DECILES, QUARTILES, -0.85))
THINNED = truths.table_information(thinned_table(8.0, 0.6))
BOTH_ZERO = truths.binary_entropy(0.6) + 0.4 * normal_information(0.9)
SPIKE = truths.mixture_entropy([0, 0], [0.2, np.hypot(3, 0.2)], [0.7, 0.3]) - truths.normal_entropy(0.2)
CLIP = partial(np.clip, a_min=-1.0, a_max=1.0)
INTERVAL = partial(noisy, noise=2.0, inputs=partial(whole, size=5), law=UNIFORM)
MORE_ZEROS = partial(_draw_count, shape=1.0, scale=4.0, zeros=0.15)

DISCRETE = [
    known("number of the cluster", FOUR, _draw_cluster_number),
    known("count at a rate", rate_information(2.0, 3.0), partial(_draw_count, shape=2.0, scale=3.0)),
    seen("rounded normals", ROUNDED, 0.9, partial(np.round, decimals=1), np.round),
    known("whole number in noise", WHOLE, partial(noisy, noise=0.4, inputs=partial(whole, size=10))),
    known("thinned count", THINNED, partial(_draw_thinned, rate=8.0, kept=0.6)),
    known("scrambled symbols", symbol_information(len(SYMBOLS), KEPT), _draw_symbols),
    known("sum of two dice", entr(DICE).sum(), _draw_dice),
    seen("deciles and quartiles", BINNED, -0.85, partial(cell, edges=DECILES), partial(cell, edges=QUARTILES)),
]
MIXED = [
    known("whole number and interval", np.log(5) - 4 / 5 * np.log(2), INTERVAL),
    known("both or neither zero", BOTH_ZERO, partial(_draw_both_zero, zeros=0.6, correlation=0.9)),
    known("count with more zeros", rate_information(1.0, 4.0, 0.15), MORE_ZEROS),
    seen("clipped normals", clipped_information(0.85), 0.85, CLIP, CLIP),
    known("spike and slab", SPIKE, partial(noisy, noise=0.2, inputs=slab)),
    known("sometimes rounded", sometimes_rounded_information(0.95), partial(_draw_sometimes_rounded, correlation=0.95)),
]
