"""Scores of any sample, by adding noise to it and asking the field for the way back.

With x_t = (1 - t) eps + t x, v = x - eps, e(.) = ||v - u(x_t, t | .)||^2 and Delta = u(x_t|y) - u(x_t), a score is

    sum over levels j of w_j  mean over eps of  f(x_t_j),   f = e(null) - e(y)      re-noising
                                                              = ||Delta||^2          squared
                                                              = u(x_t|y) . Delta     inner product
                                                              = Delta . (v - u(x_t)) residual
                                                              = mean e(y') - e(y)    against other prompts y'
                                                              = -e(y)                the conditional loss alone

in nats where w_j is a quadrature rule times t/(1-t), and then the re-noising score is the point-wise information
log p(x|y)/p(x) (`rfmi.estimators`). Other weights rank by another mixture of noise levels and are no nats.

Levels and noises are functions of the seed alone, common to all samples and prompts: a sample's score does not depend
on what is scored beside it, and what the noise adds to all candidates of a prompt alike does not reach their order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rfmi.pipelines import PipelineField
from rfmi.scoring.methods import Method

Form = Callable[[Tensor, Tensor, list[Tensor]], Tensor]


@dataclass(frozen=True)
class Scores:
    """Scores (n,) in float64, the larger the better, their standard errors from the noise drawn (n,), and the network
    evaluations spent on all of them."""

    values: Tensor
    standard_errors: Tensor
    evaluations: int


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
}


@torch.no_grad()
def re_noising_scores(
    field: PipelineField,
    x: Tensor,
    labels: Tensor,
    method: Method,
    *,
    seed: int,
    others: Tensor | None = None,
    batch: int = 16,
) -> Scores:
    """The scores of samples x (n, *) for the prompts `labels` (n,), by a method that needs no trajectory.

    others: (n, k) labels of the prompts held against, for a method that asks for them. batch: samples at once; it
    changes nothing but the time. Raises ValueError where such prompts are asked for and not given.
    """
    if (method.against == "prompts") != (others is not None):
        raise ValueError(f"the method asks for {method.against!r}; give `others` for 'prompts', and for nothing else")
    times, weights = method.times_and_weights()
    form, generator = FORMS[method.form], torch.Generator().manual_seed(seed)
    noise = torch.randn(len(times), method.noises, *x.shape[1:], generator=generator).to(x)
    before, parts = field.evaluations, []
    for part in torch.arange(len(x)).split(batch):
        branches = [labels[part]]
        branches += list(others[part].unbind(1)) if others is not None else [None] * (method.against == "null")
        found = x.new_zeros(len(part), *noise.shape[:2], dtype=torch.float64)
        for j, t in enumerate(times):
            for k, eps in enumerate(noise[j]):
                x_t = (1 - t) * eps + t * x[part]
                u_c, *rest = field.velocities(x_t, t.expand(len(part)), branches)
                found[:, j, k] = form(*_doubled(x[part] - eps, u_c, rest))
        parts.append(found)
    return _weighted(torch.cat(parts), weights.to(x.device), field.evaluations - before)


def _doubled(v: Tensor, u_c: Tensor, others: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
    return v.double(), u_c.double(), [u.double() for u in others]


def _weighted(found: Tensor, weights: Tensor, evaluations: int) -> Scores:
    """Scores from f (n, levels, noises)."""
    noises = found.shape[2]
    spread = found.var(2) if noises > 1 else torch.full_like(found[:, :, 0], torch.nan)
    error = (spread / noises * weights.square()).sum(1).sqrt()
    return Scores((found.mean(2) * weights).sum(1), error, evaluations)
