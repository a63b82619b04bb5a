"""Which candidates of a prompt are worth finishing: drafts on the way, then rounds of noise for fewer and fewer.

Late steps of the sampling ODE decide texture; what the image shows is decided before. All M candidates are drawn
through the first K of S steps, and from there a *draft* of each is reached by a few long steps and cheaply scored, by
its conditional loss, which needs no null branch. Only the best F_1 go on from where they are, through the steps that
are left. They are scored by successive halving: in round r the best F_r so far get N_r noises more, and the last
round's best is chosen by all of its own. In place of the M (2 S + C) network evaluations of full selection,

    M (g (K + J) + c) + F_1 g (S - K) + sum over rounds F_r N_r C_1

with C evaluations of the full score, C_1 of one of its noises, c of the draft's score, J long steps, and g = 2, or 1
without guidance: a step then asks for the null branch only where it is scored, as full selection does and pruned
selection does not. Where no draft could be dropped none is drawn. Drafts are scored with other noises than finalists:
what luck lifted a draft does not lift its image again.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rfmi.scoring import Method
from rfmi.scoring.methods import check_noises


@dataclass(frozen=True)
class Pruning:
    """Which candidates are finished. The defaults were fixed on 288 validation prompts of the small world, other than
    those of notebook 04's report, without guidance, 16 candidates each.

    seen: the part of their steps after which candidates are looked at.
    shortcut: long steps that finish a draft. method: the draft's score.
    rounds: pairs (finalists, noises more); a score of fewer noises stops when it has them all.
    Raises ValueError for a part outside 0 to 1, no long step, rounds that do not narrow or are not of pairs of noises
    (a single round may be of one noise), and a draft's score along the path or against other prompts.
    """

    seen: float = 0.7
    shortcut: int = 2
    method: Method = Method("conditional_loss", (0.3, 0.4), noises=2, against="nothing", weights="exact")
    rounds: tuple[tuple[int, int], ...] = ((9, 2), (6, 4), (3, 8))

    def __post_init__(self) -> None:
        counts = [self.shortcut, *(number for each in self.rounds for number in each)]
        if not all(isinstance(number, int) for number in counts):
            raise ValueError(f"long steps and rounds are counted by {counts}; give whole numbers")
        if not 0 < self.seen < 1 or self.shortcut < 1:
            asked = f"{self.shortcut} long steps after the part {self.seen} of the steps"
            raise ValueError(f"drafts are of {asked}; take 1 or more, and a part between 0 and 1")
        if not isinstance(self.method, Method) or self.method.against == "prompts":
            raise ValueError(f"drafts are scored by {self.method}; take a `Method` that asks for no other prompts")
        finalists = [count for count, _ in self.rounds]
        if not finalists or min(finalists) < 1 or any(a <= b for a, b in zip(finalists, finalists[1:], strict=False)):
            raise ValueError(f"rounds have {finalists} finalists; take at least one round, and fewer in every next one")
        for _, noises in self.rounds:
            check_noises(noises)
            if noises == 1 and len(self.rounds) > 1:
                raise ValueError("a round of one noise has half a pair; take even numbers in more rounds than one")

    def drops_drafts(self, candidates: int, keep: int) -> bool:
        """Whether there are more candidates than finalists."""
        return candidates > max(keep, self.rounds[0][0])

    def split(self, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The grid (S + 1,) in two, with the step K in both, and the long steps from there to a draft."""
        steps = len(times) - 1
        k = min(max(round(self.seen * steps), 1), steps - 1)
        places = torch.linspace(k, steps, min(self.shortcut, steps - k) + 1).round().long()
        return times[: k + 1], times[k:], times[places]

    def noises(self, method: Method) -> list[tuple[int, range]]:
        """The rounds of a method: how many finalists, and which of its noises each gets."""
        ends = [0]
        for _, more in self.rounds:
            ends.append(min(ends[-1] + more, method.noises))
        found = zip(self.rounds, ends, ends[1:], strict=False)
        return [(finalists, range(start, end)) for (finalists, _), start, end in found if end > start]

    def evaluations(self, method: Method, candidates: int, steps: int, guidance: float) -> float:
        """Network evaluations of a choice among `candidates`, one kept: the formula at the top."""
        branches, finalists = 1 if guidance == 1 else 2, self.rounds[0][0]
        rounds = sum(min(candidates, n) * len(noises) for n, noises in self.noises(method))
        scored = rounds * method.evaluations / method.noises
        if not self.drops_drafts(candidates, 1):
            return candidates * branches * steps + scored
        before, after, long = (len(grid) - 1 for grid in self.split(torch.linspace(0, 1, steps + 1)))
        drafts = candidates * (branches * (before + long) + self.method.evaluations)
        return drafts + finalists * branches * after + scored
