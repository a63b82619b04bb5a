"""`rfmi.evaluate`: a fixed number of images of every prompt, seeds the same for all, judged one by one.

T2I-CompBench (arXiv 2307.06350) draws 10 images a prompt with the seeds 42 to 51 and averages its scores over all
images of a category. Here the images of a few prompts are one unit: written whole, and not drawn again; several
processes share the units when the script is started by `accelerate launch`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from rfmi.runs import write_tensors
from rfmi.pipelines import PipelineField, sample
from rfmi.processes import own_device, process_state
from lab.worlds.shapes import parse
from lab.worlds.shapes.judging import judge as judge_scenes
from rfmi.selection.folder import fingerprint, open_folder

FIRST_SEED, IMAGES_A_PROMPT = 42, 10
Judge = Callable[[Tensor, Sequence[str]], pd.DataFrame]


@dataclass(frozen=True)
class Evaluation:
    """images: one row an image (category, prompt, seed, aligned, score); features (n, d) of the same images in the same
    order, or None where no feature network was given.
    """

    images: pd.DataFrame
    features: Tensor | None

    def by_prompt(self, column: str = "aligned") -> pd.Series:
        """The mean of a column over the images of each prompt, by category and prompt."""
        return self.images.groupby(["category", "prompt"], sort=False)[column].mean()

    def by_category(self, column: str = "aligned") -> pd.Series:
        """The mean over the prompts of each category."""
        return self.by_prompt(column).groupby("category", sort=False).mean()


def evaluate(
    pipeline: DiffusionPipeline,
    prompts: Mapping[str, Sequence[str]],
    *,
    output: str | Path,
    judge: Judge = judge_scenes,
    features: Callable[[Tensor], Tensor] | None = None,
    images_per_prompt: int = IMAGES_A_PROMPT,
    first_seed: int = FIRST_SEED,
    guidance: float = 4.0,
    steps: int = 28,
    device: torch.device | str | None = None,
    batch: int = 32,
) -> Evaluation:
    """Draw and judge `images_per_prompt` images of every prompt, image i with the seed `first_seed` + i.

    prompts: lists by category; judge: called as `judge(images, prompts)`, returns a row an image with `aligned` and
    `score`, the small world's judge by default; features: images (n, 3, height, width) in [0, 1] to (n, d), for image
    quality; output: a folder of one file for every `batch` images, from which a killed run goes on. Raises ValueError
    before anything is drawn for no prompts, a prompt that is repeated within its category or that the small world's
    judge does not read, or a folder of another evaluation; OSError for a full disk.
    """
    _check(prompts, images_per_prompt, judge)
    folder, state, prompts_a_unit = Path(output), process_state(), max(1, batch // images_per_prompt)
    device = own_device(device)
    fields = {
        name: PipelineField(pipeline, texts, device=device, micro_batch=2 * batch) for name, texts in prompts.items()
    }
    settings = {
        "prompts": hashlib.sha256(json.dumps({k: list(v) for k, v in prompts.items()}).encode()).hexdigest(),
        "images_per_prompt": images_per_prompt,
        "first_seed": first_seed,
        "guidance": guidance,
        "steps": steps,
        "images_a_file": prompts_a_unit * images_per_prompt,
        "judge": getattr(judge, "__qualname__", type(judge).__qualname__),
        "features": features is not None,
        "weights": fingerprint(pipeline.transformer),
    }
    if state.is_main_process:
        open_folder(folder, settings)
    units = [
        _Unit(folder, name, tuple(range(first, min(first + prompts_a_unit, len(texts)))))
        for name, texts in prompts.items()
        for first in range(0, len(texts), prompts_a_unit)
    ]
    missing = [unit for unit in units if not unit.path.exists()]
    state.wait_for_everyone()
    with state.split_between_processes(missing) as part:
        for unit in tqdm(part, desc="evaluation", disable=not state.is_main_process, mininterval=5.0):
            field = fields[unit.category]
            images = _drawn(field, unit.labels, images_per_prompt, first_seed, guidance, steps, batch)
            found = judge(images, [field.prompts[label] for label in unit.labels for _ in range(images_per_prompt)])
            tensors = {column: torch.tensor(found[column].to_numpy(float)) for column in ("aligned", "score")}
            if features is not None:
                tensors["features"] = torch.as_tensor(features(images))
            write_tensors(unit.path, tensors, {})
    state.wait_for_everyone()
    tables, found = zip(*(unit.read(prompts, images_per_prompt, first_seed) for unit in units), strict=True)
    return Evaluation(pd.concat(tables, ignore_index=True), None if features is None else torch.cat(found))


@dataclass(frozen=True)
class _Unit:
    """The images of a few prompts of a category, by their numbers in its list."""

    folder: Path
    category: str
    labels: tuple[int, ...]

    @property
    def path(self) -> Path:
        return self.folder / f"{self.category}_{self.labels[0]:05d}.safetensors"

    def read(
        self, prompts: Mapping[str, Sequence[str]], images_per_prompt: int, first_seed: int
    ) -> tuple[pd.DataFrame, Tensor | None]:
        """(one row an image, the images' features if they were asked for)."""
        found, texts = load_file(self.path), [prompts[self.category][label] for label in self.labels]
        columns = {
            "category": self.category,
            "prompt": [text for text in texts for _ in range(images_per_prompt)],
            "seed": [first_seed + i for _ in texts for i in range(images_per_prompt)],
        }
        table = pd.DataFrame(columns | {name: found[name].numpy() for name in ("aligned", "score")})
        return table, found.get("features")


def _drawn(
    field: PipelineField,
    labels: Sequence[int],
    images_per_prompt: int,
    first_seed: int,
    guidance: float,
    steps: int,
    batch: int,
) -> Tensor:
    noise = field.noise(range(first_seed, first_seed + images_per_prompt)).repeat(len(labels), 1, 1, 1)
    rows = torch.tensor(labels).repeat_interleave(images_per_prompt)
    return field.decode(sample(field, noise, rows, times=field.times(steps), guidance=guidance, batch=batch))


def _check(prompts: Mapping[str, Sequence[str]], images_per_prompt: int, judge: Judge) -> None:
    if not isinstance(prompts, Mapping) or any(isinstance(texts, str) for texts in prompts.values()):
        raise ValueError('prompts are lists by category; give a mapping like {"color": ["a red circle"]}')
    if not prompts or not all(len(texts) for texts in prompts.values()):
        raise ValueError("a category without a prompt cannot be evaluated; give at least one prompt for each")
    if images_per_prompt < 1:
        raise ValueError(f"images_per_prompt is {images_per_prompt}; draw at least one image of each prompt")
    for category, texts in prompts.items():
        if not re.fullmatch(r"[\w -]+", category):
            raise ValueError(f"the category {category!r} names a file; use letters, digits, spaces, _ and - only")
        if len(set(texts)) < len(texts):
            raise ValueError(f"the category {category} lists a prompt more than once; list every prompt once")
        for text in texts if judge is judge_scenes else ():
            parse(text)
