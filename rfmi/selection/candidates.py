"""The candidates of one prompt: drawn, scored, and the best kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rfmi.path_scores import PathScores, path_scores
from rfmi.pipelines import PipelineField, sample
from rfmi.scoring import PATH_METHODS, Method, Scores, re_noising_scores
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
    """All candidates of one prompt: by name of a column (M,) their scores, NaN where a draft was dropped before they
    were computed, and the network evaluations spent on each; their fates; and those kept, best first, as numbers (k,)
    and latents (k, C, h, w).
    """

    columns: dict[str, Tensor]
    fates: list[str]
    kept: list[int]
    latents: Tensor


def draw_candidates(flow: PipelineField, label: int, recipe: Recipe, others: Tensor | None = None) -> Candidates:
    """Draw, score and choose for prompt `label`; others: (k,) labels of prompts that it is held against."""
    m = recipe.candidates
    noise = flow.noise(range(recipe.seed, recipe.seed + m))
    empty = torch.full((m,), torch.nan, dtype=torch.float64)
    columns = {name: empty.clone() for name in ("score", "standard_error", "draft_score", *PATH_METHODS)}
    columns["evaluations"] = torch.zeros(m, dtype=torch.float64)

    labels = torch.full((m,), label)

    def spend(rows: Tensor, evaluations: int) -> None:
        columns["evaluations"][rows] += evaluations / len(rows)

    def drafted(rows: Tensor, steps: int) -> Tensor:
        before = flow.evaluations
        drafts = sample(flow, noise[rows], labels[rows], times=flow.times(steps), guidance=recipe.guidance)
        spend(rows, flow.evaluations - before)
        return drafts

    def drawn(rows: Tensor, steps: int) -> PathScores:
        found = path_scores(flow, noise[rows], labels[rows], times=flow.times(steps), guidance=recipe.guidance)
        spend(rows, found.evaluations)
        return found

    def scored(rows: Tensor, x: Tensor, method: Method, seed: int) -> Scores:
        against = others.expand(len(rows), -1) if method.against == "prompts" else None
        found = re_noising_scores(flow, x, labels[rows], method, seed=seed, others=against)
        spend(rows, found.evaluations)
        _check_numbers(found.values, label)
        return found

    rows, method = torch.arange(m), recipe.method
    if recipe.pruning is not None:
        method = recipe.pruning.of_finalists(method)
        drafts = drafted(rows, recipe.pruning.steps)
        columns["draft_score"] = scored(rows, drafts, recipe.pruning.method, recipe.seed + 1).values.cpu()
        finalists = min(m, max(recipe.keep, recipe.pruning.finalists))
        rows = columns["draft_score"].topk(finalists).indices.sort().values
    finished = drawn(rows, recipe.steps)
    for name, values in zip(PATH_METHODS, (finished.path, finished.guided_path, finished.squared), strict=True):
        columns[name][rows] = values.cpu()
    if isinstance(method, str):
        columns["score"] = columns[method]
        _check_numbers(columns["score"][rows], label)
    else:
        found = scored(rows, finished.samples, method, recipe.seed)
        columns["score"][rows], columns["standard_error"][rows] = found.values.cpu(), found.standard_errors.cpu()
    best = columns["score"][rows].topk(recipe.keep).indices
    kept = rows[best].tolist()
    fates = [KEPT if i in kept else SCORED if i in rows.tolist() else DROPPED for i in range(m)]
    return Candidates(columns, fates, kept, finished.samples.cpu()[best])


def _check_numbers(scores: Tensor, label: int) -> None:
    if not bool(scores.isfinite().all()):
        raise FloatingPointError(
            f"a candidate of prompt {label} has a score that is no number; load the pipeline in another precision "
            "(torch_dtype=torch.float32, or torch.bfloat16 in place of float16)"
        )
