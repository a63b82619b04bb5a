"""The point-wise information of a pair, exactly, along the ODE dx = u(x|y) dt. With div for the divergence,

    d/dt log p_t(x_t|y)/p_t(x_t) = div(u(.) - u(.|y)) + (u(.) - u(.|y)) . grad log p_t(x_t),     0 at t = 0.

It costs hundreds of evaluations a pair and asks for the field's derivative: an oracle for the forms of
`rfmi.estimators`, and no way to score images.
"""

import torch

from rfmi.estimators import Estimate, check_pairs, time_dtype
from rfmi.fields import VelocityField, both_branches, expand_time


def score(velocity: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """grad log p_t(x_t) = (t u - x_t) / (1 - t), shape (B, *).

    Raises ValueError at t = 1, where a velocity no longer determines the score (0 / 0).
    """
    time = expand_time(t, x_t)
    if bool((time >= 1).any()):
        raise ValueError("the score cannot be read from a velocity at t = 1, where it is 0 / 0; ask for times below 1")
    return (time * velocity - x_t) / (1 - time)


@torch.no_grad()
def change_of_variables(
    field: VelocityField,
    x: torch.Tensor,
    condition: torch.Tensor,
    *,
    steps: int = 32,
    directions: torch.Tensor | None = None,
) -> Estimate:
    """i(x; y) of each pair and their mean, along the ODE that ends at x.

    It is followed backwards by Runge-Kutta's rule, whose error falls as steps^-4. The score's term is taken as zero at
    t = 1, where it is zero for every exact field.

    field: the two velocities, differentiable in x_t
    x: (n, *) data, two rows or more
    condition: n rows or labels, one for each row of x
    steps: even steps from t = 1 to 0
    directions: d (m, n, *) for which sum_d d . J d is taken for the divergence of a field with the Jacobian J; None for
        the unit vectors, where it is exact. Each costs a vector-Jacobian product, counted as an evaluation a branch.
    """
    check_pairs(x, condition)
    if steps < 1:
        raise ValueError(f"steps is {steps}; choose at least 1")
    if directions is None:
        directions = torch.eye(x[0].numel()).to(x).reshape(-1, 1, *x.shape[1:]).expand(-1, *x.shape)
    evaluations = 8 * steps * len(x) * (1 + len(directions))
    step = 1 / steps
    log_ratio = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for index in range(steps):
        t = 1 - index * step
        v_1, rate_1 = _rates(field, x, t, condition, directions)
        v_2, rate_2 = _rates(field, x - step / 2 * v_1, t - step / 2, condition, directions)
        v_3, rate_3 = _rates(field, x - step / 2 * v_2, t - step / 2, condition, directions)
        v_4, rate_4 = _rates(field, x - step * v_3, max(t - step, 0), condition, directions)
        x = x - step / 6 * (v_1 + 2 * v_2 + 2 * v_3 + v_4)
        log_ratio += step / 6 * (rate_1 + 2 * rate_2 + 2 * rate_3 + rate_4)
    return Estimate.from_pointwise(log_ratio, evaluations)


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
