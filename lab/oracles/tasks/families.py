"""A task is a sampler of pairs (x, y) with the mutual information I(X; Y) in nats; families of them in closed form, and
how to make a new task from an old one.

Gaussian with covariance S, blocks S_x and S_y:     I = (log det S_x + log det S_y - log det S) / 2.

Student-t, dispersion the identity, v degrees of freedom: (x, y) = z / sqrt(w / v), z ~ N(0, identity), w ~ chi^2_v.
The common w makes x and y dependent although uncorrelated. Up to terms linear in k, which cancel, k dimensions have
entropy
    h(k) = (v + k)/2 (psi((v + k)/2) - psi(v/2)) + log Gamma(v/2) - log Gamma((v + k)/2),
and I = h(dim_x) + h(dim_y) - h(dim_x + dim_y).

Additive noise: x ~ U(0, 1), y = x + U(-e, e). Here h(y) is that of a trapezoid and h(y|x) = log 2e, so
I = e - log 2e for e <= 1/2,  and 1/(4e) above.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import digamma, gammaln

from lab.oracles.tasks.maps import spiral

Map = Callable[[np.ndarray], np.ndarray]
Pair = tuple[np.ndarray, np.ndarray]
Sampler = Callable[[int, np.random.Generator], Pair]


@dataclass(frozen=True)
class Task:
    """Pairs of known mutual information.

    name: also the key of the random numbers; dim_x, dim_y: number of coordinates; mutual_information: I(X; Y) in
    nats; sampler: maps (n, generator) to float64 arrays x (n, dim_x) and y (n, dim_y).
    """

    name: str
    dim_x: int
    dim_y: int
    mutual_information: float
    sampler: Sampler

    def sample(self, n: int, seed: int) -> Pair:
        """Draw n pairs, float64 arrays x (n, dim_x) and y (n, dim_y).

        The random numbers depend on a hash of (name, n, seed) and on nothing else: two tasks never share any under one
        seed, not even a task and its own transformed version, and a draw of 1,000 pairs is not the beginning of a draw
        of 10,000.
        """
        if not isinstance(n, (int, np.integer)) or n < 1:
            raise ValueError(f"n is the number of pairs to draw, got {n!r}; pass a positive integer")
        if not isinstance(seed, (int, np.integer)):
            raise ValueError(f"seed must be an integer, got {seed!r}; pass the number that identifies the draw")
        digest = hashlib.sha256(f"{self.name}/{int(n)}/{int(seed)}".encode()).digest()
        return self.sampler(int(n), np.random.default_rng(int.from_bytes(digest, "little")))


def dense_covariance(dim_x: int, dim_y: int, correlation: float) -> np.ndarray:
    """Unit variances and one correlation between every two coordinates of (x, y): (d, d) with d = dim_x + dim_y."""
    dim = dim_x + dim_y
    return np.full((dim, dim), float(correlation)) + (1 - correlation) * np.eye(dim)


def sparse_covariance(dim_x: int, dim_y: int, pairs: int, strength: float) -> np.ndarray:
    """Unit variances, and only x_i and y_i correlated, for i < pairs: (d, d), d = dim_x + dim_y.

    The two share a latent normal with weight `strength` beside unit noise of their own, so their correlation is
    strength^2 / (1 + strength^2).
    """
    if not 0 <= pairs <= min(dim_x, dim_y):
        raise ValueError(f"{pairs} pairs do not fit dimensions {dim_x} and {dim_y}; choose at most {min(dim_x, dim_y)}")
    covariance = np.eye(dim_x + dim_y)
    first = np.arange(pairs)
    covariance[first, dim_x + first] = covariance[dim_x + first, first] = strength**2 / (1 + strength**2)
    return covariance


def gaussian_pair_task(name: str, covariance: np.ndarray, dim_x: int) -> Task:
    """Centred Gaussian (x, y) with a joint covariance (d, d), of which x is the first dim_x coordinates."""
    covariance = np.asarray(covariance, dtype=float)
    if covariance.ndim != 2 or not 1 <= dim_x < len(covariance):
        raise ValueError(
            f"a covariance of shape {covariance.shape} cannot be split after coordinate {dim_x}; leave one to each side"
        )
    if covariance.shape != covariance.T.shape or not np.allclose(covariance, covariance.T):
        raise ValueError(
            f"the covariance {covariance.shape} is not symmetric; pass a (d, d) matrix equal to its transpose"
        )
    if np.linalg.eigvalsh(covariance)[0] <= 0:
        raise ValueError("the covariance is not positive definite, so no finite truth exists; weaken the correlations")
    blocks = covariance[:dim_x, :dim_x], covariance[dim_x:, dim_x:], covariance
    log_det_x, log_det_y, log_det = (np.linalg.slogdet(block)[1] for block in blocks)
    sampler = partial(_draw_gaussian, factor=np.linalg.cholesky(covariance), dim_x=dim_x)
    return Task(name, dim_x, len(covariance) - dim_x, float(log_det_x + log_det_y - log_det) / 2, sampler)


def student_task(dim_x: int, dim_y: int, dof: float) -> Task:
    """Multivariate Student-t with identity dispersion; named "student-identity-DIM_X-DIM_Y-DOF"."""
    if not 0 < dof < np.inf or min(dim_x, dim_y) < 1:
        raise ValueError(
            f"a Student pair needs dof in (0, inf) and dimensions >= 1, got {dof=}, {dim_x=}, {dim_y=}; change those"
        )

    def entropy(dim: int) -> float:
        half = (dof + dim) / 2
        return half * (digamma(half) - digamma(dof / 2)) + gammaln(dof / 2) - gammaln(half)

    information = float(entropy(dim_x) + entropy(dim_y) - entropy(dim_x + dim_y))
    sampler = partial(_draw_student, dim_x=dim_x, dim_y=dim_y, dof=dof)
    return Task(f"student-identity-{dim_x}-{dim_y}-{dof}", dim_x, dim_y, information, sampler)


def additive_task(epsilon: float) -> Task:
    """x uniform on (0, 1) and y = x + noise, the noise uniform on (-epsilon, epsilon); named "1v1-additive-EPSILON"."""
    if not 0 < epsilon < np.inf:
        raise ValueError(f"epsilon is the half-width of the noise, got {epsilon}; pass a positive number")
    information = epsilon - np.log(2 * epsilon) if epsilon <= 0.5 else 1 / (4 * epsilon)
    return Task(f"1v1-additive-{epsilon}", 1, 1, float(information), partial(_draw_additive, epsilon=epsilon))


def transformed(task: Task, transform_x: Map, transform_y: Map, name: str) -> Task:
    """The task seen through a one-to-one map of x and another of y, with the mutual information of `task`.

    Each map takes (n, d) to (n, d'); d' is read off two pairs. Random numbers are those of the new name, not of `task`.
    """
    sampler = partial(_draw_transformed, sampler=task.sampler, transform_x=transform_x, transform_y=transform_y)
    x, y = sampler(2, np.random.default_rng(0))
    if x.ndim != 2 or y.ndim != 2 or len(x) != 2 or len(y) != 2:
        raise ValueError(f"the maps of {name} made shapes {x.shape} and {y.shape} of two rows; return (n, d) arrays")
    return Task(name, x.shape[1], y.shape[1], task.mutual_information, sampler)


def spiralled(task: Task, speed: float = 1.0) -> Task:
    """x turned in its plane (0, 1), y in its plane (1, 2), at `speed` divided by the dimension; named "spiral-NAME"."""
    transform_x = partial(spiral, plane=(0, 1), speed=speed / task.dim_x)
    transform_y = partial(spiral, plane=(1, 2), speed=speed / task.dim_y)
    return transformed(task, transform_x, transform_y, f"spiral-{task.name}")


def _draw_gaussian(n: int, generator: np.random.Generator, factor: np.ndarray, dim_x: int) -> Pair:
    both = generator.standard_normal((n, len(factor))) @ factor.T
    return both[:, :dim_x].copy(), both[:, dim_x:].copy()


def _draw_student(n: int, generator: np.random.Generator, dim_x: int, dim_y: int, dof: float) -> Pair:
    both = generator.standard_normal((n, dim_x + dim_y)) / np.sqrt(generator.chisquare(dof, (n, 1)) / dof)
    return both[:, :dim_x].copy(), both[:, dim_x:].copy()


def _draw_additive(n: int, generator: np.random.Generator, epsilon: float) -> Pair:
    x = generator.random((n, 1))
    return x, x + generator.uniform(-epsilon, epsilon, (n, 1))


def _draw_transformed(
    n: int, generator: np.random.Generator, sampler: Sampler, transform_x: Map, transform_y: Map
) -> Pair:
    x, y = sampler(n, generator)
    return transform_x(x), transform_y(y)
