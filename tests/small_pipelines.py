"""Pipelines of random weights that tests share."""

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)


def clip_tokenizer():
    """Bytes, inside and at the end of a word: every text has tokens."""
    tokens = [chr(byte) for byte in range(33, 127)]
    tokens += [f"{token}</w>" for token in tokens]
    vocabulary = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def clip_encoder(tokenizer):
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, projection_dim=16, num_hidden_layers=2,
        num_attention_heads=2, **ids,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config)


def save_stable_diffusion_3_5(folder):
    """Write a Stable Diffusion 3.5 of random weights: dual attention, 16 latent channels, all three encoders."""
    torch.manual_seed(0)
    tokenizer, specials = clip_tokenizer(), [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    letters = [(chr(byte), -3.0) for byte in range(33, 127)]
    t5_tokenizer = T5TokenizerFast(vocab=[*specials, ("\u2581", -2.0), *letters], extra_ids=0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    pipeline = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=32,
            pos_embed_max_size=12, dual_attention_layers=(0,), qk_norm="rms_norm",
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKL(
            block_out_channels=(8, 8), norm_num_groups=4, latent_channels=16, layers_per_block=1, **blocks,
            shift_factor=0.06, scaling_factor=1.5,
        ),
        text_encoder=clip_encoder(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=clip_encoder(tokenizer),
        tokenizer_2=tokenizer,
        text_encoder_3=T5EncoderModel(
            T5Config(vocab_size=len(t5_tokenizer), d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        ),
        tokenizer_3=t5_tokenizer,
    )  # fmt: skip
    for parameter in pipeline.transformer.parameters():  # so large that prompts matter
        torch.nn.init.normal_(parameter, std=0.1)
    pipeline.save_pretrained(folder)
