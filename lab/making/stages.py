"""The base model from nothing: autoencoder, text encoders, latents, flow; the CLIP; the folders that are shipped.

Every stage resumes from its checkpoint in the work folder, and a finished one is only read. The random numbers, the
initial weights included, are functions of the recipe.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from tqdm import tqdm
from transformers import CLIPTextModelWithProjection

from lab.making.autoencoder import LATENT_CHANNELS, autoencoder_loss, make_autoencoder
from lab.making.clip import save_clip, train_clip
from lab.making.flow import flow_loss, make_examples, make_optimizers
from lab.making.latents import read_latents, write_latents
from lab.making.pipeline import read_parts, save_pipeline
from lab.making.recipe import Recipe
from lab.making.schedule import read_losses, train_network
from lab.making.text_encoders import Reader, make_text_encoder, reading_loss, tokenize
from lab.making.tokenizers import make_tokenizer
from lab.making.transformer import make_transformer
from lab.worlds.shapes.clip import load_clip
from lab.worlds.shapes.shipped import check_folder, write_checksums
from rfmi.runs import versions, write_atomically

SHIFT = 3.0  # of the sampler's noise levels, Stable Diffusion 3's own


def followed(steps: Iterator[tuple[int, float]], n: int, name: str) -> None:
    """Run a training of `n` steps to its end behind a progress bar."""
    with tqdm(total=n, desc=name, mininterval=5.0) as bar:
        for done, loss in steps:
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update(done - bar.n)


def trained_autoencoder(recipe: Recipe, folder: Path, device: str, seconds: float) -> AutoencoderKL:
    """The first stage."""
    schedule = recipe.autoencoder
    torch.manual_seed(schedule.seed)
    model = make_autoencoder(recipe.autoencoder_channels).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), schedule.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    loss_of = partial(autoencoder_loss, model, batch=schedule.batch)
    steps = train_network(model, loss_of, [optimizer], schedule, folder / "autoencoder", checkpoint_seconds=seconds)
    followed(steps, schedule.steps, "autoencoder")
    return model


def trained_text_encoders(
    recipe: Recipe, folder: Path, device: str, seconds: float
) -> list[CLIPTextModelWithProjection]:
    """The second stage: both encoders, of CLIP's two kinds of activation."""
    schedule = recipe.text
    torch.manual_seed(schedule.seed)
    tokenizer = make_tokenizer()
    kinds = ("quick_gelu", "gelu")
    encoders = [make_text_encoder(tokenizer, layers=recipe.text_layers, activation=kind) for kind in kinds]
    reader = Reader(encoders).to(device)
    optimizer = torch.optim.AdamW(reader.parameters(), schedule.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    loss_of = partial(reading_loss, reader, tokenizer, batch=schedule.batch)
    steps = train_network(reader, loss_of, [optimizer], schedule, folder / "text_encoders", checkpoint_seconds=seconds)
    followed(steps, schedule.steps, "text encoders")
    return [encoder.eval().requires_grad_(False) for encoder in encoders]


def trained_flow(
    recipe: Recipe,
    folder: Path,
    autoencoder: AutoencoderKL,
    encoders: list[CLIPTextModelWithProjection],
    device: str,
    seconds: float,
    start: SD3Transformer2DModel | None = None,
) -> SD3Transformer2DModel:
    """The last stage, from random weights or from those of `start`. From random weights it also sets the autoencoder's
    scaling and shift, so that latents have mean 0 and variance 1.
    """
    tokenizer = make_tokenizer()
    schedule = recipe.flow
    write_latents(folder / "latents", autoencoder, tokenizer, recipe.shards, recipe.categories, schedule.seed)
    latents, tokens = read_latents(folder / "latents", recipe.shards)
    if start is None:
        shift, deviation = latents.float().mean().item(), latents.float().std().item()
        autoencoder.register_to_config(shift_factor=shift, scaling_factor=1 / deviation)
        torch.manual_seed(schedule.seed)
        start = make_transformer(LATENT_CHANNELS, latents.shape[-1], layers=recipe.layers, heads=recipe.heads)
    transformer = start.to(device)
    latents = ((latents.float() - autoencoder.config.shift_factor) * autoencoder.config.scaling_factor).half()
    examples = make_examples(latents, tokens, tokenize(tokenizer, [""])[0], encoders)
    loss_of = flow_loss(transformer, examples, schedule.batch, compiled=recipe.compiled)
    optimizers = make_optimizers(transformer, schedule.learning_rate)
    steps = train_network(transformer, loss_of, optimizers, schedule, folder / "flow", checkpoint_seconds=seconds)
    followed(steps, schedule.steps, "flow")
    return transformer


def write_log(output: Path, recipe: Recipe, losses: dict[str, list[float]], earlier: dict | None = None) -> None:
    """`training.json` beside the weights: recipe, versions, the losses of every stage in a hundred means, and the log
    of the run whose folder this one started from (`earlier`); then the checksums.
    """
    curves = {}
    for stage, values in losses.items():
        parts = np.array_split(np.asarray(values), min(100, len(values)))
        ends = np.cumsum([len(part) for part in parts])
        curves[stage] = [[int(end), round(float(part.mean()), 6)] for end, part in zip(ends, parts, strict=True)]
    log = {"recipe": asdict(recipe), "versions": versions(), "losses": curves}
    if earlier is not None:
        log["earlier"] = earlier
    write_atomically(output / "training.json", json.dumps(log, indent=1) + "\n")
    write_checksums(output)


def train_scorer(recipe: Recipe, work: Path, output: Path, device: str = "cpu") -> None:
    """The CLIP, which the pipeline does not need: from the last checkpoint in `work` on, its folder to `output`."""
    followed(train_clip(work / "clip", recipe.clip, device=device), recipe.clip.steps, "CLIP")
    save_clip(*load_clip(work / "clip"), output)
    write_log(output, recipe, {"clip": read_losses(work / "clip")})


def train_base(
    recipe: Recipe,
    work: Path,
    output: Path,
    device: str = "cpu",
    *,
    start: Path | None = None,
    checkpoint_seconds: float = 120.0,
) -> None:
    """Every stage, from the last checkpoint in `work` on; writes the pipeline's folder to `output`.

    start: a finished folder, whose flow is trained for one schedule more; its other parts stay as they are.
    """
    log = json.loads((start / "training.json").read_text(encoding="utf-8")) if start else None
    if start is None:
        autoencoder = trained_autoencoder(recipe, work, device, checkpoint_seconds)
        encoders = trained_text_encoders(recipe, work, device, checkpoint_seconds)
        transformer = None
    else:
        autoencoder, encoders, transformer = read_parts(check_folder(start), device)
    transformer = trained_flow(recipe, work, autoencoder, encoders, device, checkpoint_seconds, transformer)
    save_pipeline(
        output,
        autoencoder=autoencoder.cpu(),
        transformer=transformer.cpu(),
        text_encoders=[encoder.cpu() for encoder in encoders],
        tokenizer=make_tokenizer(),
        shift=SHIFT,
    )
    stages = ("autoencoder", "text_encoders", "flow") if start is None else ("flow",)
    write_log(output, recipe, {name: read_losses(work / name) for name in stages}, log)
