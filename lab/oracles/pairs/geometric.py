"""Pairs on curved sets, and pairs that repeat.

Angles: x uniform on [0, 2 pi)^k and y = W x + noise modulo 2 pi, with whole numbers in W such that W x is uniform too,
and wrapped normal noise. Then I = sum_i log 2 pi - h(noise_i), and no embedding of the angles changes it. Saw tooth
and stripes are the same modulo 1.

Unit vectors: x uniform on the sphere in d dimensions, area A, and y of density c exp(k x.y) (von Mises-Fisher), with
    log c = (d/2 - 1) log k - d/2 log 2 pi - log I_{d/2-1}(k),      I = log A + log c + k I_{d/2}(k) / I_{d/2-1}(k),
where I_v is the modified Bessel function. For the axes of both, x x' and y y', d = 3, the density of the cosine t
against that of uniform axes is r(t) = k cosh(k t) / sinh k, so that I = integral_0^1 r log r dt.

Softmax of three normals keeps the two contrasts and loses the sum: of three channels, two are left.
Checkerboard: given x, half of the interval is left to y, so that I = log 2.
Waves and the circle map: y = c(x) + noise with h(y) by summation.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.special import entr, gammaln, ive, ndtr, softmax

from lab.oracles.pairs import truths
from lab.oracles.pairs.samplers import TURN, UNIFORM, angle, channels, known, linear, noisy
from lab.oracles.tasks.families import Pair, Task, transformed
from lab.oracles.tasks.maps import swissroll_x


def angles(name: str, winding: list[list[int]], noise: list[float]) -> Task:
    """Angles x (n, k) and y = winding x + noise modulo 2 pi, with the standard deviation of the noise for each y."""
    dim, function = len(winding[0]), linear(winding)
    sampler = partial(noisy, noise=np.array(noise), inputs=angle, dim=dim, function=function, turn=TURN)
    return known(name, sum(map(truths.wrapped_information, noise)), sampler)


def on_circles(x: np.ndarray) -> np.ndarray:
    """Angles (n, k) as points of k unit circles, (n, 2 k): the cosines, then the sines."""
    return np.concatenate([np.cos(x), np.sin(x)], axis=1)


def sphere(name: str, dim: int, concentration: float) -> Task:
    """Unit vectors in dim dimensions, y von Mises-Fisher around x."""
    half = dim / 2
    log_area = np.log(2) + half * np.log(np.pi) - gammaln(half)
    log_bessel = np.log(ive(half - 1, concentration)) + concentration
    log_constant = (half - 1) * np.log(concentration) - half * np.log(TURN) - log_bessel
    mean_cosine = ive(half, concentration) / ive(half - 1, concentration)
    sampler = partial(_draw_sphere, dim=dim, concentration=concentration)
    return known(name, log_area + log_constant + concentration * mean_cosine, sampler)


def unit(x: np.ndarray) -> np.ndarray:
    """The rows of x at length 1."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def outer_product(x: np.ndarray) -> np.ndarray:
    """The six different entries of x x', (n, 6), for x (n, 3): x and -x are the same axis."""
    rows, columns = np.triu_indices(3)
    return x[:, rows] * x[:, columns]


def with_squares(x: np.ndarray) -> np.ndarray:
    """The columns of x, then their squares."""
    return np.concatenate([x, x**2], axis=1)


def rolled_sheet(x: np.ndarray) -> np.ndarray:
    """Two normals (n, 2) on a sheet in space (n, 3): the first along the roll, the second along its axis."""
    return np.concatenate([swissroll_x(ndtr(x[:, :1])), x[:, 1:]], axis=1)


def helix(x: np.ndarray) -> np.ndarray:
    """A column (n, 1) wound around a cylinder (n, 3), half a turn a unit."""
    return np.concatenate([on_circles(np.pi * x), x / 2], axis=1)


def circle_map(x: np.ndarray) -> np.ndarray:
    """An angle doubled, with a sway that makes its density uneven."""
    return 2 * x + 0.7 * np.sin(x)


def ripple(x: np.ndarray) -> np.ndarray:
    """A cosine of several periods within the bulk of a standard normal."""
    return np.cos(4 * x)


def axes_information(concentration: float) -> float:
    """I of the axes of two unit vectors in space."""
    cosine, weights = truths.pieces(np.linspace(0, 1, 6), order=8)
    ratio = concentration * np.cosh(concentration * cosine) / np.sinh(concentration)
    return -(weights * entr(ratio)).sum()


