"""A CLIP of this world: pictures against their prompts, and against the same prompts with one atom changed.

The loss is CLIP's (Radford et al. 2021, arXiv 2103.00020): with unit-length features f_i of picture i and g_j of text j
and a learned scale s, the mean of the cross-entropies of softmax_j(s f_i g_j) and softmax_i(s f_i g_j) at j = i. The
softmax over texts has more columns than pictures: every prompt again with one atom changed (colors exchanged, another
shape, the opposite relation, one more or less), so that telling words apart is not enough (Yuksekgonul et al. 2023,
arXiv 2210.01936). Changed prompts that name a pair kept for validation, or are validation prompts, are left out:
a text that occurs only as a negative would be learned as always wrong.

A saved folder loads with transformers alone: `CLIPModel.from_pretrained` and `CLIPProcessor.from_pretrained`; the
processor maps pictures in [0, 1] to 2 x - 1, without cropping.
"""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from lab.making.autoencoder import training_scenes
from lab.making.prompt_files import validation_prompts
from lab.worlds.shapes.clip import features_of_pictures, features_of_texts
from lab.worlds.shapes.grammar import change_one_atom
from lab.worlds.shapes.phrases import Prompt, parse
from lab.worlds.shapes.rendering import SIDE, render
from lab.worlds.shapes.words import HELD_OUT
from rfmi.training import StepRandomness

PATCH, WIDTH, HEADS, PROJECTION = 8, 128, 4, 64
IMAGE_LAYERS, TEXT_LAYERS = 4, 3
LARGEST_SCALE = 100.0  # of the logits, as in CLIP
LARGEST_BLUR, LARGEST_NOISE = 0.7, 0.03  # of the training pictures: standard deviations, in pixels and in [0, 1]
ATTEMPTS = 4  # at a changed prompt that may be shown in training
WEIGHT_DECAY = 0.01


def make_clip(tokenizer: CLIPTokenizer, seed: int = 0) -> CLIPModel:
    """An untrained CLIP for pictures (3, 64, 64) and the texts of `tokenizer`; the same seed, the same weights."""
    common = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": HEADS,
        "projection_dim": PROJECTION,
        "hidden_act": "gelu",
    }
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    length = tokenizer.model_max_length
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": length, "num_hidden_layers": TEXT_LAYERS}
    image = {"image_size": SIDE, "patch_size": PATCH, "num_hidden_layers": IMAGE_LAYERS}
    config = CLIPConfig(
        text_config={**common, **text, **ids},
        vision_config={**common, **image},
        projection_dim=PROJECTION,
        logit_scale_init_value=math.log(10),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPModel(config)


def changed_prompt(prompt: Prompt, random: Random) -> str | None:
    """The prompt with one atom changed, as a text that training may show; None where a few draws give none."""
    for _ in range(ATTEMPTS):
        changed = change_one_atom(prompt, random)
        if changed is not None and not changed.pairs & HELD_OUT and str(changed) not in validation_prompts():
            return str(changed)
    return None


def clip_loss(clip: CLIPModel, tokenizer: CLIPTokenizer, randomness: StepRandomness, batch: int) -> Tensor:
    """The contrastive loss of `batch` fresh scenes, in nats; chance is about log(batch) + log(2) / 2."""
    scenes = training_scenes(batch, randomness)
    texts = [scene.prompt for scene in scenes]
    changed = [changed_prompt(parse(text), randomness.random) for text in texts]
    pictures = blurred_and_noised(render(scenes), randomness.generator)
    image = functional.normalize(features_of_pictures(clip, pictures), dim=1)
    text = functional.normalize(features_of_texts(clip, tokenizer, texts + [each for each in changed if each]), dim=1)
    logits = clip.logit_scale.exp().clamp(max=LARGEST_SCALE) * image @ text.T
    right = torch.arange(batch, device=logits.device)
    return (functional.cross_entropy(logits, right) + functional.cross_entropy(logits[:, :batch].T, right)) / 2


def make_clip_optimizers(clip: CLIPModel, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon (arXiv 2502.16982) at 20 times `learning_rate` for the layers' matrices, AdamW for all else.

    Over the first hundred steps of 128 scenes the loss falls twice as fast as with AdamW alone.
    """
    inner = [value for name, value in clip.named_parameters() if ".layers." in name and value.ndim == 2]
    kept = {id(value) for value in inner}
    others = [value for value in clip.parameters() if id(value) not in kept]
    return [
        torch.optim.Muon(inner, lr=20 * learning_rate, momentum=0.95, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY),
    ]


def save_clip(clip: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write weights, configuration, tokenizer and image processor into `folder`."""
    side = {"height": SIDE, "width": SIDE}
    half = [0.5, 0.5, 0.5]
    processor = CLIPImageProcessorPil(size=side, do_center_crop=False, image_mean=half, image_std=half)
    clip.save_pretrained(folder)
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)


def blurred_and_noised(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures as an imperfect generator might draw them: each with its own Gaussian blur, and then noise."""
    n = len(pictures)
    blur, noise = torch.rand(2, n, generator=generator)
    offsets = torch.arange(-2, 3)
    weights = torch.softmax(-0.5 * (offsets / (LARGEST_BLUR * blur[:, None]).clamp(min=1e-3)).square(), dim=1)
    for dim, padding in ((3, (2, 2, 0, 0)), (2, (0, 0, 2, 2))):
        padded = functional.pad(pictures, padding, mode="replicate")
        shifted = [padded.narrow(dim, k, pictures.shape[dim]) for k in range(5)]
        pictures = sum(weights[:, k, None, None, None] * part for k, part in enumerate(shifted))
    draws = torch.randn(pictures.shape, generator=generator)
    return (pictures + LARGEST_NOISE * noise[:, None, None, None] * draws).clamp(0, 1)
