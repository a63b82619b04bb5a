"""The candidates of one prompt: drawn, scored, and the best kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from rfmi.pipelines import PipelineField
from rfmi.sampling import path_scores, sample
from rfmi.scoring import PATH_METHODS, Method, Scores
from rfmi.scoring.re_noising import check_numbers, re_noising_draws, weighted
from rfmi.selection.pruning import Pruning

KEPT, SCORED, DROPPED = "kept", "scored", "dropped as a draft"


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

    With pruning a candidate's score has as many noises as the last round it was in. Raises FloatingPointError for a
    score that is no number.
    """
    prompt, method, pruning = _Prompt(flow, label, recipe, others), recipe.method, recipe.pruning
    columns, rows, times = prompt.columns, torch.arange(recipe.candidates), flow.times(recipe.steps)
    if pruning is None:
        latents = prompt.drawn_along_path(times)
        rounds = [] if isinstance(method, str) else [(recipe.candidates, range(method.noises))]
    else:
        rows, latents = _finalists(prompt, pruning, rows, times)
        rounds = pruning.noises(method)
    draws = []
    for finalists, noises in rounds:
        if draws:
            best = _best(columns["score"][rows], max(recipe.keep, finalists)).sort().values
            rows, latents, draws = rows[best], latents[best], [part[best] for part in draws]
        draws.append(prompt.draws(rows, latents, method, noises, recipe.seed))
        found = _scores(torch.cat(draws, 2), method, label)
        columns["score"][rows], columns["standard_error"][rows] = found.values, found.standard_errors
    if not rounds:
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
    draws = prompt.draws(rows, drafts, method, range(method.noises), recipe.seed + 1)
    scores = _scores(draws, method, prompt.label).values
    prompt.columns["draft_score"] = scores
    rows = _best(scores, max(recipe.keep, pruning.rounds[0][0])).sort().values
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
        for name, values in zip(PATH_METHODS, (found.path, found.guided_path, found.squared), strict=True):
            self.columns[name] = values.cpu()
        return found.samples

    def draws(self, rows: Tensor, x: Tensor, method: Method, noises: range, seed: int) -> Tensor:
        """What a method makes of x under some of its noises, (rows, levels, noises)."""
        others = None if self.others is None else self.others.expand(len(rows), -1)
        options = {"against": method.held_against(others), "noises": noises, "seed": seed}
        options["times"], _ = method.times_and_weights()
        with self.spending(rows):
            return re_noising_draws(self.flow, x, self.labels[rows], [method.form], **options)[method.form]


def _scores(draws: Tensor, method: Method, label: int) -> Scores:
    scores = weighted(draws.cpu(), method.times_and_weights()[1], 0)
    check_numbers(scores.values, f"a candidate of prompt {label}")
    return scores


def _best(scores: Tensor, k: int) -> Tensor:
    """The places of the k best, best first; all where there are no more."""
    return scores.topk(min(k, len(scores))).indices
