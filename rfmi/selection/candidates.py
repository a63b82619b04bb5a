"""The candidates of one prompt: drawn, scored, and the best kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from rfmi.pipelines import PipelineField
from rfmi.sampling import path_scores, sample
from rfmi.scoring import PATH_METHODS, Method, Scores
from rfmi.scoring.re_noising import check_numbers, method_draws, weighted
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
    prompt = _Prompt(flow, label, recipe, others)
    if recipe.pruning is None:
        rows = torch.arange(recipe.candidates)
        latents = prompt.drawn_along_path(rows)
        if isinstance(recipe.method, Method):
            draws = prompt.draws(rows, latents, recipe.method, range(recipe.method.noises), recipe.seed)
            prompt.score(rows, draws, recipe.method)
        else:
            prompt.columns["score"] = prompt.columns[recipe.method].clone()
            check_numbers(prompt.columns["score"], f"a candidate of prompt {label}")
    else:
        rows, latents = _finalists(prompt, recipe.pruning, recipe.method)
    best = _best(prompt.columns["score"][rows], recipe.keep)
    kept, scored = rows[best].tolist(), prompt.columns["score"].isfinite().tolist()
    fates = [KEPT if i in kept else SCORED if scored[i] else DROPPED for i in range(recipe.candidates)]
    return Candidates(prompt.columns, fates, kept, latents[best].cpu())


def _finalists(prompt: "_Prompt", pruning: Pruning, method: Method) -> tuple[Tensor, Tensor]:
    """The candidates of the last round, as rows and latents, scored."""
    recipe, columns = prompt.recipe, prompt.columns
    rows, times = torch.arange(recipe.candidates), prompt.flow.times(recipe.steps)
    if pruning.drops_drafts(recipe.candidates, recipe.keep):
        before, after, long = pruning.split(times)
        on_the_way = prompt.drawn(rows, prompt.noise, before)
        drafts = prompt.drawn(rows, on_the_way, long)
        draws = prompt.draws(rows, drafts, pruning.method, range(pruning.method.noises), recipe.seed + 1)
        columns["draft_score"] = _scores(draws, pruning.method, prompt.label).values
        rows = _best(columns["draft_score"], max(recipe.keep, pruning.rounds[0][0])).sort().values
        latents = prompt.drawn(rows, on_the_way[rows], after)
    else:
        latents = prompt.drawn(rows, prompt.noise, times)
    draws = []
    for finalists, noises in pruning.noises(method):
        if draws:
            best = _best(columns["score"][rows], max(recipe.keep, finalists)).sort().values
            rows, latents, draws = rows[best], latents[best], [part[best] for part in draws]
        draws.append(prompt.draws(rows, latents, method, noises, recipe.seed))
        prompt.score(rows, torch.cat(draws, 2), method)
    return rows, latents


class _Prompt:
    """One prompt's candidates while they are drawn and scored, with what is known of each and what it cost."""

    def __init__(self, flow: PipelineField, label: int, recipe: Recipe, others: Tensor | None) -> None:
        self.flow, self.label, self.recipe, self.others = flow, label, recipe, others
        self.noise = flow.noise(range(recipe.seed, recipe.seed + recipe.candidates))
        empty = torch.full((recipe.candidates,), torch.nan, dtype=torch.float64)
        self.columns = {name: empty.clone() for name in ("score", "standard_error", "draft_score", *PATH_METHODS)}
        self.columns["evaluations"] = torch.zeros(recipe.candidates, dtype=torch.float64)

    def labels(self, rows: Tensor) -> Tensor:
        return torch.full((len(rows),), self.label)

    @contextmanager
    def spending(self, rows: Tensor) -> Iterator[None]:
        """Share what the network is asked for meanwhile among `rows`."""
        before = self.flow.evaluations
        yield
        self.columns["evaluations"][rows] += (self.flow.evaluations - before) / len(rows)

    def drawn(self, rows: Tensor, x_t: Tensor, times: Tensor) -> Tensor:
        """Latents at the last of `times`, from x_t at the first."""
        with self.spending(rows):
            return sample(self.flow, x_t, self.labels(rows), times=times, guidance=self.recipe.guidance)

    def drawn_along_path(self, rows: Tensor) -> Tensor:
        """Latents from their noise, scored along the path."""
        times, guidance = self.flow.times(self.recipe.steps), self.recipe.guidance
        with self.spending(rows):
            found = path_scores(self.flow, self.noise[rows], self.labels(rows), times=times, guidance=guidance)
        for name, values in zip(PATH_METHODS, (found.path, found.guided_path, found.squared), strict=True):
            self.columns[name][rows] = values.cpu()
        return found.samples

    def draws(self, rows: Tensor, x: Tensor, method: Method, noises: range, seed: int) -> Tensor:
        """What a method makes of x under some of its noises, (rows, levels, noises)."""
        others = self.others.expand(len(rows), -1) if method.against == "prompts" else None
        with self.spending(rows):
            return method_draws(self.flow, x, self.labels(rows), method, noises=noises, seed=seed, others=others)

    def score(self, rows: Tensor, draws: Tensor, method: Method) -> None:
        """Write down the rows' scores, by the noises that they have had."""
        found = _scores(draws, method, self.label)
        self.columns["score"][rows], self.columns["standard_error"][rows] = found.values, found.standard_errors


def _scores(draws: Tensor, method: Method, label: int) -> Scores:
    scores = weighted(draws.cpu(), method.times_and_weights()[1], 0)
    check_numbers(scores.values, f"a candidate of prompt {label}")
    return scores


def _best(scores: Tensor, k: int) -> Tensor:
    """The places of the k best, best first; all where there are no more."""
    return scores.topk(min(k, len(scores))).indices
