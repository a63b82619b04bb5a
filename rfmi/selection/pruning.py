"""Which candidates of a prompt are worth finishing: drafts with few steps, cheaply scored.

The sampling ODE is deterministic, so a coarse grid of times carries the same noise to nearly the same image. All M
candidates are drawn coarsely, scored cheaply, and only the best few are drawn in full and scored in full:

    M (g s + c) + F (2 S + C)   network evaluations in place of   M (2 S + C),

with s and S steps of draft and image, c and C evaluations of the cheap and the full score, F finalists, and g = 2, or 1
without guidance, since a draft has no scores along its path and then needs no null branch. The defaults were fixed on
training prompts of the small world without guidance: 30 M + 3 x 216 in place of 216 M at 28 steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from rfmi.scoring import Method
from rfmi.scoring.methods import MIDDLE


@dataclass(frozen=True)
class Pruning:
    """Drafts of `steps` steps, of which the best `finalists` by `method` are finished."""

    steps: int = 10
    finalists: int = 3
    method: Method = Method("information_and_likelihood", MIDDLE, noises=2, weights="exact")

    def __post_init__(self) -> None:
        if self.steps < 3 or self.finalists < 1:
            raise ValueError(
                f"drafts of {self.steps} steps with {self.finalists} finalists: take at least 3 steps and 1 finalist"
            )
