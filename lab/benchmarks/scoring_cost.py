"""What scores and pruning cost, as ratios of seconds within one run: on the shipped pipeline, or on the architecture of
Stable Diffusion 3.5 Medium at full size with random weights, for which a GPU is needed.

    .venv/bin/python lab/benchmarks/scoring_cost.py
    .venv/bin/python lab/benchmarks/scoring_cost.py --full-size --device cuda

Each pair is timed in turn, the one first and then the other, and the first pair warms up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)

from lab.worlds import load_world
from rfmi.pipelines import Conditioning, PipelineField
from rfmi.sampling import path_scores, sample
from rfmi.scoring import method_named
from rfmi.scoring.methods import DEFAULT_METHOD
from rfmi.selection import Pruning
from rfmi.selection.candidates import Recipe, draw_candidates

GUIDANCE = 4.0


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


def overhead_of_scoring(field: PipelineField, *, candidates: int, steps: int, repeats: int) -> dict[str, float]:
    """Seconds of drawing with the scores along its path over seconds without, guidance in both, less 1."""
    noise, times = field.noise(range(candidates)), field.times(steps)
    labels = torch.zeros(candidates, dtype=torch.long)
    return ratio_of_seconds(
        lambda: path_scores(field, noise, labels, times=times, guidance=GUIDANCE),
        lambda: sample(field, noise, labels, times=times, guidance=GUIDANCE),
        repeats,
        offset=1.0,
    )


def pruned_against_full(field: PipelineField, *, candidates: int, steps: int, repeats: int) -> dict[str, float]:
    """Seconds of the choice among `candidates` with pruning over seconds without."""
    full = Recipe(candidates, 1, method_named(DEFAULT_METHOD), GUIDANCE, steps, seed=0)
    pruned = Recipe(candidates, 1, full.method, GUIDANCE, steps, seed=0, pruning=Pruning())
    return ratio_of_seconds(
        lambda: draw_candidates(field, 0, pruned), lambda: draw_candidates(field, 0, full), repeats
    )


def ratio_of_seconds(
    first: Callable[[], object], second: Callable[[], object], repeats: int, offset: float = 0.0
) -> dict[str, float]:
    """The median of `repeats` ratios less `offset`, the least and the largest."""
    ratios = []
    for i in range(repeats + 1):
        pair = (first, second) if i % 2 else (second, first)
        seconds = {each: seconds_of(each) for each in pair}
        ratios.append(seconds[first] / seconds[second] - offset)
    ratios = ratios[1:]
    return {"median": statistics.median(ratios), "least": min(ratios), "largest": max(ratios), "n": repeats}


def seconds_of(call: Callable[[], object]) -> float:
    """How long a call takes, with all that it leaves to a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


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
        world = load_world("shapes")
        field = PipelineField(world.pipeline(arguments.device), world.prompts("spatial")[:1])
    common = {"candidates": arguments.candidates, "steps": arguments.steps, "repeats": arguments.repeats}
    measured = {
        "scoring_overhead": overhead_of_scoring(field, **common),
        "pruned_over_full_seconds": pruned_against_full(field, **common),
    }
    print(json.dumps(common | measured, indent=1))


if __name__ == "__main__":
    main()
