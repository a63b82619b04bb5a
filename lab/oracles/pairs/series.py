"""Pairs whose rows depend on the rows before them; the truth is the information of one row, (x_t, y_t), at any t.

Two series x_t = a x_{t-1} + e_t and y_t = b y_{t-1} + f_t, with innovations of correlation r, have in the stationary
state the correlation r sqrt((1 - a^2) (1 - b^2)) / (1 - a b). A series seen through white noise has the information of
that channel alone. Two sums over windows of one white series have the share of the windows that they have in common.
A walk on the circle has uniform angles; states that are drawn anew now and then have the chances of each draw.

The product over j of (1 + (a B)^(2^j)) is 1 / (1 - a B), B the shift by one row: a series in log2 n additions.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from lab.oracles.pairs import truths
from lab.oracles.pairs.geometric import on_circles
from lab.oracles.pairs.samplers import TURN, known
from lab.oracles.tasks.families import Pair, Task

CENTRES, STATE_NOISE = np.array([0.0, 3.0, 1.0, 4.0, 2.0]), 0.5
WINDOW, SHARED = 8, 6


def series(innovations: np.ndarray, memory: float) -> np.ndarray:
    """Stationary x_t = memory x_{t-1} + sqrt(1 - memory^2) e_t of unit variance, for innovations e (n, d)."""
    x, lag = np.sqrt(1 - memory**2) * innovations, 1
    x[0] = innovations[0]
    while lag < len(x):
        x[lag:] += memory**lag * x[:-lag].copy()
        lag *= 2
    return x


def window_means(white: np.ndarray) -> np.ndarray:
    """Sums of WINDOW consecutive rows, of unit variance."""
    total = np.concatenate([np.zeros_like(white[:1]), np.cumsum(white, axis=0)])
    return (total[WINDOW:] - total[:-WINDOW]) / np.sqrt(WINDOW)


def _draw_two_series(
    n: int, generator: np.random.Generator, memories: tuple[float, float], correlation: float, dim: int
) -> Pair:
    x, other = generator.standard_normal((2, n, dim))
    share = np.full((n, 1), correlation)
    share[0] = _stationary(memories, correlation)  # the first row is drawn from the stationary state
    y = share * x + np.sqrt(1 - share**2) * other
    return series(x, memories[0]), series(y, memories[1])


def _draw_observed(n: int, generator: np.random.Generator, memory: float, noise: float) -> Pair:
    white, other = generator.standard_normal((2, n, 1))
    x = series(white, memory)
    return x, x + noise * other


def _draw_windows(n: int, generator: np.random.Generator) -> Pair:
    means = window_means(generator.standard_normal((n + 2 * WINDOW, 2)))
    late = WINDOW - SHARED
    return means[late : late + n] ** 3, means[:n]


def _draw_walk(n: int, generator: np.random.Generator, step: float, noise: float) -> Pair:
    steps, other = generator.standard_normal((2, n, 1))
    x = generator.uniform(0, TURN) + step * np.cumsum(steps, axis=0)
    return on_circles(x), on_circles(x + noise * other)


def _draw_states(n: int, generator: np.random.Generator, renewed: float) -> Pair:
    anew = generator.random(n) < renewed
    anew[0] = True
    last = np.maximum.accumulate(np.where(anew, np.arange(n), 0))
    state = generator.integers(len(CENTRES), size=n)[last][:, None]
    return state.astype(float), CENTRES[state] + STATE_NOISE * generator.standard_normal((n, 1))


def _stationary(memories: tuple[float, float], correlation: float) -> float:
    a, b = memories
    return correlation * np.sqrt((1 - a**2) * (1 - b**2)) / (1 - a * b)


def two_series(name: str, memories: tuple[float, float], correlation: float, dim: int) -> Task:
    """The two series, in that many independent copies, with innovations of the correlation given."""
    sampler = partial(_draw_two_series, memories=memories, correlation=correlation, dim=dim)
    return known(name, -dim * np.log(1 - _stationary(memories, correlation) ** 2) / 2, sampler)


STATES = truths.channel_information(CENTRES, STATE_NOISE, 1 / len(CENTRES))
OBSERVED = partial(_draw_observed, memory=0.8, noise=0.5)

AUTOCORRELATED = [
    two_series("two series", (0.9, 0.9), 0.8, dim=1),
    two_series("fast and slow series", (0.5, 0.95), 0.95, dim=3),
    known("series seen in noise", np.log(1 + 1 / 0.5**2) / 2, OBSERVED),
    known("two windows", -np.log(1 - (SHARED / WINDOW) ** 2), _draw_windows),
    known("walk on the circle", truths.wrapped_information(0.4), partial(_draw_walk, step=0.2, noise=0.4)),
    known("renewed states", STATES, partial(_draw_states, renewed=0.1)),
]
