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

SHARD = 4096


@torch.no_grad()
def encode_pictures(autoencoder: AutoencoderKL, pictures: Tensor, *, batch: int = 64) -> Tensor:
    """Latents (n, channels, 8, 8), unscaled, of pictures (n, 3, 64, 64) in [0, 1]: the posterior's mean."""
    parts = [
        autoencoder.encode(2 * part.to(autoencoder.device) - 1).latent_dist.mean for part in pictures.split(batch)
    ]
    return torch.cat(parts).cpu()


def write_latents(
    folder: Path,
    autoencoder: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    n_shards: int,
    categories: tuple[str, ...],
    seed: int,
) -> None:
    """Make the shards that are missing; each is a function of (seed, its number), categories and autoencoder."""
    missing = [i for i in range(n_shards) if not shard_path(folder, i).exists()]
    for i in tqdm(missing, desc="latents", disable=not missing):
        scenes = training_scenes(SHARD, StepRandomness(seed, i), categories)
        latents = torch.cat(
            [encode_pictures(autoencoder, render(scenes[k : k + 256])) for k in range(0, SHARD, 256)]
        )
        tokens = tokenize(tokenizer, [scene.prompt for scene in scenes])
        write_tensors(shard_path(folder, i), {"latents": latents.half(), "tokens": tokens.short()}, {})


def shard_path(folder: Path, i: int) -> Path:
    return folder / f"latents_{i:04d}.safetensors"


def read_latents(folder: Path, n_shards: int) -> tuple[Tensor, Tensor]:
    """(latents, tokens) of all shards: (n, channels, 8, 8) half precision, unscaled; (n, length) of int16."""
    shards = [load_file(shard_path(folder, i)) for i in range(n_shards)]
    return torch.cat([each["latents"] for each in shards]), torch.cat([each["tokens"] for each in shards])
