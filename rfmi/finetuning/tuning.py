"""`rfmi.finetune`: a pipeline, a selection of its own images, and a LoRA that makes it draw more like the good ones.

No judge and no other model has a say: one prompt in a few is held out, the loss of its images is looked at, on the same
noise, while training, and the average of the weights with the best value is saved.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from rfmi.finetuning.adapter import adapted_layers, adapter_in, values_of_lora, without_adapter
from rfmi.finetuning.losses import batch_loss
from rfmi.finetuning.pairs import Batch, Pairs, draw_batch, training_pairs
from rfmi.finetuning.results import RECORD, WEIGHTS, Finetuned, read_finetuned, run_record, write_results
from rfmi.finetuning.settings import FinetuningSettings
from rfmi.pipelines import Family, family_of
from rfmi.runs import SETTINGS, check_same, fingerprint, process_state
from rfmi.selection import Selection, read_selection
from rfmi.training import CHECKPOINT, Training, check_steps, train

DEFAULTS = FinetuningSettings()
FREE = ("steps", "checkpoint_seconds", "checkpoint_steps")  # what a run that goes on may change
HELD_OUT_SEED = 7  # of the noise at which held-out images are looked at
Loss = Callable[[Batch], Tensor]


def finetune(
    pipeline: DiffusionPipeline,
    selection: Selection | str | Path,
    *,
    output: str | Path,
    by: str = "score",
    settings: FinetuningSettings = DEFAULTS,
    hold_out: int | None = 16,
    start: str | Path | None = None,
    device: torch.device | str | None = None,
) -> Finetuned:
    """Train a LoRA on a selection's kept images and write it to the folder `output`.

    pipeline: it is left as it was, in every case; its transformer's gradient checkpointing is used if it is enabled.
    selection: a finished selection, or its folder; neither text encoders nor autoencoder are used.
    output: a folder of its own. A killed call goes on at its last checkpoint, a finished one is only read.
    by: the column of the selection that says how good each image is, the larger the better.
    settings: by default, learn from which images fail; `PAPER` has the published ones.
    hold_out: one prompt in so many is kept for the early choice; None, or more than there are, for none.
    start: the folder of a LoRA to go on from, as a second round does; what is learned is held against the model with
        it, which drew the images.
    device: where to train, None where the pipeline is; processes of `accelerate launch` each take their own.
    Raises ValueError before anything starts for a selection, settings, targets or a folder that do not fit;
    FileNotFoundError for a selection or a start that is not there; FloatingPointError where a loss is no number;
    OSError for a full disk.
    """
    family, folder, transformer = family_of(pipeline), Path(output), pipeline.transformer
    selection = selection if isinstance(selection, Selection) else read_selection(selection)
    learned, looked_at = _parts(selection, hold_out)
    pairs = training_pairs(learned, settings, by)
    held_out = None if looked_at is None else training_pairs(looked_at, settings, by)
    layers = adapted_layers(pipeline, settings.targets)
    _check_fit(pairs, transformer, family)
    run = run_record(
        settings,
        pipeline,
        weights=fingerprint(transformer),
        by=by,
        pairs=pairs.digest(),
        held_out=None if held_out is None else held_out.digest(),
        images=len(pairs.latents),
        prompts=len(pairs.rows.unique()),
        layers=layers,
        start=None if start is None else _start_digest(Path(start)),
    )
    if _is_finished(folder, run):
        return read_finetuned(folder)
    processes, before = process_state(), transformer.device
    place = processes.device if processes.num_processes > 1 else torch.device(before if device is None else device)
    accelerator = make_accelerator(settings, place)
    try:
        if place != before:
            pipeline.to(place)
        with adapter_in(transformer, settings, layers) as parameters:
            anchor = None if start is None else values_of_lora(pipeline, start)
            for name, value in (anchor or {}).items():
                parameters[name].data.copy_(value)
            training, steps = loop(
                transformer, family, pairs, parameters, settings, accelerator, folder, run, held_out, anchor
            )
            hidden = not accelerator.is_main_process
            with tqdm(desc="fine-tuning", total=settings.steps, disable=hidden, mininterval=5.0, delay=5.0) as bar:
                for done, loss in steps:
                    bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                    bar.update(done - bar.n)
            if accelerator.is_main_process:
                write_results(folder, pipeline, training, run)
            accelerator.wait_for_everyone()
    finally:
        if place != before:
            pipeline.to(before)
    return read_finetuned(folder)


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


def loop(
    transformer: nn.Module,
    family: Family,
    pairs: Pairs,
    parameters: dict[str, nn.Parameter],
    settings: FinetuningSettings,
    accelerator: Accelerator,
    folder: Path,
    run: dict,
    held_out: Pairs | None = None,
    anchor: dict[str, Tensor] | None = None,
):
    """The training of the adapter in a transformer, and its steps, which are taken as they are asked for.

    anchor: values of the adapter's parameters in the model that the training is held against, None for no adapter.
    """
    optimizer = torch.optim.AdamW(
        list(parameters.values()), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    training = Training(parameters, [accelerator.prepare_optimizer(optimizer)], settings.averaging)
    module = transformer
    if accelerator.num_processes > 1:
        devices = None if transformer.device.type == "cpu" else [transformer.device]
        module = DistributedDataParallel(transformer, devices)
    loss_of = _loss_on(module, transformer, family, pairs, anchor)
    validate = None
    if held_out is not None:
        validate = partial(_held_out_value, _loss_on(transformer, transformer, family, held_out, anchor), held_out,
                           settings)  # fmt: skip
    steps = train(
        training,
        lambda step: _step(module, loss_of, draw_batch(pairs, settings, step), settings, training, accelerator),
        steps=settings.steps,
        rate=settings.rate,
        checkpoint=folder / CHECKPOINT,
        run=_flat(run),
        free=FREE,
        checkpoint_seconds=settings.checkpoint_seconds,
        checkpoint_steps=settings.checkpoint_steps,
        validate=validate,
        validation_every=settings.validation_every,
        scaler=accelerator.scaler,
        writes=accelerator.is_main_process,
    )
    return training, steps


def _parts(selection: Selection, hold_out: int | None) -> tuple[Selection, Selection | None]:
    """What is trained on, and what is held out: every `hold_out`-th prompt."""
    if hold_out is not None and (not isinstance(hold_out, int) or hold_out < 2):
        raise ValueError(f"hold_out is {hold_out!r}; keep one prompt in two or more, or None for none")
    numbers = [] if hold_out is None else sorted(set(selection.prompt_id.tolist()))
    kept = [i for i in numbers if i % hold_out == hold_out - 1]
    if not kept:
        return selection, None
    return selection.without_prompts(kept), selection.of_prompts(kept)


def _loss_on(
    module: nn.Module, transformer: nn.Module, family: Family, pairs: Pairs, anchor: dict[str, Tensor] | None
) -> Loss:
    """The loss of batches of these pairs; module: the transformer, or what shares its gradients with other
    processes."""
    device, dtype = transformer.device, transformer.dtype

    def velocity(network: Callable, x_t: Tensor, sigma: Tensor, rows: Tensor) -> Tensor:
        conditioning = pairs.conditioning.rows(rows).to(device, dtype)
        return family.velocity(network, x_t.to(dtype), sigma, conditioning).float()

    def anchored(*arguments: object, **options: object) -> object:
        return functional_call(transformer, anchor, arguments, options)

    def base(x_t: Tensor, sigma: Tensor, rows: Tensor) -> Tensor:
        if anchor is not None:
            return velocity(anchored, x_t, sigma, rows)
        with without_adapter(transformer):
            return velocity(transformer, x_t, sigma, rows)

    return lambda batch: batch_loss(partial(velocity, module), base, batch.to(device))


def _held_out_value(loss_of: Loss, held_out: Pairs, settings: FinetuningSettings) -> float:
    """The loss of all held-out images with its sign turned, each at its own noise and level, always the same."""
    n = len(held_out.latents)
    batch = draw_batch(held_out, replace(settings, batch=n, gradient_accumulation=1, seed=HELD_OUT_SEED), 0)
    values = []
    for first in range(0, n, settings.batch):
        part = batch.part(slice(first, first + settings.batch))
        values.append(float(loss_of(part)) * len(part.x))
    return -sum(values) / n


def _step(
    module: nn.Module,
    loss_of: Loss,
    batch: Batch,
    settings: FinetuningSettings,
    training: Training,
    accelerator: Accelerator,
) -> float:
    """One step of the optimiser: every process takes its share of each of the batch's parts. Returns the loss."""
    share, losses = settings.batch // accelerator.num_processes, []
    (optimizer,) = training.optimizers
    for k in range(settings.gradient_accumulation):
        start = k * settings.batch + accelerator.process_index * share
        with accelerator.accumulate(module):
            with accelerator.autocast():
                losses.append(loss_of(batch.part(slice(start, start + share))))
            accelerator.backward(losses[-1])
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(training.parameters.values(), settings.largest_gradient_norm)
            optimizer.step()
            optimizer.zero_grad()
    return accelerator.reduce(torch.stack(losses).detach().mean(), "mean").item()


