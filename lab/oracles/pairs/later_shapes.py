"""Pairs written after the others: on curved sets, with labels, of counts, with atoms, and that repeat.

Directions: x even on the unit sphere in d dimensions, y the direction of x + s z, z normal. Against an even one, the
density of y at the cosine t to x is
    r(t) = 2 / (Gamma(d/2) (2 s^2)^(d/2)) integral l^(d-1) exp(-(l^2 - 2 l t + 1) / (2 s^2)) dl,      I = E r log r.
Quaternions q and -q, d = 4, turn a body alike, so that there r is (r(t) + r(-t)) / 2.

Where y depends on one number u = c(x), I is summed over nodes of u and of y; an atom of y is one more node.
A class of chances p ~ Dirichlet(a), A = sum a_i:     I = H(a / A) - psi(A + 1) + sum_i a_i / A psi(a_i + 1).
Rain: whether and how much depend on independent columns, so that their informations add.
Two moons: the density of one is the other's, turned by half a circle around (1/2, 1/4).
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.spatial.transform import Rotation
from scipy.special import digamma, entr, expit, gammaln, i0e, ndtr, softmax

from lab.oracles.pairs import samplers, truths
from lab.oracles.pairs.counted import cell, normal_information, poisson, symbol_information
from lab.oracles.pairs.geometric import on_circles, unit
from lab.oracles.pairs.samplers import TURN, channels, classes, known, linear, noisy, rotation, whole
from lab.oracles.pairs.scaled import log_exponential
from lab.oracles.tasks.families import Pair, transformed

NODES, CHANCES = truths.normal_nodes()
BIASES, SLOPE = np.array([0.0, -0.5, -1.5]), 2.5
CORRELATED = linear(rotation(10, seed=10) * np.linspace(0.2, 3, 10))
PRIOR, KEPT = np.array([0.3, 0.4, 0.5, 0.6, 0.8, 1.2]), 0.85
COUNTS, ALONE, COMMON = np.arange(60), np.array([1.0, 2.0]), 12.0
CUTS, RATED, MEASURED, DETECTED = np.array([-1.4, -0.9, 0.1, 1.2]), [0.95, 0.8, 0.5], [0.95, 0.9, 0.8], 0.3
CHOICES = np.random.default_rng(7).dirichlet(np.full(4, 0.4), 7) / np.arange(1, 8)[:, None]
CHOICES /= CHOICES.sum()
RAIN_CORRELATION, HAZARD, LIMIT = 0.9, 1.2, 1.5


def direction_information(dim: int, noise: float, axes: bool = False) -> float:
    """I of an even unit vector and the direction of it and normal noise; of their axes if only those are seen."""
    turns, weights = truths.pieces(np.linspace(0, np.pi, 9), order=20)
    length, step = truths.grid(0, 1 + 9 * noise, 301)
    exponent = -(length**2 - 2 * length * np.cos(turns)[..., None] + 1) / (2 * noise**2)
    log_constant = np.log(2 * step) - gammaln(dim / 2) - dim / 2 * np.log(2 * noise**2)
    ratio = np.exp(exponent + log_constant) @ length ** (dim - 1)
    ratio = (ratio + ratio[::-1, ::-1]) / 2 if axes else ratio
    even = weights * np.sin(turns) ** (dim - 2)
    return -(even * entr(ratio)).sum() / even.sum()


def moons_information(noise: float) -> float:
    """I of a point near one of two half circles and the number of that one."""
    (across, step), (up, _) = truths.grid(-2.5, 3.5, 151), truths.grid(-2.75, 3.25, 151)
    turns, weights = truths.pieces(np.array([0, np.pi]), order=60)
    given_across = truths.normal_density(across[:, None] - np.cos(turns), noise) * weights / np.pi
    density = given_across @ truths.normal_density(up[:, None] - np.sin(turns), noise).T
    return step**2 * (entr((density + density[::-1, ::-1]) / 2) - entr(density)).sum()


def softmax_chances(x: np.ndarray) -> np.ndarray:
    """Chances (n, 3) of three classes by the first three columns."""
    return softmax(SLOPE * x[:, :3] + BIASES, axis=1)


def softmax_information(order: int) -> float:
    """I of three normals and a class of the softmax chances, by a product of Hermite rules."""
    z, weights = np.polynomial.hermite_e.hermegauss(order)
    nodes = np.stack(np.meshgrid(z, z, z), axis=-1).reshape(-1, 3)
    weights = np.einsum("i,j,k->ijk", *[weights / weights.sum()] * 3).ravel()
    return truths.given_information(weights, softmax_chances(nodes))


def censored_information(hazard: float, limit: float) -> float:
    """I of a normal z and an exponential duration of rate exp(hazard z) that is seen up to the limit."""
    log_time, weights = truths.pieces(np.linspace(-25, np.log(limit), 11), order=20)
    log_rate = hazard * NODES[:, None]
    table = np.hstack([log_exponential(log_time.ravel() + log_rate), np.exp(-limit * np.exp(log_rate))])
    return truths.given_information(CHANCES, table, np.append(weights, 1))


def detected_information(correlation: float, limit: float) -> float:
    """I of a normal and another that is replaced by the limit where it is below."""
    above, weights = truths.pieces(np.linspace(limit, 9, 6), order=20)
    spread, centre = np.sqrt(1 - correlation**2), correlation * NODES[:, None]
    table = np.hstack([truths.normal_density(above.ravel() - centre, spread), ndtr((limit - centre) / spread)])
    return truths.given_information(CHANCES, table, np.append(weights, 1))


def phase_information(noise: float) -> float:
    """I of an even point of the unit circle and the point with normal noise on both columns."""
    radius, step = truths.grid(0, 1 + 9 * noise)
    density = truths.normal_density(radius - 1, noise) * truths.normal_density(0, noise) * i0e(radius / noise**2)
    return step * TURN * (radius * entr(density)).sum() - 2 * truths.normal_entropy(noise)


def load(hour: np.ndarray) -> np.ndarray:
    """A sum of two waves, of a day and of half a day."""
    return 2 * np.sin(TURN * hour / 24) + np.cos(TURN * hour / 12 + 1)


def _directions(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return unit(generator.standard_normal(shape))


def _turned_body(x: np.ndarray) -> np.ndarray:
    return Rotation.from_quat(x).as_matrix().reshape(-1, 9)


def _shares(x: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return softmax(np.pad(x @ matrix.T, ((0, 0), (0, 1))), axis=1)


def _dirichlet(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return generator.dirichlet(PRIOR, shape[0])


def _tripled(x: np.ndarray) -> np.ndarray:
    return on_circles(3 * x)


def _stripe_chances(x: np.ndarray) -> np.ndarray:
    stripe = np.floor(3 * ((x[:, 0] + 2 * x[:, 1]) % 1)).astype(int)
    return KEPT * np.eye(3)[stripe] + (1 - KEPT) / 3


def _draw_moons(n: int, generator: np.random.Generator, noise: float) -> Pair:
    y = generator.integers(2, size=n)
    arc = on_circles(np.pi * generator.random((n, 1)))
    x = np.where(y[:, None] == 1, np.array([1, 0.5]) - arc, arc)
    return x + noise * generator.standard_normal((n, 2)), y


def _draw_shared(n: int, generator: np.random.Generator) -> Pair:
    both = generator.poisson(ALONE, (n, 2)) + generator.poisson(COMMON, (n, 1)).astype(float)
    return both[:, :1], both[:, 1:]


def _draw_choices(n: int, generator: np.random.Generator) -> Pair:
    x, y = np.divmod(generator.choice(CHOICES.size, size=n, p=CHOICES.ravel()), 4)
    return np.eye(7)[x], np.eye(4)[y]


def _draw_rain(n: int, generator: np.random.Generator) -> Pair:
    x, log_amount = channels([0, RAIN_CORRELATION]).sampler(n, generator)
    rains = generator.random(n) < expit(1.5 * x[:, 0] - 0.3)
    return x @ rotation(2, seed=2), (rains * np.exp(log_amount[:, 1]))[:, None]


def _draw_censored(n: int, generator: np.random.Generator) -> Pair:
    x = generator.standard_normal((n, 3))
    time = generator.exponential(np.exp(-HAZARD * x[:, :1]))
    return x @ rotation(3, seed=13), np.hstack([np.minimum(time, LIMIT), time < LIMIT])


EMBEDDED = partial(noisy, noise=0.4, inputs=_directions, dim=12, function=linear(rotation(12, seed=12)))
EMBEDDED = transformed(known("", 0, EMBEDDED), np.positive, unit, "embeddings in twelve columns")
TURNED = known("", 0, partial(noisy, noise=0.25, inputs=_directions, dim=4))
TURNED = transformed(TURNED, _turned_body, _turned_body, "turned bodies")
FIVE = partial(_shares, matrix=3 * rotation(4, seed=54))
FOUR = partial(_shares, matrix=np.pad(2 * rotation(3, seed=43), ((0, 0), (0, 1))))
SOFTMAX = partial(classes, inputs=samplers.NORMAL, dim=10, chances=softmax_chances, transform=CORRELATED)
OF_CHANCES = partial(classes, inputs=_dirichlet, dim=6, chances=np.positive)
MEAN = PRIOR / PRIOR.sum()
CLASS = entr(MEAN).sum() - digamma(PRIOR.sum() + 1) + MEAN @ digamma(PRIOR + 1)
OF_X, OF_Y = (poisson(COUNTS - COUNTS[:, None], rate) for rate in ALONE)
IN_COMMON = truths.table_information(OF_X.T * poisson(COUNTS, COMMON) @ OF_Y)
RATINGS = transformed(channels(RATED), linear(rotation(3, seed=3)), partial(cell, edges=CUTS), "ratings of three")
RATING = sum(truths.given_information(CHANCES, truths.cell_chances(NODES, CUTS, each)) for each in RATED)
RAINS = expit(1.5 * NODES - 0.3)
WHETHER = truths.binary_entropy(CHANCES @ RAINS) - CHANCES @ truths.binary_entropy(RAINS)
RAIN = WHETHER + CHANCES @ RAINS * normal_information(RAIN_CORRELATION)
DETECTION = transformed(channels(MEASURED), np.exp, partial(np.maximum, DETECTED), "detection limits")
LOAD = truths.channel_information(load(np.arange(24)), 0.5, 1 / 24)
PHASE = partial(noisy, noise=0.25, inputs=samplers.angle, function=_tripled)
STRIPES = partial(classes, inputs=samplers.UNIFORM, dim=2, chances=_stripe_chances)

LATER = {
    "manifolds": [
        known(EMBEDDED.name, direction_information(12, 0.4), EMBEDDED.sampler),
        transformed(channels([0.9, 0.7, 0.4, 0]), FIVE, FOUR, "five shares and four"),
        known(TURNED.name, direction_information(4, 0.25, axes=True), TURNED.sampler),
    ],
    "labels": [
        known("softmax of ten columns", softmax_information(order=40), SOFTMAX),
        known("two moons", moons_information(0.3), partial(_draw_moons, noise=0.3)),
        known("chances of six classes", CLASS, OF_CHANCES),
    ],
    "discrete": [
        known(RATINGS.name, RATING, RATINGS.sampler),
        known("events in common", IN_COMMON, _draw_shared),
        known("one-hot columns", truths.table_information(CHOICES), _draw_choices),
    ],
    "mixed": [
        known("rain", RAIN, _draw_rain),
        known("censored durations", censored_information(HAZARD, LIMIT), _draw_censored),
        known(DETECTION.name, sum(detected_information(each, DETECTED) for each in MEASURED), DETECTION.sampler),
    ],
    "periodic": [
        known("hours of a week", LOAD, partial(noisy, noise=0.5, inputs=partial(whole, size=168), function=load)),
        known("phase in two columns", phase_information(0.25), PHASE),
        known("three stripes", symbol_information(3, KEPT), STRIPES),
    ],
}
