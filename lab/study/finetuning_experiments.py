"""The units of work of the notebooks on fine-tuning and evaluation: trainings and evaluated models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from random import Random

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from lab.worlds.shapes.clip import image_features
from rfmi.evaluation import Evaluation, evaluate
from rfmi.finetuning import FinetuningSettings, finetune, held_out_loss
from rfmi.sampling import path_scores
from rfmi.pipelines import PipelineField
from lab.worlds.shapes import CATEGORIES, draw_scene, parse, prompts, render
from lab.worlds.shapes.judging import judge
from rfmi.selection import Selection
from rfmi.selection.folder import kept_rows
from lab.study.base_model_experiments import drawn, reconstructed
from lab.study.cache import digest
from lab.study.finetuning_pools import (
    CHOICE_SEED,
    Pool,
    chosen_by,
    draw_pools,
    folder_of,
    pool_of,
    rejected_by,
    round_name,
    run,
    scored_by,
    without_held_out,
)
from lab.study.shipped import BATCH, loaded_clip, loaded_pipeline, pipeline_with, spread

NOISE_SEED = 7  # of the held-out loss
CONTROLS = ("random", "ours", "judge", "worst", "clip_score", "published_path")
LATER = "ours"  # goes on after the first round
BASE_MODEL = {"trainings": [], "weight": 1.0}


def tuning_unit(control: str, seed: int, pool: dict, settings: dict, start: dict | None) -> dict:
    """One training: its losses, validations and chosen step, and how often the images that the control finds best are
    aligned. The LoRA is in `folder_of("tunings", unit)`.

    settings: changes of FinetuningSettings; start: the unit of training to go on from.
    """
    unit = {"control": control, "seed": seed, "pool": pool, "settings": settings, "start": start}
    everything, numbers = pool_of(Pool(**pool), workers=1)
    asked = FinetuningSettings(**settings, seed=seed)
    selection, rejected = material(control, everything, numbers, asked)
    trained, held_out = (
        [None if part is None else without_held_out(part, kept) for part in (selection, rejected)]
        for kept in (False, True)
    )
    pipeline, first = loaded_pipeline(pool["device"]), None if start is None else folder_of("tunings", start)
    found = finetune(
        pipeline,
        trained[0],
        output=folder_of("tunings", unit),
        settings=asked,
        rejected=trained[1],
        start=first,
        validation=held_out_loss(pipeline, held_out[0], replace(asked, seed=NOISE_SEED), held_out[1], start=first),
    )
    best = kept_rows(chosen_by(control, everything, numbers, CHOICE_SEED).candidates).index
    aligned = pd.Series(numbers["aligned"], kept_rows(everything.candidates).index)
    return {
        "losses": found.losses,
        "validation": found.validation,
        "chosen_step": found.chosen_step,
        "aligned": float(aligned[best].mean()),
    }


def material(
    control: str, everything: Selection, numbers: dict[str, np.ndarray], settings: FinetuningSettings
) -> tuple[Selection, Selection | None]:
    """What a control trains on: all images with its numbers for their scores, where these weigh them; its best image of
    every prompt; or this and its worst."""
    if settings.weighting != "top":
        return scored_by(control, everything, numbers, CHOICE_SEED), None
    best = chosen_by(control, everything, numbers, CHOICE_SEED)
    return best, rejected_by(control, everything, numbers, CHOICE_SEED) if settings.preference == "dpo" else None


def model(*trainings: dict, weight: float = 1.0) -> dict:
    """The model of some trainings: the base model's weights plus `weight` times the mean of what their LoRAs add.
    Raises ValueError for a weight that is no number above 0."""
    if not 0 < weight < float("inf"):
        raise ValueError(f"the adapter weight is {weight}; give a number above 0")
    return {"trainings": list(trainings), "weight": weight}


def evaluation_unit(
    trainings: list[dict],
    weight: float,
    n_prompts: int,
    images_per_prompt: int,
    guidance: float,
    steps: int,
    device: str,
    compiled: bool,
    precision: str,
) -> dict:
    """A model's images of validation prompts, judged, with the benchmark's seeds: columns of `Evaluation.images`, CLIP
    `features`, and `information` (nats): its mean in a prompt's own images, by the squared form at guidance 1.

    trainings, weight: of `model`.
    """
    where = {"device": device, "compiled": compiled, "precision": precision}
    unit = {"trainings": trainings, "weight": weight}
    pipeline = loaded(unit, **where)
    unit |= {"n": n_prompts, "images": images_per_prompt, "guidance": guidance, "steps": steps}
    texts = {category: spread(prompts(category, "val"), n_prompts) for category in CATEGORIES}
    found = evaluate(
        pipeline,
        texts,
        output=folder_of("evaluations", unit | where),
        features=lambda images: image_features(loaded_clip()[0], images),
        images_per_prompt=images_per_prompt,
        guidance=guidance,
        steps=steps,
        batch=BATCH,
    )
    information = [own_information(pipeline, part, steps) for part in texts.values()]
    return {
        "images": found.images.to_dict("list"),
        "features": found.features.round(decimals=5),
        "information": information,
    }


def loaded(which: dict, device: str, compiled: bool = False, precision: str = "float32") -> StableDiffusion3Pipeline:
    """The pipeline of a model whose trainings are done, until the next call."""
    loras = [folder_of("tunings", unit) for unit in which["trainings"]]
    return pipeline_with(loras, which["weight"], device, compiled, precision)


@torch.no_grad()
def agreement(units: Sequence[dict]) -> float:
    """The mean cosine between the changes that trainings, one or more, make to the weights, over all pairs of them; NaN
    for one."""
    models = [BASE_MODEL, *map(model, units)]
    base, *others = (parameters_to_vector(loaded(each, "cpu").transformer.parameters()) for each in models)
    changes = torch.stack(others) - base
    first, second = torch.combinations(torch.arange(len(units))).T
    return float(torch.cosine_similarity(changes[first], changes[second]).mean())


def own_information(pipeline: StableDiffusion3Pipeline, texts: Sequence[str], steps: int) -> list[float]:
    """The squared form along the path of one image of each prompt, drawn without guidance: its mean is the mutual
    information (RFMI, arXiv 2503.14358), in nats."""
    field = PipelineField(pipeline, texts, micro_batch=2 * BATCH)
    noise, times = field.noise(range(len(texts))), field.times(steps)
    parts = torch.arange(len(texts)).split(BATCH)
    return torch.cat([path_scores(field, noise[rows], rows, times=times).squared for rows in parts]).tolist()


def as_evaluation(found: dict) -> Evaluation:
    """The `Evaluation` of a unit's record."""
    return Evaluation(pd.DataFrame(found["images"]), torch.tensor(found["features"]))


