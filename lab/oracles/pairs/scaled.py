"""Pairs with heavy tails, and pairs in which noise or inputs multiply.

Stable noise. If x, noise / g and (x + noise) / (1 + g) have one law, then h(y) - h(noise) = log((1 + g) / g): Cauchy.
One-sided Levy, 1 / z^2 with z normal, has instead noise / g^2 and (x + noise) / (1 + g)^2, and twice that information.
The ratio of two normals is Cauchy.

Student-t with a correlation r: to the uncorrelated pair (`lab.oracles.tasks.families`) each pair of columns adds
-log(1 - r^2) / 2. Lomax: x = e_1 / w, y = e_2 / w, e_1 and e_2 exponential and w ~ gamma(a), has the density
a (a + 1) (1 + x + y)^-(a + 2), and I = log((a + 1) / a) + 2 (a + 1) / a - (a + 2) (1 / a + 1 / (a + 1)).

A product is a sum of logarithms. With l = log|z|, z normal, of density 2 exp(l) phi(exp(l)), the pair y = s(x) z has
log|y| = log s(x) + l and an independent sign. If x is gamma(a), the precision of d normals y, then y is Student-t with
2 a degrees of freedom and dispersion 1/a, and I = h(y) - d (log 2 pi e - E log x) / 2.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.special import digamma, gammaln

from lab.oracles.pairs import truths
from lab.oracles.pairs.samplers import CAUCHY, EXPONENTIAL, channels, known, noisy, scaled
from lab.oracles.tasks.families import Pair, Task, student_task, transformed


def fifth_power(x: np.ndarray) -> np.ndarray:
    """x^5 beside a tenth of x: one-to-one, with long tails."""
    return 0.1 * x + x**5


def growth(x: np.ndarray, rate: float) -> np.ndarray:
    """exp(rate x)."""
    return np.exp(rate * x)


def product_of_two(x: np.ndarray) -> np.ndarray:
    """x_0 x_1, (n, 1)."""
    return x[:, :1] * x[:, 1:]


def ratio_of_two(x: np.ndarray) -> np.ndarray:
    """x_0 / x_1, (n, 1)."""
    return x[:, :1] / x[:, 1:]


def to_deviation(x: np.ndarray) -> np.ndarray:
    """The standard deviation of a precision."""
    return x**-0.5


def levy(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """1 / z^2 for a standard normal z."""
    return generator.standard_normal(shape) ** -2.0


def precisions(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Gamma variables of shape 1.5."""
    return generator.gamma(1.5, size=shape)


def stable_information(noise: float) -> float:
    """I of a Cauchy variable and its sum with Cauchy noise, whose scale is given as a share of its own."""
    return np.log((1 + noise) / noise)


def lomax_information(tail: float) -> float:
    """I of the Lomax pair; tail: a."""
    after = tail + 1
    return np.log(after / tail) + 2 * after / tail - (tail + 2) * (1 / tail + 1 / after)


def precision_information(shape: float, columns: int) -> float:
    """I of a gamma precision and that many normals of mean 0."""
    half = shape + columns / 2
    entropy = columns / 2 * np.log(2 * np.pi) + gammaln(shape) - gammaln(half) + half * (digamma(half) - digamma(shape))
    return entropy - columns / 2 * (np.log(2 * np.pi * np.e) - digamma(shape))


def log_size(value: np.ndarray) -> np.ndarray:
    """Density of log|z| for a standard normal z."""
    return 2 * np.exp(value) * truths.normal_density(np.exp(np.minimum(value, 4)))


def log_exponential(value: np.ndarray) -> np.ndarray:
    """Density of the logarithm of an exponential variable."""
    return np.exp(value - np.exp(np.minimum(value, 6)))


def product_information() -> float:
    """I of x and x z, both factors normal."""
    size, step = truths.grid(-22, 3, 401)
    return truths.convolution_information(size, step * log_size(size), log_size)


def inputs_information(noise: float) -> float:
    """I of two normals and their product in noise, whose law given the first is normal."""
    x, chances = truths.normal_nodes()
    return truths.mixture_entropy(0.0, np.hypot(x, noise), chances) - truths.normal_entropy(noise)


def student(n: int, generator: np.random.Generator, dof: float, normals: Task) -> Pair:
    """Correlated normals, divided by one chi each row: Student's t with that correlation."""
    x, y = normals.sampler(n, generator)
    scale = np.sqrt(generator.chisquare(dof, (n, 1)) / dof)
    return x / scale, y / scale


def _draw_lomax(n: int, generator: np.random.Generator, tail: float) -> Pair:
    x, y = generator.exponential(size=(2, n, 1)) / generator.gamma(tail, size=(n, 1))
    return x, y


NODES, CHANCES = truths.normal_nodes(301)
STUDENT = student_task(2, 2, 2.0).mutual_information - np.log(1 - 0.6**2)
VOLATILITY = truths.convolution_information(1.2 * NODES, CHANCES, log_size)
GROWTH = truths.convolution_information(1.5 * NODES, CHANCES, log_exponential)
RATIO = partial(noisy, noise=0.3, dim=2, function=ratio_of_two, law=CAUCHY)
PRECISION = partial(scaled, scale=to_deviation, inputs=precisions, columns=3)

HEAVY_TAILS = [
    known("Cauchy in Cauchy noise", stable_information(0.5), partial(noisy, noise=0.5, inputs=CAUCHY, law=CAUCHY)),
    known("correlated Student", STUDENT, partial(student, dof=2.0, normals=channels([0.6] * 2))),
    transformed(channels([0.8, 0.6]), np.exp, np.sinh, "log-normal and hyperbolic sine"),
    known("Levy in Levy noise", 2 * stable_information(0.4), partial(noisy, noise=0.4**2, inputs=levy, law=levy)),
    known("Lomax", lomax_information(0.5), partial(_draw_lomax, tail=0.5)),
    transformed(channels([0.9, 0.5, 0.5]), fifth_power, fifth_power, "fifth powers"),
]
MULTIPLICATIVE = [
    known("product with noise", product_information(), scaled),
    known("volatility", VOLATILITY, partial(scaled, scale=partial(growth, rate=1.2))),
    known("exponential growth", GROWTH, partial(scaled, scale=partial(growth, rate=1.5), law=EXPONENTIAL)),
    known("product of inputs", inputs_information(0.4), partial(noisy, noise=0.4, dim=2, function=product_of_two)),
    known("ratio of inputs", stable_information(0.3), RATIO),
    known("precision", precision_information(1.5, 3), PRECISION),
]