@torch.no_grad()
def _check_fit(pairs: Pairs, transformer: nn.Module, family: Family) -> None:
    """Raises ValueError, with the transformer's reason, for latents or conditioning that are of another model."""
    x, device, dtype = pairs.latents[:1], transformer.device, transformer.dtype
    conditioning = pairs.conditioning.rows(pairs.rows[:1]).to(device, dtype)
    try:
        v = family.velocity(transformer, x.to(device, dtype), torch.full((1,), 0.5, device=device), conditioning)
        reason = f"it answers with {tuple(v.shape[1:])}" if v.shape != x.shape else ""
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error)
    if reason:
        raise ValueError(
            f"the selection, with latents {tuple(x.shape[1:])}, does not fit the pipeline's transformer ({reason}); "
            "select with this pipeline"
        )


def _flat(run: dict) -> dict:
    """A run's facts with its settings beside them, so that a message can name each."""
    return {name: value for name, value in run.items() if name != "settings"} | run["settings"]


def _start_digest(folder: Path) -> str:
    """A short hash of the LoRA in a folder. Raises FileNotFoundError where there is none."""
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} holds no {WEIGHTS} to start from; give the folder of a finished fine-tuning")
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:16]


def _is_finished(folder: Path, run: dict) -> bool:
    """Whether this very run is finished there. Raises ValueError where a folder holds another."""
    if (folder / SETTINGS).is_file():
        raise ValueError(f"{folder} holds a selection or an evaluation; choose another folder")
    if (folder / RECORD).is_file():
        there, settings = json.loads((folder / RECORD).read_text(encoding="utf-8")), run["settings"]
        check_same(_flat({name: there.get(name) for name in run}), _flat(run), folder, FREE)
        check_steps(there["losses"], there["validation"], settings["steps"], settings["validation_every"], folder)
        return len(there["losses"]) == settings["steps"] and (folder / WEIGHTS).is_file()
    if (folder / WEIGHTS).is_file() and not (folder / CHECKPOINT).is_file():
        raise ValueError(f"{folder} holds a LoRA that was not trained here; choose another folder, or remove it")
    return False
