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

Change of variables is exact point by point: along dx = u(x|y) dt, and with div for the divergence,

    d/dt log p_t(x_t|y)/p_t(x_t) = div(u(.) - u(.|y)) + (u(.) - u(.|y)) . grad log p_t(x_t),     0 at t = 0.

Every estimate is a mean of point-wise values, one a pair, so it comes with a standard error and a 95% interval. One
network evaluation is one velocity u(x_t, t, condition) for one sample: the two branches of one x_t count as two.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch

from rfmi.fields import VelocityField, both_branches, interpolate, score
from rfmi.times import StratifiedTimes


NORMAL_QUANTILE_95 = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """Mutual information in nats.

    value: the estimate
    standard_error: of the estimate
    pointwise: (n,) values whose mean is `value`, None where the form has none
    evaluations: network evaluations spent
    """

    value: float
    standard_error: float
    pointwise: torch.Tensor | None
    evaluations: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval (low, high) in nats, normal approximation."""
        half = NORMAL_QUANTILE_95 * self.standard_error
        return self.value - half, self.value + half

    @classmethod
    def from_pointwise(cls, pointwise: torch.Tensor, evaluations: int) -> Self:
        """The mean of independent point-wise values (n,), with the standard error of that mean.

        Raises ValueError for fewer than two values: one value has no standard error.
        """
        if pointwise.ndim != 1 or len(pointwise) < 2:
            raise ValueError(
                f"an estimate needs a vector of at least two point-wise values, got shape {tuple(pointwise.shape)}; "
                "score more pairs"
            )
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
    antithetic: bool = False,
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
    antithetic: eps and -eps in turn (noises must be even): removes what is odd in eps, pays for pairs far from the mean
    share: consecutive pairs that have t and eps in common, M for a table of M candidates per prompt; standard errors
        take pairs as independent, and hold for share = 1 only
    anchor: field whose null branch takes the place of u(x_t) in the residual form

    Raises ValueError for lengths that differ, for odd antithetic noises, and for n not a multiple of share.
    """
    _check_pairs(x, condition)
    if noises < 1 or (antithetic and noises % 2):
        raise ValueError(f"noises is {noises}; ask for at least one, and for an even number with antithetic noise")
    t, weights = (part.to(x.device) for part in times.draw(len(x), generator, share))
    sums = torch.zeros(4, len(x), dtype=torch.float64, device=x.device)
    for draw in range(times.draws):
        weight = weights[:, draw] * t[:, draw] / (1 - t[:, draw]) / noises
        now = t[:, draw].to(_time_dtype(x))
        for eps in _noise(x, noises, antithetic, share, generator):
            u_c, u_m = (u.double().flatten(1) for u in both_branches(field, interpolate(x, eps, now), now, condition))
            a = u_m if anchor is None else anchor(interpolate(x, eps, now), now).double().flatten(1)
            delta, v = u_c - u_m, (x - eps).double().flatten(1)
            factors = torch.stack([delta, u_c, 2 * v - u_c - u_m, v - a])
            sums += weight * (factors * delta).sum(2)
    evaluations = 2 * len(x) * times.draws * noises
    return MonteCarloForms(*(Estimate.from_pointwise(values, evaluations) for values in sums))


def change_of_variables(field: VelocityField, x: torch.Tensor, condition: torch.Tensor, **options) -> Estimate:
    """i(x; y) of each pair and their mean; options and errors are those of `log_ratios`, for two pairs or more."""
    return Estimate.from_pointwise(*log_ratios(field, x, condition, **options))


