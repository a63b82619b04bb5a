"""Fine-tuning's throughput beside that of diffusers' own LoRA training: python -m lab.benchmarks.finetuning_speed

Two copies of one pipeline have the same adapter, latents, conditioning, batch and precision, and both learn by flow
matching: one by `rfmi.finetuning`'s loop, moving average included, the other by the steps of diffusers'
examples/dreambooth/train_dreambooth_lora_sd3.py, with latents and embeddings ready, as in its cached form. They take
turns, each first in every other round.
"""

import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline
from diffusers.optimization import get_scheduler
from diffusers.training_utils import compute_density_for_timestep_sampling
from peft import LoraConfig
from torch.utils.data import DataLoader, TensorDataset

from lab.worlds import load_world
from rfmi.finetuning import FinetuningSettings
from rfmi.finetuning.adapter import adapted_layers, adapter_in
from rfmi.finetuning.loop import loop
from rfmi.finetuning.pairs import Pairs
from rfmi.pipelines import PipelineField, family_of


def our_loop(pipeline: DiffusionPipeline, pairs: Pairs, settings: FinetuningSettings, folder: Path) -> Iterator[float]:
    """The losses of `rfmi.finetune`'s own loop."""
    transformer, layers = pipeline.transformer, adapted_layers(pipeline, None)
    with adapter_in(transformer, settings, layers) as parameters:
        run = {"settings": {}}
        _, steps = loop(transformer, family_of(pipeline), pairs, parameters, settings, folder, run)
        yield from (loss for _, loss in steps)


def diffusers_loop(pipeline: DiffusionPipeline, pairs: Pairs, settings: FinetuningSettings) -> Iterator[float]:
    """The losses of the steps that diffusers' script takes for Stable Diffusion 3."""
    accelerator = Accelerator(cpu=pipeline.transformer.device.type == "cpu", mixed_precision=settings.mixed_precision)
    schedule, transformer = deepcopy(pipeline.scheduler), pipeline.transformer
    transformer.requires_grad_(False)
    adapter = {"r": settings.rank, "lora_alpha": settings.rank, "target_modules": adapted_layers(pipeline, None)}
    transformer.add_adapter(LoraConfig(init_lora_weights="gaussian", **adapter))
    trained = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    conditioning = pairs.conditioning.rows(pairs.rows).tensors
    data = TensorDataset(pairs.latents, conditioning["encoder_hidden_states"], conditioning["pooled_projections"])
    loader = DataLoader(data, settings.batch, shuffle=True, drop_last=True)
    rates = get_scheduler("constant", optimizer=optimizer)
    transformer, optimizer, loader, rates = accelerator.prepare(transformer, optimizer, loader, rates)
    known, levels = schedule.timesteps.to(accelerator.device), schedule.sigmas.to(accelerator.device)
    while True:
        transformer.train()
        for latents, embedded, summary in loader:
            with accelerator.accumulate(transformer):
                noise = torch.randn_like(latents)
                density = compute_density_for_timestep_sampling("logit_normal", len(latents), 0.0, 1.0)
                places = (density * schedule.config.num_train_timesteps).long()
                timesteps = schedule.timesteps[places].to(latents.device)
                found = [(known == timestep).nonzero().item() for timestep in timesteps]
                sigma = levels[found].flatten()[:, None, None, None]
                noisy = sigma * noise + (1 - sigma) * latents
                inputs = {"timestep": timesteps, "encoder_hidden_states": embedded, "pooled_projections": summary}
                clean = transformer(hidden_states=noisy, **inputs, return_dict=False)[0] * -sigma + noisy
                loss = (torch.ones_like(sigma) * (clean.float() - latents.float()) ** 2).flatten(1).mean(1).mean()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(trained, settings.largest_gradient_norm)
                optimizer.step()
                rates.step()
                optimizer.zero_grad()
            yield loss.detach().item()


def seconds_of(losses: Iterator[float], steps: int) -> float:
    """The seconds of the next steps."""
    start = time.perf_counter()
    for _ in range(steps):
        next(losses)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def throughput(
    pipeline: DiffusionPipeline, prompts: Sequence[str], *, batch: int, rounds: int, steps: int, precision: str = "no"
) -> dict:
    """Samples a second of both loops and the ratio of ours to theirs: medians over rounds, the ratio with its range.

    pipeline: it is copied, and left as it is; where it is no Stable Diffusion 3, which the script is for, all is NaN
    prompts: that the latents, which are noise, are said to show
    batch, rounds, steps: images a step, turns that each loop takes, steps a turn
    """
    if not isinstance(pipeline, StableDiffusion3Pipeline):
        return {"samples_a_second": {}, "ratio": math.nan, "smallest": math.nan, "largest": math.nan}
    endless = {"steps": 10**9, "checkpoint_seconds": math.inf}
    settings = FinetuningSettings(weighting="top", batch=batch, mixed_precision=precision, **endless)
    field = PipelineField(pipeline, prompts)
    latents = torch.randn(max(256, batch), *field.shape, generator=torch.Generator().manual_seed(0))
    pairs = Pairs(latents, torch.arange(len(latents)) % len(prompts), field.conditioning.to("cpu"))
    with TemporaryDirectory() as folder:
        loops = {
            "ours": our_loop(deepcopy(pipeline), pairs, settings, Path(folder)),
            "diffusers": diffusers_loop(deepcopy(pipeline), pairs, settings),
        }
        for each in loops.values():
            seconds_of(each, 2)  # warm
        seconds = {name: [] for name in loops}
        for k in range(rounds):
            for name in list(loops)[:: -1 if k % 2 else 1]:
                seconds[name].append(seconds_of(loops[name], steps))
        for each in loops.values():
            each.close()
    ratios = [theirs / own for own, theirs in zip(seconds["ours"], seconds["diffusers"], strict=True)]
    summary = {"ratio": statistics.median(ratios), "smallest": min(ratios), "largest": max(ratios)}
    speeds = {name: round(batch * steps / statistics.median(each), 2) for name, each in seconds.items()}
    return {"samples_a_second": speeds} | {name: round(value, 4) for name, value in summary.items()}


if __name__ == "__main__":
    world = load_world("shapes")
    prompts = world.prompts(world.categories[0], "train")[:4]
    print(json.dumps(throughput(world.pipeline(), prompts, batch=64, rounds=8, steps=4), indent=1))
