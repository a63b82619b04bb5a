"""`rfmi.evaluate`: a fixed number of images of every prompt, seeds the same for all, judged one by one.

T2I-CompBench (arXiv 2307.06350) draws 10 images a prompt with the seeds 42 to 51 and averages its scores over all
images of a category. Here the images of a few prompts are one unit: written whole, and not drawn again; several
processes on one folder share the units, however they were started.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from rfmi.pipelines import PipelineField, identity_of
from rfmi.runs import own_device, plain, read_tensors, work_on, write_tensors
from rfmi.sampling import check_guidance, sample
from rfmi.statistics import mean_of_categories

KEYS = ["category", "prompt", "seed"]
Judge = Callable[[Tensor, Sequence[str], str], pd.DataFrame]


@dataclass(frozen=True)
class Evaluation:
    """Judged images.

    images: one row an image: category, prompt, seed, aligned, score, and whatever else the judge said.
    features: (n, d) of the same images in the same order, or None where no feature network was given.
    """

    images: pd.DataFrame
    features: Tensor | None

    def by_prompt(self, column: str = "aligned") -> pd.Series:
        """The mean of a column over the images of each prompt, by category and prompt."""
        return self.images.groupby(["category", "prompt"], sort=False)[column].mean()

    def by_category(self, column: str = "aligned") -> pd.Series:
        """The mean over the prompts of each category."""
        return self.by_prompt(column).groupby("category", sort=False).mean()


Evaluations = Evaluation | Sequence[Evaluation]


def evaluate(
    pipeline: DiffusionPipeline,
    prompts: Mapping[str, Sequence[str]],
    judge: Judge,
    *,
    output: str | Path,
    features: Callable[[Tensor], Tensor] | None = None,
    images_per_prompt: int = 10,
    first_seed: int = 42,
    guidance: float = 4.0,
    steps: int = 28,
    device: torch.device | str | None = None,
    batch: int = 32,
) -> Evaluation:
    """Draw and judge `images_per_prompt` images of every prompt, image i with the seed `first_seed` + i.

    pipeline: the model.
    prompts: lists by category.
    judge: called as `judge(images, prompts, category)`, images (n, 3, height, width) in [0, 1]; returns a table, one
        row an image, with `aligned` and `score` and any other columns that JSON can hold, all of which are kept.
    output: a folder of its own, one file for every `batch` images, from which a killed call goes on.
    features: images (n, 3, height, width) to (n, d), for image quality.
    guidance, steps: of the drawing. device, batch: of `PipelineField`; `batch` images at once.
    Raises ValueError before anything is drawn for no prompts, a prompt that is repeated within its category, a judge
    or features that do not fit, or a folder that holds something else; TypeError for a judge's column that JSON cannot
    hold; OSError for a full disk.
    """
    _check(prompts, images_per_prompt, guidance)
    folder, prompts_a_unit = Path(output), max(1, batch // images_per_prompt)
    common = {"device": own_device(device), "micro_batch": 2 * batch}
    fields = {name: PipelineField(pipeline, texts, **common) for name, texts in prompts.items()}
    for category, field in fields.items():
        grey = torch.full((1, 3, *(side * pipeline.vae_scale_factor for side in field.shape[1:])), 0.5)
        json.dumps(_judged(judge, grey, field.prompts[:1], category).to_dict("records"), default=plain)
        if features is not None:
            _embedded(features, grey)
    settings = {
        "prompts": hashlib.sha256(json.dumps({k: list(v) for k, v in prompts.items()}).encode()).hexdigest(),
        "images_per_prompt": images_per_prompt,
        "first_seed": first_seed,
        "guidance": guidance,
        "steps": steps,
        "images_a_file": prompts_a_unit * images_per_prompt,
        "judge": getattr(judge, "__qualname__", type(judge).__qualname__),
        "features": features is not None,
    } | identity_of(pipeline)
    units = {
        (category, first): folder / f"{category}_{first:05d}.safetensors"
        for category, texts in prompts.items()
        for first in range(0, len(texts), prompts_a_unit)
    }
    seeds = range(first_seed, first_seed + images_per_prompt)
    for category, first in work_on(folder, settings, units, "evaluation"):
        field = fields[category]
        labels = torch.arange(first, min(first + prompts_a_unit, len(field.prompts)))
        noise = field.noise(seeds).repeat(len(labels), 1, 1, 1)
        rows = labels.repeat_interleave(images_per_prompt)
        latents = sample(field, noise, rows, times=field.times(steps), guidance=guidance, batch=batch)
        images, texts = field.decode(latents), [field.prompts[row] for row in rows]
        table = _judged(judge, images, texts, category)
        table = table.assign(category=category, prompt=texts, seed=list(seeds) * len(labels))
        tensors = {"aligned": torch.tensor(table.aligned.to_numpy(float))}
        if features is not None:
            tensors["features"] = _embedded(features, images)
        write_tensors(units[category, first], tensors, rows=table.to_dict("records"))
    found = [read_tensors(path) for path in units.values()]
    table = pd.concat([pd.DataFrame(facts["rows"]) for _, facts in found], ignore_index=True)
    table = table[list(dict.fromkeys([*KEYS, "aligned", "score", *table]))]  # ours first, then what else the judge said
    return Evaluation(table, None if features is None else torch.cat([tensors["features"] for tensors, _ in found]))


def compare(base: Evaluations, other: Evaluations, *, column: str = "aligned", seed: int = 0) -> pd.DataFrame:
    """other - base of a column, by category and in the mean of the categories: value, low, high, n (prompts).

    base, other: evaluations; several, as of one method trained from several seeds, are averaged image by image.
    column: of `Evaluation.images`. seed: of the 95% intervals, which resample prompts and noises.
    Raises ValueError where they were not all evaluated on the same prompts and seeds.
    """
    evaluations = [*_listed(base), *_listed(other)]
    if any(not evaluations[0].images[KEYS].equals(each.images[KEYS]) for each in evaluations):
        raise ValueError("the evaluations have other prompts or seeds; evaluate all on the same ones")
    return mean_of_categories(by_image(other, column) - by_image(base, column), seed)


def by_image(evaluations: Evaluations, column: str = "aligned") -> pd.DataFrame:
    """A column by category and prompt, one column a seed of images, in the mean over the evaluations."""
    columns = [each.images.set_index(KEYS)[column].astype(float) for each in _listed(evaluations)]
    return sum(column.unstack("seed", sort=False) for column in columns) / len(columns)


def _judged(judge: Judge, images: Tensor, texts: Sequence[str], category: str) -> pd.DataFrame:
    """The judge's table; ValueError for one that does not fit."""
    table = judge(images, list(texts), category)
    if not isinstance(table, pd.DataFrame) or len(table) != len(texts):
        shown = f"{len(table)} rows" if isinstance(table, pd.DataFrame) else f"a {type(table).__name__}"
        raise ValueError(f"the judge answered {len(texts)} images with {shown}; it must give a table, one row an image")
    missing = [name for name in ("aligned", "score") if name not in table]
    if missing:
        raise ValueError(f"the judge's table lacks {' and '.join(missing)}; it has {', '.join(map(str, table))}")
    numbers = table[["aligned", "score"]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if not np.isfinite(numbers).all():
        raise ValueError("the judge gave an image an `aligned` or a `score` that is no number; give one to each")
    return table.reset_index(drop=True)


def _embedded(features: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The images' features; ValueError for those that do not fit."""
    embedded = torch.as_tensor(features(images))
    n, shape = len(images), tuple(embedded.shape)
    if len(shape) != 2 or shape[0] != n:
        raise ValueError(f"the features of {n} images have the shape {shape}; give one row an image")
    return embedded


def _listed(evaluations: Evaluations) -> list[Evaluation]:
    return [evaluations] if isinstance(evaluations, Evaluation) else list(evaluations)


def _check(prompts: Mapping[str, Sequence[str]], images_per_prompt: int, guidance: float) -> None:
    lists = isinstance(prompts, Mapping) and not any(isinstance(texts, str) for texts in prompts.values())
    if not lists or not prompts or not all(len(texts) for texts in prompts.values()):
        example = '{"color": ["a red circle"]}'
        raise ValueError(f"prompts are lists by category; give at least one prompt for each, as in {example}")
    if images_per_prompt < 1:
        raise ValueError(f"images_per_prompt is {images_per_prompt}; draw at least one image of each prompt")
    check_guidance(guidance)
    for category, texts in prompts.items():
        if not re.fullmatch(r"[\w -]+", category):
            raise ValueError(f"the category {category!r} names a file; use letters, digits, spaces, _ and - only")
        if len(set(texts)) < len(texts):
            raise ValueError(f"the category {category} lists a prompt more than once; list every prompt once")
