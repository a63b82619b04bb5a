"""The judge: which atoms of a prompt hold in a picture, read off its pixels."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from torch import Tensor

from lab.worlds.shapes.detection import detect
from lab.worlds.shapes.phrases import parse
from lab.worlds.shapes.rendering import SIDE
from lab.worlds.shapes.truth import verdict

ROUNDING = 0.005  # beyond [0, 1], half a step of 8 bits and a little


def judge(images: Tensor, prompts: Sequence[str]) -> pd.DataFrame:
    """Whether each picture shows what its prompt says, one row a pair.

    images: floats (n, 3, 64, 64) in [0, 1]. Columns: `prompt`, `category`, `aligned` (all atoms hold), `score` (the
    category's, in T2I-CompBench's form), `atoms` (name to bool) and `objects` (those seen, from back to front). Raises
    ValueError for other pictures, for another number of prompts than pictures, and for a prompt outside the grammar.
    """
    wanted = f"give floats (n, 3, {SIDE}, {SIDE}) in [0, 1]"
    if isinstance(prompts, str):
        raise ValueError(f"the prompts are one string, {prompts[:40]!r}; give a list of them, one a picture")
    if not isinstance(images, Tensor):
        raise ValueError(f"the pictures are a {type(images).__name__}; {wanted}")
    if images.ndim != 4 or images.shape[1:] != (3, SIDE, SIDE) or not images.is_floating_point():
        raise ValueError(f"the pictures are a tensor of shape {tuple(images.shape)} and {images.dtype}; {wanted}")
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} pictures and {len(prompts)} prompts; give one prompt a picture")
    low, high = (float(bound) for bound in images.aminmax()) if len(images) else (0.0, 1.0)
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise ValueError(f"the pictures reach from {low:.3g} to {high:.3g}, or hold what is no number; {wanted}")
    parsed = [parse(text) for text in prompts]  # a prompt outside the grammar is refused before the long part
    rows = []
    for text, prompt, seen in zip(prompts, parsed, detect(images.clamp(0, 1)), strict=True):
        held = verdict(prompt, seen.objects, seen.overlaps)
        rows.append((text, prompt.category, held.aligned, held.score, held.atoms, list(seen.objects)))
    return pd.DataFrame(rows, columns=["prompt", "category", "aligned", "score", "atoms", "objects"])
