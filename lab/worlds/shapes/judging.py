"""The judge: which atoms of a prompt hold in a picture, read off its pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lab.worlds.shapes.detection import detect
from lab.worlds.shapes.phrases import parse
from lab.worlds.shapes.rendering import SIDE
from lab.worlds.shapes.truth import verdict

ROUNDING = 0.005  # beyond [0, 1], half a step of 8 bits and a little


def judge(images: Tensor | Sequence, prompts: Sequence[str]) -> pd.DataFrame:
    """Whether each picture shows what its prompt says, one row a pair.

    images: a float tensor (n, 3, 64, 64) in [0, 1], or n PIL images or uint8 arrays (64, 64, 3). Columns: `prompt`,
    `category`, `aligned` (all atoms hold), `score` (the category's, in T2I-CompBench's form), `atoms` (name to bool)
    and `objects` (what was found, from back to front). Raises ValueError for pictures of another size or range, for
    another number of prompts than pictures, and for a prompt outside the grammar.
    """
    if isinstance(prompts, str):
        raise ValueError(f"the prompts are one string, {prompts!r}; give a list of them, one a picture")
    pictures = as_pictures(images)
    if len(pictures) != len(prompts):
        raise ValueError(f"{len(pictures)} pictures and {len(prompts)} prompts; give one prompt a picture")
    parsed = [parse(text) for text in prompts]
    rows = []
    for text, prompt, found in zip(prompts, parsed, detect(pictures), strict=True):
        held = verdict(prompt, found.objects, found.overlaps)
        rows.append((text, prompt.category, held.aligned, held.score, held.atoms, list(found.objects)))
    return pd.DataFrame(rows, columns=["prompt", "category", "aligned", "score", "atoms", "objects"])


def as_pictures(images: Tensor | Sequence) -> Tensor:
    """The same pictures as a float tensor (n, 3, 64, 64) in [0, 1]. Raises ValueError for another size or range."""
    wanted = f"give a float tensor (n, 3, {SIDE}, {SIDE}) in [0, 1], or RGB images or uint8 arrays of {SIDE} x {SIDE}"
    if not isinstance(images, Tensor):
        if not hasattr(images, "__len__"):
            raise ValueError(f"the pictures are one {type(images).__name__}; {wanted}")
        arrays = [np.asarray(image) for image in images]
        wrong = {(array.shape, str(array.dtype)) for array in arrays} - {((SIDE, SIDE, 3), "uint8")}
        if wrong:
            shape, kind = min(wrong)
            raise ValueError(f"a picture has shape {shape} and type {kind}; {wanted}")
        stacked = np.stack(arrays) if arrays else np.empty((0, SIDE, SIDE, 3), dtype=np.uint8)
        return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255
    if images.ndim != 4 or images.shape[1:] != (3, SIDE, SIDE) or not images.is_floating_point():
        raise ValueError(f"the pictures are a tensor of shape {tuple(images.shape)} and {images.dtype}; {wanted}")
    pictures = images.detach().float().cpu()
    if len(pictures) and not (pictures.min() >= -ROUNDING and pictures.max() <= 1 + ROUNDING):
        low, high = float(pictures.min()), float(pictures.max())
        raise ValueError(f"the pictures reach from {low:.3g} to {high:.3g}, or hold what is no number; {wanted}")
    return pictures.clamp(0, 1)
