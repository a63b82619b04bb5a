"""The benchmark of the full-size architecture: it runs small, and its record is that of the full size."""

import json
import re

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

from lab.benchmarks import full_size
from lab.paths import data_folder
from rfmi.finetuning import FULL_SIZE
from rfmi.finetuning.adapter import adapted_layers, adapter_in

SCRIPT = ("to_k", "to_q", "to_v", "to_out.0", "add_k_proj", "add_q_proj", "add_v_proj", "to_add_out")
GIB = 2**30


def record():
    return json.loads((data_folder() / "recorded" / "full_size_h100.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_it_measures_small_what_the_record_holds_at_full_size(tmp_path, capsys):
    full_size.main([str(tmp_path / "small.json"), "--small"])
    small = json.loads((tmp_path / "small.json").read_text(encoding="utf-8"))
    kinds = [{re.sub(r"\d+", "", name) for name in each["measured"]} for each in (small, record())]
    assert kinds[0] == kinds[1] and small["transformer_parameters"] < record()["transformer_parameters"] / 1000
    assert all(row["seconds"] > 0 for row in small["measured"].values())
    assert capsys.readouterr().out.count(" s\n") == 4


def test_the_record_is_of_the_published_architecture():
    """2,243,171,520 parameters has the transformer of stable-diffusion-3.5-medium."""
    found = record()
    assert found["transformer_parameters"] == 2_243_171_520 and "H100" in found["device"]
    for name, row in found["measured"].items():
        if "a_second" in row:
            rows = int(re.search(r"(\d+) rows", name)[1])
            assert row["a_second"] == pytest.approx(4 * rows / row["seconds"], rel=2e-3)
        if "evaluations_a_second" in row:
            assert row["evaluations_a_second"] == pytest.approx(row["evaluations"] / row["seconds"], rel=2e-3)


# The training's preset


@pytest.fixture(scope="module")
def medium():
    """A pipeline with the transformer of stable-diffusion-3.5-medium, without memory."""
    with torch.device("meta"):
        transformer = SD3Transformer2DModel(
            sample_size=128, patch_size=2, in_channels=16, out_channels=16, num_layers=24, attention_head_dim=64,
            num_attention_heads=24, joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048,
            pos_embed_max_size=384, dual_attention_layers=tuple(range(13)), qk_norm="rms_norm",
        )  # fmt: skip
        vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    left_out = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3")
    return StableDiffusion3Pipeline(
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        **dict.fromkeys(left_out),
    )


def adapter_size(pipeline, targets):
    with adapter_in(pipeline.transformer, FULL_SIZE, adapted_layers(pipeline, targets)) as parameters:
        return sum(value.numel() for value in parameters.values())


def test_the_adapter_has_as_many_parameters_as_published_and_the_script_of_diffusers_fewer(medium):
    """The published list of layers, matched by the ends of their names, takes in the second attention of the 13 dual
    blocks; diffusers' script names the first attention alone."""
    assert sum(value.numel() for value in medium.transformer.parameters()) == 2_243_171_520
    published_names = adapter_size(medium, None)
    diffusers_script = adapter_size(medium, tuple(f"attn.{name}" for name in SCRIPT))
    assert (published_names, diffusers_script) == (23_887_872, 18_776_064)


def test_the_presets_training_fits_a_gpu_of_80_gib(medium):
    """A checkpointed image of 1024 pixels saves 0.77 GiB in bfloat16 for the backward pass; the base model's pass, of
    the advantage's loss, saves none. The adapter is there seven times in float32: weights, gradients and those of the
    images at once, two moments, average, best average."""
    assert FULL_SIZE.gradient_checkpointing and FULL_SIZE.mixed_precision == "bf16"
    weights = 2 * sum(value.numel() for value in medium.transformer.parameters()) / GIB
    adapter = 7 * 4 * adapter_size(medium, None) / GIB
    assert weights == pytest.approx(4.2, abs=0.05) and adapter == pytest.approx(0.62, abs=0.01)
    assert weights + adapter + 0.77 * FULL_SIZE.batch < 72
