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
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from rfmi.estimate import Estimate
from rfmi.fields import VelocityField, both_branches, interpolate, score
from rfmi.times import StratifiedTimes


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
    """All Monte-Carlo forms at n pairs, in nats.

    x: (n, *); condition: n rows or labels; times: draws of t per pair; noises: draws of eps per time; antithetic: eps
    and -eps in turn (noises must be even), which removes what is odd in eps and pays for pairs far from the mean, not
    for all; share: how many consecutive pairs have t and eps in common, M for a table of M candidates per prompt that
    are to be ranked within it (standard errors take pairs as independent, and hold for share = 1 only); anchor: a field
    whose null branch takes the place of u(x_t) in the residual form; generator: on the CPU, wherever x is. Each
    estimate costs 2 n draws noises evaluations. Raises ValueError for lengths that differ, for odd antithetic noises,
    and for n not a multiple of share.
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


def squared(field: VelocityField, x: torch.Tensor, condition: torch.Tensor, **options) -> Estimate:
    """I(X; Y) = E of t/(1-t) ||Delta||^2 over t: never negative, and biased upwards by errors of the field.

    Options are those of `monte_carlo_forms`. `pointwise` holds each pair's share, whose mean over x given y is
    KL(p(.|y) || p); it is not the point-wise information.
    """
    return monte_carlo_forms(field, x, condition, **options).squared


def inner_product(field: VelocityField, x: torch.Tensor, condition: torch.Tensor, **options) -> Estimate:
    """I(X; Y) = E of t/(1-t) u(x_t|y) . Delta over t (RFMI, arXiv 2503.14358, equation 12).

    Options are those of `monte_carlo_forms`. It differs from `squared` by u(x_t) . Delta, whose mean is zero only after
    averaging over y: `pointwise` holds each pair's share, which within one condition says nothing of its information.
    """
    return monte_carlo_forms(field, x, condition, **options).inner_product


def re_noising(field: VelocityField, x: torch.Tensor, condition: torch.Tensor, **options) -> Estimate:
    """i(x; y) = E of t/(1-t) [||v - u(x_t)||^2 - ||v - u(x_t|y)||^2] over t and eps; its mean over pairs is I(X; Y).

    Options are those of `monte_carlo_forms`; eps and t are common to the two branches, and to each `share` pairs.
    `pointwise` holds unbiased estimates of i(x; y). No trajectory is needed, so any x can be scored.
    """
    return monte_carlo_forms(field, x, condition, **options).re_noising


def change_of_variables(field: VelocityField, x: torch.Tensor, condition: torch.Tensor, **options) -> Estimate:
    """i(x; y) for each pair along the ODE dx = u(x|y) dt that ends at x.

    Options are those of `log_ratios`. Raises ValueError as it does, and for fewer than two pairs.
    """
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
    """(log p(x|y)/p(x) of any number of pairs (n,), network evaluations), along the ODE dx = u(x|y) dt that ends at x,
    followed backwards by Runge-Kutta's rule.

    x: (n, *); condition: n rows or labels; steps: even steps from t_max to t_min; probes: None for the exact divergence
    (one vector-Jacobian product a coordinate), or the number of Hutchinson's random signs per pair, drawn once per
    trajectory, which needs a generator. x is taken as the point at t_max, and what is missing below t_min and above
    t_max as zero; at t = 1 itself the score's term is zero for every exact field and is set so. A vector-Jacobian
    product counts as one evaluation per branch. The deterministic error falls as steps^-4. Raises ValueError for
    lengths that differ or probes without a generator.
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
