"""The flow: a small SD3Transformer2DModel and its flow-matching loss, on latents that are made once and kept.

In place of T5's embeddings, StableDiffusion3Pipeline has `max_sequence_length` rows of zeros here (256 unless told
otherwise) after the prompt's tokens. Text has no positions in SD3, so these rows are equal in every layer, and n of
them weigh in attention as one whose logit is raised by log n. Training uses that one row with n = 1 and n = 256 in
turn: the model serves the default call and the short one, at the price of one token.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from lab.making.autoencoder import LATENT_CHANNELS, training_scenes
from lab.making.text_encoders import PROJECTION, WIDTH
from lab.making.workshop import Workshop, muon_and_adamw
from lab.worlds.shapes.rendering import render
from rfmi.files import read_tensors, write_tensors
from rfmi.training import StepRandomness

SIDE = 8  # of the latents
SHARD, SCENES_AT_ONCE, PROMPTS_AT_ONCE = 4096, 64, 1024
TRAINED_PADDING = (1, 256)  # the second: max_sequence_length of StableDiffusion3Pipeline.__call__
NULL_SHARE = 0.1
NOISE_LEVEL = (0.4, 1.1)  # mean and standard deviation of logit(sigma): the layout is decided at high noise


def make_transformer(*, layers: int, heads: int) -> SD3Transformer2DModel:
    """SD3's architecture, heads of width 32, patches of 2 x 2 latents, normalised queries and keys as in SD3.5."""
    return SD3Transformer2DModel(
        sample_size=SIDE,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=layers,
        attention_head_dim=32,
        num_attention_heads=heads,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=32 * heads,
        pooled_projection_dim=2 * PROJECTION,
        pos_embed_max_size=SIDE,
        qk_norm="rms_norm",
    )


