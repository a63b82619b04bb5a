"""Experiments on fields in closed form, where the truth is known, as tidy tables: one row a measurement.

From explicit seeds and in float64. Errors of a form are differences to the same form of the exact field from the same
draws, which removes most of the sampling noise and none of the bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
import torch

from lab.oracles.closed_form import GaussianPairField
from rfmi.estimators import Estimate, monte_carlo_forms
from rfmi.fields import VelocityField
from rfmi.statistics import bootstrap_mean
from rfmi.times import StratifiedTimes, gauss_legendre

NAMES = ("squared", "inner product", "re-noising", "residual")


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU with this seed."""
    return torch.Generator().manual_seed(seed)


def time_grid(steps: int, shift: float = 1.0) -> torch.Tensor:
    """The grid of diffusers' FlowMatchEulerDiscreteScheduler (1,000 training steps) as t = 1 - sigma, (steps + 1,) from
    0 to 1.

    sigma runs evenly from 1 to the smallest training sigma, is shifted to shift sigma / (1 + (shift - 1) sigma), and
    ends at 0. The smallest training sigma is itself shifted once, so the last sigmas are shifted twice, there as here.
    """
    if steps < 2 or shift <= 0:
        raise ValueError(f"steps is {steps} and shift {shift}; choose at least 2 steps and a positive shift")

    def shifted(sigma: torch.Tensor) -> torch.Tensor:
        return shift * sigma / (1 + (shift - 1) * sigma)

    even = torch.linspace(1.0, float(shifted(torch.tensor(1e-3, dtype=torch.float64))), steps, dtype=torch.float64)
    return 1 - torch.cat([shifted(even), even.new_zeros(1)])


def forms(field: VelocityField, x: torch.Tensor, condition: torch.Tensor, **options: object) -> dict[str, Estimate]:
    """The Monte-Carlo forms by name, from the same draws; options are those of `rfmi.estimators.monte_carlo_forms`."""
    return dict(zip(NAMES, vars(monte_carlo_forms(field, x, condition, **options)).values(), strict=True))


def means(table: pd.DataFrame, by: Sequence[str], value: str, seed: int) -> pd.DataFrame:
    """One row for each combination of the columns `by`: the mean of the column `value`, its 95% interval and n."""
    rows = []
    for keys, part in table.groupby(list(by), sort=False):
        mean = bootstrap_mean(part[value].to_numpy(copy=True), seed)
        measured = {value: mean.value, "low": mean.low, "high": mean.high, "n": mean.n}
        rows.append(dict(zip(by, keys, strict=True)) | measured)
    return pd.DataFrame(rows)


def truncation_losses(correlation: float, stops: torch.Tensor, n_pairs: int, seed: int) -> Iterator[dict]:
    """What is left out by stopping at t_max in `stops`, exact, for pairs 1 + 1.

    Columns: correlation; remaining, 1 - t_max; of, "the mean", for every form alike, or "one pair", the root mean
    square over n_pairs of what re-noising misses; nats.
    """
    field = GaussianPairField.from_correlations([correlation])
    x, y = field.sample(n_pairs, seeded(seed))
    for stop, seen in zip(stops.tolist(), field.kl_divergence(stops).tolist(), strict=True):
        t, weights = gauss_legendre(40, stop, 1.0)
        missed = float((weights @ field.re_noising_integrand(t, x, y)).square().mean().sqrt())
        row = {"correlation": correlation, "remaining": 1 - stop}
        yield row | {"of": "the mean", "nats": field.mutual_information - seen}
        yield row | {"of": "one pair", "nats": missed}


def end_of_path_bias(
    field: GaussianPairField, stop: float, amplitude: float, n_pairs: int, seed: int
) -> Iterator[dict]:
    """Bias of every form from a ripple, amplitude * sin(4 x_t), on the conditional branch, the path cut at `stop`.

    Times are drawn with density 1 / (1 - t), which keeps the weight t / (1 - t) harmless near the end. Columns:
    remaining, 1 - t_max; error, "constant in t" or "fading as 1 - t"; form; bias in nats, a row for each of ten blocks
    of pairs.
    """
    x, y = field.sample(n_pairs, seeded(seed))
    grid = 1 - torch.logspace(0, float(torch.log10(torch.tensor(1 - stop))), 80, dtype=torch.float64)
    times = StratifiedTimes.from_curve(16, grid, 1 / (1 - grid))
    exact = forms(field, x, y, times=times, generator=seeded(seed))
    for error, height in {"constant in t": torch.ones_like, "fading as 1 - t": lambda t: 1 - t}.items():

        def rippled(x_t: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
            exact = field(x_t, t, condition)
            if condition is None:
                return exact
            return exact + amplitude * height(t)[:, None] * torch.sin(4 * x_t)

        for form, estimate in forms(rippled, x, y, times=times, generator=seeded(seed)).items():
            gaps = (estimate.pointwise - exact[form].pointwise).reshape(10, -1).mean(1)
            row = {"remaining": 1 - stop, "error": error, "form": form}
            yield from (row | {"bias": gap} for gap in gaps.tolist())
