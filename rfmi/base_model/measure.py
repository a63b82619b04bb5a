"""What the base model knows and what it draws: knowledge on rendered scenes, and its own images."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pandas as pd
import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from rfmi.base_model.latents import encode_pictures
from rfmi.base_model.tokenizers import check_prompts
from rfmi.scenes import CATEGORIES, change_one_atom, draw_scene, parse, prompts, render

SHORT_PADDING = 1  # rows of zeros after the prompt in place of the default's 256: the same images, several times faster
KNOWLEDGE_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)


@torch.no_grad()
def generate(
    pipeline: StableDiffusion3Pipeline,
    texts: Sequence[str],
    seeds: Sequence[int],
    *,
    guidance: float,
    steps: int = 28,
    batch: int = 64,
    padding: int = SHORT_PADDING,
) -> Tensor:
    """Images (n, 3, height, width) in [0, 1] by the pipeline's own call; image i is a function of text i and seed i.

    padding: the pipeline's `max_sequence_length`. guidance: 1 is none. Raises ValueError for a prompt that is empty,
    would be cut, or has a word that the pipeline never learned.
    """
    check_prompts(texts, pipeline.tokenizer)
    pipeline.set_progress_bar_config(disable=True)
    images = []
    for k in range(0, len(texts), batch):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[k : k + batch]]
        images.append(
            pipeline(
                list(texts[k : k + batch]),
                prompt_3=third(texts[k : k + batch], padding),
                generator=generators,
                guidance_scale=guidance,
                num_inference_steps=steps,
                max_sequence_length=padding,
                output_type="pt",
            ).images.float()
        )
    return torch.cat(images).cpu()


def third(texts: Sequence[str], padding: int) -> list[str]:
    """What the third encoder is to read: the prompts, or nothing where it has a single row to say it in."""
    return [""] * len(texts) if padding == SHORT_PADDING else list(texts)


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


@torch.no_grad()
def flow_matching_losses(
    pipeline: StableDiffusion3Pipeline,
    latents: Tensor,
    texts: Sequence[str],
    *,
    levels: Sequence[float],
    noises: int,
    generator: torch.Generator,
    batch: int = 128,
) -> Tensor:
    """The conditional flow-matching loss of every picture with its prompt at every noise level: (n, levels).

    latents: (n, channels, side, side), scaled; the mean over `noises` draws, which depend on `generator` and the
    pictures' order alone, so that two calls with equal generators share their noise.
    """
    transformer = pipeline.transformer
    found = torch.zeros(len(latents), len(levels))
    for k in range(0, len(latents), batch):
        x = latents[k : k + batch].to(transformer.device)
        embeddings, _, pooled, _ = pipeline.encode_prompt(
            list(texts[k : k + batch]),
            None,
            third(texts[k : k + batch], SHORT_PADDING),
            do_classifier_free_guidance=False,
            max_sequence_length=SHORT_PADDING,
        )
        for j, level in enumerate(levels):
            for _ in range(noises):
                noise = torch.randn(x.shape, generator=generator).to(x)
                velocity = transformer(
                    hidden_states=(1 - level) * x + level * noise,
                    encoder_hidden_states=embeddings,
                    pooled_projections=pooled,
                    timestep=x.new_full((len(x),), 1000 * level),
                    return_dict=False,
                )[0]
                error = (velocity - (noise - x)).square().mean((1, 2, 3))
                found[k : k + batch, j] += error.float().cpu() / noises
    return found


def scaled_latents(pipeline: StableDiffusion3Pipeline, pictures: Tensor) -> Tensor:
    """The latents of pictures in [0, 1], scaled as the transformer takes them."""
    config = pipeline.vae.config
    return (encode_pictures(pipeline.vae, pictures) - config.shift_factor) * config.scaling_factor


def knowledge(
    pipeline: StableDiffusion3Pipeline,
    *,
    n: int,
    seed: int,
    noises: int = 4,
    levels: Sequence[float] = KNOWLEDGE_LEVELS,
    categories: Sequence[str] = CATEGORIES,
) -> pd.DataFrame:
    """Per pair of a validation prompt and the same with one atom changed: the losses of the true prompt's picture
    under both, with shared noise. Columns category, prompt, changed, `true_{level}` and `changed_{level}`, `knows`:
    whether the true prompt's mean over the levels is lower.
    """
    rows = []
    for category in categories:
        pairs = changed_pairs(category, n, seed)
        latents = scaled_latents(pipeline, torch.stack([picture for *_, picture in pairs]))
        losses = [
            flow_matching_losses(
                pipeline,
                latents,
                texts,
                levels=levels,
                noises=noises,
                generator=torch.Generator().manual_seed(seed),
            )
            for texts in ([text for text, *_ in pairs], [changed for _, changed, _ in pairs])
        ]
        for i, (text, changed, _) in enumerate(pairs):
            row = {"category": category, "prompt": text, "changed": changed}
            for name, loss in zip(("true", "changed"), losses, strict=True):
                row |= {f"{name}_{level}": loss[i, j].item() for j, level in enumerate(levels)}
            rows.append(row | {"knows": bool(losses[0][i].mean() < losses[1][i].mean())})
    return pd.DataFrame(rows)
