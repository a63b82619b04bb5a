"""Fine-tuning's throughput beside that of diffusers' own LoRA training, in one run.

Two copies of one pipeline have the same adapter, latents, conditioning, batch and precision. One is trained by
`rfmi.finetuning`'s loop, moving average included; the other by the steps of diffusers'
examples/dreambooth/train_dreambooth_lora_sd3.py, with latents and embeddings ready, as in its cached form. They take
turns, each first in every other round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline
from diffusers.optimization import get_scheduler
from diffusers.training_utils import compute_density_for_timestep_sampling
from peft import LoraConfig
from torch.utils.data import DataLoader, TensorDataset

from lab.worlds.shapes.shipped import base_pipeline
from rfmi.finetuning import PRESETS, FinetuningSettings
from rfmi.finetuning.adapter import adapter_in
from rfmi.finetuning.pairs import Pairs
from rfmi.finetuning.training import make_accelerator, make_state, train
from rfmi.pipelines import PipelineField, family_of

PROMPTS = ("a red circle", "two blue squares", "a green triangle left of a red circle", "a striped square")
IMAGES = 256


def our_loop(pipeline: DiffusionPipeline, pairs: Pairs, settings: FinetuningSettings, folder: Path) -> Iterator[float]:
    """The losses of `finetune`'s own loop."""
    family = family_of(pipeline)
    accelerator = make_accelerator(settings, pipeline.transformer.device)
    with adapter_in(pipeline.transformer, settings, list(family.lora_targets)) as parameters:
        state = make_state(parameters, settings, accelerator)
        run = {"settings": asdict(settings)}
        checkpoint = folder / "checkpoint.safetensors"
        steps = train(pipeline.transformer, family, pairs, settings, state, accelerator, checkpoint=checkpoint, run=run)
        for _, loss in steps:
            yield loss


def diffusers_loop(pipeline: DiffusionPipeline, pairs: Pairs, settings: FinetuningSettings) -> Iterator[float]:
    """The losses of the steps that diffusers' script takes for Stable Diffusion 3."""
    accelerator = Accelerator(cpu=pipeline.transformer.device.type == "cpu", mixed_precision=settings.mixed_precision)
    schedule, transformer = deepcopy(pipeline.scheduler), pipeline.transformer
    transformer.requires_grad_(False)
    targets = list(family_of(pipeline).lora_targets)
    transformer.add_adapter(
        LoraConfig(
            r=settings.rank, lora_alpha=settings.rank, init_lora_weights="gaussian", target_modules=targets
        )
    )
    trained = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": trained, "lr": settings.learning_rate}], betas=settings.betas, weight_decay=settings.weight_decay
    )
    embeddings, pooled = (
        pairs.conditioning.tensors[name][pairs.rows] for name in ("encoder_hidden_states", "pooled_projections")
    )
    loader = DataLoader(TensorDataset(pairs.latents, embeddings, pooled), settings.batch, shuffle=True, drop_last=True)
    rates = get_scheduler("constant", optimizer=optimizer)
    transformer, optimizer, loader, rates = accelerator.prepare(transformer, optimizer, loader, rates)

    def noise_levels(timesteps: torch.Tensor) -> torch.Tensor:
        known, levels = schedule.timesteps.to(accelerator.device), schedule.sigmas.to(accelerator.device)
        places = [(known == timestep).nonzero().item() for timestep in timesteps]
        return levels[places].flatten()[:, None, None, None]

    for _ in count():
        transformer.train()
        for latents, embedded, summary in loader:
            with accelerator.accumulate(transformer):
                noise = torch.randn_like(latents)
                density = compute_density_for_timestep_sampling("logit_normal", len(latents), 0.0, 1.0)
                places = (density * schedule.config.num_train_timesteps).long()
                timesteps = schedule.timesteps[places].to(latents.device)
                sigma = noise_levels(timesteps)
                noisy = sigma * noise + (1 - sigma) * latents
                predicted = transformer(
                    hidden_states=noisy,
                    timestep=timesteps,
                    encoder_hidden_states=embedded,
                    pooled_projections=summary,
                    return_dict=False,
                )[0]
                clean = predicted * -sigma + noisy
                weights = torch.ones_like(sigma)
                loss = (weights * (clean.float() - latents.float()) ** 2).flatten(1).mean(1).mean()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(trained, settings.largest_gradient_norm)
                optimizer.step()
                rates.step()
                optimizer.zero_grad()
            yield loss.detach().item()


def time_steps(loop: Iterator[float], steps: int) -> tuple[float, float]:
    """(seconds, processor seconds) of the next steps."""
    start = time.perf_counter(), time.process_time()
    for _ in range(steps):
        next(loop)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def throughput(batch: int, rounds: int, steps: int, threads: int, device: str, precision: str) -> dict:
    """Samples a second of both loops, and the ratio of ours to theirs, by the clock and by processor time: medians
    over rounds, the ratio with its smallest and largest.
    """
    torch.set_num_threads(threads)
    settings = replace(
        PRESETS["small"], batch=batch, steps=10**9, checkpoint_seconds=float("inf"), mixed_precision=precision
    )
    folder = base_pipeline()
    pipelines = [StableDiffusion3Pipeline.from_pretrained(folder).to(device) for _ in range(2)]
    field = PipelineField(pipelines[0], PROMPTS)
    latents = torch.randn(max(IMAGES, batch), *field.shape, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(len(latents)) % len(PROMPTS)
    pairs = Pairs(latents, rows, field.conditioning.to("cpu"), torch.ones(len(latents)))
    with TemporaryDirectory() as temporary:
        ours = our_loop(pipelines[0], pairs, settings, Path(temporary))
        loops = {"ours": ours, "diffusers": diffusers_loop(pipelines[1], pairs, settings)}
        for loop in loops.values():
            time_steps(loop, 2)  # warm
        times = {name: [] for name in loops}
        for k in range(rounds):
            for name in list(loops)[:: -1 if k % 2 else 1]:
                times[name].append(time_steps(loops[name], steps))
        for loop in loops.values():
            loop.close()
    figures = {"batch": batch, "rounds": rounds, "steps": steps, "threads": threads, "device": device}
    figures["precision"] = precision
    for i, clock in enumerate(("by_the_clock", "by_processor_time")):
        ratios = [theirs[i] / own[i] for own, theirs in zip(times["ours"], times["diffusers"], strict=True)]
        figures[clock] = {
            "samples_a_second": {
                name: round(batch * steps / statistics.median(t[i] for t in found), 2) for name, found in times.items()
            },
            "ratio": round(statistics.median(ratios), 4),
            "smallest": round(min(ratios), 4),
            "largest": round(max(ratios), 4),
        }
    return figures
