"""Stable Diffusion 3.5 Medium's architecture on one accelerator, timed with random weights and no download:

    python -m lab.benchmarks.full_size OUTPUT.json [--small]

Transformer and autoencoder have their full size, the text encoders their full widths and one layer each, since every
prompt is encoded once. What is timed, after a call that is not: network evaluations, the pipeline's own call,
`rfmi.select` with every candidate finished and with pruning, the published path score in float32, and a step of
`rfmi.finetune`. --small: a twentieth of the size, for a test on a processor.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

import rfmi
from lab.worlds import load_world
from rfmi.finetuning import FinetuningSettings
from rfmi.pipelines import PipelineField
from rfmi.runs import versions
from rfmi.sampling import path_scores
from rfmi.selection import Selection

FULL = {"heads": 24, "layers": 24, "dual": 13, "context": 4096, "sides": (1024, 512), "vae": (128, 256, 512, 512)}
FULL |= {"clip": (768, 1280), "rows": {1024: (2, 8), 512: (8, 32)}, "candidates": 8, "batch": 16, "steps": 28}
SMALL = {"heads": 2, "layers": 2, "dual": 1, "context": 64, "sides": (64, 32), "vae": (8, 8, 8, 8)}
SMALL |= {"clip": (16, 32), "rows": {64: (1,), 32: (2,)}, "candidates": 4, "batch": 2, "steps": 8}


def build(size: dict, device: str, dtype: torch.dtype) -> StableDiffusion3Pipeline:
    """The pipeline with random weights; its words are those of the small world."""
    words, first = load_world("shapes").pipeline(), size["clip"][0]
    transformer = {
        "sample_size": size["sides"][1] // 8,
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": size["layers"],
        "attention_head_dim": 64,
        "num_attention_heads": size["heads"],
        "caption_projection_dim": 64 * size["heads"],
        "joint_attention_dim": size["context"],
        "pooled_projection_dim": sum(size["clip"]),
        "pos_embed_max_size": 3 * size["sides"][0] // 8,
        "dual_attention_layers": tuple(range(size["dual"])),
        "qk_norm": "rms_norm",
    }
    autoencoder = {
        "block_out_channels": size["vae"],
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 16,
        "norm_num_groups": min(32, size["vae"][0]),
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
    }
    of_clip = {"num_hidden_layers": 1, "num_attention_heads": 4, "bos_token_id": 0, "eos_token_id": 1}
    of_t5 = {"d_ff": 4 * first, "num_layers": 1, "num_heads": 4, "d_kv": 16, "vocab_size": 4096}
    with torch.device(device):
        made = {
            "transformer": SD3Transformer2DModel(**transformer),
            "vae": AutoencoderKL(**autoencoder),
            "text_encoder_3": T5EncoderModel(T5Config(d_model=size["context"], **of_t5)),
        }
        for name, width in zip(("text_encoder", "text_encoder_2"), size["clip"], strict=True):
            config = CLIPTextConfig(hidden_size=width, projection_dim=width, intermediate_size=width, **of_clip)
            made[name] = CLIPTextModelWithProjection(config)
    made = {name: module.to(dtype).eval().requires_grad_(False) for name, module in made.items()}
    tokenizers = {name: getattr(words, name) for name in ("tokenizer", "tokenizer_2", "tokenizer_3")}
    pipeline = StableDiffusion3Pipeline(**made, **tokenizers, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def timed(function: Callable[[], object], device: str, warm: bool = True) -> dict:
    """{seconds, peak_gib} of a call, after another that is not timed."""
    if warm:
        function()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else float("nan")
    return {"seconds": round(seconds, 3), "peak_gib": round(peak, 2)}


def drawing(pipeline: StableDiffusion3Pipeline, prompts: list[str], size: dict, device: str) -> dict:
    """Evaluations and the pipeline's own call, by side."""
    found = {}
    for side in size["sides"]:
        field = PipelineField(pipeline, prompts, height=side, width=side)
        for rows in size["rows"][side]:
            x, t = field.noise(range(rows)), torch.full((rows,), 0.5)
            labels = torch.zeros(rows, dtype=torch.long)
            with torch.no_grad():
                row = timed(lambda field=field, x=x, t=t, labels=labels: [field(x, t, labels) for _ in range(4)], device)
            found[f"evaluations, {side} pixels, {rows} rows"] = row | {"a_second": round(4 * rows / row["seconds"], 2)}
        images = size["rows"][side][0]
        asked = {"num_images_per_prompt": images, "num_inference_steps": size["steps"], "guidance_scale": 4.5}
        row = timed(
            lambda side=side, asked=asked: pipeline(prompts[0], height=side, width=side, **asked), device, warm=False
        )
        found[f"own call, {side} pixels"] = row | {"images_an_hour": round(3600 * images / row["seconds"], 1)}
    return found


