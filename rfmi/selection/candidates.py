"""The candidates of one prompt: drawn, scored, and the best kept; with pruning, only the promising ones are finished.

Late steps of the sampling ODE decide texture; what the image shows is decided before. All M candidates are drawn
through the first K of S steps, and from there a *draft* of each is reached by a few long steps and cheaply scored, by
its conditional loss, which needs no null branch. Only the best F_1 go on from where they are, through the steps that
are left. They are scored by successive halving: in round r the best F_r so far get N_r noises more, and the last
round's best is chosen by all of its own. Noises raise or lower the scores of all candidates of a prompt alike: what a
round changes in the mean of those in it is passed on to those left behind, so that scores of unequal noises can be held
against each other, and nobody left behind overtakes the last round's best. In place of the M (2 S + C) network
evaluations of full selection,

    M (g (K + J) + c) + F_1 g (S - K) + sum over rounds F_r N_r C_1

with C evaluations of the full score, C_1 of one of its noises, c of the draft's score, J long steps, and g = 2, or 1
without guidance: a step then asks for the null branch only where it is scored, as full selection does and pruned
selection does not. Where no draft could be dropped none is drawn, and only the rounds save. Drafts are scored with
other noises than finalists: what luck lifted a draft does not lift its image again.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from rfmi.pipelines import PipelineField
from rfmi.sampling import path_scores, sample
from rfmi.scoring import PATH_METHODS, Method, Scores
from rfmi.scoring.methods import check_noises
from rfmi.scoring.re_noising import check_numbers, re_noising_errors, scores_of

KEPT, SCORED, DROPPED = "kept", "scored", "dropped as a draft"


@dataclass(frozen=True)
class Pruning:
    """Which candidates are finished. The defaults were fixed on 288 validation prompts of the small world, other than
    those of notebook 04's report, without guidance, 16 candidates each.

    seen: the part of their steps after which candidates are looked at.
    shortcut: long steps that finish a draft.
    method: the draft's score.
    rounds: pairs (finalists, noises more), finalists as whole numbers, or all as shares of the candidates; a score of
        fewer noises stops when it has them all. A first round of the share 1.0 drops no draft: all are finished.
    Raises ValueError for a part outside 0 to 1, no long step, rounds that do not narrow or are not of pairs of noises
    (a single round may be of one noise), and a draft's score along the path or against other prompts.
    """

    seen: float = 0.7
    shortcut: int = 2
    method: Method = Method(null=False, likelihood=1.0, sigmas=(0.3, 0.4), noises=2, weights="exact")
    rounds: tuple[tuple[int, int], ...] = ((9, 2), (6, 4), (3, 8))

    def __post_init__(self) -> None:
        finalists = [count for count, _ in self.rounds]
        shares = all(isinstance(count, float) and 0 < count <= 1 for count in finalists)
        counts = [self.shortcut, *(noises for _, noises in self.rounds), *([] if shares else finalists)]
        if not all(isinstance(number, int) for number in counts):
            said = f"long steps and rounds are counted by {counts}; give whole numbers"
            raise ValueError(f"{said}, or all finalists as shares above 0 and up to 1.0")
        if not 0 < self.seen < 1 or self.shortcut < 1:
            asked = f"{self.shortcut} long steps after the part {self.seen} of the steps"
            raise ValueError(f"drafts are of {asked}; take 1 or more, and a part between 0 and 1")
        if not isinstance(self.method, Method) or self.method.prompts:
            raise ValueError(f"drafts are scored by {self.method}; take a `Method` that asks for no other prompts")
        if not finalists or min(finalists) < 1 - shares or any(a <= b for a, b in pairwise(finalists)):
            raise ValueError(f"rounds have {finalists} finalists; take at least one round, and fewer in every next one")
        for _, noises in self.rounds:
            check_noises(noises)
            if noises == 1 and len(self.rounds) > 1:
                raise ValueError("a round of one noise has half a pair; take even numbers in more rounds than one")

    def finalists(self, candidates: int) -> list[int]:
        """Of so many candidates those in each round."""
        counts = [count if isinstance(count, int) else math.ceil(count * candidates) for count, _ in self.rounds]
        return [min(count, candidates) for count in counts]

    def drops_drafts(self, candidates: int, keep: int) -> bool:
        """Whether there are more candidates than finalists."""
        return candidates > max(keep, self.finalists(candidates)[0])

    def split(self, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The grid (S + 1,) in two, with the step K in both, and the long steps from there to a draft."""
        steps = len(times) - 1
        k = min(max(round(self.seen * steps), 1), steps - 1)
        places = torch.linspace(k, steps, min(self.shortcut, steps - k) + 1).round().long()
        return times[: k + 1], times[k:], times[places]

    def noises(self, method: Method, candidates: int) -> list[tuple[int, range]]:
        """The rounds of a method: how many finalists, and which of its noises each gets."""
        ends = [0]
        for _, more in self.rounds:
            ends.append(min(ends[-1] + more, method.noises))
        found = zip(self.finalists(candidates), pairwise(ends), strict=True)
        return [(finalists, range(start, end)) for finalists, (start, end) in found if end > start]

    def evaluations(self, method: Method, candidates: int, steps: int, guidance: float) -> float:
        """Network evaluations of a choice among `candidates`, one kept: the formula at the top."""
        branches, rounds = 1 if guidance == 1 else 2, self.noises(method, candidates)
        scored = sum(n * len(noises) for n, noises in rounds) * method.evaluations / method.noises
        if not self.drops_drafts(candidates, 1):
            return candidates * branches * steps + scored
        before, after, long = (len(grid) - 1 for grid in self.split(torch.linspace(0, 1, steps + 1)))
        drafts = candidates * (branches * (before + long) + self.method.evaluations)
        return drafts + rounds[0][0] * branches * after + scored


