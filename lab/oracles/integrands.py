"""The integrands of the identities, exact as functions of t: what the estimators estimate before they integrate.

Time runs from noise to data. With Delta = u(.|y) - u(.), v = x - eps and the expectation over x_t | y,

    squared        t/(1-t) E ||Delta||^2             integrates to KL(p(.|y) || p); its mean over y to I(X; Y)
    inner product  t/(1-t) E u(.|y) . Delta          its mean over y integrates to I(X; Y)
    re-noising     t/(1-t) E_eps [||v - u(.)||^2 - ||v - u(.|y)||^2]
                                                     at one pair (x, y) integrates to log p(x|y) / p(x)
    divergence     KL(p_t(.|y) || p_t)               its derivative in t is the squared integrand

Gaussian pair. With delta = E[x|y] - E[x], S = Cov(x), C = Cov(x|y), B = S - C and A_t = (1-t)^2 I + t^2 S, A'_t the
same of C, all of them are regular on the whole of [0, 1], because

    I - t G_t = (1-t) A_t^-1,     G'_t - G_t = -t (1-t) A_t^-1 B A'_t^-1.

Mixture. The expectation is over a standard normal z of dimension at most 2: z spans x itself for d <= 2; where the
labels share one covariance, the labels' posterior sees x_t only through the span of the means, and all else enters
linearly (mean zero). The trapezoid rule in z is used, which for such smooth integrands converges faster than
Gauss-Hermite (Trefethen, SIAM Review 64, 2022); its step is halved until two successive values agree to 1e-9, and the
error of the second is far below that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch

REACH = 8.0
TOLERANCE = 1e-9
SMALLEST_STEP = 1 / 64


class GaussianIntegrands:
    """What a Gaussian pair adds to its velocity field, from its `marginal`, `conditional` and `explained` (B).

    Every method takes times t (T,) and conditions y (n, d_y), and returns (T, n); without y, its mean over y (T,).
    """

    def _shift(self, condition: torch.Tensor) -> torch.Tensor:
        return self.conditional_mean(condition) - self.x_mean

    def kl_divergence(self, t: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """KL(p_t(.|y) || p_t) in nats."""
        inner, outer = self.conditional.spread(t), self.marginal.spread(t)
        inverse = self.marginal.power(t, -1)
        constant = (_trace(inverse, self.conditional.power(t, 1)) - self.x_dimension) / 2
        constant = constant + (outer.log().sum(1) - inner.log().sum(1)) / 2
        return self._with_shift(t**2 / 2, constant, inverse, condition)

    def squared_integrand(self, t: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """t/(1-t) E ||Delta||^2 in nats per unit of t."""
        inverse, inner = self.marginal.power(t, -1), self.conditional.power(t, -1)
        gap = inverse @ self.explained @ inner
        constant = t**3 * (1 - t) * _trace(gap, self.explained @ inverse)
        return self._with_shift(t * (1 - t), constant, inverse @ inverse, condition)

    def inner_product_integrand(self, t: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """t/(1-t) E u(.|y) . Delta in nats per unit of t (RFMI, arXiv 2503.14358, equation 12)."""
        inverse = self.marginal.power(t, -1)
        gain = (self.conditional.basis * self.conditional.gain(t)[:, None, :]) @ self.conditional.basis.T
        constant = -(t**2) * _trace(gain @ inverse, self.explained)
        values = self._with_shift(t, constant, inverse, condition)
        if condition is None:
            return values
        return values + t[:, None] * (self.x_mean @ inverse @ self._shift(condition).T)

    def re_noising_integrand(self, t: torch.Tensor, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """t/(1-t) E_eps [||v - u(.)||^2 - ||v - u(.|y)||^2] at pairs (x, y), (T, n)."""
        near, far = (x - self.conditional_mean(condition)).double(), (x - self.x_mean).double()
        quadratic = (self.marginal.power(t, -1) @ far.T).square().sum(1)
        quadratic = quadratic - (self.conditional.power(t, -1) @ near.T).square().sum(1)
        outer, inner = self.marginal.eigenvalues, self.conditional.eigenvalues
        wide, narrow = self.marginal.spread(t), self.conditional.spread(t)
        constant = ((outer - inner) / (wide * narrow) * (outer / wide + inner / narrow)).sum(1)
        return (t * (1 - t))[:, None] * quadratic + (t**3 * (1 - t) * constant)[:, None]

    def _with_shift(self, weight, constant, matrix, condition):
        """constant + weight * delta' matrix delta, (T, n), or its mean over y, where E[delta delta'] = B, (T,)."""
        if condition is None:
            return constant + weight * _trace(matrix, self.explained)
        shift = self._shift(condition)
        return constant[:, None] + weight[:, None] * torch.einsum("ni,tij,nj->tn", shift, matrix, shift)


class MixtureIntegrands:
    """What a Gaussian mixture adds to its velocity field; uses `means`, `paths`, `prior`, `branches` and `both`.

    Every method takes times t (T,) and labels (n,), and returns (T, n); without labels, the mean over the prior, (T,).
    Raises ValueError where the dimension is above 2 and the labels do not share a covariance with means in one plane:
    such mixtures have no quadrature of low dimension, and Monte Carlo over `pointwise` is the way.
    """

    @cached_property
    def mutual_information(self) -> float:
        """I(X; Y) in nats, by quadrature."""
        return float(self.kl_divergence(self.means.new_ones(1)))

    def kl_divergence(self, t: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """KL(p_t(.|k) || p_t) in nats."""

        def log_ratio(x_t: torch.Tensor, time: torch.Tensor, k: int) -> torch.Tensor:
            densities = self.branches(x_t, time)[1]
            return densities[:, k] - torch.logsumexp(densities + self.prior.log(), 1)

        return self._over_labels(t, condition, log_ratio)

    def squared_integrand(self, t: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """t/(1-t) E ||Delta||^2 in nats per unit of t, for t below 1."""
        return self._over_velocities(t, condition, lambda u_c, u_m: (u_c - u_m).square())

    def inner_product_integrand(self, t: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """t/(1-t) E u(.|k) . Delta in nats per unit of t, for t below 1 (RFMI, arXiv 2503.14358, equation 12)."""
        return self._over_velocities(t, condition, lambda u_c, u_m: u_c * (u_c - u_m))

    def re_noising_integrand(self, t: torch.Tensor, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """t/(1-t) E_eps [||v - u(.)||^2 - ||v - u(.|k)||^2] at pairs (x, k), (T, n), for t below 1."""
        labels = self.check_labels(condition, len(x))
        values = [[self._re_noise(s, row, int(k)) for row, k in zip(x.double(), labels, strict=True)] for s in t]
        return _weight(t, condition) * torch.tensor(values, dtype=torch.float64)

    def _re_noise(self, t: torch.Tensor, x: torch.Tensor, k: int) -> float:
        def difference(eps: torch.Tensor) -> torch.Tensor:
            u_c, u_m = self.both((1 - t) * eps + t * x, t.expand(len(eps)), torch.full((len(eps),), k))
            return ((u_c - u_m) * (2 * (x - eps) - u_c - u_m)).sum(1)

        return _normal_mean(difference, self._directions(self.paths[0].power(t[None], -1)[0]))

    def _over_velocities(self, t: torch.Tensor, condition: torch.Tensor | None, function: Callable) -> torch.Tensor:
        """t/(1-t) E[sum of function(u(x_t|k), u(x_t)) | k]."""

        def at(x_t: torch.Tensor, time: torch.Tensor, k: int) -> torch.Tensor:
            return function(*self.both(x_t, time, torch.full((len(x_t),), k))).sum(1)

        return _weight(t, condition) * self._over_labels(t, condition, at)

    def _over_labels(self, t: torch.Tensor, condition: torch.Tensor | None, function: Callable) -> torch.Tensor:
        """E[function(x_t, t, k) | k] at x_t = t mu_k + A_{t,k}^(1/2) z, (T, n), or its mean over the prior, (T,)."""
        values = torch.empty(len(t), self.labels, dtype=torch.float64)
        for row, time in enumerate(t.double()):
            for k, path in enumerate(self.paths):
                centre, root = time * self.means[k], path.power(time[None], 0.5)[0]
                directions = self._directions(path.power(time[None], -0.5)[0])
                mean = _normal_mean(lambda z: function(centre + z @ root, time.expand(len(z)), k), directions)
                values[row, k] = mean
        if condition is None:
            return values @ self.prior
        return values[:, self.check_labels(condition, len(condition))]

    def _directions(self, whitening: torch.Tensor) -> torch.Tensor:
        """Orthonormal rows (r, d), r <= 2, that span all an integrand depends on other than linearly."""
        if self.dimension <= 2:
            return torch.eye(self.dimension, dtype=torch.float64)
        if self.shared_covariance:
            _, size, rows = torch.linalg.svd((self.means - self.means[0]) @ whitening, full_matrices=False)
            rows = rows[size > 1e-10 * max(1.0, float(size[0]))]
            if len(rows) <= 2:
                return rows
        raise ValueError(
            "no exact quadrature for this mixture: above dimension 2 the labels must share one covariance and their "
            "means lie in one plane; average `pointwise` over samples instead"
        )


def _trace(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """tr(a b) over the last two axes."""
    return (a * b.transpose(-1, -2)).sum((-1, -2))


def _weight(t: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
    if not bool(((t >= 0) & (t < 1)).all()):
        raise ValueError("a mixture's integrand is 0 / 0 at t = 1; ask for times in [0, 1)")
    weight = t.double() / (1 - t.double())
    return weight if condition is None else weight[:, None]


def _normal_mean(function: Callable[[torch.Tensor], torch.Tensor], directions: torch.Tensor) -> float:
    """E f(z) for z standard normal in the span of the directions (r, d), by the trapezoid rule with halved steps."""
    if len(directions) == 0:
        return float(function(directions.new_zeros(1, directions.shape[1])))
    step, last = 0.5, math.inf
    while step >= SMALLEST_STEP:
        axis = torch.arange(-round(REACH / step), round(REACH / step) + 1, dtype=torch.float64) * step
        nodes = torch.cartesian_prod(*[axis] * len(directions)).reshape(-1, len(directions))
        nodes = nodes[nodes.square().sum(1) <= REACH**2]
        weights = torch.exp(-nodes.square().sum(1) / 2)
        mean = float(weights @ function(nodes @ directions) / weights.sum())
        if abs(mean - last) <= TOLERANCE * max(1.0, abs(mean)):
            return mean
        step, last = step / 2, mean
    raise ValueError(
        "the quadrature did not settle, as for labels very far apart; average `pointwise` over samples instead"
    )
