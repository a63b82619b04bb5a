"""Stable Diffusion 3.5 Medium's architecture on one accelerator, timed with random weights and no download:

    python -m lab.benchmarks.full_size OUTPUT.json [--small]

Transformer and autoencoder have their full size; the text encoders have their full widths and one layer each, since a
prompt is encoded once. Timed are network evaluations, the pipeline's own call, `rfmi.select` with every candidate
finished and with pruning, a step of `rfmi.finetune`, and the published path score in float32. --small: a thousandth of
the size, for a test on a processor. What one part gave is written before the next begins.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

import rfmi
from lab.benchmarks.finetuning_speed import our_loop, seconds_of
from lab.worlds import load_world
from rfmi.files import write_atomically
from rfmi.finetuning import FinetuningSettings
from rfmi.finetuning.pairs import Pairs
from rfmi.pipelines import PipelineField
from rfmi.runs import versions
from rfmi.sampling import path_scores

FULL = {"heads": 24, "layers": 24, "dual": 13, "context": 4096, "large": 1024, "small": 512, "clip": (768, 1280)}
FULL |= {"vae": (128, 256, 512, 512), "rows": ((2, 8), (8, 32)), "candidates": 8, "batch": 16, "steps": 28, "path": 50}
SMALL = {"heads": 2, "layers": 2, "dual": 1, "context": 64, "large": 64, "small": 32, "clip": (16, 32)}
SMALL |= {"vae": (8, 8, 8, 8), "rows": ((1,), (2,)), "candidates": 4, "batch": 2, "steps": 8, "path": 8}
GUIDANCE = 4.5


def transformer_of(size: dict) -> SD3Transformer2DModel:
    """The transformer of this size, with random weights, on torch's present device: on "meta" it takes no memory."""
    width = 64 * size["heads"]
    of_text = {"caption_projection_dim": width, "joint_attention_dim": size["context"]}
    of_text |= {"pooled_projection_dim": sum(size["clip"])}
    of_latents = {"in_channels": 16, "out_channels": 16, "patch_size": 2}
    of_latents |= {"sample_size": size["small"] // 8, "pos_embed_max_size": 3 * size["large"] // 8}
    layers = {"num_layers": size["layers"], "dual_attention_layers": tuple(range(size["dual"]))}
    heads = {"num_attention_heads": size["heads"], "attention_head_dim": 64, "qk_norm": "rms_norm"}
    return SD3Transformer2DModel(**of_text, **of_latents, **layers, **heads)


def build(size: dict, device: str, dtype: torch.dtype) -> StableDiffusion3Pipeline:
    """The pipeline with random weights, which draws the smaller images unless told otherwise; its words are those of
    the small world."""
    words = load_world("shapes").pipeline()
    of_vae = {"block_out_channels": size["vae"], "layers_per_block": 2, "latent_channels": 16}
    of_vae |= {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    of_vae |= {"norm_num_groups": min(32, size["vae"][0]), "scaling_factor": 1.5305, "shift_factor": 0.0609}
    of_vae |= {"use_quant_conv": False, "use_post_quant_conv": False}
    of_clip = {"num_hidden_layers": 1, "num_attention_heads": 4, "bos_token_id": 0, "eos_token_id": 1}
    of_t5 = {"d_model": size["context"], "num_layers": 1, "num_heads": 4, "d_kv": 16, "vocab_size": 4096, "d_ff": 64}
    with torch.device(device):
        made = {"transformer": transformer_of(size), "vae": AutoencoderKL(**of_vae)}
        for name, d in zip(("text_encoder", "text_encoder_2"), size["clip"], strict=True):
            config = CLIPTextConfig(hidden_size=d, projection_dim=d, intermediate_size=d, **of_clip)
            made[name] = CLIPTextModelWithProjection(config)
        made["text_encoder_3"] = T5EncoderModel(T5Config(**of_t5))
    made = {name: module.to(dtype).eval().requires_grad_(False) for name, module in made.items()}
    made |= {name: getattr(words, name) for name in ("tokenizer", "tokenizer_2", "tokenizer_3")}
    pipeline = StableDiffusion3Pipeline(**made, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def timed(function: Callable, *arguments: object, **options: object) -> tuple[dict, Any]:
    """({seconds, peak_gib}, what the call gave); the memory is None without an accelerator."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    given = function(*arguments, **options)
    if cuda:
        torch.cuda.synchronize()
    seconds = round(time.perf_counter() - start, 3)
    peak = round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None
    return {"seconds": seconds, "peak_gib": peak}, given


@torch.no_grad()
def four_evaluations(field: PipelineField, x: Tensor, t: Tensor, labels: Tensor) -> None:
    """Four forward passes, one after the other."""
    for _ in range(4):
        field(x, t, labels)


def drawing(pipeline: StableDiffusion3Pipeline, prompts: list[str], size: dict) -> dict:
    """Evaluations and the pipeline's own call, at both image sizes."""
    found = {}
    for side, several in zip((size["large"], size["small"]), size["rows"], strict=True):
        field = PipelineField(pipeline, prompts, height=side, width=side)
        for n in several:
            batch = field.noise(range(n)), torch.full((n,), 0.5), torch.zeros(n, dtype=torch.long)
            four_evaluations(field, *batch)  # warms up
            row, _ = timed(four_evaluations, field, *batch)
            found[f"evaluations, {side} pixels, {n} rows"] = row | {"a_second": round(4 * n / row["seconds"], 2)}
        options = {"num_images_per_prompt": several[0], "num_inference_steps": size["steps"]}
        options |= {"height": side, "width": side, "guidance_scale": GUIDANCE}
        row, _ = timed(pipeline, prompts[0], **options)
        found[f"own call, {side} pixels"] = row | {"images_an_hour": round(3600 * several[0] / row["seconds"], 1)}
    return found


def selecting(pipeline: StableDiffusion3Pipeline, prompts: list[str], size: dict) -> dict:
    """`rfmi.select` of one prompt's smaller images."""
    found, options = {}, {"candidates": size["candidates"], "steps": size["steps"], "guidance": GUIDANCE}
    for name, pruned in (("every candidate finished", False), ("pruned", True)):
        with TemporaryDirectory() as folder:
            row, selection = timed(rfmi.select, pipeline, prompts[:1], output=folder, prune=pruned, **options)
        spent = float(selection.candidates.evaluations.sum())
        row |= {"evaluations": spent, "evaluations_a_second": round(spent / row["seconds"], 2)}
        found[f"select, {size['small']} pixels, {name}"] = row
    return found


def training(pipeline: StableDiffusion3Pipeline, prompts: list[str], size: dict) -> dict:
    """A step of `rfmi.finetune`'s own loop on larger images, half of them failing: bfloat16, gradient checkpointing."""
    side, n = size["large"], size["batch"]
    field = PipelineField(pipeline, prompts[:2], height=side, width=side)
    latents = torch.randn(2 * n, *field.shape, generator=torch.Generator().manual_seed(0))
    rows, advantages = torch.arange(2).repeat_interleave(n), torch.tensor([1.0, -1.0]).repeat(n)
    pairs = Pairs(latents, rows, field.conditioning.to("cpu"), advantages)
    settings = FinetuningSettings(batch=n, rank=32, mixed_precision="bf16", checkpoint_seconds=math.inf)
    pipeline.transformer.enable_gradient_checkpointing()
    with TemporaryDirectory() as folder:
        losses = our_loop(pipeline, pairs, settings, Path(folder))
        seconds_of(losses, 1)  # warms up
        row, _ = timed(seconds_of, losses, 3)
        losses.close()
    pipeline.transformer.disable_gradient_checkpointing()
    return {f"training step, {side} pixels": row | {"seconds": round(row["seconds"] / 3, 3), "images": n}}


def published(pipeline: StableDiffusion3Pipeline, prompts: list[str], size: dict) -> dict:
    """One smaller image with its published path score, in float32 as the published procedure draws it."""
    pipeline.transformer.float()
    field = PipelineField(pipeline, prompts[:1])
    noise, label, times = field.noise([0]), torch.zeros(1, dtype=torch.long), field.times(size["path"])
    row, scores = timed(path_scores, field, noise, label, times=times, guidance=GUIDANCE)
    return {f"published path score, float32, {size['small']} pixels": row | {"evaluations": scores.evaluations}}


def measure(size: dict, keep: Callable[[dict], object] = dict) -> dict:
    """What this machine takes for all of it, one part after the other.

    size: `FULL` or `SMALL`. keep: called with what there is after every part.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    card = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    prompts = list(load_world("shapes").prompts("color"))[:4]
    torch.manual_seed(0)
    pipeline = build(size, device, torch.bfloat16)
    parameters = sum(each.numel() for each in pipeline.transformer.parameters())
    record = {"device": card, "versions": versions(), "transformer_parameters": parameters, "measured": {}}
    for part in (drawing, selecting, training, published):
        record["measured"] |= part(pipeline, prompts, size)
        keep(record)
    return record


def main(arguments: list[str] | None = None) -> None:
    """Measure, and keep what there is after every part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--small", action="store_true")
    asked, start = parser.parse_args(arguments), time.perf_counter()

    def keep(record: dict) -> None:
        write_atomically(asked.output, json.dumps(record, indent=1) + "\n")
        print(f"{len(record['measured'])} timings after {time.perf_counter() - start:.0f} s", flush=True)

    measure(SMALL if asked.small else FULL, keep)


if __name__ == "__main__":
    main()
