"""What the shipped CLIP says of pictures, and of pictures and texts. The processor that is shipped with it maps
pictures in [0, 1] to 2 x - 1, without cropping.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, CLIPTokenizer

from lab.worlds.quiet import quietly
from lab.worlds.shapes.rendering import SIDE
from lab.worlds.shapes.shipped import base_clip
from rfmi.pipelines.vocabulary import check_vocabulary


def load_clip(folder: Path) -> tuple[CLIPModel, CLIPTokenizer]:
    """The model and the tokenizer of a folder, for evaluation.

    Raises ValueError where the folder does not hold both.
    """
    missing = [name for name in ("model.safetensors", "config.json", "tokenizer.json") if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} holds no CLIP ({', '.join(missing)} missing); give the folder of a saved one")
    with quietly():
        clip = CLIPModel.from_pretrained(folder, local_files_only=True)
        return clip.eval(), CLIPTokenizer.from_pretrained(folder, local_files_only=True)


@cache
def shipped_clip() -> tuple[CLIPModel, CLIPTokenizer]:
    """The shipped CLIP and its tokenizer, loaded once a process."""
    return load_clip(base_clip())


@torch.no_grad()
def image_features(clip: CLIPModel, images: Tensor, batch: int = 256) -> Tensor:
    """Projected features of pictures (n, 3, 64, 64) in [0, 1]: (n, 64) floats, not normalised.

    Raises ValueError for images of another shape, kind or range.
    """
    if images.ndim != 4 or images.shape[1:] != (3, SIDE, SIDE) or not len(images) or not images.is_floating_point():
        raise ValueError(
            f"images must be floats of shape (n, 3, {SIDE}, {SIDE}), got {images.dtype} of shape {tuple(images.shape)}"
        )
    if not (images.amin() >= 0 and images.amax() <= 1):
        raise ValueError("images must lie in [0, 1]; map pictures in [-1, 1] to (x + 1) / 2")
    return torch.cat([features_of_pictures(clip, part) for part in images.split(batch)])


@torch.no_grad()
def clip_score(
    clip: CLIPModel, tokenizer: CLIPTokenizer, images: Tensor, prompts: Sequence[str], batch: int = 256
) -> Tensor:
    """CLIPScore without its factor and cut (Hessel et al. 2021, arXiv 2104.08718): the cosine, (n,), of picture i and
    prompt i.

    images: (n, 3, 64, 64) floats in [0, 1]. Raises ValueError for other images, for prompts that the text encoder
    cannot read, and for another number of prompts than images.
    """
    check_vocabulary(prompts, tokenizer)
    if len(prompts) != len(images):
        raise ValueError(f"there are {len(images)} images and {len(prompts)} prompts; give one prompt an image")
    places = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}  # every prompt is read once
    texts = list(places)
    parts = [features_of_texts(clip, tokenizer, texts[i : i + batch]) for i in range(0, len(texts), batch)]
    text = torch.cat(parts)[[places[prompt] for prompt in prompts]]
    return functional.cosine_similarity(image_features(clip, images, batch), text)


def features_of_pictures(clip: CLIPModel, pictures: Tensor) -> Tensor:
    """(n, d), not normalised, with gradients."""
    return clip.get_image_features(pixel_values=2 * pictures.to(clip.device) - 1).pooler_output


def features_of_texts(clip: CLIPModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """(n, d), not normalised, with gradients."""
    tokens = tokenizer(list(texts), padding=True, return_tensors="pt").to(clip.device)
    return clip.get_text_features(input_ids=tokens.input_ids).pooler_output
