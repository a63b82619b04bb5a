"""What scores and pruning cost, as ratios within one run: on the shipped pipeline, or on the architecture of Stable
Diffusion 3.5 Medium at full size with random weights, for which a GPU is needed.

    .venv/bin/python lab/benchmarks/scoring_cost.py
    .venv/bin/python lab/benchmarks/scoring_cost.py --full-size --device cuda
"""

from __future__ import annotations

import argparse
import json

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)

import rfmi
from rfmi.pipelines import Conditioning, PipelineField
from lab.study.scoring_cost import overhead_of_scoring, pruned_against_full


def full_size_field(device: str) -> PipelineField:
    """Stable Diffusion 3.5 Medium in bfloat16 with random weights, for images of 1,024 pixels and a random prompt."""
    with torch.device(device):
        transformer = SD3Transformer2DModel(
            sample_size=128,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=24,
            attention_head_dim=64,
            num_attention_heads=24,
            joint_attention_dim=4096,
            caption_projection_dim=1536,
            pooled_projection_dim=2048,
            pos_embed_max_size=384,
            dual_attention_layers=tuple(range(13)),
            qk_norm="rms_norm",
        ).to(torch.bfloat16)
    channels = (16, 16, 16, 16)
    autoencoder = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=channels,
        latent_channels=16,
        norm_num_groups=8,
        shift_factor=0.0,
    )
    absent = dict.fromkeys(f"{part}{i}" for part in ("text_encoder", "tokenizer") for i in ("", "_2", "_3"))
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=autoencoder, **absent
    ).to(device)
    rows = {"encoder_hidden_states": torch.randn(2, 333, 4096), "pooled_projections": torch.randn(2, 2048)}
    conditioning = Conditioning(rows).to(dtype=torch.bfloat16)
    return PipelineField(pipeline, ["a prompt of random numbers"], conditioning=conditioning)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full-size", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.full_size:
        field = full_size_field(arguments.device)
    else:
        pipeline = StableDiffusion3Pipeline.from_pretrained(base_pipeline()).to(arguments.device)
        field = PipelineField(pipeline, ["a red circle left of a blue square"])
    common = {"candidates": arguments.candidates, "steps": arguments.steps, "repeats": arguments.repeats}
    found = {
        "scoring_overhead": overhead_of_scoring(field, **common),
        "pruned_over_full_seconds": pruned_against_full(field, **common),
    }
    print(json.dumps(common | found, indent=1))


if __name__ == "__main__":
    main()