# All are finished and scored: of 16 candidates 88.5 evaluations an image in place of 216 (28 steps, guidance above 1).
# Chosen among schemes of at most 90 on half of 400 validation prompts of the small world, measured in notebook 07.
CHEAP = Pruning(rounds=((1.0, 2), (0.375, 2), (0.125, 4)))


@dataclass(frozen=True)
class Recipe:
    """How candidates are drawn and chosen; `method` is a score, or the name of one along the path."""

    candidates: int
    keep: int
    method: Method | str
    guidance: float
    steps: int
    seed: int
    pruning: Pruning | None = None


@dataclass(frozen=True)
class Candidates:
    """All M candidates of one prompt.

    columns: by name (M,), scores, NaN where they were not computed, and the network evaluations spent.
    fates: of each. kept: the numbers of those kept, best first; latents: theirs (k, C, h, w).
    """

    columns: dict[str, Tensor]
    fates: list[str]
    kept: list[int]
    latents: Tensor


def draw_candidates(flow: PipelineField, label: int, recipe: Recipe, others: Tensor | None = None) -> Candidates:
    """Draw, score and choose for prompt `label`; others: (k,) labels of prompts that it is held against.

    With pruning a candidate's score has as many noises as the last round it was in, and what later rounds changed in
    the mean. Raises FloatingPointError for a score that is no number.
    """
    prompt = _Prompt(flow, label, recipe, others)
    method, pruning, columns = recipe.method, recipe.pruning, prompt.columns
    rows, times = torch.arange(recipe.candidates), flow.times(recipe.steps)
    if pruning is None:
        latents = prompt.drawn_along_path(times)
        rounds = [] if isinstance(method, str) else [(recipe.candidates, range(method.noises))]
    else:
        rows, latents = _finalists(prompt, pruning, rows, times)
        rounds = pruning.noises(method, recipe.candidates)
    errors, places, inside = [], torch.arange(len(rows)), rows
    for finalists, noises in rounds:
        if errors:
            best = _best(columns["score"][inside], finalists).sort().values
            places, inside, errors = places[best], inside[best], [part[:, best] for part in errors]
        errors.append(prompt.errors(inside, latents[places], method, noises, recipe.seed))
        found = _scores(torch.cat(errors, 3), method, label)
        if len(errors) > 1:  # what the new noises do to all alike reaches those left behind
            columns["score"] += (found.values - columns["score"][inside]).mean()
        columns["score"][inside], columns["standard_error"][inside] = found.values, found.standard_errors
    if not rounds:  # the score is one of those along the path
        columns["score"] = columns[method].clone()
        check_numbers(columns["score"], f"a candidate of prompt {label}")
    best = _best(columns["score"][rows], recipe.keep)
    kept, scored = rows[best].tolist(), columns["score"].isfinite().tolist()
    fates = [KEPT if i in kept else SCORED if scored[i] else DROPPED for i in range(recipe.candidates)]
    return Candidates(columns, fates, kept, latents[best].cpu())


