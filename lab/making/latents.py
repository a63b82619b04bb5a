"""Training scenes as the flow sees them: latents and tokens, made once, kept in files of a few thousand each."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTokenizer

from lab.making.autoencoder import training_scenes
from lab.making.text_encoders import tokenize
from lab.worlds.shapes.rendering import render
from rfmi.runs import write_tensors
from rfmi.training import StepRandomness

SHARD, BATCH = 4096, 64


@torch.no_grad()
def write_latents(
    folder: Path,
    autoencoder: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    n_shards: int,
    categories: tuple[str, ...],
    seed: int,
) -> None:
    """Make the shards that are missing: each is a function of (seed, its number), categories and autoencoder.

    A latent is the mean of the autoencoder's posterior, unscaled.
    """
    missing = [i for i in range(n_shards) if not shard_path(folder, i).exists()]
    for i in tqdm(missing, desc="latents", disable=not missing):
        scenes = training_scenes(SHARD, StepRandomness(seed, i), categories)
        latents = []
        for k in range(0, SHARD, BATCH):
            pictures = 2 * render(scenes[k : k + BATCH]).to(autoencoder.device) - 1
            latents.append(autoencoder.encode(pictures).latent_dist.mean.half().cpu())
        tokens = tokenize(tokenizer, [scene.prompt for scene in scenes])
        write_tensors(shard_path(folder, i), {"latents": torch.cat(latents), "tokens": tokens.short()}, {})


def shard_path(folder: Path, i: int) -> Path:
    return folder / f"latents_{i:04d}.safetensors"


def read_latents(folder: Path, n_shards: int) -> tuple[Tensor, Tensor]:
    """(latents, tokens) of all shards: (n, channels, 8, 8) half precision, unscaled; (n, length) of int16."""
    shards = [load_file(shard_path(folder, i)) for i in range(n_shards)]
    return torch.cat([each["latents"] for each in shards]), torch.cat([each["tokens"] for each in shards])
