"""The Gaussian field in canonical coordinates: the part of the answer that needs no network.

Time runs from noise to data, x_t = (1 - t) eps + t x. With rho the canonical correlations, x ~ N(0, I), x | y ~ N(m,
s), m = rho y, s = 1 - rho^2 (null condition: m = 0, s = 1) and a = t^2 s + (1 - t)^2, coordinate by coordinate,

    u = m + (t s - (1 - t)) / a (x_t - t m).

What a network has to add is measured in the units of

    gain = sqrt(s) (1 - t) / a:

the target v - u has standard deviation sqrt(s / a), and a field can differ from u by (1 - t) / sqrt(a) of that at most
in order, because at clean data (t = 1) every velocity field is the same, u(x, 1) = x. The integrals of the squared and
of the re-noising form over t and eps are known for this field at every pair (x, y), whatever the pair's distribution
(`exact_squared`, `exact_re_noising`): the first by quadrature, the second as log N(x; m, s) - log N(x; 0, 1).

Where y is a label, x | y ~ N(m_y, s) makes x a mixture, and the null branch is exact for it: the same field with m
replaced by its posterior mean at x_t, sum_k w_k m_k, w_k proportional to pi_k N(x_t; t m_k, a).
"""

from dataclasses import dataclass
from typing import Self

import torch

from rfmi.times import StratifiedTimes, gauss_legendre

QUADRATURE_NODES = 400
TIME_CELLS = 400


@dataclass(frozen=True)
class GaussianBase:
    """One Gaussian field a fold.

    correlations: (folds, 1, d) rho, zero where x has no partner in y
    label_means: (folds, labels, d) m_k where y is a label, else None
    label_prior: (folds, 1, labels) pi_k where y is a label, else None
    """

    correlations: torch.Tensor
    label_means: torch.Tensor | None = None
    label_prior: torch.Tensor | None = None

    def one(self, fold: int) -> Self:
        """This fold's base alone, as one of a single fold."""
        parts = (self.correlations, self.label_means, self.label_prior)
        return GaussianBase(*(None if part is None else part[fold : fold + 1] for part in parts))

    def branch(self, x_t: torch.Tensor, t: torch.Tensor, y: torch.Tensor, conditional: torch.Tensor):
        """Velocity, gain and standardised innovation, each (folds, B, d), at x_t (folds, B, d) and t (folds, B, 1).

        y: (folds, B, d_y)
        conditional: (folds, B, 1), 1 for the conditional branch, 0 for the null
        """
        rho = self.correlations * (conditional if self.label_means is None else torch.ones_like(conditional))
        s, m = 1 - rho**2, rho * self.partner(y)
        a = t**2 * s + (1 - t) ** 2
        if self.label_means is not None:
            m = torch.where(conditional > 0, m, self._posterior_mean(x_t, t, a))
        innovation = x_t - t * m
        return m + (t * s - (1 - t)) / a * innovation, s.sqrt() * (1 - t) / a, innovation / a.sqrt()

    def _posterior_mean(self, x_t: torch.Tensor, t: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        means = self.label_means.mT
        likelihood = (t * x_t / a) @ means - (t**2 / a) @ means**2 / 2
        return torch.softmax(likelihood + self.label_prior.log(), -1) @ self.label_means

    def partner(self, y: torch.Tensor) -> torch.Tensor:
        """The coordinates of y that go with those of x, zeros where there are none: (..., d) for y (..., d_y)."""
        missing = self.correlations.shape[-1] - y.shape[-1]
        return torch.nn.functional.pad(y, (0, missing)) if missing > 0 else y[..., : self.correlations.shape[-1]]

    def exact_re_noising(self, fold: int, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The re-noising form of one fold's field at pairs x (n, d), y (n, d_y): the log density ratio (n,) in nats."""
        rho = self.correlations[fold, 0].double()
        s, m = 1 - rho**2, rho * self.partner(y.double())
        conditional = -(((x - m) ** 2 / s) + s.log()).sum(1) / 2
        if self.label_means is None:
            return conditional + (x.double() ** 2).sum(1) / 2
        gaps = x.double()[:, None] - self.label_means[fold].double()
        each = -((gaps**2 / s) + s.log()).sum(2) / 2
        return conditional - torch.logsumexp(each + self.label_prior[fold].double().log(), 1)

    def exact_squared(self, fold: int, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The squared form of one fold's field at pairs x (n, d), y (n, d_y), (n,) in nats; not where y is a label."""
        rho = self.correlations[fold, 0].double()
        x, m, s = x.double(), rho * self.partner(y.double()), 1 - rho**2
        t, weight = (part[:, None].to(rho) for part in gauss_legendre(QUADRATURE_NODES))
        inner, outer = t**2 * s + (1 - t) ** 2, t**2 + (1 - t) ** 2
        slope = (t * s - (1 - t)) / inner - (2 * t - 1) / outer  # Delta = slope x_t + shift m
        shift = 1 - (t * s - (1 - t)) / inner * t
        weight = weight * t / (1 - t)
        factors = (slope * t) ** 2, 2 * slope * t * shift, shift**2
        quadratic, mixed, square = ((weight * factor).sum(0) for factor in factors)
        constant = (weight * (slope * (1 - t)) ** 2).sum()
        return (quadratic * x**2 + mixed * x * m + square * m**2).sum(1) + constant

    def times(self, draws: int) -> StratifiedTimes:
        """Times to train and score at: density as the integrand's noise, in the mean over coordinates and branches."""

        def noise(t: torch.Tensor) -> torch.Tensor:
            s = torch.cat([1 - self.correlations.double().cpu().flatten() ** 2, torch.ones(1, dtype=torch.float64)])
            a = t[:, None] ** 2 * s + (1 - t[:, None]) ** 2
            return (t[:, None] * s.sqrt() / a**1.5).mean(1)

        return StratifiedTimes.matched(draws, noise, cells=TIME_CELLS, floor=0.15)
