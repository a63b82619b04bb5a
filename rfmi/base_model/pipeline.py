"""The parts put together as one diffusers pipeline."""

from __future__ import annotations

from pathlib import Path

from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from rfmi.base_model.folders import write_checksums


def save_pipeline(
    folder: Path,
    *,
    autoencoder: AutoencoderKL,
    transformer: SD3Transformer2DModel,
    text_encoders: list[CLIPTextModelWithProjection],
    tokenizer: CLIPTokenizer,
    shift: float,
) -> None:
    """Write the whole pipeline, its scheduler included, without a T5 encoder. The checksums come last."""
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=autoencoder,
        text_encoder=text_encoders[0],
        tokenizer=tokenizer,
        text_encoder_2=text_encoders[1],
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    write_checksums(folder)
