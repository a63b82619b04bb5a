"""A small world in which it is a fact whether a picture follows its prompt: scenes of one to four flat objects, prompts
from a grammar in the eight categories of T2I-CompBench, and a judge that reads pixels.

This module is the world as `lab.worlds.world` asks for it; pictures are (n, 3, 64, 64) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

import torch

from lab.worlds.quiet import quietly
from lab.worlds.shapes import judging
from lab.worlds.shapes.grammar import change_one_atom
from lab.worlds.shapes.phrases import parse
from lab.worlds.shapes.prompt_files import read_category
from lab.worlds.shapes.rendering import render
from lab.worlds.shapes.sampling import draw_scenes
from lab.worlds.shapes.shipped import load_pipeline
from lab.worlds.shapes.words import CATEGORIES, HELD_OUT

if TYPE_CHECKING:
    from diffusers import StableDiffusion3Pipeline
    from pandas import DataFrame
    from torch import Tensor

name = "shapes"
categories = CATEGORIES
sources = (
    "lab.worlds.shapes",
    "rfmi.pipelines.vocabulary",
    "data/base_model/checksums.json",
    "data/base_clip/checksums.json",
)


def prompts(category: str, split: str = "val") -> tuple[str, ...]:
    """The committed prompts: 240 of a category to train on, 120 to validate with."""
    return read_category(category, split)


def judge(images: Tensor, prompts: Sequence[str], category: str = "") -> DataFrame:
    """`aligned`: all atoms hold; `score`: in T2I-CompBench's form; `atoms`: name to bool; `group`: whether the prompt
    names a pair of attributes that no training prompt names.
    """
    unseen = [bool(parse(text).pairs & HELD_OUT) for text in prompts]
    judged = judging.judge(images, prompts)[["aligned", "score", "atoms"]]
    return judged.assign(group=["a pair never seen" if each else "pairs seen in training" for each in unseen])


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
    return load_pipeline(device, dtype)