@torch.no_grad()
def log_ratios(
    field: VelocityField,
    x: torch.Tensor,
    condition: torch.Tensor,
    *,
    steps: int = 32,
    t_min: float = 0.0,
    t_max: float = 1.0,
    probes: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, int]:
    """(log p(x|y)/p(x) of any number of pairs (n,), network evaluations), along the ODE dx = u(x|y) dt that ends at x.

    It is followed backwards by Runge-Kutta's rule, whose error falls as steps^-4.

    field: the two velocities, differentiable in x_t
    x: (n, *) data, taken as the point at t_max
    condition: n rows or labels, one for each row of x
    steps: even steps from t_max to t_min
    t_min, t_max: what is missing below t_min and above t_max is taken as zero, as is the score's term at t = 1, where
        it is zero for every exact field
    probes: None for the exact divergence (one vector-Jacobian product a coordinate, counted as an evaluation a branch),
        or the number of Hutchinson's random signs per pair, drawn once per trajectory
    generator: of the signs, on the CPU

    Raises ValueError for lengths that differ or probes without a generator.
    """
    _check_pairs(x, condition)
    if steps < 1 or not 0 <= t_min < t_max <= 1:
        raise ValueError(f"steps is {steps} from t = {t_min} to {t_max}; choose steps >= 1 and 0 <= t_min < t_max <= 1")
    if probes is not None and (probes < 1 or generator is None):
        raise ValueError(
            "Hutchinson's divergence needs at least one probe and a generator; pass probes=None for the exact one"
        )
    directions = _divergence_directions(x, probes, generator)
    step = (t_max - t_min) / steps
    log_ratio = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for index in range(steps):
        t = t_max - index * step
        v_1, rate_1 = _rates(field, x, t, condition, directions)
        v_2, rate_2 = _rates(field, x - step / 2 * v_1, t - step / 2, condition, directions)
        v_3, rate_3 = _rates(field, x - step / 2 * v_2, t - step / 2, condition, directions)
        v_4, rate_4 = _rates(field, x - step * v_3, max(t - step, t_min), condition, directions)
        x = x - step / 6 * (v_1 + 2 * v_2 + 2 * v_3 + v_4)
        log_ratio += step / 6 * (rate_1 + 2 * rate_2 + 2 * rate_3 + rate_4)
    return log_ratio, 8 * steps * len(x) * (1 + len(directions))


def _rates(
    field: VelocityField, x_t: torch.Tensor, t: float, condition: torch.Tensor, directions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """u(x_t|y) (n, *) and the rate of log p_t(x_t|y)/p_t(x_t) along it (n,)."""
    times = x_t.new_full((len(x_t),), t, dtype=_time_dtype(x_t))

    def opposite_delta(point: torch.Tensor):
        u_c, u_m = both_branches(field, point, times, condition)
        return u_m - u_c, (u_c, u_m)

    gap, pull_back, (u_c, u_m) = torch.func.vjp(opposite_delta, x_t, has_aux=True)
    rate = sum((pull_back(d)[0] * d).double().flatten(1).sum(1) for d in directions)
    if t < 1:
        rate = rate + (gap * score(u_m, x_t, times)).double().flatten(1).sum(1)
    return u_c, rate


def _divergence_directions(x: torch.Tensor, probes: int | None, generator: torch.Generator | None) -> torch.Tensor:
    """Directions d (m, n, *) for which sum_d d . J d is the divergence: unit vectors, or random signs of norm
    1/probes."""
    if probes is None:
        size = x[0].numel()
        unit = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, 1, *x.shape[1:])
        return unit.expand(size, *x.shape)
    signs = torch.randint(0, 2, (probes, *x.shape), generator=generator).to(x) * 2 - 1
    return signs / probes**0.5


def _noise(
    x: torch.Tensor, noises: int, antithetic: bool, share: int, generator: torch.Generator
) -> Iterator[torch.Tensor]:
    """Standard normal eps (n, *), `noises` of them, the same for every `share` rows in turn."""
    shape = (len(x) // share, *x.shape[1:])
    for _ in range(noises // 2 if antithetic else noises):
        eps = torch.randn(shape, generator=generator, dtype=x.dtype).repeat_interleave(share, 0).to(x.device)
        yield eps
        if antithetic:
            yield -eps


def _time_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype of x, and no coarser than float32: a time rounded to bfloat16 would not fit its weight."""
    return torch.promote_types(x.dtype, torch.float32)


def _check_pairs(x: torch.Tensor, condition: torch.Tensor) -> None:
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(
            f"x must be a floating (n, d) tensor or more, got {x.dtype} of shape {tuple(x.shape)}; reshape it"
        )
    if condition is None or len(condition) != len(x):
        raise ValueError(f"x holds {len(x)} rows and the condition does not; give one condition per row of x")
