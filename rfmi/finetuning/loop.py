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
from accelerate.utils import reduce, send_to_device, slice_tensors
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.func import functional_call
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

from rfmi.fields import interpolate
from rfmi.finetuning.pairs import Batch, Pairs, draw_batch
from rfmi.finetuning.settings import FinetuningSettings
from rfmi.pipelines import Family
from rfmi.pipelines.interface import computing_dtype
from rfmi.pipelines.memory import MicroBatches
from rfmi.runs import process_state
from rfmi.training import CHECKPOINT, Training, train

SPLIT = ("batch", "gradient_accumulation", "gradient_checkpointing")  # how the images of a step share the memory
FREE = ("steps", "checkpoint_seconds", "checkpoint_steps", *SPLIT)  # what a run that goes on may change
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}
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


def check_processes(settings: FinetuningSettings, device: torch.device) -> None:
    """Raises ValueError for a batch that processes cannot share, and for float16 on a CPU."""
    processes = process_state().num_processes
    if settings.batch % processes:
        raise ValueError(f"a batch of {settings.batch} cannot be shared by {processes} processes; give a multiple")
    if settings.mixed_precision == "fp16" and device.type == "cpu":
        raise ValueError("mixed_precision is 'fp16' and the pipeline is on the CPU; take 'bf16' or 'no', or a GPU")


def loop(
    transformer: nn.Module,
    family: Family,
    pairs: Pairs,
    parameters: dict[str, nn.Parameter],
    settings: FinetuningSettings,
    folder: Path,
    run: dict[str, Any],
    held_out: Pairs | None = None,
    anchor: dict[str, Tensor] | None = None,
) -> tuple[Training, Iterator[tuple[int, float]]]:
    """The training of the adapter in a transformer, and its steps, which are taken as they are asked for.

    anchor: values of the adapter's parameters in the model that the training is held against, None for no adapter.
    Where memory runs out, fewer images go through the network at once from then on; MemoryError where not even one can.
    """
    state, trained = process_state(), list(parameters.values())
    rates = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    optimizer = torch.optim.AdamW(trained, **rates, fused=True)
    training = Training(parameters, [optimizer], settings.averaging)
    dtype, kind = PRECISIONS.get(settings.mixed_precision), transformer.device.type
    scaler = GradScaler(kind, enabled=dtype == torch.float16)
    loss_of = _loss_on(transformer, family, pairs, anchor)
    validate = None
    if held_out is not None:
        validate = partial(_held_out_value, _loss_on(transformer, family, held_out, anchor), held_out, settings)
    share = settings.batch // state.num_processes  # every process takes its share of each part of a batch
    at_once = MicroBatches(None)

    def learn(part: Batch, rows: slice) -> Tensor:
        """Add what some rows of a part give to the gradients; what they give to the loss of the part."""
        some = slice_tensors(part, rows)
        with torch.autocast(kind, dtype, enabled=dtype is not None):
            loss = loss_of(some) * (len(some.x) / share)
        # not `backward`, which has entered half of the gradients where memory runs out half way
        whole = torch.autograd.grad(scaler.scale(loss / settings.gradient_accumulation), trained, allow_unused=True)
        for parameter, gradient in zip(trained, whole, strict=True):
            if parameter.grad is None:
                parameter.grad = None if gradient is None else gradient.contiguous()
            else:
                parameter.grad += gradient
        return loss.detach()

    def take_step(step: int) -> float:
        batch, losses = draw_batch(pairs, settings, step), []
        for k in range(settings.gradient_accumulation):
            first = k * settings.batch + state.process_index * share
            part = slice_tensors(batch, slice(first, first + share))
            try:
                losses.append(sum(at_once(partial(learn, part), share)))
            except MemoryError as error:
                advice = "take gradient_checkpointing=True, mixed_precision='bf16', smaller images or a larger device"
                raise MemoryError(f"memory runs out at a single image; {advice}") from error
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        if state.num_processes > 1:  # once a step, however each process has split its share
            vector_to_parameters(reduce(parameters_to_vector(gradients), "mean"), gradients)
        scaler.unscale_(optimizer)
        clip_grad_norm_(trained, settings.largest_gradient_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return reduce(torch.stack(losses).mean(), "mean").item()

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
        scaler=scaler,
        writes=state.is_main_process,
    )
    return training, steps


def _loss_on(transformer: nn.Module, family: Family, pairs: Pairs, anchor: dict[str, Tensor] | None) -> Loss:
    """The loss of batches of these pairs."""
    device, dtype = transformer.device, computing_dtype(transformer)

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

    return lambda batch: batch_loss(partial(velocity, transformer), base, send_to_device(batch, device))


def _held_out_value(loss_of: Loss, held_out: Pairs, settings: FinetuningSettings) -> float:
    """The loss of all held-out images with its sign turned, each at its own noise and level, always the same."""
    n = len(held_out.latents)
    batch = draw_batch(held_out, replace(settings, batch=n, gradient_accumulation=1, seed=HELD_OUT_SEED), 0)

    def summed(rows: slice) -> float:
        part = slice_tensors(batch, rows)
        return float(loss_of(part)) * len(part.x)

    return -sum(MicroBatches(settings.batch)(summed, n)) / n


def flat(run: dict) -> dict:
    """A run's facts with its settings beside them, so that a message can name each."""
    return {name: value for name, value in run.items() if name != "settings"} | run["settings"]
