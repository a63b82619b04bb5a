"""Ways to draw pairs that many of them share: a sampler takes (n, generator), and the rest by name.

A law takes (generator, shape); so do the methods of a generator, NORMAL, UNIFORM and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from lab.oracles.tasks.families import Map, Pair, Sampler, Task, gaussian_pair_task, transformed

Law = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
NORMAL, UNIFORM = np.random.Generator.standard_normal, np.random.Generator.random
CAUCHY, EXPONENTIAL = np.random.Generator.standard_cauchy, np.random.Generator.standard_exponential
TURN = 2 * np.pi


def known(name: str, mutual_information: float, sampler: Sampler) -> Task:
    """The task of that information, its dimensions read off two pairs; dim_y is 0 where y is a label."""
    x, y = sampler(2, np.random.default_rng(0))
    return Task(name, x.shape[1], y.shape[1] if y.ndim == 2 else 0, float(mutual_information), sampler)


def channels(correlations: Sequence[float]) -> Task:
    """Standard normals in len(correlations) dimensions, x_i and y_i correlated and all else independent."""
    covariance = np.eye(2 * len(correlations)) + np.kron([[0, 1], [1, 0]], np.diag(correlations))
    return gaussian_pair_task("channels", covariance, len(correlations))


def seen(name: str, mutual_information: float, correlation: float, transform_x: Map, transform_y: Map) -> Task:
    """Two correlated normals, each seen through a map that keeps only so much information."""
    through = transformed(channels([correlation]), transform_x, transform_y, name)
    return replace(through, mutual_information=float(mutual_information))


def angle(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Uniform on [0, 2 pi)."""
    return TURN * generator.random(shape)


def whole(generator: np.random.Generator, shape: tuple[int, int], size: int) -> np.ndarray:
    """Whole numbers below size, as floats."""
    return generator.integers(size, size=shape).astype(float)


def noisy(
    n: int,
    generator: np.random.Generator,
    noise: float | np.ndarray,
    inputs: Law = NORMAL,
    dim: int = 1,
    function: Map = np.positive,
    law: Law = NORMAL,
    turn: float = np.inf,
) -> Pair:
    """x (n, dim) and y = function(x) + noise times a draw of the law, modulo turn unless that is infinite."""
    x = inputs(generator, (n, dim))
    y = function(x)
    y = y + noise * law(generator, y.shape)
    return x, y if turn == np.inf else y % turn


def scaled(
    n: int,
    generator: np.random.Generator,
    scale: Map = np.positive,
    inputs: Law = NORMAL,
    law: Law = NORMAL,
    columns: int = 1,
) -> Pair:
    """x (n, 1) and y = scale(x) times a draw of the law in that many columns."""
    x = inputs(generator, (n, 1))
    return x, scale(x) * law(generator, (n, columns))


def clusters(
    n: int,
    generator: np.random.Generator,
    means: np.ndarray,
    deviations: float | np.ndarray = 1.0,
    chances: np.ndarray | None = None,
    transform: Map = np.positive,
) -> Pair:
    """Label y of the means (K, d), even unless chances are given, and a normal around that mean, seen through a map."""
    y = generator.choice(len(means), size=n, p=chances)
    widths = np.broadcast_to(deviations, means.shape)
    return transform(means[y] + widths[y] * generator.standard_normal((n, means.shape[1]))), y


def coins(n: int, generator: np.random.Generator, dim: int, chance: Map) -> Pair:
    """Normals x (n, dim), and a label y that is 1 with chance(x) (n,)."""
    x = generator.standard_normal((n, dim))
    return x, (generator.random(n) < chance(x)).astype(int)


def classes(
    n: int, generator: np.random.Generator, inputs: Law, dim: int, chances: Map, transform: Map = np.positive
) -> Pair:
    """Inputs x (n, dim), seen through a map, and a label y of the chances(x) (n, K)."""
    x = inputs(generator, (n, dim))
    return transform(x), (generator.random((n, 1)) > chances(x).cumsum(axis=1)[:, :-1]).sum(axis=1)


def rotation(dim: int, seed: int) -> np.ndarray:
    """An orthogonal matrix (dim, dim), the same for the same seed."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))[0]


def linear(matrix: np.ndarray) -> Map:
    """x (n, d) -> rows A x (n, d') for a matrix A (d', d)."""
    return partial(_linear, matrix=np.asarray(matrix))


def _linear(x: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return x @ matrix.T
