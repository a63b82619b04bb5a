"""Pairs of much information, and pairs of many columns few of which say anything.

Channels: normals with correlations r_i, I = -sum_i log(1 - r_i^2) / 2, whatever one-to-one map each side passes.
Projection: y = A x + noise of deviation s, x standard normal, I = log det(identity + A A' / s^2) / 2.
Boxes: x uniform on (0, 1)^d, uniform noise of half-width e <= 1/2 on each column: I = d (e - log 2 e).

Parity: the sign of a product of fair signs, flipped with chance e: I = log 2 - H(e), and every two columns of the pair
are independent. Switch: y = x_1 or x_2, as x_0 says, plus noise of deviation s: I = log(1 + 1/s^2) / 2.
Largest of five normals, of density 5 phi Phi^4, and log length of k normals l, of density proportional to
exp(k l - exp(2 l) / 2), plus normal noise: by summation.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.special import gammaln, ndtr

from lab.oracles.pairs import truths
from lab.oracles.pairs.geometric import angles, on_circles
from lab.oracles.pairs.labelled import of_signs
from lab.oracles.pairs.samplers import UNIFORM, channels, coins, known, linear, noisy, rotation
from lab.oracles.tasks import maps
from lab.oracles.tasks.families import Task, transformed

MANY = 20
PROJECTION, PROJECTION_NOISE = np.diag([3.0, 2.0, 1.0, 0.5]) @ rotation(8, seed=8)[:4], 0.2
WINDING = [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 1]]


def rotated(task: Task, name: str, seed: int) -> Task:
    """The task with x and y each rotated."""
    of_x, of_y = linear(rotation(task.dim_x, seed)), linear(rotation(task.dim_y, seed + 1))
    return transformed(task, of_x, of_y, name)


def switch(x: np.ndarray) -> np.ndarray:
    """x_1 where x_0 is positive, else x_2; (n, 1)."""
    return np.where(x[:, :1] > 0, x[:, 1:2], x[:, 2:3])


def largest_of_five(x: np.ndarray) -> np.ndarray:
    """Zeros in the shape of x but for column 3, the largest of the first five of x."""
    y = np.zeros_like(x)
    y[:, 3] = x[:, :5].max(axis=1)
    return y


def log_length(x: np.ndarray) -> np.ndarray:
    """Logarithm of the length of the last eight columns, (n, 1)."""
    return np.log(np.linalg.norm(x[:, -8:], axis=1, keepdims=True))


def even_noise(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Uniform on (-1, 1)."""
    return generator.uniform(-1, 1, shape)


def length_density(log_length: np.ndarray, dim: int) -> np.ndarray:
    """Density of the logarithm of the length of that many normals."""
    log_constant = (dim / 2 - 1) * np.log(2) + gammaln(dim / 2)
    return np.exp(dim * log_length - np.exp(2 * log_length) / 2 - log_constant)


def length_information(dim: int, noise: float) -> float:
    """I of normals and their log length in noise."""
    length, step = truths.grid(-5, 3, 601)
    return truths.channel_information(length, noise, step * length_density(length, dim))


FOUR, SIX, EIGHT = channels([0.99, 0.98, 0.95, 0.9]), channels([0.93] * 6), channels([0.9] * 8)
ANGLES = angles("four angles", WINDING, [0.2, 0.3, 0.3, 0.4])
PROJECTED = np.linalg.slogdet(np.eye(4) + PROJECTION @ PROJECTION.T / PROJECTION_NOISE**2)[1] / 2
PARITY = partial(of_signs, columns=[4, 9, 14], flips=0.05)
NODES, CHANCES = truths.normal_nodes()
LARGEST, LARGEST_NOISE = truths.channel_information(NODES, 0.3, 5 * CHANCES * ndtr(NODES) ** 4), np.ones(MANY)
LARGEST_NOISE[3] = 0.3

HIGH_INFORMATION = [
    rotated(FOUR, "four channels, rotated", seed=40),
    transformed(SIX, maps.half_cube, maps.half_cube, "six channels, stretched"),
    transformed(EIGHT, ndtr, ndtr, "eight channels, uniform"),
    known("projection", PROJECTED, partial(noisy, noise=PROJECTION_NOISE, dim=8, function=linear(PROJECTION))),
    known("boxes", 4 * (0.1 - np.log(0.2)), partial(noisy, noise=0.1, inputs=UNIFORM, dim=4, law=even_noise)),
    transformed(ANGLES, on_circles, on_circles, ANGLES.name),
]
SPARSE = [
    transformed(channels([0.9] + [0.0] * 19), np.fliplr, np.positive, "one column of twenty"),
    rotated(channels([0.9, 0.7] + [0.0] * 18), "two directions of twenty", seed=20),
    known("parity of three signs", np.log(2) - truths.binary_entropy(0.05), partial(coins, dim=MANY, chance=PARITY)),
    known("switch", np.log(1 + 1 / 0.4**2) / 2, partial(noisy, noise=0.4, dim=MANY, function=switch)),
    known("largest of five", LARGEST, partial(noisy, noise=LARGEST_NOISE, dim=MANY, function=largest_of_five)),
    known("length of eight", length_information(8, 0.1), partial(noisy, noise=0.1, dim=MANY, function=log_length)),
]
