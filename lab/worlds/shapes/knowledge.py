"""What the base model knows: on rendered scenes, its loss under the true prompt and under one with an atom changed."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pandas as pd
import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from rfmi.pipelines import PipelineField
from lab.worlds.shapes import CATEGORIES, change_one_atom, draw_scene, parse, prompts, render
from rfmi.scoring.re_noising import re_noising_draws

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)


def changed_pairs(category: str, n: int, seed: int) -> list[tuple[str, str, Tensor]]:
    """`n` (validation prompt, the same with one atom changed, picture of the first), prompts in turn."""
    random = Random(f"changed {category} {seed}")
    pairs = []
    while len(pairs) < n:
        for text in prompts(category, "val"):
            changed = change_one_atom(parse(text), random)
            if changed is not None and len(pairs) < n:
                pairs.append((text, str(changed), draw_scene(parse(text), random)))
    pictures = render([scene for *_, scene in pairs])
    return [(text, changed, picture) for (text, changed, _), picture in zip(pairs, pictures, strict=True)]


def knowledge(
    pipeline: StableDiffusion3Pipeline,
    *,
    n: int,
    seed: int,
    noises: int = 4,
    levels: Sequence[float] = LEVELS,
    categories: Sequence[str] = CATEGORIES,
) -> pd.DataFrame:
    """Per pair of a validation prompt and the same with one atom changed: by how much the changed one's flow-matching
    loss on the true one's picture is higher, the mean over a latent's elements and `noises` draws of shared noise.

    Columns category, prompt, changed, `margin_{level}` for every noise level sigma, and `knows`: whether the mean of
    the margins is above 0.
    """
    rows = []
    times = 1 - torch.tensor(levels, dtype=torch.float64)
    for category in categories:
        pairs = changed_pairs(category, n, seed)
        field = PipelineField(pipeline, [text for pair in pairs for text in pair[:2]])
        x, labels = field.encode(torch.stack([picture for *_, picture in pairs])), 2 * torch.arange(len(pairs))
        draws = re_noising_draws(
            field, x, labels, ["re_noising"], times=times, noises=noises, seed=seed, against=labels[:, None] + 1
        )
        margins = draws["re_noising"].mean(2) / x[0].numel()
        for (text, changed, _), margin in zip(pairs, margins.tolist(), strict=True):
            row = {"category": category, "prompt": text, "changed": changed, "knows": sum(margin) > 0}
            rows.append(row | {f"margin_{level}": value for level, value in zip(levels, margin, strict=True)})
    return pd.DataFrame(rows)
