"""`rfmi.evaluate`: a fixed number of images of every prompt, seeds the same for all, judged one by one.

T2I-CompBench (arXiv 2307.06350) draws 10 images a prompt with the seeds 42 to 51 and averages its scores over all
images of a category. Here the images of one category are one unit: written whole, and not drawn again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from rfmi.base_model.trainer import write_tensors
from rfmi.pipelines import PipelineField, sample
from rfmi.scenes.judging import judge as judge_scenes
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
    quality; output: a folder of one file a category, from which a killed run goes on. Raises ValueError before anything
    is drawn for no prompts, a prompt that is repeated within its category, or a folder of another evaluation.
    """
    _check(prompts, images_per_prompt)
    folder = Path(output)
    fields = {
        name: PipelineField(pipeline, texts, device=device, micro_batch=2 * batch) for name, texts in prompts.items()
    }
    settings = {
        "prompts": hashlib.sha256(json.dumps({k: list(v) for k, v in prompts.items()}).encode()).hexdigest(),
        "images_per_prompt": images_per_prompt,
        "first_seed": first_seed,
        "guidance": guidance,
        "steps": steps,
        "features": features is not None,
        "weights": fingerprint(pipeline.transformer),
    }
    open_folder(folder, settings)
    for name, field in tqdm(fields.items(), desc="evaluation", mininterval=5.0):
        if not _unit(folder, name).exists():
            images = _drawn(field, images_per_prompt, first_seed, guidance, steps, batch)
            texts = [text for text in field.prompts for _ in range(images_per_prompt)]
            found = judge(images, texts)
            unit = {column: torch.tensor(found[column].to_numpy(float)) for column in ("aligned", "score")}
            if features is not None:
                unit["features"] = torch.as_tensor(features(images))
            write_tensors(_unit(folder, name), unit, {})
    return _read(folder, prompts, images_per_prompt, first_seed)


def _drawn(
    field: PipelineField, images_per_prompt: int, first_seed: int, guidance: float, steps: int, batch: int
) -> Tensor:
    labels = torch.arange(len(field.prompts)).repeat_interleave(images_per_prompt)
    noise = field.noise(range(first_seed, first_seed + images_per_prompt)).repeat(len(field.prompts), 1, 1, 1)
    return field.decode(sample(field, noise, labels, times=field.times(steps), guidance=guidance, batch=batch))


def _unit(folder: Path, category: str) -> Path:
    return folder / f"{category}.safetensors"


def _read(
    folder: Path, prompts: Mapping[str, Sequence[str]], images_per_prompt: int, first_seed: int
) -> Evaluation:
    tables, features = [], []
    for category, texts in prompts.items():
        with safe_open(_unit(folder, category), framework="pt") as file:
            table = pd.DataFrame(
                {
                    "category": category,
                    "prompt": [text for text in texts for _ in range(images_per_prompt)],
                    "seed": [first_seed + i for _ in texts for i in range(images_per_prompt)],
                    "aligned": file.get_tensor("aligned").numpy(),
                    "score": file.get_tensor("score").numpy(),
                }
            )
            if "features" in file.keys():  # noqa: SIM118
                features.append(file.get_tensor("features"))
        tables.append(table)
    return Evaluation(pd.concat(tables, ignore_index=True), torch.cat(features) if features else None)


def _check(prompts: Mapping[str, Sequence[str]], images_per_prompt: int) -> None:
    if not prompts or not all(len(texts) for texts in prompts.values()):
        raise ValueError("a category without a prompt cannot be evaluated; give at least one prompt for each")
    if images_per_prompt < 1:
        raise ValueError(f"images_per_prompt is {images_per_prompt}; draw at least one image of each prompt")
    for category, texts in prompts.items():
        if len(set(texts)) < len(texts):
            raise ValueError(f"the category {category} lists a prompt more than once; list every prompt once")
