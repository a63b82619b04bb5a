"""The steps of a fine-tuning: its losses, shared by processes, and the look at what was held out.

In diffusers' sign, v = eps - x, x_sigma = (1 - sigma) x + sigma eps, with v the tuned model's prediction, v0 that of
the model which training starts from (the base model, or in a second round the first one's) and a the image's advantage:

    flow matching    mean over images and elements of (v - (eps - x))^2
    advantage        mean over images and elements of (v - v0 - a (eps - x - v0))^2

The advantage's loss learns from all images of a prompt, those below its mean with the sign turned. Its minimum is v0 +
E[a (eps - x - v0) | x_sigma, y]: the base model moved towards images above the mean and away from those below. Since a
prompt's advantages add up to 0, what all of the model's own images share, blemishes included, is not learned; flow
matching on the best images learns it. It is DiffusionNFT's loss (arXiv 2509.16117) at beta = 1, r = (1 + a) / 2, up to
a constant, with advantages of any size.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, send_to_device, slice_tensors
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from rfmi.fields import interpolate
from rfmi.finetuning.pairs import Batch, Pairs, draw_batch
from rfmi.finetuning.settings import FinetuningSettings
from rfmi.pipelines import Family
from rfmi.runs import process_state
from rfmi.training import CHECKPOINT, Training, train

FREE = ("steps", "checkpoint_seconds", "checkpoint_steps")  # what a run that goes on may change
HELD_OUT_SEED = 7  # of the noise at which held-out images are looked at
Loss = Callable[[Batch], Tensor]
Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]


def batch_loss(tuned: Velocity, base: Velocity, batch: Batch) -> Tensor:
    """The loss of a batch, from one forward pass of the tuned model and at most one of the base model.

    tuned, base: v (B, C, h, w), float32, of x_sigma, sigma (B,) and rows of the conditioning (B,).
    """
    x_sigma = interpolate(batch.noise, batch.x, batch.sigma)  # (1 - sigma) x + sigma eps
    v, target = tuned(x_sigma, batch.sigma, batch.rows), batch.noise - batch.x
    if batch.advantages is None:
        return (v - target).square().mean((1, 2, 3)).mean()
    with torch.no_grad():
        v_base = base(x_sigma, batch.sigma, batch.rows)
    advantages = batch.advantages[:, None, None, None]
    return (v - v_base - advantages * (target - v_base)).square().mean((1, 2, 3)).mean()


def make_accelerator(settings: FinetuningSettings, device: torch.device) -> Accelerator:
    """Accelerate's view of this call; ValueError for a batch that processes cannot share, and for float16 on a CPU."""
    processes = process_state().num_processes
    if settings.batch % processes:
        raise ValueError(f"a batch of {settings.batch} cannot be shared by {processes} processes; give a multiple")
    if settings.mixed_precision == "fp16" and device.type == "cpu":
        raise ValueError("mixed_precision is 'fp16' and the pipeline is on the CPU; take 'bf16' or 'no', or a GPU")
    # accelerate keeps the first call's precision, and alone also its device, for all that follow; each call has its own
    AcceleratorState._reset_state(reset_partial_state=processes == 1)
    plugin = GradientAccumulationPlugin(settings.gradient_accumulation, sync_with_dataloader=False)
    options = {"mixed_precision": settings.mixed_precision, "gradient_accumulation_plugin": plugin}
    return Accelerator(cpu=device.type == "cpu", **options)


def loop(
    transformer: nn.Module,
    family: Family,
    pairs: Pairs,
    parameters: dict[str, nn.Parameter],
    settings: FinetuningSettings,
    accelerator: Accelerator,
    folder: Path,
    run: dict[str, Any],
    held_out: Pairs | None = None,
    anchor: dict[str, Tensor] | None = None,
) -> tuple[Training, Iterator[tuple[int, float]]]:
    """The training of the adapter in a transformer, and its steps, which are taken as they are asked for.

    anchor: values of the adapter's parameters in the model that the training is held against, None for no adapter.
    """
    rates = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    optimizer = accelerator.prepare_optimizer(torch.optim.AdamW(list(parameters.values()), **rates, fused=True))
    training = Training(parameters, [optimizer], settings.averaging)
    module = transformer
    if accelerator.num_processes > 1:
        devices = None if transformer.device.type == "cpu" else [transformer.device]
        module = DistributedDataParallel(transformer, devices)
    loss_of = _loss_on(module, transformer, family, pairs, anchor)
    validate = None
    if held_out is not None:
        held_out_loss = _loss_on(transformer, transformer, family, held_out, anchor)
        validate = partial(_held_out_value, held_out_loss, held_out, settings)
    share = settings.batch // accelerator.num_processes  # every process takes its share of each part of a batch

    def take_step(step: int) -> float:
        batch, losses = draw_batch(pairs, settings, step), []
        for k in range(settings.gradient_accumulation):
            first = k * settings.batch + accelerator.process_index * share
            with accelerator.accumulate(module):
                with accelerator.autocast():
                    losses.append(loss_of(slice_tensors(batch, slice(first, first + share))))
                accelerator.backward(losses[-1])
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(parameters.values(), settings.largest_gradient_norm)
                optimizer.step()
                optimizer.zero_grad()
        return accelerator.reduce(torch.stack(losses).detach().mean(), "mean").item()

    steps = train(
        training,
        take_step,
        steps=settings.steps,
        rate=settings.rate,
        checkpoint=folder / CHECKPOINT,
        run=flat(run),
        free=FREE,
        checkpoint_seconds=settings.checkpoint_seconds,
        checkpoint_steps=settings.checkpoint_steps,
        validate=validate,
        validation_every=settings.validation_every,
        scaler=accelerator.scaler,
        writes=accelerator.is_main_process,
    )
    return training, steps


def _loss_on(
    module: nn.Module, transformer: nn.Module, family: Family, pairs: Pairs, anchor: dict[str, Tensor] | None
) -> Loss:
    """The loss of batches of these pairs; module: the transformer, or what shares its gradients with processes."""
    device, dtype = transformer.device, transformer.dtype

    def velocity(network: Callable, x_t: Tensor, sigma: Tensor, rows: Tensor) -> Tensor:
        conditioning = pairs.conditioning.rows(rows).to(device, dtype)
        return family.velocity(network, x_t.to(dtype), sigma, conditioning).float()

    def anchored(*arguments: object, **options: object) -> object:
        return functional_call(transformer, anchor, arguments, options)

    def base(x_t: Tensor, sigma: Tensor, rows: Tensor) -> Tensor:
        if anchor is not None:
            return velocity(anchored, x_t, sigma, rows)
        transformer.disable_adapters()
        try:
            return velocity(transformer, x_t, sigma, rows)
        finally:
            transformer.enable_adapters()

    return lambda batch: batch_loss(partial(velocity, module), base, send_to_device(batch, device))


def _held_out_value(loss_of: Loss, held_out: Pairs, settings: FinetuningSettings) -> float:
    """The loss of all held-out images with its sign turned, each at its own noise and level, always the same."""
    n = len(held_out.latents)
    batch = draw_batch(held_out, replace(settings, batch=n, gradient_accumulation=1, seed=HELD_OUT_SEED), 0)
    values = []
    for first in range(0, n, settings.batch):
        part = slice_tensors(batch, slice(first, first + settings.batch))
        values.append(float(loss_of(part)) * len(part.x))
    return -sum(values) / n


def flat(run: dict) -> dict:
    """A run's facts with its settings beside them, so that a message can name each."""
    return {name: value for name, value in run.items() if name != "settings"} | run["settings"]