def circle_map_information(noise: float) -> float:
    """I of an angle and its noisy circle map."""
    x = truths.circle_grid()
    density = truths.wrapped_density(x - circle_map(x)[:, None], noise).mean(0)
    return TURN * entr(density).mean() - np.log(TURN) + truths.wrapped_information(noise)


def _draw_radii(n: int, generator: np.random.Generator, radial: float) -> Pair:
    x, y = (on_circles(side) for side in CIRCLE.sampler(n, generator))
    radii = 1 + radial * generator.standard_normal((2, n, 1))
    return radii[0] * x, radii[1] * y


def _draw_sphere(n: int, generator: np.random.Generator, dim: int, concentration: float) -> Pair:
    """The angle between x and y is drawn by inverting its tabulated distribution function."""
    edges, step = truths.grid(0, np.pi, 20_001)
    middle = edges[:-1] + step / 2
    weight = np.sin(middle) ** (dim - 2) * np.exp(concentration * (np.cos(middle) - 1))
    between = np.interp(generator.random((n, 1)), np.concatenate([[0.0], np.cumsum(weight)]) / weight.sum(), edges)
    x, other = unit(generator.standard_normal((n, dim))), generator.standard_normal((n, dim))
    across = unit(other - (other * x).sum(1, keepdims=True) * x)
    return x, np.cos(between) * x + np.sin(between) * across


def _draw_checkerboard(n: int, generator: np.random.Generator, cells: int) -> Pair:
    column = generator.integers(cells, size=(n, 1))
    row = 2 * generator.integers(cells // 2, size=(n, 1)) + column % 2
    return column + generator.random((n, 1)), row + generator.random((n, 1))


CIRCLE, TWICE = angles("circle as angles", [[1]], [0.3]), angles("circle wound twice", [[2]], [0.4])
TORUS = angles("torus", [[1, 1], [0, 1]], [0.25, 0.6])
AXES = transformed(sphere("axes", 3, 10.0), outer_product, outer_product, "axes")
COMPOSED = known("compositions", np.log(1 + 1 / 0.5**2), partial(noisy, noise=0.5, dim=3))
SOFTMAX, COPIES = partial(softmax, axis=1), partial(np.tile, reps=(1, 3))
SINE = truths.channel_information(np.sin(truths.circle_grid()), 0.2, 1 / 400)
RIPPLES = truths.channel_information(ripple(truths.normal_nodes()[0]), 0.15, truths.normal_nodes()[1])
SAW = partial(noisy, noise=0.08, inputs=UNIFORM, function=linear([[3]]), turn=1.0)
STRIPES = partial(noisy, noise=0.1, inputs=UNIFORM, dim=2, function=linear([[2, 3]]), turn=1.0)
SWAYED = partial(noisy, noise=0.35, inputs=angle, function=circle_map, turn=TURN)

MANIFOLDS = [
    CIRCLE,
    transformed(CIRCLE, on_circles, on_circles, "circle"),
    known("circle with radial noise", CIRCLE.mutual_information, partial(_draw_radii, radial=0.1)),
    sphere("sphere, concentration 5", 3, 5.0),
    sphere("sphere, concentration 20", 3, 20.0),
    transformed(COMPOSED, SOFTMAX, SOFTMAX, COMPOSED.name),
    transformed(channels([0.8]), with_squares, with_squares, "normal with its square"),
    transformed(TORUS, on_circles, on_circles, TORUS.name),
    sphere("sphere in five dimensions", 5, 12.0),
    known("axes", axes_information(10.0), AXES.sampler),
    transformed(channels([0.9, 0.7]), rolled_sheet, np.positive, "rolled sheet"),
    transformed(channels([0.8, 0.5]), COPIES, np.fliplr, "copied columns"),
    transformed(channels([0.95]), helix, np.positive, "helix"),
    transformed(TWICE, on_circles, on_circles, TWICE.name),
]
PERIODIC = [
    known("one period of a sine", SINE, partial(noisy, noise=0.2, inputs=angle, function=np.sin)),
    known("saw tooth", truths.wrapped_information(0.08 * TURN), SAW),
    known("checkerboard", np.log(2), partial(_draw_checkerboard, cells=4)),
    known("stripes", truths.wrapped_information(0.1 * TURN), STRIPES),
    known("circle map", circle_map_information(0.35), SWAYED),
    known("ripples", RIPPLES, partial(noisy, noise=0.15, function=ripple)),
]
