"""A small world in which it is a fact whether a picture follows its prompt: scenes of one to four flat objects, prompts
from a grammar in the eight categories of T2I-CompBench, and a judge that reads pixels.

This module is the world as `lab.worlds.world` asks for it; pictures are (n, 3, 64, 64) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from lab.paths import data_folder
from lab.worlds.shapes.detection import detect
from lab.worlds.shapes.grammar import change_one_atom, frequency
from lab.worlds.shapes.phrases import parse, read_prompts
from lab.worlds.shapes.rendering import check_pictures, render
from lab.worlds.shapes.sampling import draw_scenes
from lab.worlds.shapes.shipped import base_pipeline, quietly
from lab.worlds.shapes.truth import verdict
from lab.worlds.shapes.words import CATEGORIES

if TYPE_CHECKING:
    from diffusers import StableDiffusion3Pipeline

name = "shapes"
categories = CATEGORIES
sources = (
    "lab.worlds.shapes",
    "rfmi.pipelines.vocabulary",
    "data/base_model/checksums.json",
    "data/base_clip/checksums.json",
)


@cache
def prompts(category: str, split: str = "val") -> tuple[str, ...]:
    """The committed prompts, in `data/prompts` as T2I-CompBench lays them out: 240 of a category to train on ("train"),
    120 to validate with ("val"), and 30 ("locked") on which the headline alone is measured.
    """
    return read_prompts(data_folder() / "prompts" / f"{category}_{split}.txt")


def judge(images: Tensor, prompts: Sequence[str], category: str = "") -> pd.DataFrame:
    """Which atoms of a prompt hold in a picture, read off its pixels, one row a pair.

    Columns: `aligned`, all atoms hold; `score`, in T2I-CompBench's form; `atoms`, name to bool; `group`, whether the
    prompt names a pair of attributes that is rare in training; `frequency`, how often training names the rarest of its
    pairs, by how often it names a common one.
    """
    if isinstance(prompts, str):
        raise ValueError(f"the prompts are one string, {prompts[:40]!r}; give a list of them, one a picture")
    check_pictures(images)
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} pictures and {len(prompts)} prompts; give one prompt a picture")
    parsed = [parse(text) for text in prompts]  # a prompt outside the grammar is refused before the long part
    rows = []
    for prompt, seen in zip(parsed, detect(images.clamp(0, 1)), strict=True):
        held = verdict(prompt, seen.objects, seen.overlaps)
        often = frequency(prompt)
        group = "a rare pair" if often < 1 else "common pairs"
        rows.append((held.aligned, held.score, held.atoms, group, often))
    return pd.DataFrame(rows, columns=["aligned", "score", "atoms", "group", "frequency"])


def changed(prompt: str, seed: int | str) -> str | None:
    """The prompt with the atom changed that its category is about."""
    other = change_one_atom(parse(prompt), Random(f"{prompt} {seed}"))
    return None if other is None else str(other)


def features(images: Tensor) -> Tensor:
    """Features of the shipped CLIP, (n, 64), not normalised."""
    with quietly():  # transformers is imported where it is needed, without its remarks
        from lab.worlds.shapes.clip import image_features, shipped_clip
    return image_features(shipped_clip()[0], images)


def references(prompts: Sequence[str], category: str, n: int, seed: int | str) -> Tensor:
    """Scenes drawn at random for the prompts, as they are drawn, without an autoencoder between."""
    return render(draw_scenes(prompts, n, seed if isinstance(seed, str) else f"{category} {seed}"))


def auxiliary_score(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """CLIPScore by the shipped CLIP."""
    with quietly():
        from lab.worlds.shapes.clip import clip_score, shipped_clip
    return clip_score(*shipped_clip(), images, prompts)


def pipeline(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> StableDiffusion3Pipeline:
    """The shipped Stable Diffusion 3. dtype: of its transformer; latents, encoders and autoencoder stay float32."""
    with quietly():
        from diffusers import StableDiffusion3Pipeline

        shipped = StableDiffusion3Pipeline.from_pretrained(base_pipeline()).to(device)
        shipped.transformer.to(dtype)
    shipped.set_progress_bar_config(disable=True)
    return shipped
