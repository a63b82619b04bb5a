"""The sampling ODE, and the scores published along it.

Time runs from noise to data: samples follow dx = u dt from x_0 ~ N(0, I) at t = 0 to t = 1, by Euler's rule as in the
official pipelines, on a grid t_0 = 0 < ... < t_S = 1. Stable Diffusion 3 steps sigma = 1 - t downwards with v = -u: the
same update, and v . (v - v_null) = u . (u - u_null), so no sign changes between the two. With guidance g the sample
moves along u_g = u(.) + g Delta, Delta = u(.|y) - u(.). Four scores of one trajectory, (n,) each:

    path          sum_s (t_{s+1} - t_s) t_s/(1-t_s) u(x_s|y) . Delta_s     RFMI, arXiv 2503.14358, Algorithm 2
    guided path   mean_s t_s/(1-t_s) u_g(x_s) . (u_g(x_s) - u(x_s))       the official code's variant
    squared       sum_s (t_{s+1} - t_s) t_s/(1-t_s) ||Delta_s||^2          the squared form along the same trajectory
    difference    sum_s (t_{s+1} - t_s) ||Delta_s||                       accumulated as in CFG-Rejection (2505.23343)

Algorithm 2 is written for an even grid, where its plain sum is the sum above times a constant. The official code skips
the steps with sigma = 1 and sigma <= 0.05, and takes an unweighted mean over what is left: on a shifted grid that mean
is not an integral. None of the four is the point-wise information of the sample; notebook 01 measures how they rank
samples against it.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch

from rfmi.fields import VelocityField, both_branches, guided

OFFICIAL_SMALLEST_SIGMA = 0.05


@dataclass(frozen=True)
class PathScores:
    """Samples (n, *), the four scores of their trajectories (n,), and the network evaluations spent."""

    samples: torch.Tensor
    path: torch.Tensor
    guided_path: torch.Tensor
    squared: torch.Tensor
    difference: torch.Tensor
    evaluations: int


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
    guidance: 1 for none, which leaves out the null branch: n evaluations a step in place of 2 n.
    batch: most samples at once, None for all.
    Raises ValueError for labels that are None, which is no prompt, and for a grid that does not rise.
    """
    if labels is None:
        raise ValueError("labels are None, the null prompt; give the number of a prompt for every image")
    steps, samples = _steps(times), []
    for rows in torch.arange(len(noise)).split(batch or len(noise)):
        x_t, own = noise[rows], labels[rows]
        for t, later in steps:
            now = noise.new_full((len(x_t),), t)
            if guidance == 1:
                u = field(x_t, now, own)
            else:
                u = guided(*both_branches(field, x_t, now, own), guidance)
            x_t = x_t + (later - t) * u
        samples.append(x_t)
    return torch.cat(samples)


@torch.no_grad()
def path_scores(
    field: VelocityField, noise: torch.Tensor, condition: torch.Tensor, *, times: torch.Tensor, guidance: float = 1.0
) -> PathScores:
    """Samples and all four scores of their trajectories from one pass; arguments as in `sample`.

    Costs 2 n evaluations a step. Raises ValueError for a grid without a step the official code would score.
    """
    totals = torch.zeros(4, len(noise), dtype=torch.float64, device=noise.device)
    x_t, scored = noise, 0
    for t, later in _steps(times):
        u_c, u_m = both_branches(field, x_t, noise.new_full((len(x_t),), t), condition)
        u_g, delta, weight = guided(u_c, u_m, guidance), u_c - u_m, t / (1 - t)
        totals[0] += (later - t) * weight * _dot(u_c, delta)
        square = _dot(delta, delta)
        totals[2] += (later - t) * weight * square
        totals[3] += (later - t) * square.sqrt()
        if OFFICIAL_SMALLEST_SIGMA < 1 - t < 1:
            totals[1] += weight * _dot(u_g, u_g - u_m)
            scored += 1
        x_t = x_t + (later - t) * u_g
    if not scored:
        raise ValueError("no step of this grid has 0.05 < sigma < 1, so the official score is empty; use a finer grid")
    path, guided_path, squared, difference = totals
    return PathScores(x_t, path, guided_path / scored, squared, difference, 2 * len(noise) * (len(times) - 1))


def _steps(times: torch.Tensor) -> list[tuple[float, float]]:
    """From which time to which, step by step."""
    grid = times.tolist()
    if len(grid) < 2 or grid[0] < 0 or grid[-1] > 1 or any(a >= b for a, b in pairwise(grid)):
        raise ValueError("times must be an increasing grid of at least two values in [0, 1]")
    return list(pairwise(grid))


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.double() * b.double()).flatten(1).sum(1)
