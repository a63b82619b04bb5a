"""`rfmi.evaluate`: a fixed number of images of every prompt, seeds the same for all, judged one by one.

T2I-CompBench (arXiv 2307.06350) draws 10 images a prompt with the seeds 42 to 51 and averages its scores over all
images of a category. Here the images of a few prompts are one unit: written whole, and not drawn again; several
processes on one folder share the units, however they were started.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from diffusers import DiffusionPipeline

from rfmi.checks import check_guidance, shown, whole_number
from rfmi.evaluation_folder import (
    IMAGES,
    KEYS,
    Evaluation,
    check_images,
    forget_judge,
    read_evaluation,
    settings_of,
    unit_paths,
    write_metadata,
    write_unit,
)
from rfmi.image_folder import read_images, rounded, write_images
from rfmi.judging import Features, Judge, ask, identities
from rfmi.pipelines import PipelineField, identity_of, prompt_list, sizes_of
from rfmi.files import read_tensors
from rfmi.runs import own_device, work_on
from rfmi.sampling import sample
from rfmi.statistics import mean_of_categories

Evaluations = Evaluation | Sequence[Evaluation]


def evaluate(
    pipeline: DiffusionPipeline,
    prompts: Mapping[str, Sequence[str]],
    judge: Judge,
    *,
    output: str | Path,
    features: Features | None = None,
    keep_images: bool = True,
    images_per_prompt: int = 10,
    first_seed: int = 42,
    guidance: float = 4.0,
    steps: int = 28,
    negative_prompt: str = "",
    height: int | None = None,
    width: int | None = None,
    max_sequence_length: int | None = None,
    device: torch.device | str | None = None,
    batch: int = 32,
) -> Evaluation:
    """Draw and judge images of every prompt, image i with the seed `first_seed` + i.

    pipeline: the model.
    prompts: lists by category.
    judge: called as `judge(images, prompts, category)`, images (n, 3, height, width) in [0, 1]; returns a table, one
        row an image, with `aligned` and `score` and any other columns that JSON can hold, all of which are kept. What
        tells one judge from another, `rfmi.judging` says.
    output: a folder of its own, one file for every `batch` images, from which a killed call goes on.
    features: images (n, 3, height, width) to (n, d), for image quality.
    keep_images: whether the images stay in `output`/images, so that `judge_folder` can judge them again; then judge and
        features are given what the PNGs hold, pixels rounded to 8 bits, or else pixels as they were decoded.
    images_per_prompt, first_seed: T2I-CompBench's are the seeds 42 to 51.
    guidance, steps: of the drawing.
    negative_prompt, height, width, max_sequence_length, device: of `PipelineField`.
    batch: images drawn at once.
    Raises ValueError before anything is drawn for no prompts, a prompt that is repeated within its category, a size
    that cannot be drawn, a judge or features that do not fit, or a folder that holds something else, and after that for
    a kept image that is damaged; TypeError for a judge's column that JSON cannot hold; OSError for a full disk.
    """
    prompts = _checked(prompts, images_per_prompt, guidance)
    sizes = sizes_of(pipeline, height, width, max_sequence_length)
    size = {name: sizes[name] for name in ("height", "width")}
    folder, prompts_a_unit = Path(output), max(1, batch // images_per_prompt)
    counts = {category: len(texts) for category, texts in prompts.items()}
    units = unit_paths(folder, counts, prompts_a_unit)
    options = {"negative_prompt": negative_prompt, "device": own_device(device), "micro_batch": 2 * batch} | sizes

    @cache
    def field_of(category: str) -> PipelineField:
        return PipelineField(pipeline, prompts[category], **options)

    for (category, _), path in units.items():
        if not path.exists():
            field_of(category)
    settings = {
        "prompts": hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
        "prompts_by_category": counts,
        "images_per_prompt": images_per_prompt,
        "first_seed": first_seed,
        "guidance": guidance,
        "steps": steps,
        "negative_prompt": negative_prompt,
        "images_a_file": prompts_a_unit * images_per_prompt,
        "keep_images": keep_images,
    }
    settings |= sizes | identities(judge, features, {name: texts[0] for name, texts in prompts.items()}, **size)
    settings |= identity_of(pipeline)
    forget_judge(folder, settings, units)
    seeds = list(range(first_seed, first_seed + images_per_prompt))
    for category, first in work_on(folder, settings, units, "evaluation"):
        field = field_of(category)
        labels = torch.arange(first, min(first + prompts_a_unit, len(field.prompts)))
        noise = field.noise(seeds).repeat(len(labels), 1, 1, 1)
        rows = labels.repeat_interleave(images_per_prompt)
        latents = sample(field, noise, rows, times=field.times(steps), guidance=guidance, batch=batch)
        images, texts = field.decode(latents), [field.prompts[row] for row in rows]
        keys = {"category": category, "prompt": texts, "seed": seeds * len(labels)}
        files = {}
        if keep_images:
            images = rounded(images)
            names = [f"{category}_{row:05d}_{seed:05d}.png" for row, seed in zip(rows, keys["seed"], strict=True)]
            files = dict(zip(names, write_images(folder / IMAGES, names, images), strict=True))
        write_unit(units[category, first], keys, files, *ask(judge, features, images, texts, category, len(texts)))
    evaluation = read_evaluation(units, folder, folder / IMAGES)
    if keep_images:
        check_images(folder, units.values())
        write_metadata(evaluation)
    return evaluation


def judge_folder(
    folder: str | Path, judge: Judge, *, output: str | Path, features: Features | None = None, batch: int = 32
) -> Evaluation:
    """Judge the images of a finished evaluation again, without a model: the same judge says what it said.

    folder: of `evaluate`, with its images.
    judge, features: as `evaluate` has them.
    output: a folder of its own, from which a killed call goes on.
    batch: images judged at once.
    Raises ValueError before anything is judged for a folder that is no finished evaluation, or whose images are not
    there, cut or changed, for a judge or features that do not fit, and where `output` holds something else; TypeError
    for a judge's column that JSON cannot hold.
    """
    whole_number("batch", batch, 1)
    folder, output = Path(folder), Path(output)
    there = settings_of(folder)
    counts, prompts_a_unit = there["prompts_by_category"], there["images_a_file"] // there["images_per_prompt"]
    sources, units = (unit_paths(place, counts, prompts_a_unit) for place in (folder, output))
    missing = [path.name for path in sources.values() if not path.exists()]
    if missing:
        raise ValueError(f"{folder} is not finished: {missing[0]} is not there; call `rfmi.evaluate`, which goes on")
    facts = {unit: read_tensors(path)[1] for unit, path in sources.items()}
    firsts = {category: facts[category, 0]["rows"][0]["prompt"] for category in counts}
    digests = hashlib.sha256(json.dumps([each["images"] for each in facts.values()]).encode()).hexdigest()
    check_images(folder, [sources[unit] for unit, path in units.items() if not path.exists()])
    settings = {"prompts": there["prompts"], "images": digests}
    settings |= identities(judge, features, firsts, there["height"], there["width"])
    forget_judge(output, settings, units)
    for unit in work_on(output, settings, units, "judging"):
        files, keys = facts[unit]["images"], {name: [row[name] for row in facts[unit]["rows"]] for name in KEYS}
        images = read_images([folder / IMAGES / name for name in files])
        write_unit(units[unit], keys, files, *ask(judge, features, images, keys["prompt"], unit[0], batch))
    return read_evaluation(units, output, folder / IMAGES)


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


def _listed(evaluations: Evaluations) -> list[Evaluation]:
    return [evaluations] if isinstance(evaluations, Evaluation) else list(evaluations)


def _checked(prompts: Mapping[str, Iterable[str]], images_per_prompt: int, guidance: float) -> dict[str, list[str]]:
    """The prompts as lists; ValueError for what cannot be drawn."""
    lists = isinstance(prompts, Mapping) and not any(isinstance(texts, str) for texts in prompts.values())
    if not lists or not prompts:
        raise ValueError('prompts are lists by category; give at least one prompt to each: {"color": ["a circle"]}')
    whole_number("images_per_prompt", images_per_prompt, 1)
    check_guidance(guidance)
    for category, texts in prompts.items():
        if not re.fullmatch(r"[\w -]{1,60}", str(category)):
            raise ValueError(f"the category {shown(category)} names files; use 1 to 60 letters, digits, spaces, _, -")
    return {category: prompt_list(texts, once=True) for category, texts in prompts.items()}
