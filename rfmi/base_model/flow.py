"""Training the flow: batches of latents and tokens, optimisers, and the loss of one step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor
from transformers import CLIPTextModelWithProjection

from rfmi.base_model.text_encoders import encode
from rfmi.base_model.trainer import StepRandomness
from rfmi.base_model.transformer import (
    NULL_SHARE,
    TRAINED_PADDING,
    WeightedPadding,
    draw_noise_levels,
    velocity_error,
)


def make_optimizers(transformer: SD3Transformer2DModel, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of attention and feed-forward layers, AdamW for all else."""
    matrices, others = [], []
    for name, parameter in transformer.named_parameters():
        inner = parameter.ndim == 2 and ".attn." in name or ".ff" in name and parameter.ndim == 2
        (matrices if inner else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0),
    ]


def flow_loss(
    transformer: SD3Transformer2DModel,
    encoders: list[CLIPTextModelWithProjection],
    latents: Tensor,
    tokens: Tensor,
    null_tokens: Tensor,
    batch: int,
    *,
    compiled: bool = True,
) -> Callable[[StepRandomness], Tensor]:
    """The loss of one step, as `train` asks for it.

    latents: (n, channels, side, side), scaled to unit variance; tokens: (n, length); null_tokens: (length,) those of
    the empty prompt, put in place of one prompt in ten. The arithmetic is bfloat16 where the device is faster so.
    """
    transformer.set_attn_processor(WeightedPadding())
    device = transformer.device
    error = torch.compile(velocity_error) if compiled else velocity_error

    def loss_of(randomness: StepRandomness) -> Tensor:
        generator = randomness.generator
        rows = torch.randint(len(latents), (batch,), generator=generator)
        x = latents[rows].float()
        words = tokens[rows].long()
        words[torch.rand(batch, generator=generator) < NULL_SHARE] = null_tokens
        noise = torch.randn(x.shape, generator=generator)
        sigma = draw_noise_levels(batch, generator)
        padding = torch.tensor(TRAINED_PADDING)[torch.randint(len(TRAINED_PADDING), (batch,), generator=generator)]
        with torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                embeddings, pooled = encode(encoders, words.to(device))
            moved = [each.to(device) for each in (x, noise, sigma)]
            return error(transformer, *moved, embeddings, pooled, padding.to(device)).mean()

    return loss_of
