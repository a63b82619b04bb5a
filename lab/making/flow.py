"""Training the flow: batches of latents and tokens, optimisers, and the loss of one step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModelWithProjection

from lab.making.schedule import Loss
from lab.making.text_encoders import encode
from lab.making.transformer import NULL_SHARE, TRAINED_PADDING, WeightedPadding, draw_noise_levels, velocity_error
from rfmi.training import StepRandomness


def make_optimizers(transformer: SD3Transformer2DModel, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of attention and feed-forward layers, AdamW for all else."""
    matrices, others = [], []
    for name, parameter in transformer.named_parameters():
        inner = parameter.ndim == 2 and (".attn." in name or ".ff" in name)
        (matrices if inner else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=learning_rate / 2, betas=(0.9, 0.99), weight_decay=0.0),
    ]


@dataclass(frozen=True)
class Examples:
    """What the flow is trained on, in half precision.

    latents: (n, channels, side, side), scaled to unit variance
    embeddings, pooled: (n, length, d) and (n, p), of the prompts
    null_embeddings, null_pooled: of the empty prompt
    """

    latents: Tensor
    embeddings: Tensor
    pooled: Tensor
    null_embeddings: Tensor
    null_pooled: Tensor


@torch.no_grad()
def make_examples(
    latents: Tensor, tokens: Tensor, null_tokens: Tensor, encoders: list[CLIPTextModelWithProjection]
) -> Examples:
    """Encode every prompt once; the encoders do not change any more."""
    device = encoders[0].device
    parts = [encode(encoders, part.long().to(device)) for part in tqdm(tokens.split(1024), desc="prompts")]
    embeddings, pooled = (torch.cat([part[i].half().cpu() for part in parts]) for i in (0, 1))
    null_embeddings, null_pooled = (part[0].half().cpu() for part in encode(encoders, null_tokens[None].to(device)))
    return Examples(latents.half(), embeddings, pooled, null_embeddings, null_pooled)


def flow_loss(
    transformer: SD3Transformer2DModel, examples: Examples, batch: int, *, compiled: bool = False
) -> Loss:
    """The loss of one step, as `train_network` asks for it; one prompt in ten is replaced by the empty one."""
    transformer.set_attn_processor(WeightedPadding())
    device = transformer.device
    error = torch.compile(velocity_error) if compiled else velocity_error

    def loss_of(randomness: StepRandomness) -> Tensor:
        generator = randomness.generator
        rows = torch.randint(len(examples.latents), (batch,), generator=generator)
        x, embeddings, pooled = (part[rows] for part in (examples.latents, examples.embeddings, examples.pooled))
        null = torch.rand(batch, generator=generator) < NULL_SHARE
        embeddings[null], pooled[null] = examples.null_embeddings, examples.null_pooled
        noise = torch.randn(x.shape, generator=generator)
        sigma = draw_noise_levels(batch, generator)
        padding = torch.tensor(TRAINED_PADDING)[torch.randint(len(TRAINED_PADDING), (batch,), generator=generator)]
        moved = [part.to(device).float() for part in (x, noise, sigma, embeddings, pooled, padding)]
        return error(transformer, *moved).mean()

    return loss_of
