"""Pairs written after the others: with heavy tails and products, of much information, sparse, and in time order.

Student-t of any dispersion adds the information of normals with that covariance to that of the uncorrelated pair. A
geometric count of chance p, p of density a p^(a-1), has the chances a B(k, a + 1) of Yule and Simon, and
    E H(k | p) = 1 / a + (psi(a + 1) - psi(2)) / (a - 1).
Normals x and y of one random deviation: the logarithm of each length is that of the deviation, and noise.
The sum of m exponentials is gamma(m), and says of their common scale all that they say.

A linear system z_t = M z_{t-1} + e_t, e of covariance Q, is stationary where S = M S M' + Q, and a row of it is normal.
A chain that stays in each state for a geometric time and then goes on to the next has shares of time as those times.
Two draws that share no random number have I = 0, whatever the shape of each.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.linalg import solve_discrete_lyapunov
from scipy.special import betaln, digamma, entr, expit, ndtri, stdtr

from lab.oracles.pairs import truths
from lab.oracles.pairs.geometric import sphere
from lab.oracles.pairs.samplers import EXPONENTIAL, classes, known, noisy, rotation, scaled
from lab.oracles.pairs.scaled import growth, inputs_information, student
from lab.oracles.pairs.series import series
from lab.oracles.pairs.vectors import even_noise, length_density
from lab.oracles.tasks.families import Pair, gaussian_pair_task, student_task, transformed

NODES, CHANCES = truths.normal_nodes()
DISPERSION = gaussian_pair_task("", np.array([[1.0, 0.3, 0.8], [0.3, 1.0, 0.5], [0.8, 0.5, 1.0]]), 2)
FACTORS = rotation(24, seed=24)[:, :3] * np.array([3.5, 2.5, 1.5])
TAIL, READING_ERROR, COIN, DIRECTION = 1.5, np.array([0.1, 0.8, 0.1]), 0.3, rotation(8, seed=88)[0]
SYSTEM = np.array([[1.7, -0.85, 0.0], [1.0, 0.0, 0.0], [0.4, 0.0, 0.6]])
SHOCKS = np.array([1.0, 0.0, 1.0])
STATIONARY = solve_discrete_lyapunov(SYSTEM, np.diag(SHOCKS**2))
STAYS = np.array([40.0, 25.0, 10.0])
SHARE, MEANS, WIDTHS = STAYS / STAYS.sum(), np.array([1.0, -1.0, -4.0]), np.array([0.4, 0.8, 1.6])


def shared_scale_information(deviation: float, columns_x: int, columns_y: int) -> float:
    """I of normals x and y that are multiplied by one log-normal scale."""
    log_length, step = truths.grid(-18, 10, 601)
    of_x, of_y = (length_density(log_length - deviation * NODES[:, None], dim) for dim in (columns_x, columns_y))
    return truths.table_information(step**2 * (of_x.T * CHANCES) @ of_y)


def log_looks(value: np.ndarray) -> np.ndarray:
    """Density of the logarithm of the sum of four exponentials."""
    return np.exp(4 * value - np.exp(np.minimum(value, 7))) / 6


def _to_normal(x: np.ndarray) -> np.ndarray:
    return ndtri(stdtr(3, x))


def _interaction(x: np.ndarray) -> np.ndarray:
    return x[:, :1] * x[:, 1:2] + 0.6 * x[:, 2:3]


def _on_the_globe(x: np.ndarray) -> np.ndarray:
    one, two, three = x.T
    return np.degrees(np.stack([np.arctan2(two, one), np.arctan2(three, np.hypot(one, two))], axis=1))


def _normals_and_coins(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    x = generator.standard_normal(shape)
    x[:, 8:] = x[:, 8:] < ndtri(COIN)
    return x


def _answer(x: np.ndarray) -> np.ndarray:
    yes = expit(1.8 * x[:, 3] + 2.5 * x[:, 11] - 1)
    return np.stack([1 - yes, yes], axis=1)


def _agreement(x: np.ndarray) -> np.ndarray:
    return np.sign(x[:, 2:3] * x[:, 7:8])


def _energy(x: np.ndarray) -> np.ndarray:
    return (x @ DIRECTION[:, None]) ** 2


def _draw_long_tail(n: int, generator: np.random.Generator) -> Pair:
    x = generator.random((n, 1)) ** (1 / TAIL)
    return x, generator.geometric(x).astype(float)


def _draw_tails_apart(n: int, generator: np.random.Generator) -> Pair:
    x = generator.standard_normal((n, 4))
    return x[:, :3] / x[:, 3:], generator.pareto(0.8, (n, 1)) * generator.random((n, 2))


def _draw_shared_scale(n: int, generator: np.random.Generator, deviation: float) -> Pair:
    both = generator.standard_normal((n, 5)) * np.exp(deviation * generator.standard_normal((n, 1)))
    return both[:, :2], both[:, 2:]


def _draw_readings(n: int, generator: np.random.Generator) -> Pair:
    x = generator.integers(256, size=(n, 1)).astype(float)
    return x, x + generator.choice([-1, 0, 1], size=(n, 1), p=READING_ERROR)


def _draw_system(n: int, generator: np.random.Generator) -> Pair:
    z = SHOCKS * generator.standard_normal((n, 3))
    z[0] = np.linalg.cholesky(STATIONARY) @ generator.standard_normal(3)
    matrix, lag = SYSTEM, 1
    while lag < n:  # as in `series`
        z[lag:] += z[:-lag] @ matrix.T
        matrix, lag = matrix @ matrix, 2 * lag
    return z[:, :1], z[:, 2:]


def _draw_regimes(n: int, generator: np.random.Generator) -> Pair:
    order = (generator.choice(3, p=SHARE) + np.arange(n)) % 3
    y = np.repeat(order, generator.geometric(1 / STAYS[order]))[:n]
    return (MEANS[y] + WIDTHS[y] * generator.standard_normal(n))[:, None], y


def _draw_series_apart(n: int, generator: np.random.Generator) -> Pair:
    white = generator.standard_normal((n, 3))
    return series(white[:, :2], 0.9), series(white[:, 2:], 0.95)


STUDENT = student_task(2, 1, 3.0).mutual_information + DISPERSION.mutual_information
COPULA = known("", STUDENT, partial(student, dof=3.0, normals=DISPERSION))
INTERACTION = inputs_information(np.hypot(0.6, 0.5)) + np.log(np.hypot(0.6, 0.5) / 0.5)
YULE = entr(TAIL * np.exp(betaln(np.arange(1, 100_001), TAIL + 1))).sum()
LONG_TAIL = YULE - 1 / TAIL - (digamma(TAIL + 1) - digamma(2)) / (TAIL - 1)
LOOKS = truths.convolution_information(0.8 * NODES, CHANCES, log_looks)
FOUR_LOOKS = partial(scaled, scale=partial(growth, rate=0.8), law=EXPONENTIAL, columns=4)
LOADED = gaussian_pair_task("", FACTORS @ FACTORS.T + 0.09 * np.eye(24), 12)
READINGS = entr(np.convolve(np.full(256, 1 / 256), READING_ERROR)).sum() - entr(READING_ERROR).sum()
ANSWERS = partial(classes, inputs=_normals_and_coins, dim=15, chances=_answer)
YES = expit(1.8 * NODES + np.array([[-1.0], [1.5]])).ravel()
OF_YES = np.outer([1 - COIN, COIN], CHANCES).ravel()
ANSWER = truths.binary_entropy(OF_YES @ YES) - OF_YES @ truths.binary_entropy(YES)
AGREEMENT = truths.channel_information([-1, 1], 0.6, 0.5)
SQUARED = truths.channel_information(NODES**2, 0.5, CHANCES)
DRIVEN = gaussian_pair_task("", STATIONARY[::2, ::2], 1).mutual_information
REGIMES = truths.mixture_entropy(MEANS, WIDTHS, SHARE) - SHARE @ truths.normal_entropy(WIDTHS)

LATER = {
    "heavy tails": [
        transformed(COPULA, _to_normal, partial(stdtr, 3), "Student copula"),
        known("counts of a long tail", LONG_TAIL, _draw_long_tail),
        known("tails that never met", 0, _draw_tails_apart),
    ],
    "multiplicative": [
        known("interaction in six columns", INTERACTION, partial(noisy, noise=0.5, dim=6, function=_interaction)),
        known("common scale", shared_scale_information(1.2, 2, 3), partial(_draw_shared_scale, deviation=1.2)),
        known("four looks", LOOKS, FOUR_LOOKS),
    ],
    "high information": [
        transformed(LOADED, np.exp, np.positive, "three factors of twelve columns"),
        transformed(sphere("", 3, 200.0), _on_the_globe, _on_the_globe, "places on the globe"),
        known("readings of 256 levels", READINGS, _draw_readings),
    ],
    "sparse": [
        known("normals and coins", ANSWER, ANSWERS),
        known("signs that agree", AGREEMENT, partial(noisy, noise=0.6, inputs=even_noise, dim=10, function=_agreement)),
        known("energy", SQUARED, partial(noisy, noise=0.5, dim=8, function=_energy)),
    ],
    "autocorrelated": [
        known("driven series", DRIVEN, _draw_system),
        known("hidden regimes", REGIMES, _draw_regimes),
        known("series that never met", 0, _draw_series_apart),
    ],
}