def scene_unit(category: str, n_prompts: int, images_per_prompt: int, seed: int) -> list:
    """CLIP features of rendered scenes of the evaluated prompts after the autoencoder, in the order of the images."""
    texts, random = spread(prompts(category, "val"), n_prompts), Random(f"evaluation {category} {seed}")
    scenes = [draw_scene(parse(text), random) for text in texts for _ in range(images_per_prompt)]
    field = PipelineField(loaded_pipeline(), texts)
    return image_features(loaded_clip()[0], reconstructed(field, render(scenes))).round(decimals=5)


def control_units(pool: Pool, settings: dict, seeds: Sequence[int]) -> dict[str, list[dict]]:
    """The trainings of every control by name, one a seed, after the first round; and of `LATER` after every later one,
    as "ours_round_2". settings: of the training of a round. Raises ValueError for no seeds or one given twice, and for
    settings that make no sense, before anything is drawn."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"the seeds of training are {list(seeds)}; give one or more, each once")
    asked = [(control, 1) for control in CONTROLS] + [(LATER, i + 1) for i in range(1, pool.parts)]
    return {
        round_name(control, number): [training(control, seed, pool, settings, number) for seed in seeds]
        for control, number in asked
    }


def training(control: str, seed: int, pool: Pool, settings: dict, rounds: int) -> dict:
    """The unit of a whole training: the last of one unit a round, each on its part of the training prompts, which goes
    on from the one before, on images that this one's model draws. Raises ValueError for settings that make no sense."""
    FinetuningSettings(**settings, seed=seed)
    start = None
    for part in range(rounds):
        own = replace(pool, start=start, part=part, seed=pool.seed_after(part * len(CATEGORIES)))
        own = own if start is None else replace(own, along_path=False)
        start = {"control": control, "seed": seed, "pool": asdict(own), "settings": settings, "start": start}
    return start


def chain(unit: dict) -> list[dict]:
    """The units that lead to one, the first of them first, and itself."""
    return [*([] if unit["start"] is None else chain(unit["start"])), unit]


def tuned(units: Mapping[str, Sequence[dict]], workers: int) -> dict[str, list[dict]]:
    """The records of trainings by name. What they draw on is made first: all pools that the models so far can draw, all
    trainings on these, and so on."""
    chains = [chain(unit) for each in units.values() for unit in each]
    for depth in range(max(map(len, chains))):
        part = [each[depth] for each in chains if len(each) > depth]
        draw_pools(list({digest(unit["pool"]): Pool(**unit["pool"]) for unit in part}.values()), workers)
        run(tuning_unit, part, "finetuning", workers, f"fine-tuning, round {depth + 1}")
    return {name: run(tuning_unit, each, "finetuning", 1, name) for name, each in units.items()}


def evaluated(models: Mapping[str, dict], settings: dict, pool: Pool, workers: int) -> dict[str, dict]:
    """The records of evaluations of models by name. settings: of `evaluation_unit`; they are drawn where the pool
    is."""
    asked = settings | {name: getattr(pool, name) for name in ("device", "compiled", "precision")}
    units = [asked | each for each in models.values()]
    return dict(zip(models, run(evaluation_unit, units, "evaluations", workers, "evaluation"), strict=True))


def before_and_after(
    which: dict, n_prompts: int, guidance: float, steps: int, seed: int, pool: Pool
) -> tuple[Tensor, list[str], list[bool]]:
    """(images, prompts, the judge's verdicts): in turn the base model's and the tuned model's image of one validation
    prompt of every category after another, from the same noise."""
    texts = [text for category in CATEGORIES for text in spread(prompts(category, "val"), n_prompts)]
    seeds = [seed + i for i in range(len(texts))]
    pairs = [
        drawn(PipelineField(loaded(each, pool.device), texts), texts, seeds, guidance, steps)
        for each in (BASE_MODEL, which)
    ]
    images = torch.stack(pairs, 1).flatten(0, 1)
    twice = [text for text in texts for _ in pairs]
    return images, twice, judge(images, twice).aligned.tolist()
