"""The sampling ODE, and the scores published along it.

Time runs from noise to data: samples follow dx = u dt from x_0 ~ N(0, I) at t = 0 to t = 1, by Euler's rule as in the
official pipelines, on a grid t_0 = 0 < ... < t_S = 1. Stable Diffusion 3 steps sigma = 1 - t downwards with v = -u: the
same update, and v . (v - v_null) = u . (u - u_null), so no sign changes between the two. With guidance g the sample
moves along u_g = u(.) + g Delta, Delta = u(.|y) - u(.). Three scores of one trajectory, (n,) each:

    path          sum_s (t_{s+1} - t_s) t_s/(1-t_s) u(x_s|y) . Delta_s     RFMI, arXiv 2503.14358, Algorithm 2
    guided path   mean_s t_s/(1-t_s) u_g(x_s) . (u_g(x_s) - u(x_s))       the official code's variant
    squared       sum_s (t_{s+1} - t_s) t_s/(1-t_s) ||Delta_s||^2          the squared form along the same trajectory

Algorithm 2 is written for an even grid, where its plain sum is the sum above times a constant. The official code skips
the steps with sigma = 1 and sigma <= 0.05, and takes an unweighted mean over what is left: on a shifted grid that mean
is not an integral. None of the three is the point-wise information of the sample; notebook 01 measures how they rank
samples against it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from rfmi.fields import VelocityField, both_branches, guided

OFFICIAL_SMALLEST_SIGMA = 0.05


@dataclass(frozen=True)
class PathStep:
    """One Euler step: from x_t at t, along the guided velocity, to `following` at t + dt; tensors (n, *)."""

    t: float
    dt: float
    x_t: torch.Tensor
    u_conditional: torch.Tensor
    u_unconditional: torch.Tensor
    u_guided: torch.Tensor
    following: torch.Tensor


@dataclass(frozen=True)
class PathScores:
    """Samples (n, *), the three scores of their trajectories (n,), and the network evaluations spent."""

    samples: torch.Tensor
    path: torch.Tensor
    guided_path: torch.Tensor
    squared: torch.Tensor
    evaluations: int


def sampling_steps(
    field: VelocityField, noise: torch.Tensor, condition: torch.Tensor, *, times: torch.Tensor, guidance: float = 1.0
) -> Iterator[PathStep]:
    """Euler steps along the guided ODE, one by one; the last step's `following` is the sample.

    noise: x_t (n, *) at the first of `times`, which is x_0 at 0; condition: n rows or labels; times: increasing grid
    (S + 1,) in [0, 1]; guidance: g, 1 for none.
    """
    grid = [float(t) for t in times]
    if len(grid) < 2 or grid[0] < 0 or grid[-1] > 1 or any(a >= b for a, b in zip(grid, grid[1:], strict=False)):
        raise ValueError("times must be an increasing grid of at least two values in [0, 1]")
    x_t = noise
    for t, later in zip(grid, grid[1:], strict=False):
        with torch.no_grad():
            u_c, u_m = both_branches(field, x_t, noise.new_full((len(noise),), t), condition)
            u_g = guided(u_c, u_m, guidance)
            following = x_t + (later - t) * u_g
        yield PathStep(t, later - t, x_t, u_c, u_m, u_g, following)
        x_t = following


@torch.no_grad()
def sample(
    field: VelocityField,
    noise: torch.Tensor,
    labels: torch.Tensor,
    *,
    times: torch.Tensor,
    guidance: float = 1.0,
    batch: int | None = None,
) -> torch.Tensor:
    """Samples (n, *) at the last of `times`, by Euler's rule along the guided velocity, as diffusers' own calls do.

    noise: x_t (n, *) at the first of `times`, which is x_0 at 0.
    labels: (n,) prompts, or n rows of a condition.
    times: increasing grid (S + 1,), or a part of one.
    guidance: 1 for none, at n evaluations a step in place of 2 n.
    batch: most samples at once, None for all.
    Raises ValueError for labels that are None, which is no prompt, and for a grid that does not rise.
    """
    if labels is None:
        raise ValueError("labels are None, the null prompt; give the number of a prompt for every image")
    field = _WithoutNull(field) if guidance == 1 else field
    parts = []
    for rows in torch.arange(len(noise)).split(batch or len(noise)):
        for step in sampling_steps(field, noise[rows], labels[rows], times=times, guidance=guidance):
            latents = step.following
        parts.append(latents)
    return torch.cat(parts)


class _WithoutNull:
    """A field whose null branch is not asked for, since guidance 1 multiplies it by 0."""

    def __init__(self, field: VelocityField) -> None:
        self.field = field

    def both(self, x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        u = self.field(x_t, t, labels)
        return u, u


def path_scores(
    field: VelocityField, noise: torch.Tensor, condition: torch.Tensor, *, times: torch.Tensor, guidance: float = 1.0
) -> PathScores:
    """Samples and all three scores of their trajectories from one pass; arguments as in `sampling_steps`.

    Costs 2 n evaluations a step. Raises ValueError for a grid without a step the official code would score.
    """
    totals = torch.zeros(3, len(noise), dtype=torch.float64, device=noise.device)
    scored = 0
    for step in sampling_steps(field, noise, condition, times=times, guidance=guidance):
        weight = step.t / (1 - step.t)
        delta = step.u_conditional - step.u_unconditional
        totals[0] += step.dt * weight * _dot(step.u_conditional, delta)
        totals[2] += step.dt * weight * _dot(delta, delta)
        if OFFICIAL_SMALLEST_SIGMA < 1 - step.t < 1:
            totals[1] += weight * _dot(step.u_guided, step.u_guided - step.u_unconditional)
            scored += 1
    if not scored:
        raise ValueError("no step of this grid has 0.05 < sigma < 1, so the official score is empty; use a finer grid")
    evaluations = 2 * len(noise) * (len(times) - 1)
    return PathScores(step.following, totals[0], totals[1] / scored, totals[2], evaluations)


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.double() * b.double()).flatten(1).sum(1)


def check_guidance(scale: float) -> None:
    """Raises ValueError for a guidance scale that is no finite number of 0 or more."""
    if not 0 <= scale < float("inf"):
        raise ValueError(f"guidance is {scale}; give a number of 0 or more, 1 for none")
