"""The flow: a small SD3Transformer2DModel and its flow-matching loss.

In place of T5's embeddings, StableDiffusion3Pipeline has `max_sequence_length` rows of zeros here (256 unless told
otherwise) after the prompt's tokens. Text has no positions in SD3, so these rows are equal in every layer, and n of
them weigh in attention as one whose logit is raised by log n. Training uses that one row with n = 1 and n = 256 in
turn: the model serves the default call and the short one, at the price of one token.
"""

from __future__ import annotations

import math

import torch
from diffusers import SD3Transformer2DModel
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn import functional

from lab.making.text_encoders import PROJECTION, WIDTH

DEFAULT_PADDING = 256  # max_sequence_length of StableDiffusion3Pipeline.__call__
TRAINED_PADDING = (1, DEFAULT_PADDING)
NULL_SHARE = 0.1
NOISE_LEVEL = (0.4, 1.1)  # mean and standard deviation of logit(sigma): the layout is decided at high noise


def make_transformer(latent_channels: int, side: int, *, layers: int, heads: int) -> SD3Transformer2DModel:
    """SD3's architecture, heads of width 32, patches of 2 x 2 latents, normalised queries and keys as in SD3.5."""
    return SD3Transformer2DModel(
        sample_size=side,
        patch_size=2,
        in_channels=latent_channels,
        out_channels=latent_channels,
        num_layers=layers,
        attention_head_dim=32,
        num_attention_heads=heads,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=32 * heads,
        pooled_projection_dim=2 * PROJECTION,
        pos_embed_max_size=side,
        qk_norm="rms_norm",
    )


class WeightedPadding:
    """diffusers' joint attention with a bias on the keys, which its own processor leaves out. For training only."""

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor, **_
    ) -> tuple[Tensor, Tensor]:
        def heads(tokens: Tensor, norm=None) -> Tensor:
            split = tokens.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            return split if norm is None else norm(split)

        image, text = hidden_states, encoder_hidden_states
        query = heads(attn.to_q(image), attn.norm_q), heads(attn.add_q_proj(text), attn.norm_added_q)
        key = heads(attn.to_k(image), attn.norm_k), heads(attn.add_k_proj(text), attn.norm_added_k)
        value = heads(attn.to_v(image)), heads(attn.add_v_proj(text))
        joined = functional.scaled_dot_product_attention(
            *(torch.cat(pair, dim=2) for pair in (query, key, value)), attn_mask=attention_mask.to(query[0].dtype)
        )
        image, text = joined.transpose(1, 2).flatten(2).split(
            [hidden_states.shape[1], encoder_hidden_states.shape[1]], dim=1
        )
        if not attn.context_pre_only:
            text = attn.to_add_out(text)
        return attn.to_out[0](image), text


def padded(embeddings: Tensor, n_image_tokens: int, padding: Tensor) -> tuple[Tensor, Tensor]:
    """(embeddings with one row of zeros more, the bias that makes it weigh as `padding` rows).

    embeddings: (n, length, d); padding: (n,) numbers of rows. The bias: (n, 1, 1, image tokens + length + 1).
    """
    n, length, _ = embeddings.shape
    bias = embeddings.new_zeros(n, 1, 1, n_image_tokens + length + 1)
    bias[..., -1] = padding.log().to(bias)[:, None, None]
    return functional.pad(embeddings, (0, 0, 0, 1)), bias


def draw_noise_levels(n: int, generator: torch.Generator) -> Tensor:
    """(n,) stratified sigmas in (0, 1), logit-normal."""
    uniform = (torch.arange(n) + torch.rand(n, generator=generator, dtype=torch.float64)) / n
    mean, deviation = NOISE_LEVEL
    levels = torch.sigmoid(mean + deviation * math.sqrt(2) * torch.erfinv(2 * uniform.clamp(1e-6, 1 - 1e-6) - 1))
    return levels[torch.randperm(n, generator=generator)].float()


def velocity_error(
    transformer: SD3Transformer2DModel, x: Tensor, noise: Tensor, sigma: Tensor, embeddings: Tensor, pooled: Tensor,
    padding: Tensor,
) -> Tensor:
    """The flow-matching loss of every pair: the mean over elements of (v - (eps - x))^2 at x_sigma = (1 - sigma) x +
    sigma eps, with diffusers' v (minus the velocity u of the study).

    x, noise: (n, channels, side, side); sigma: (n,); needs the processor WeightedPadding. Returns (n,).
    """
    sigma_wide = sigma[:, None, None, None]
    n_image_tokens = (x.shape[-1] // transformer.config.patch_size) ** 2
    embeddings, bias = padded(embeddings, n_image_tokens, padding)
    predicted = transformer(
        hidden_states=(1 - sigma_wide) * x + sigma_wide * noise,
        encoder_hidden_states=embeddings,
        pooled_projections=pooled,
        timestep=1000 * sigma,
        joint_attention_kwargs={"attention_mask": bias},
        return_dict=False,
    )[0]
    return (predicted.float() - (noise - x)).square().mean((1, 2, 3))
