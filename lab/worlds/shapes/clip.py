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

from lab.paths import data_folder
from lab.worlds.shapes.rendering import check_pictures
from lab.worlds.shapes.shipped import check_folder, quietly
from rfmi.pipelines.vocabulary import check_vocabulary

BATCH = 256


def load_clip(folder: Path) -> tuple[CLIPModel, CLIPTokenizer]:
    """The model and the tokenizer of a folder, for evaluation; ValueError where it does not hold both."""
    missing = [name for name in ("model.safetensors", "config.json", "tokenizer.json") if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} holds no CLIP ({', '.join(missing)} missing); give the folder of a saved one")
    with quietly():
        clip = CLIPModel.from_pretrained(folder, local_files_only=True)
        return clip.eval(), CLIPTokenizer.from_pretrained(folder, local_files_only=True)


@cache
def shipped_clip() -> tuple[CLIPModel, CLIPTokenizer]:
    """The shipped CLIP and its tokenizer, loaded once a process."""
    return load_clip(check_folder(data_folder() / "base_clip"))


@torch.no_grad()
def image_features(clip: CLIPModel, images: Tensor) -> Tensor:
    """Projected features of pictures (n, 3, 64, 64) in [0, 1]: (n, 64) floats, not normalised."""
    check_pictures(images)
    return torch.cat([features_of_pictures(clip, part) for part in images.split(BATCH)])


@torch.no_grad()
def clip_score(clip: CLIPModel, tokenizer: CLIPTokenizer, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """CLIPScore without its factor and cut (Hessel et al. 2021, arXiv 2104.08718): the cosine, (n,), of picture i and
    prompt i.
    """
    check_vocabulary(prompts, tokenizer)
    if len(prompts) != len(images):
        raise ValueError(f"there are {len(images)} images and {len(prompts)} prompts; give one prompt an image")
    places = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}  # every prompt is read once
    texts = list(places)
    parts = [features_of_texts(clip, tokenizer, texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
    text = torch.cat(parts)[[places[prompt] for prompt in prompts]]
    return functional.cosine_similarity(image_features(clip, images), text)


def features_of_pictures(clip: CLIPModel, pictures: Tensor) -> Tensor:
    """(n, d), not normalised, with gradients."""
    return clip.get_image_features(pixel_values=2 * pictures.to(clip.device) - 1).pooler_output


def features_of_texts(clip: CLIPModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """(n, d), not normalised, with gradients."""
    tokens = tokenizer(list(texts), padding=True, return_tensors="pt").to(clip.device)
    return clip.get_text_features(input_ids=tokens.input_ids).pooler_output
