"""Mutual information from any velocity field, at pairs (x, y).

Time runs from noise to data. With x_t = (1 - t) eps + t x, v = x - eps and Delta = u(x_t|y) - u(x_t), every Monte-Carlo
form integrates t/(1-t) f over t and averages it over eps and the pairs:

    squared         f = ||Delta||^2                                    the rate of KL(p_t(.|y) || p_t)
    inner product   f = u(x_t|y) . Delta                               RFMI, arXiv 2503.14358, equation 12
    re-noising      f = ||v - u(x_t)||^2 - ||v - u(x_t|y)||^2          point-wise I-MMSE
                      = Delta . (2 v - u(x_t|y) - u(x_t))
    residual        f = Delta . (v - a(x_t)),  a = u or an anchor      a = u: the mean of squared and re-noising

All four come from the same two velocities, so `monte_carlo_forms` returns them at the cost of one, and all have the
mean I(X; Y). For one pair, only the re-noising value estimates the point-wise information i(x; y), log p(x|y)/p(x);
the squared value estimates KL(p(.|y) || p) once averaged over x given y, the inner product neither.

With velocities in error by e_c and e_m (conditional, null), the squared form gains 2 E Delta . e_c + E ||e_c - e_m||^2
and the re-noising form E ||e_m||^2 - E ||e_c||^2, each with the weight t/(1-t); the residual form gains their mean. The
anchor may be any function of x_t and t, as E a . Delta = 0. With one that does not depend on the fitted field, the
residual form gains E (u(x_t|y) - a) . e_c - E (u(x_t) - a) . e_m: of first order only, so that errors which merely
scatter about the truth from one training set to the next add noise but no bias.

Every estimate is a mean of point-wise values, one a pair, so it comes with a standard error and a 95% interval. One
network evaluation is one velocity u(x_t, t, condition) for one sample: the two branches of one x_t count as two.
"""

from dataclasses import dataclass
from typing import Self

import torch

from rfmi.fields import VelocityField, both_branches, interpolate
from rfmi.times import StratifiedTimes

NORMAL_QUANTILE_95 = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """Mutual information in nats.

    value: the estimate
    standard_error: of the estimate
    pointwise: (n,) values whose mean is `value`
    evaluations: network evaluations spent
    """

    value: float
    standard_error: float
    pointwise: torch.Tensor
    evaluations: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval (low, high) in nats, normal approximation."""
        half = NORMAL_QUANTILE_95 * self.standard_error
        return self.value - half, self.value + half

    @classmethod
    def from_pointwise(cls, pointwise: torch.Tensor, evaluations: int) -> Self:
        """The mean of independent point-wise values (n,) with its standard error; ValueError for fewer than two."""
        if pointwise.ndim != 1 or len(pointwise) < 2:
            shape = tuple(pointwise.shape)
            raise ValueError(f"{shape} is no vector of at least two point-wise values; score more pairs")
        values = pointwise.double()
        error = values.std(unbiased=True) / len(values) ** 0.5
        return cls(float(values.mean()), float(error), pointwise, evaluations)


@dataclass(frozen=True)
class MonteCarloForms:
    """The four Monte-Carlo forms from the same velocities; each counts all evaluations, which are paid once."""

    squared: Estimate
    inner_product: Estimate
    re_noising: Estimate
    residual: Estimate


@torch.no_grad()
def monte_carlo_forms(
    field: VelocityField,
    x: torch.Tensor,
    condition: torch.Tensor,
    *,
    times: StratifiedTimes,
    generator: torch.Generator,
    noises: int = 1,
    share: int = 1,
    anchor: VelocityField | None = None,
) -> MonteCarloForms:
    """All Monte-Carlo forms at n pairs, in nats, for 2 n draws noises evaluations.

    field: the two velocities
    x: (n, *) data
    condition: n rows or labels, one for each row of x
    times: when to look, `times.draws` t per pair
    generator: of t and eps, on the CPU wherever x is
    noises: draws of eps per time
    share: consecutive pairs that have t and eps in common, M for a table of M candidates per prompt; standard errors
        take pairs as independent, and hold for share = 1 only
    anchor: field whose null branch takes the place of u(x_t) in the residual form
    Raises ValueError for lengths that differ, for no noises, and for n not a multiple of share.
    """
    check_pairs(x, condition)
    if noises < 1:
        raise ValueError(f"noises is {noises}; ask for at least one")
    t, weights = (part.to(x.device) for part in times.draw(len(x), generator, share))
    sums = torch.zeros(4, len(x), dtype=torch.float64, device=x.device)
    for draw in range(times.draws):
        weight = weights[:, draw] * t[:, draw] / (1 - t[:, draw]) / noises
        now = t[:, draw].to(time_dtype(x))
        for _ in range(noises):
            eps = torch.randn((len(x) // share, *x.shape[1:]), generator=generator, dtype=x.dtype)
            eps = eps.repeat_interleave(share, 0).to(x.device)
            x_t = interpolate(x, eps, now)
            u_c, u_m = (u.double().flatten(1) for u in both_branches(field, x_t, now, condition))
            a = u_m if anchor is None else anchor(x_t, now).double().flatten(1)
            delta, v = u_c - u_m, (x - eps).double().flatten(1)
            factors = torch.stack([delta, u_c, 2 * v - u_c - u_m, v - a])
            sums += weight * (factors * delta).sum(2)
    evaluations = 2 * len(x) * times.draws * noises
    return MonteCarloForms(*(Estimate.from_pointwise(values, evaluations) for values in sums))


def time_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype of x, and no coarser than float32: a time rounded to bfloat16 would not fit its weight."""
    return torch.promote_types(x.dtype, torch.float32)


def check_pairs(x: torch.Tensor, condition: torch.Tensor) -> None:
    """Raises ValueError for x that is no floating (n, *) tensor, and for another number of conditions."""
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} of shape {tuple(x.shape)}; give a floating (n, d) tensor or more")
    if condition is None or len(condition) != len(x):
        raise ValueError(f"x holds {len(x)} rows and the condition does not; give one condition per row of x")
