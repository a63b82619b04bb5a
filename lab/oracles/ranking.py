"""How well a score ranks the candidates of one prompt, against an exact reference.

Quality is measured within each prompt, on tables (P prompts, M candidates):

    rank correlation     Spearman's rho of score and reference over the M candidates;
    place of the choice  the share of the other candidates that the top-scored one surpasses in the reference: 1 for the
                         best, 0.5 for a random choice on average, 0 for the worst.
"""

import torch
from scipy.stats import rankdata


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


def _check_table(scores: torch.Tensor, reference: torch.Tensor) -> None:
    if scores.ndim != 2 or scores.shape != reference.shape or scores.shape[1] < 3:
        raise ValueError(
            f"scores and reference must be (prompts, candidates) tables of one shape with 3 candidates or more, got "
            f"{tuple(scores.shape)} and {tuple(reference.shape)}"
        )
