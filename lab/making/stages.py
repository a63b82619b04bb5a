"""The base model from nothing: autoencoder, text encoders, latents, flow; the CLIP; the folders that are shipped.

Every stage resumes from its checkpoint in the work folder, and a finished one is only read. The random numbers, the
initial weights included, are functions of the recipe.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from torch import nn
from tqdm import tqdm
from transformers import CLIPTextModelWithProjection

from lab.making.autoencoder import LATENT_CHANNELS, autoencoder_loss, make_autoencoder
from lab.making.clip import clip_loss, make_clip, make_clip_optimizers, save_clip
from lab.making.flow import flow_loss, make_examples, make_optimizers
from lab.making.latents import read_latents, write_latents
from lab.making.pipeline import read_parts, save_pipeline
from lab.making.recipe import Recipe
from lab.making.schedule import Loss, Schedule, read_losses, train_network
from lab.making.text_encoders import Reader, make_text_encoder, reading_loss, tokenize
from lab.making.tokenizers import make_tokenizer
from lab.making.transformer import make_transformer
from lab.worlds.shapes.shipped import check_folder, write_checksums
from rfmi.runs import versions, write_atomically

SHIFT = 3.0  # of the sampler's noise levels, Stable Diffusion 3's own


@dataclass(frozen=True)
class Workshop:
    """A recipe, the folder of its checkpoints, and where and how it is trained."""

    recipe: Recipe
    folder: Path
    device: str = "cpu"
    checkpoint_seconds: float = 120.0

    def train(
        self, stage: str, module: nn.Module, schedule: Schedule, loss_of: Loss, optimizers: list[torch.optim.Optimizer]
    ) -> None:
        """Train a stage to its end, behind a progress bar."""
        folder, seconds = self.folder / stage, self.checkpoint_seconds
        steps = train_network(module, loss_of, optimizers, schedule, folder, checkpoint_seconds=seconds)
        with tqdm(total=schedule.steps, desc=stage, mininterval=5.0) as bar:
            for done, loss in steps:
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                bar.update(done - bar.n)


def trained_autoencoder(shop: Workshop) -> AutoencoderKL:
    """The first stage."""
    schedule = shop.recipe.autoencoder
    torch.manual_seed(schedule.seed)
    model = make_autoencoder(shop.recipe.autoencoder_channels).to(shop.device)
    optimizer = torch.optim.AdamW(model.parameters(), schedule.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    shop.train("autoencoder", model, schedule, partial(autoencoder_loss, model, batch=schedule.batch), [optimizer])
    return model


def trained_text_encoders(shop: Workshop) -> list[CLIPTextModelWithProjection]:
    """The second stage: both encoders, of CLIP's two kinds of activation."""
    schedule, tokenizer = shop.recipe.text, make_tokenizer()
    torch.manual_seed(schedule.seed)
    kinds = ("quick_gelu", "gelu")
    encoders = [make_text_encoder(tokenizer, layers=shop.recipe.text_layers, activation=kind) for kind in kinds]
    reader = Reader(encoders).to(shop.device)
    optimizer = torch.optim.AdamW(reader.parameters(), schedule.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    loss_of = partial(reading_loss, reader, tokenizer, batch=schedule.batch)
    shop.train("text_encoders", reader, schedule, loss_of, [optimizer])
    return [encoder.eval().requires_grad_(False) for encoder in encoders]


def trained_flow(
    shop: Workshop,
    autoencoder: AutoencoderKL,
    encoders: list[CLIPTextModelWithProjection],
    start: SD3Transformer2DModel | None = None,
) -> SD3Transformer2DModel:
    """The last stage, from random weights or from those of `start`.

    From random weights it also sets the autoencoder's scaling and shift, so that latents have mean 0 and variance 1.
    """
    recipe, schedule, tokenizer = shop.recipe, shop.recipe.flow, make_tokenizer()
    folder = shop.folder / "latents"
    write_latents(folder, autoencoder, tokenizer, recipe.shards, recipe.categories, schedule.seed)
    latents, tokens = read_latents(folder, recipe.shards)
    if start is None:
        shift, deviation = latents.float().mean().item(), latents.float().std().item()
        autoencoder.register_to_config(shift_factor=shift, scaling_factor=1 / deviation)
        torch.manual_seed(schedule.seed)
        start = make_transformer(LATENT_CHANNELS, latents.shape[-1], layers=recipe.layers, heads=recipe.heads)
    transformer = start.to(shop.device)
    latents = ((latents.float() - autoencoder.config.shift_factor) * autoencoder.config.scaling_factor).half()
    examples = make_examples(latents, tokens, tokenize(tokenizer, [""])[0], encoders)
    loss_of = flow_loss(transformer, examples, schedule.batch, compiled=recipe.compiled)
    shop.train("flow", transformer, schedule, loss_of, make_optimizers(transformer, schedule.learning_rate))
    return transformer


def train_scorer(shop: Workshop, output: Path) -> None:
    """The CLIP, which the pipeline does not need, into the folder `output`."""
    schedule, tokenizer = shop.recipe.clip, make_tokenizer()
    clip = make_clip(tokenizer, schedule.seed).to(shop.device)
    loss_of = partial(clip_loss, clip, tokenizer, batch=schedule.batch)
    shop.train("clip", clip, schedule, loss_of, make_clip_optimizers(clip, schedule.learning_rate))
    save_clip(clip.cpu(), tokenizer, output)
    write_log(shop, output, ["clip"])


def train_base(shop: Workshop, output: Path, start: Path | None = None) -> None:
    """Every stage, and the pipeline they make into the folder `output`.

    start: a finished folder, whose flow is trained for one schedule more; its other parts stay as they are
    """
    if start is None:
        autoencoder, encoders, transformer = trained_autoencoder(shop), trained_text_encoders(shop), None
    else:
        autoencoder, encoders, transformer = read_parts(check_folder(start), shop.device)
    transformer = trained_flow(shop, autoencoder, encoders, transformer)
    save_pipeline(
        output,
        autoencoder=autoencoder.cpu(),
        transformer=transformer.cpu(),
        text_encoders=[encoder.cpu() for encoder in encoders],
        tokenizer=make_tokenizer(),
        shift=SHIFT,
    )
    write_log(shop, output, ["flow"] if start else ["autoencoder", "text_encoders", "flow"], start)


def write_log(shop: Workshop, output: Path, stages: list[str], start: Path | None = None) -> None:
    """`training.json` beside the weights, then the checksums.

    It holds the recipe, the versions, the losses of every stage in a hundred means, and the log of `start`.
    """
    curves = {}
    for stage in stages:
        losses = np.asarray(read_losses(shop.folder / stage))
        parts = np.array_split(losses, min(100, len(losses)))
        ends = np.cumsum([len(part) for part in parts])
        curves[stage] = [[int(end), round(float(part.mean()), 6)] for end, part in zip(ends, parts, strict=True)]
    log = {"recipe": asdict(shop.recipe), "versions": versions(), "losses": curves}
    if start is not None:
        log["earlier"] = json.loads((start / "training.json").read_text(encoding="utf-8"))
    write_atomically(output / "training.json", json.dumps(log, indent=1) + "\n")
    write_checksums(output)
