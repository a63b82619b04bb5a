"""The parts put together as one diffusers pipeline."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    ModelMixin,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from lab.making.transformer import TRAINED_PADDING
from lab.worlds.shapes.shipped import write_checksums


def make_silent_t5(width: int) -> tuple[T5EncoderModel, T5TokenizerFast]:
    """A T5 encoder whose every output is zero, (n, length, width), and a tokenizer for it.

    Where a pipeline has no T5, diffusers puts rows of zeros in its place, but `from_pretrained` has to be told so. This
    one gives the same zeros, by the weights of its last norm, and the folder loads without a word. Its configuration
    says in `short_padding` how few of these rows the transformer was trained to need.
    """
    tokenizer = T5TokenizerFast(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)], extra_ids=0)
    small = {"d_kv": 8, "d_ff": 8, "num_layers": 1, "num_heads": 1}
    config = T5Config(vocab_size=len(tokenizer), d_model=width, short_padding=min(TRAINED_PADDING), **small)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = T5EncoderModel(config)
    torch.nn.init.zeros_(encoder.encoder.final_layer_norm.weight)
    return encoder.eval(), tokenizer


def save_pipeline(
    folder: Path,
    *,
    autoencoder: AutoencoderKL,
    transformer: SD3Transformer2DModel,
    text_encoders: list[CLIPTextModelWithProjection],
    tokenizer: CLIPTokenizer,
    shift: float,
) -> None:
    """Write the whole pipeline, its scheduler and a silent T5 encoder included. The checksums come last."""
    text_encoder_3, tokenizer_3 = make_silent_t5(transformer.config.joint_attention_dim)
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=autoencoder,
        text_encoder=text_encoders[0],
        tokenizer=tokenizer,
        text_encoder_2=text_encoders[1],
        tokenizer_2=tokenizer,
        text_encoder_3=text_encoder_3,
        tokenizer_3=tokenizer_3,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    write_checksums(folder)


def read_parts(
    folder: Path, device: str = "cpu"
) -> tuple[AutoencoderKL, list[CLIPTextModelWithProjection], SD3Transformer2DModel]:
    """(autoencoder, both text encoders, transformer) of a folder that `save_pipeline` wrote."""
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder).to(device)
    encoders = [encoder.eval().requires_grad_(False) for encoder in (pipeline.text_encoder, pipeline.text_encoder_2)]
    return _afresh(pipeline.vae).eval(), encoders, _afresh(pipeline.transformer)


def _afresh(module: ModelMixin) -> ModelMixin:
    """The same network without a record of the folder it came from, which its configuration would carry on."""
    config = {name: value for name, value in module.config.items() if not name.startswith("_")}
    other = type(module).from_config(config).to(module.device)
    other.load_state_dict(module.state_dict())
    return other