def selecting(pipeline: StableDiffusion3Pipeline, prompts: list[str], size: dict, device: str) -> dict:
    """`rfmi.select` of one prompt at the pipeline's own size, whole and pruned."""
    found, candidates = {}, size["candidates"]
    for name, pruned in (("every candidate finished", False), ("pruned", True)):
        with TemporaryDirectory() as folder:
            options = {"candidates": candidates, "steps": size["steps"], "guidance": 4.5, "prune": pruned}
            kept = []

            def one(folder: str = folder, options: dict = options, kept: list = kept) -> None:
                kept.append(rfmi.select(pipeline, prompts[:1], output=folder, **options))

            row = timed(one, device, warm=False)
            spent = float(kept[0].candidates.evaluations.sum())
        found[f"select, {size['sides'][1]} pixels, {name}"] = row | {"evaluations": spent, "evaluations_a_second": round(spent / row["seconds"], 2)}
    return found


def training(pipeline: StableDiffusion3Pipeline, prompts: list[str], size: dict, device: str) -> dict:
    """A step of `rfmi.finetune` on verdicts of images drawn with guidance: bfloat16, gradient checkpointing."""
    side = size["sides"][0]
    field = PipelineField(pipeline, prompts[:2], height=side, width=side)
    n = size["batch"]
    latents = torch.randn(2 * n, *field.shape, generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(2).repeat_interleave(n)
    table = pd.DataFrame({"prompt_id": numbers, "prompt": [prompts[i] for i in numbers], "seed": range(2 * n)})
    table["rank"] = list(range(n)) * 2
    table = table.assign(fate="kept", score=torch.randn(2 * n, generator=torch.Generator().manual_seed(1)).numpy())
    selection = Selection(Path("none"), table, latents, numbers, field.conditioning.to("cpu"))
    pipeline.transformer.enable_gradient_checkpointing()
    found = {}
    for steps in (1, 4):  # the difference is that of three steps
        settings = FinetuningSettings(steps=steps, batch=n, rank=32, guidance=4.5, mixed_precision="bf16")
        with TemporaryDirectory() as folder:
            options = {"output": f"{folder}/lora", "settings": settings, "hold_out": None}
            run = lambda options=options: rfmi.finetune(pipeline, selection, **options)  # noqa: E731
            found[steps] = timed(run, device, warm=False)
    pipeline.transformer.disable_gradient_checkpointing()
    seconds = (found[4]["seconds"] - found[1]["seconds"]) / 3
    return {f"training step, {side} pixels": {"seconds": round(seconds, 3), "peak_gib": found[4]["peak_gib"], "images": n}}


def published(pipeline: StableDiffusion3Pipeline, prompts: list[str], size: dict, device: str) -> dict:
    """The path score of one image of 512 pixels in float32, 50 steps, as the published procedure draws it."""
    side, steps = size["sides"][1], 50 if device == "cuda" else size["steps"]
    pipeline.transformer.float()
    field = PipelineField(pipeline, prompts[:1], height=side, width=side)
    arguments = {"times": field.times(steps), "guidance": 4.5}
    run = lambda: path_scores(field, field.noise([0]), torch.zeros(1, dtype=torch.long), **arguments)  # noqa: E731
    row = timed(run, device, warm=False)
    return {f"published path score, float32, {side} pixels": row | {"evaluations": 2 * steps}}


def main() -> None:
    """Time it all, one part after the other; what a part gave is written at once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    size, device = SMALL if arguments.small else FULL, "cuda" if torch.cuda.is_available() else "cpu"
    card = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    prompts = list(load_world("shapes").prompts("color"))[:4]
    torch.manual_seed(0)
    pipeline = build(size, device, torch.bfloat16)
    parameters = sum(each.numel() for each in pipeline.transformer.parameters())
    record = {"device": card, "versions": versions(), "transformer_parameters": parameters, "measured": {}}
    for part in (drawing, selecting, training, published):
        start = time.perf_counter()
        try:
            record["measured"] |= part(pipeline, prompts, size, device)
        except (RuntimeError, ValueError, MemoryError) as error:
            record["measured"][part.__name__] = {"failed": str(error)[:300]}
        arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"{part.__name__}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
