"""Which candidates of a prompt are worth finishing: drafts with few steps, cheaply scored.

The sampling ODE is deterministic, so a coarse grid of times carries the same noise to nearly the same image. All M
candidates are drawn coarsely, scored cheaply, and only the best few are drawn in full and scored in full:

    M (g s + c) + F (2 S + C)   network evaluations in place of   M (2 S + C'),

with s and S steps of draft and image, c, C and C' evaluations of the draft's, the finalists' and the full score, F
finalists, and g = 2, or 1 without guidance, since a draft has no scores along its path and then needs no null branch.
Fewer noises for the finalists pay for more finalists. Finalists are scored with other noises than drafts: what luck
lifted a draft does not lift its image again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rfmi.scoring import Method
from rfmi.scoring.methods import MIDDLE, check_noises


@dataclass(frozen=True)
class Pruning:
    """Drafts of `steps` steps, of which the best `finalists` by `method` are finished, and scored with at most `noises`
    a level, one or an even number, None for as many as the selection's score has. The defaults were fixed on 128
    training prompts of the small world without guidance, 16 candidates each. Raises ValueError for fewer than 3 steps,
    no finalist, other numbers of noises, and a draft's score along the path or against other prompts. With guidance the
    null branch of drafts takes a part of what is saved.
    """

    steps: int = 14
    finalists: int = 5
    method: Method = Method("information_and_likelihood", MIDDLE, noises=2, weights="exact")
    noises: int | None = 6

    def __post_init__(self) -> None:
        if self.steps < 3 or self.finalists < 1:
            raise ValueError(
                f"drafts of {self.steps} steps with {self.finalists} finalists: take at least 3 steps and 1 finalist"
            )
        if self.noises is not None:
            check_noises(self.noises)
        if not isinstance(self.method, Method) or self.method.against == "prompts":
            raise ValueError(f"drafts are scored by {self.method}; take a `Method` that asks for no other prompts")

    def of_finalists(self, method: Method | str) -> Method | str:
        """What finalists are scored by, in place of the selection's own score; one along the path has no noises."""
        if self.noises is None or isinstance(method, str):
            return method
        return replace(method, noises=min(method.noises, self.noises))
