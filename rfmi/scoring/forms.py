"""The quantities f(x_t) of a re-noised sample (n,), from v, u(x_t|y) and the velocities held against, each (n, *).

Their formulas are in `rfmi.scoring.re_noising`, which averages them over noise and levels.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Form = Callable[[Tensor, Tensor, list[Tensor]], Tensor]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _error(v: Tensor, u: Tensor) -> Tensor:
    return _dot(v - u, v - u)


FORMS: dict[str, Form] = {
    "re_noising": lambda v, u_c, others: torch.stack([_error(v, u) for u in others]).mean(0) - _error(v, u_c),
    "squared": lambda v, u_c, others: _error(u_c, others[0]),
    "inner_product": lambda v, u_c, others: _dot(u_c, u_c - others[0]),
    "residual": lambda v, u_c, others: _dot(u_c - others[0], v - others[0]),
    "conditional_loss": lambda v, u_c, others: -_error(v, u_c),
    "information_and_likelihood": lambda v, u_c, others: _error(v, others[0]) - 2 * _error(v, u_c),
}
