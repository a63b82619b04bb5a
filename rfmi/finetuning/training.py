"""The loop of a fine-tuning, as a generator: the caller counts and shows, and may stop when it likes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from rfmi.finetuning.adapter import without_adapter
from rfmi.finetuning.losses import batch_loss
from rfmi.finetuning.pairs import Batch, Pairs, draw_batch
from rfmi.finetuning.settings import FinetuningSettings
from rfmi.finetuning.state import State
from rfmi.pipelines import Family
from rfmi.processes import process_state

Loss = Callable[[Batch], Tensor]


def make_accelerator(settings: FinetuningSettings, device: torch.device) -> Accelerator:
    """Accelerate's view of this call's processes, device and precision. Raises ValueError for a batch that they cannot
    share evenly, and for float16 on a processor."""
    processes = process_state().num_processes
    if settings.batch % processes:
        raise ValueError(f"a batch of {settings.batch} cannot be shared by {processes} processes; give a multiple")
    if settings.mixed_precision == "fp16" and device.type == "cpu":
        raise ValueError("mixed_precision is 'fp16' and the pipeline is on the CPU; take 'bf16' or 'no', or a GPU")
    # accelerate keeps the first call's precision, and alone also its device, for all that follow; each call has its own
    AcceleratorState._reset_state(reset_partial_state=processes == 1)
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=settings.gradient_accumulation, sync_with_dataloader=False
        ),
    )


def make_state(
    parameters: dict[str, nn.Parameter], settings: FinetuningSettings, accelerator: Accelerator
) -> State:
    """The state before the first step."""
    optimizer = torch.optim.AdamW(
        list(parameters.values()),
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    average = {name: value.detach().clone() for name, value in parameters.items()}
    return State(parameters, average, accelerator.prepare_optimizer(optimizer))


def train(
    transformer: nn.Module,
    family: Family,
    pairs: Pairs,
    settings: FinetuningSettings,
    state: State,
    accelerator: Accelerator,
    *,
    checkpoint: Path,
    run: dict,
    validate: Callable[[], float] | None = None,
    start: dict[str, Tensor] | None = None,
) -> Iterator[tuple[int, float]]:
    """Train the adapter in a transformer until settings.steps, from the checkpoint where there is one; yields (steps
    done, loss).

    validate: the value of the transformer as it is, called with the average of the weights in it; the best average is
    state.chosen. run: what tells this run from another. start: of `loss_on`. Raises FloatingPointError where a loss or
    a value is no number (the last checkpoint stays), ValueError for a checkpoint of another run, OSError for a full
    disk.
    """
    if checkpoint.exists():
        state.read(checkpoint, run, accelerator)
    module = transformer
    if accelerator.num_processes > 1:
        devices = None if transformer.device.type == "cpu" else [transformer.device]
        module = DistributedDataParallel(transformer, devices)
    loss_of = loss_on(module, transformer, family, pairs, settings, start)

    def look() -> None:
        with state.averaged(), torch.no_grad():
            value = validate()
        state.validate(_number(value, "value of the validation", len(state.losses)))

    if validate is not None and not state.losses:
        look()
    last_written = time.monotonic()
    for step in range(len(state.losses), settings.steps):
        for group in state.optimizer.param_groups:
            group["lr"] = settings.rate(step)
        loss = _step(module, loss_of, draw_batch(pairs, settings, step), settings, state, accelerator)
        state.losses.append(_number(loss, "loss", step))
        weight = 1 - min(settings.averaging, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(state.average.values()), list(state.parameters.values()), weight)
        last = step + 1 == settings.steps
        if validate is not None and (last or (step + 1) % settings.validation_every == 0):
            look()
        if settings.checkpoint_steps:
            due = (step + 1) % settings.checkpoint_steps == 0
        else:
            due = time.monotonic() - last_written > settings.checkpoint_seconds
        if (due or last) and accelerator.is_main_process:
            state.write(checkpoint, run, accelerator)
            last_written = time.monotonic()
        yield step + 1, state.losses[-1]


def loss_on(
    module: nn.Module,
    transformer: nn.Module,
    family: Family,
    pairs: Pairs,
    settings: FinetuningSettings,
    start: dict[str, Tensor] | None = None,
) -> Loss:
    """The loss of batches of these pairs; module: the transformer, or what shares its gradients with other processes;
    start: values of the adapter's parameters in the model that the training is held against, None for no adapter."""
    device, dtype, null_row = transformer.device, transformer.dtype, len(pairs.conditioning) - 1

    def velocity(network: Callable, x_t: Tensor, sigma: Tensor, rows: Tensor) -> Tensor:
        conditioning = pairs.conditioning.rows(rows).to(device, dtype)
        return family.velocity(network, x_t.to(dtype), sigma, conditioning).float()

    def started(*arguments: object, **options: object) -> object:
        return functional_call(transformer, start, arguments, options)

    def base(x_t: Tensor, sigma: Tensor, rows: Tensor) -> Tensor:
        if start is not None:
            return velocity(started, x_t, sigma, rows)
        with without_adapter(transformer):
            return velocity(transformer, x_t, sigma, rows)

    def loss_of(part: Batch) -> Tensor:
        return batch_loss(partial(velocity, module), base, part.to(device), settings, null_row)

    return loss_of


def _step(
    module: nn.Module,
    loss_of: Loss,
    batch: Batch,
    settings: FinetuningSettings,
    state: State,
    accelerator: Accelerator,
) -> float:
    """One step of the optimiser: every process takes its share of each of the batch's parts. Returns the loss."""
    share, losses = settings.batch // accelerator.num_processes, []
    for k in range(settings.gradient_accumulation):
        start = k * settings.batch + accelerator.process_index * share
        with accelerator.accumulate(module):
            with accelerator.autocast():
                losses.append(loss_of(batch.part(slice(start, start + share))))
            accelerator.backward(losses[-1])
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(state.parameters.values(), settings.largest_gradient_norm)
            state.optimizer.step()
            state.optimizer.zero_grad()
    return accelerator.reduce(torch.stack(losses).detach().mean(), "mean").item()


def _number(value: float, what: str, step: int) -> float:
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the {what} is no number at step {step}; lower the learning rate, and call again in another folder"
        )
    return float(value)
