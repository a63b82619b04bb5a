"""Fine-tuning's throughput beside that of diffusers' own LoRA training, in one run.

Two copies of one pipeline have the same adapter, latents, conditioning, batch and precision, and both learn by flow
matching. One is trained by `rfmi.finetuning`'s loop, moving average included; the other by the steps of diffusers'
examples/dreambooth/train_dreambooth_lora_sd3.py, with latents and embeddings ready, as in its cached form. They take
turns, each first in every other round.

    python -m lab.benchmarks.finetuning_speed --batch 64 --rounds 8 --steps 4
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
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

from rfmi.finetuning import FinetuningSettings
from rfmi.finetuning.adapter import adapted_layers, adapter_in
from rfmi.finetuning.pairs import Pairs
from rfmi.finetuning.loop import loop, make_accelerator
from rfmi.pipelines import PipelineField, family_of

IMAGES = 256


def our_loop(pipeline: DiffusionPipeline, pairs: Pairs, settings: FinetuningSettings, folder: Path) -> Iterator[float]:
    """The losses of `rfmi.finetune`'s own loop."""
    transformer, layers = pipeline.transformer, adapted_layers(pipeline, None)
    accelerator = make_accelerator(settings, transformer.device)
    with adapter_in(transformer, settings, layers) as parameters:
        run = {"settings": {}}
        _, steps = loop(transformer, family_of(pipeline), pairs, parameters, settings, accelerator, folder, run)
        for _, loss in steps:
            yield loss


def diffusers_loop(pipeline: DiffusionPipeline, pairs: Pairs, settings: FinetuningSettings) -> Iterator[float]:
    """The losses of the steps that diffusers' script takes for Stable Diffusion 3."""
    accelerator = Accelerator(cpu=pipeline.transformer.device.type == "cpu", mixed_precision=settings.mixed_precision)
    schedule, transformer = deepcopy(pipeline.scheduler), pipeline.transformer
    transformer.requires_grad_(False)
    targets = adapted_layers(pipeline, None)
    adapter = {"r": settings.rank, "lora_alpha": settings.rank, "target_modules": targets}
    transformer.add_adapter(LoraConfig(init_lora_weights="gaussian", **adapter))
    trained = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    embeddings, pooled = (
        pairs.conditioning.tensors[name][pairs.rows] for name in ("encoder_hidden_states", "pooled_projections")
    )
    loader = DataLoader(TensorDataset(pairs.latents, embeddings, pooled), settings.batch, shuffle=True, drop_last=True)
    rates = get_scheduler("constant", optimizer=optimizer)
    transformer, optimizer, loader, rates = accelerator.prepare(transformer, optimizer, loader, rates)
    known, levels = schedule.timesteps.to(accelerator.device), schedule.sigmas.to(accelerator.device)

    def noise_levels(timesteps: torch.Tensor) -> torch.Tensor:
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
    """Samples a second of both loops and the ratio of ours to theirs: medians over rounds, the ratio with its smallest
    and largest.

    pipeline: it is copied, and left as it is
    prompts: that the latents, which are noise, are said to show
    batch, rounds, steps: images a step, turns that each loop takes, steps a turn
    precision: of the computation, as in `FinetuningSettings.mixed_precision`

    The ratio is NaN for a pipeline that is no Stable Diffusion 3, which diffusers' script is for.
    """
    if not isinstance(pipeline, StableDiffusion3Pipeline):
        return {"samples_a_second": {}, "ratio": math.nan, "smallest": math.nan, "largest": math.nan}
    settings = FinetuningSettings(
        weighting="top", batch=batch, steps=10**9, checkpoint_seconds=math.inf, mixed_precision=precision
    )
    field = PipelineField(pipeline, prompts)
    latents = torch.randn(max(IMAGES, batch), *field.shape, generator=torch.Generator().manual_seed(0))
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
    return {
        "samples_a_second": {
            name: round(batch * steps / statistics.median(each), 2) for name, each in seconds.items()
        },
        "ratio": round(statistics.median(ratios), 4),
        "smallest": round(min(ratios), 4),
        "largest": round(max(ratios), 4),
    }


if __name__ == "__main__":
    from lab.worlds import load_world

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4, help="steps of each loop in a round")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="no", choices=("no", "bf16", "fp16"))
    asked = vars(parser.parse_args())
    here = load_world("shapes")
    own = here.pipeline(device=asked.pop("device"))
    print(json.dumps(throughput(own, here.prompts(here.categories[0], "train")[:4], **asked), indent=1))
