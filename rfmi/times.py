"""When to look: times t at which the integrals over the path are estimated, with the weight of each.

An integral over t in [t_min, t_max] is estimated as

    integral f(t) dt  ~  sum_j w_j f(t_j),   t_j = Q^-1((j + U_j) / J),   w_j = 1 / (J q(t_j)),   j < J, U_j ~ U(0, 1):

one draw in each of J strata of equal probability under a density q, whose weight is divided out, so the sum is unbiased
for every q that is positive where f is not 0. q is constant on cells, so its distribution function Q is inverted
exactly. A share `floor` of uniform density is mixed in, which keeps q positive and every weight below (t_max - t_min) /
(J floor). The variance is least for q proportional to the root mean square of f's summand; q proportional to f itself
is a good choice where the two have the same shape.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch


def gauss_legendre(nodes: int, t_min: float = 0.0, t_max: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and weights (nodes,) of the Gauss-Legendre rule on [t_min, t_max]; no node touches an end."""
    _check_range(t_min, t_max)
    points, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(nodes))
    half = (t_max - t_min) / 2
    return t_min + half * (points + 1), half * weights


@dataclass(frozen=True)
class StratifiedTimes:
    """One time per stratum under a density that is constant on cells; built by `uniform`, `from_curve` or `matched`.

    draws: times per pair, J
    edges: (G + 1,) increasing cell borders, from t_min to t_max
    mass: (G,) probability of each cell
    """

    draws: int
    edges: torch.Tensor
    mass: torch.Tensor

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"draws is {self.draws}; ask for at least one time per pair")

    @classmethod
    def uniform(cls, draws: int, t_min: float = 0.0, t_max: float = 1.0) -> Self:
        """Uniform density on [t_min, t_max]."""
        _check_range(t_min, t_max)
        return cls(draws, torch.tensor([t_min, t_max], dtype=torch.float64), torch.ones(1, dtype=torch.float64))

    @classmethod
    def from_curve(cls, draws: int, grid: torch.Tensor, values: torch.Tensor, floor: float = 0.1) -> Self:
        """Density proportional to a tabulated curve, with a share `floor` of uniform density mixed in.

        draws: times per pair
        grid: (G + 1,) increasing times
        values: (G + 1,) the curve there, not negative; a curve of zeros gives the uniform density
        floor: share of uniform density, in (0, 1]
        Raises ValueError for anything else.
        """
        edges, curve = (torch.as_tensor(part, dtype=torch.float64).detach().cpu() for part in (grid, values))
        if edges.ndim != 1 or len(edges) < 2 or curve.shape != edges.shape or bool((edges.diff() <= 0).any()):
            raise ValueError("grid and values must be vectors of one length, two or more; sort the grid to increase")
        if not bool(torch.isfinite(curve).all()) or bool((curve < 0).any()):
            raise ValueError("values must be finite and not negative; pass the magnitude of the curve")
        if not 0 < floor <= 1:
            raise ValueError(f"floor is {floor}; it must lie in (0, 1] so that no time has probability 0")
        _check_range(float(edges[0]), float(edges[-1]))
        width = edges.diff()
        even = width / width.sum()
        cell = width * (curve[1:] + curve[:-1])
        mass = (1 - floor) * cell / cell.sum() + floor * even if bool(cell.sum() > 0) else even
        return cls(draws, edges, mass)

    @classmethod
    def matched(
        cls,
        draws: int,
        integrand: Callable[[torch.Tensor], torch.Tensor],
        cells: int = 200,
        floor: float = 0.1,
    ) -> Self:
        """Density matched on [0, 1] to the magnitude of an integrand, such as a Gaussian field's `squared_integrand`.

        draws: times per pair
        integrand: maps t (cells + 1,) to as many finite values
        cells: on each of which the density is constant
        floor: share of uniform density, in (0, 1]
        """
        grid = torch.linspace(0, 1, cells + 1, dtype=torch.float64)
        return cls.from_curve(draws, grid, integrand(grid).abs(), floor)

    def draw(self, n: int, generator: torch.Generator, share: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """Times and weights, each (n, draws) in float64.

        n: rows, a multiple of share
        generator: on the CPU
        share: rows in turn that have the same times
        Raises ValueError where n is not a multiple of share.
        """
        if share < 1 or n % share:
            raise ValueError(f"{n} rows cannot be shared out in groups of {share}; give each as many candidates")
        uniform = torch.rand(n // share, self.draws, generator=generator, dtype=torch.float64)
        level = (torch.arange(self.draws, dtype=torch.float64) + uniform) / self.draws
        upper = self.mass.cumsum(0)
        cell = torch.searchsorted(upper, level, right=True).clamp(max=len(self.mass) - 1)
        within = (level - (upper - self.mass)[cell]) / self.mass[cell]
        width = self.edges.diff()[cell]
        latest = torch.nextafter(self.edges[-1], self.edges[0])
        t = (self.edges[cell] + within * width).clamp(self.edges[0], latest)
        weights = width / (self.draws * self.mass[cell])
        return t.repeat_interleave(share, 0), weights.repeat_interleave(share, 0)


def _check_range(t_min: float, t_max: float) -> None:
    if not 0 <= t_min < t_max <= 1:
        raise ValueError(f"times run from {t_min} to {t_max}; choose 0 <= t_min < t_max <= 1")
