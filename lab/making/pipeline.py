"""The base model from nothing: autoencoder, text encoders, flow, put together as one diffusers pipeline."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel, T5TokenizerFast

from lab.making.autoencoder import trained_autoencoder
from lab.making.flow import make_transformer, train_flow
from lab.making.text_encoders import trained_text_encoders
from lab.making.tokenizers import make_tokenizer
from lab.making.workshop import Workshop
from lab.worlds.shapes.shipped import check_folder

SHIFT = 3.0  # of the sampler's noise levels, Stable Diffusion 3's own


def make_silent_t5(width: int) -> tuple[T5EncoderModel, T5TokenizerFast]:
    """A T5 encoder whose every output is zero, (n, length, width), and a tokenizer for it.

    Without a T5 diffusers takes rows of zeros as well, but `from_pretrained` has to be told so. The configuration says
    in `short_padding` how few of these rows the transformer was trained to need.
    """
    tokenizer = T5TokenizerFast(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)], extra_ids=0)
    small = {"d_kv": 8, "d_ff": 8, "num_layers": 1, "num_heads": 1}
    torch.manual_seed(0)
    encoder = T5EncoderModel(T5Config(vocab_size=len(tokenizer), d_model=width, short_padding=1, **small))
    torch.nn.init.zeros_(encoder.encoder.final_layer_norm.weight)
    return encoder.eval(), tokenizer


def assembled(
    autoencoder: AutoencoderKL, encoders: list[CLIPTextModelWithProjection], transformer: SD3Transformer2DModel
) -> StableDiffusion3Pipeline:
    """The whole pipeline, its scheduler and a silent T5 encoder included."""
    tokenizer = make_tokenizer()
    silent, silent_tokenizer = make_silent_t5(transformer.config.joint_attention_dim)
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=autoencoder,
        text_encoder=encoders[0],
        tokenizer=tokenizer,
        text_encoder_2=encoders[1],
        tokenizer_2=tokenizer,
        text_encoder_3=silent,
        tokenizer_3=silent_tokenizer,
    )


def train_base(shop: Workshop, output: Path, start: Path | None = None) -> None:
    """Every stage, and the pipeline they make into the folder `output`.

    start: a finished folder, whose flow is trained for one schedule more; its other parts stay as they are
    """
    recipe = shop.recipe
    torch.manual_seed(recipe.flow.seed)
    transformer = make_transformer(layers=recipe.layers, heads=recipe.heads)
    if start is None:
        stages = ["autoencoder", "text_encoders", "flow"]
        autoencoder, encoders = trained_autoencoder(shop), trained_text_encoders(shop)
    else:
        stages = ["flow"]
        earlier = StableDiffusion3Pipeline.from_pretrained(check_folder(start))
        encoders = [earlier.text_encoder, earlier.text_encoder_2]
        autoencoder = AutoencoderKL.from_config(AutoencoderKL.load_config(start / "vae"))  # which does not name `start`
        autoencoder.load_state_dict(earlier.vae.state_dict())
        transformer.load_state_dict(earlier.transformer.state_dict())
    parts = autoencoder, encoders, transformer
    train_flow(shop, assembled(*parts).to(shop.device))
    assembled(*parts).save_pretrained(output)  # with tokenizers that nobody has used yet, who would note their padding
    shop.write_log(output, stages, start)