def _finalists(prompt: "_Prompt", pruning: Pruning, rows: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """The candidates whose drafts are the best, as rows and latents; all where no draft could be dropped."""
    recipe, method = prompt.recipe, pruning.method
    if not pruning.drops_drafts(recipe.candidates, recipe.keep):
        return rows, prompt.drawn(rows, prompt.noise, times)
    before, after, long = pruning.split(times)
    on_the_way = prompt.drawn(rows, prompt.noise, before)
    drafts = prompt.drawn(rows, on_the_way, long)
    errors = prompt.errors(rows, drafts, method, range(method.noises), recipe.seed + 1)
    scores = _scores(errors, method, prompt.label).values
    prompt.columns["draft_score"] = scores
    rows = _best(scores, max(recipe.keep, pruning.finalists(recipe.candidates)[0])).sort().values
    return rows, prompt.drawn(rows, on_the_way[rows], after)


class _Prompt:
    """One prompt's candidates while they are drawn and scored, with what is known of each and what it cost."""

    def __init__(self, flow: PipelineField, label: int, recipe: Recipe, others: Tensor | None) -> None:
        self.flow, self.label, self.recipe, self.others = flow, label, recipe, others
        self.labels = torch.full((recipe.candidates,), label)
        self.noise = flow.noise(range(recipe.seed, recipe.seed + recipe.candidates))
        empty = torch.full((recipe.candidates,), torch.nan, dtype=torch.float64)
        self.columns = {name: empty.clone() for name in ("score", "standard_error", "draft_score", *PATH_METHODS)}
        self.columns["evaluations"] = torch.zeros(recipe.candidates, dtype=torch.float64)

    @contextmanager
    def spending(self, rows: Tensor) -> Iterator[None]:
        """Share what the network is asked for meanwhile among `rows`."""
        before = self.flow.evaluations
        yield
        self.columns["evaluations"][rows] += (self.flow.evaluations - before) / len(rows)

    def drawn(self, rows: Tensor, x_t: Tensor, times: Tensor) -> Tensor:
        """Latents at the last of `times`, from x_t at the first."""
        with self.spending(rows):
            return sample(self.flow, x_t, self.labels[rows], times=times, guidance=self.recipe.guidance)

    def drawn_along_path(self, times: Tensor) -> Tensor:
        """Latents of all candidates, scored along the path."""
        found = path_scores(self.flow, self.noise, self.labels, times=times, guidance=self.recipe.guidance)
        self.columns["evaluations"] += found.evaluations / len(self.labels)
        scores = found.path, found.guided_path, found.squared, found.difference
        for name, values in zip(PATH_METHODS, scores, strict=True):
            self.columns[name] = values.cpu()
        return found.samples

    def errors(self, rows: Tensor, x: Tensor, method: Method, noises: range, seed: int) -> Tensor:
        """The errors that a method needs of x under some of its noises, (branches, rows, levels, noises)."""
        others = self.others.expand(len(rows), -1) if method.prompts else None
        branches, (times, _) = method.branches(self.labels[rows], others), method.times_and_weights()
        with self.spending(rows):
            options = {"times": times, "noises": noises, "seed": seed, "guidance": method.guidance}
            return re_noising_errors(self.flow, x, branches, **options)


def _scores(errors: Tensor, method: Method, label: int) -> Scores:
    scores = scores_of(errors.cpu(), method)
    check_numbers(scores.values, f"a candidate of prompt {label}")
    return scores


def _best(scores: Tensor, k: int) -> Tensor:
    """The places of the k best, best first; all where there are no more."""
    return scores.topk(min(k, len(scores))).indices
