"""The units of work of the notebook on scores: candidates of validation prompts, judged, with every score of each."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from lab.worlds.shapes.clip import clip_score
from rfmi.sampling import path_scores
from rfmi.pipelines import PipelineField, sample
from lab.worlds.shapes import CATEGORIES
from lab.worlds.shapes.judging import judge
from rfmi.scoring import METHODS, PATH_METHODS
from rfmi.scoring.methods import EVEN
from rfmi.scoring.other_prompts import nearest_prompts
from rfmi.scoring.re_noising import NULL, re_noising_draws, weighted
from rfmi.selection.candidates import Recipe, draw_candidates
from rfmi.selection.pruning import Pruning
from lab.study.cache import Cache
from lab.study.scoring_cost import overhead_of_scoring
from lab.study.shipped import BATCH, cache_for, loaded_clip, loaded_pipeline, spread, validation_field

LEVEL_FORMS = ("re_noising", "conditional_loss", "information_and_likelihood", "squared")


def scoring_cache() -> Cache:
    """The units' cache."""
    return cache_for("rfmi.scoring", "rfmi.selection", "lab.study.scoring_experiments")


def candidates_unit(
    category: str,
    n_prompts: int,
    candidates: int,
    guidance: float,
    steps: int,
    methods: list[str],
    seed: int,
    device: str,
    compiled: bool,
    precision: str,
) -> dict:
    """`candidates` images of each of `n_prompts` validation prompts: judged, and scored by `methods`, along their path,
    and by the shipped CLIP.

    Returns columns, a number an image: prompt (its place in the list), candidate, aligned, judge, clip_score, one a
    score, and one a form and noise level, named "form at sigma".
    """
    field = validation_field(category, device, compiled, precision)
    texts = spread(field.prompts, n_prompts)
    labels = torch.tensor([field.prompts.index(text) for text in texts]).repeat_interleave(candidates)
    noise = field.noise(range(seed, seed + candidates)).repeat(len(texts), 1, 1, 1)
    times = field.times(steps)
    drawn = [
        path_scores(field, noise[part], labels[part], times=times, guidance=guidance)
        for part in torch.arange(len(labels)).split(BATCH)
    ]
    x = torch.cat([part.samples for part in drawn])
    images, wanted = field.decode(x), [field.prompts[label] for label in labels]
    found = judge(images, wanted)
    columns = {
        "prompt": labels.tolist(),
        "candidate": (torch.arange(len(labels)) % candidates).tolist(),
        "aligned": found.aligned.astype(float).tolist(),
        "judge": found.score.astype(float).tolist(),
        "clip_score": clip_score(*loaded_clip(), images, wanted),
    }
    for name, attribute in zip(PATH_METHODS, ("path", "guided_path", "squared"), strict=True):
        columns[name] = torch.cat([getattr(part, attribute) for part in drawn])
    return columns | method_columns(field, x, labels, methods, seed)


def method_columns(field: PipelineField, x: Tensor, labels: Tensor, methods: list[str], seed: int) -> dict[str, Tensor]:
    """Every method's scores, methods that look at the same draws together, and what each even noise level says."""
    columns: dict[str, Tensor] = {}
    near = nearest_prompts(field)
    groups: dict[tuple, list[str]] = {}
    for name in methods:
        method = METHODS[name]
        groups.setdefault((method.sigmas, method.nodes, method.noises, method.against == "prompts"), []).append(name)
    for (sigmas, _, noises, others), names in groups.items():
        times, _ = METHODS[names[0]].times_and_weights()
        forms = sorted({METHODS[name].form for name in names} | (set(LEVEL_FORMS) if sigmas == EVEN else set()))
        against = near[labels] if others else NULL
        draws = re_noising_draws(field, x, labels, forms, times=times, noises=noises, seed=seed, against=against)
        for name in names:
            columns[name] = weighted(draws[METHODS[name].form], METHODS[name].times_and_weights()[1], 0).values
        if sigmas == EVEN and not others:
            for form in LEVEL_FORMS:
                means = draws[form].mean(2)
                columns |= {f"{form} at {sigma:g}": means[:, j] for j, sigma in enumerate(sigmas)}
    return columns


def choice_unit(
    category: str,
    n_prompts: int,
    candidates: int,
    guidance: float,
    steps: int,
    method: str,
    pruned: bool,
    seed: int,
    device: str,
    compiled: bool,
    precision: str,
) -> list[dict]:
    """The choice among `candidates` of each of `n_prompts` prompts, with pruning or without: prompt, chosen candidate,
    network evaluations, every candidate's score; and whether the judge finds the chosen image aligned. Every prompt has
    noises of its own, whatever n_prompts.
    """
    field = validation_field(category, device, compiled, precision)
    rows, images = [], []
    for text in spread(field.prompts, n_prompts):
        label = field.prompts.index(text)
        own_seed = seed + (CATEGORIES.index(category) * len(field.prompts) + label) * candidates
        recipe = Recipe(candidates, 1, METHODS[method], guidance, steps, own_seed, Pruning() if pruned else None)
        others = nearest_prompts(field)[label] if recipe.method.against == "prompts" else None
        found = draw_candidates(field, label, recipe, others)
        images.append(field.decode(found.latents))
        spent, scores = float(found.columns["evaluations"].sum()), found.columns["score"].tolist()
        row = {"category": category, "prompt": label, "chosen": found.kept[0], "evaluations": spent, "scores": scores}
        rows.append(row)
    texts = [field.prompts[row["prompt"]] for row in rows]
    aligned = judge(torch.cat(images), texts).aligned
    return [row | {"aligned": float(held)} for row, held in zip(rows, aligned, strict=True)]


def best_and_worst(
    table: pd.DataFrame, score: str, per_category: int, guidance: float, steps: int, seed: int, device: str
) -> tuple[Tensor, list[str], list[bool]]:
    """(images, prompts, the judge's verdicts): in turn the best and the worst candidate by `score` of the first
    prompts of each category that have candidates of both kinds.
    """
    images, texts, verdicts = [], [], []
    for category, part in table.groupby("category", sort=False):
        field = validation_field(category, device)
        mixed = [one for _, one in part.groupby("prompt", sort=False) if 0 < one.aligned.mean() < 1][:per_category]
        rows = [one.loc[place] for one in mixed for place in (one[score].idxmax(), one[score].idxmin())]
        if rows:
            labels = torch.tensor([int(row.prompt) for row in rows])
            noise = field.noise([seed + int(row.candidate) for row in rows])
            images.append(field.decode(sample(field, noise, labels, times=field.times(steps), guidance=guidance)))
            texts += [field.prompts[label] for label in labels]
            verdicts += [bool(row.aligned) for row in rows]
    return torch.cat(images), texts, verdicts


def overhead_unit(candidates: int, steps: int, repeats: int, device: str) -> dict:
    """What the scores along the path cost beside generation with guidance."""
    field = PipelineField(loaded_pipeline(device), ["a red circle left of a blue square"])
    return overhead_of_scoring(field, candidates=candidates, steps=steps, repeats=repeats)
