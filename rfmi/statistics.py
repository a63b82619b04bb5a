"""How well a score ranks the candidates of one prompt, against an exact reference.

With M candidates for each of P prompts, quality is measured within each prompt and then averaged over prompts:

    rank correlation     Spearman's rho of score and reference over the M candidates;
    place of the choice  the share of the other candidates that the top-scored one surpasses in the reference: 1 for the
                         best, 0.5 for a random choice on average, 0 for the worst.

Prompts are the independent units, so intervals come from a bootstrap over prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata


@dataclass(frozen=True)
class Mean:
    """A mean over prompts with its 95% bootstrap interval, and how many prompts it rests on."""

    value: float
    low: float
    high: float
    n: int


def rank_correlation(scores: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Spearman's rho within each prompt, (P,), for tables (P, M) with M at least 3; NaN where one is constant."""
    _check_table(scores, reference)
    ranks = [torch.from_numpy(rankdata(part.double().cpu().numpy(), axis=1)) for part in (scores, reference)]
    left, right = (part - part.mean(1, keepdim=True) for part in ranks)
    return (left * right).sum(1) / (left.square().sum(1) * right.square().sum(1)).sqrt()


def place_of_choice(scores: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Where the top-scored candidate stands in the reference's order, 0 (last) to 1 (first), (P,), for tables (P, M).

    Candidates that the reference cannot tell from the chosen one count as half surpassed.
    """
    _check_table(scores, reference)
    chosen = reference.gather(1, scores.argmax(1, keepdim=True))
    surpassed = (reference < chosen).sum(1) + ((reference == chosen).sum(1) - 1) / 2
    return surpassed.double() / (reference.shape[1] - 1)


def bootstrap_mean(values: torch.Tensor, seed: int, resamples: int = 2_000) -> Mean:
    """The mean of one value a prompt, (P,), with the percentile interval of `resamples` bootstrap means.

    Raises ValueError for fewer than two values or values that are not finite.
    """
    array = torch.as_tensor(values).double().cpu().numpy()
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all():
        raise ValueError("a bootstrap needs a vector of at least two finite values; leave out prompts without one")
    chosen = np.random.default_rng(seed).integers(len(array), size=(resamples, len(array)))
    low, high = np.quantile(array[chosen].mean(1), [0.025, 0.975])
    return Mean(float(array.mean()), float(low), float(high), len(array))


def _check_table(scores: torch.Tensor, reference: torch.Tensor) -> None:
    if scores.ndim != 2 or scores.shape != reference.shape or scores.shape[1] < 3:
        raise ValueError(
            f"scores and reference must be (prompts, candidates) tables of one shape with 3 candidates or more, got "
            f"{tuple(scores.shape)} and {tuple(reference.shape)}"
        )