class BiasedAttention(TorchFunctionMode):
    """Within it attention has a bias on its keys, which diffusers' own processor leaves out."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = bias

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        options = dict(kwargs or {})
        if function is functional.scaled_dot_product_attention:
            options["attn_mask"] = self.bias
        return function(*args, **options)


def velocity_error(
    transformer: SD3Transformer2DModel, x: Tensor, noise: Tensor, sigma: Tensor, embeddings: Tensor, pooled: Tensor,
    padding: Tensor,
) -> Tensor:  # fmt: skip
    """The flow-matching loss of every pair: the mean over elements of (v - (eps - x))^2 at x_sigma = (1 - sigma) x +
    sigma eps, with diffusers' v (minus the velocity u of the study).

    x, noise: (n, channels, side, side); sigma: (n,); padding: (n,), the number of rows for which the last row of
    `embeddings` (n, length, d) stands. Returns (n,).
    """
    sigma_wide = sigma[:, None, None, None]
    n_image_tokens = (x.shape[-1] // transformer.config.patch_size) ** 2
    bias = x.new_zeros(len(x), 1, 1, n_image_tokens + embeddings.shape[1])
    bias[..., -1] = padding.log()[:, None, None]
    with BiasedAttention(bias):
        predicted = transformer(
            hidden_states=(1 - sigma_wide) * x + sigma_wide * noise,
            encoder_hidden_states=embeddings,
            pooled_projections=pooled,
            timestep=1000 * sigma,
            return_dict=False,
        )[0]
    return (predicted.float() - (noise - x)).square().mean((1, 2, 3))


def draw_noise_levels(n: int, generator: torch.Generator) -> Tensor:
    """(n,) stratified sigmas in (0, 1), logit-normal."""
    uniform = (torch.arange(n) + torch.rand(n, generator=generator, dtype=torch.float64)) / n
    mean, deviation = NOISE_LEVEL
    levels = torch.sigmoid(mean + deviation * math.sqrt(2) * torch.erfinv(2 * uniform.clamp(1e-6, 1 - 1e-6) - 1))
    return levels[torch.randperm(n, generator=generator)].float()


def flow_loss(
    transformer: SD3Transformer2DModel, error: Callable[..., Tensor], latents: Tensor, embeddings: Tensor,
    pooled: Tensor, randomness: StepRandomness, batch: int,
) -> Tensor:  # fmt: skip
    """The loss of one step; one prompt in ten is replaced by the empty one, whose embeddings come last."""
    generator = randomness.generator
    rows = torch.randint(len(latents), (batch,), generator=generator)
    null = torch.rand(batch, generator=generator) < NULL_SHARE
    prompts = torch.where(null, len(latents), rows)
    noise = torch.randn((batch, *latents.shape[1:]), generator=generator)
    sigma = draw_noise_levels(batch, generator)
    padding = torch.tensor(TRAINED_PADDING)[torch.randint(len(TRAINED_PADDING), (batch,), generator=generator)]
    drawn = (latents[rows], noise, sigma, embeddings[prompts], pooled[prompts], padding)
    return error(transformer, *(part.to(transformer.device).float() for part in drawn)).mean()


@torch.no_grad()
def scene_latents(shop: Workshop, autoencoder: AutoencoderKL) -> tuple[Tensor, list[str]]:
    """(latents, prompts) of scenes, made once: a file of them is a function of the seed, its number, the categories and
    the autoencoder. A latent is the mean of the autoencoder's posterior, unscaled.
    """
    latents, prompts = [], []
    for i in tqdm(range(shop.recipe.shards), desc="latents"):
        path = shop.folder / "latents" / f"scenes_{i:04d}.safetensors"
        if not path.exists():
            scenes = training_scenes(SHARD, StepRandomness(shop.recipe.flow.seed, i), shop.recipe.categories)
            parts = [scenes[k : k + SCENES_AT_ONCE] for k in range(0, SHARD, SCENES_AT_ONCE)]
            pictures = (2 * render(part).to(autoencoder.device) - 1 for part in parts)
            means = torch.cat([autoencoder.encode(part).latent_dist.mean.half().cpu() for part in pictures])
            write_tensors(path, {"latents": means}, prompts=[scene.prompt for scene in scenes])
        tensors, facts = read_tensors(path)
        latents.append(tensors["latents"].float())
        prompts += facts["prompts"]
    return torch.cat(latents), prompts


@torch.no_grad()
def encoded(pipeline: StableDiffusion3Pipeline, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(embeddings, with one row of T5's; pooled embeddings) of the prompts and the empty one, in half precision."""
    batches = [prompts[i : i + PROMPTS_AT_ONCE] for i in range(0, len(prompts), PROMPTS_AT_ONCE)]
    parts = []
    for texts in tqdm([*batches, [""]], desc="prompts"):
        options = {"do_classifier_free_guidance": False, "max_sequence_length": 1}
        embeddings, _, pooled, _ = pipeline.encode_prompt(texts, None, [""] * len(texts), **options)
        parts.append((embeddings.half().cpu(), pooled.half().cpu()))
    embeddings, pooled = zip(*parts, strict=True)
    return torch.cat(embeddings), torch.cat(pooled)


def train_flow(shop: Workshop, pipeline: StableDiffusion3Pipeline) -> None:
    """The last stage, which trains a pipeline's transformer. A new autoencoder gets the scaling and shift under which
    latents have mean 0 and variance 1.
    """
    schedule, autoencoder, transformer = shop.recipe.flow, pipeline.vae, pipeline.transformer
    latents, prompts = scene_latents(shop, autoencoder)
    if autoencoder.config.shift_factor is None:
        scale = 1 / latents.std().item()
        autoencoder.register_to_config(shift_factor=latents.mean().item(), scaling_factor=scale)
    latents = ((latents - autoencoder.config.shift_factor) * autoencoder.config.scaling_factor).half()
    error = torch.compile(velocity_error) if shop.recipe.compiled else velocity_error
    loss_of = partial(flow_loss, transformer, error, latents, *encoded(pipeline, prompts))
    rate = schedule.learning_rate
    muon = {"lr": rate, "weight_decay": 0.01, "adjust_lr_fn": "match_rms_adamw"}
    adamw = {"lr": rate / 2, "betas": (0.9, 0.99), "weight_decay": 0.0}
    optimizers = muon_and_adamw(transformer, [".attn.", ".ff"], muon, adamw)
    shop.train("flow", transformer, schedule, loss_of, optimizers)
