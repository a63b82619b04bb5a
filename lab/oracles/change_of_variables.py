"""The point-wise information of a pair, exactly, along the ODE dx = u(x|y) dt. With div for the divergence,

    d/dt log p_t(x_t|y)/p_t(x_t) = div(u(.) - u(.|y)) + (u(.) - u(.|y)) . grad log p_t(x_t),     0 at t = 0.

It costs hundreds of evaluations a pair and asks for the field's derivative: an oracle for the forms of
`rfmi.estimators`, and no way to score images.
"""

import torch

from rfmi.estimators import Estimate, check_pairs, time_dtype
from rfmi.fields import VelocityField, both_branches, score


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
    check_pairs(x, condition)
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
    times = x_t.new_full((len(x_t),), t, dtype=time_dtype(x_t))

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
