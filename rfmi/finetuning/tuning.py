"""`rfmi.finetune`: a pipeline, a selection of its own images, and a LoRA that makes it draw more like them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from tqdm import tqdm

from rfmi.training import CHECKPOINT
from rfmi.finetuning.adapter import adapted_layers, adapter_in, values_of_lora
from rfmi.finetuning.pairs import Pairs, training_pairs
from rfmi.finetuning.results import RECORD, WEIGHTS, Finetuned, read_finetuned, run_record, write_results
from rfmi.finetuning.settings import PRESETS, FinetuningSettings
from rfmi.finetuning.state import check_run, check_steps
from rfmi.finetuning.training import make_accelerator, make_state, train
from rfmi.finetuning.validation import Validation
from rfmi.pipelines import Family, family_of
from rfmi.processes import process_state
from rfmi.selection import Selection, read_selection
from rfmi.selection.folder import fingerprint

SMALL = PRESETS["small"]


def finetune(
    pipeline: DiffusionPipeline,
    selected: Selection | str | Path,
    *,
    output: str | Path,
    settings: FinetuningSettings = SMALL,
    rejected: Selection | Tensor | None = None,
    start: str | Path | None = None,
    validation: Validation | None = None,
    device: torch.device | str | None = None,
) -> Finetuned:
    """Train a LoRA on a selection's kept latents and write it to the folder `output`.

    selected: a finished selection, or its folder; neither text encoders nor autoencoder are used. settings: `PRESETS`
    has the published ones. rejected: for the preference `dpo`, a selection of the same prompts or latents (n, C, h, w).
    start: the folder of a LoRA to go on from, as a second round does; advantages, preferences and the null branch are
    held against the model with it, which drew the images. validation: called with the transformer, the average of the
    weights in it, every settings.validation_every steps; the larger, the better, and the best is saved.
    `held_out_information` and `held_out_loss` make one. device: where to train, None where the pipeline is; processes
    of `accelerate launch` each take their own.

    A killed call goes on at its last checkpoint, a finished one is only read. The pipeline is left as it was, in every
    case; its transformer's gradient checkpointing is used if it is enabled. Raises ValueError before anything starts
    for pairs, settings, targets or a folder that do not fit; FileNotFoundError for a selection or a start that is not
    there; FloatingPointError where a loss is no number; OSError for a full disk.
    """
    family, folder, transformer = family_of(pipeline), Path(output), pipeline.transformer
    selection = selected if isinstance(selected, Selection) else read_selection(selected)
    pairs = training_pairs(selection, settings, rejected)
    layers = adapted_layers(pipeline, settings.targets)
    _check_fit(pairs, transformer, family)
    run = run_record(
        settings,
        pipeline,
        weights=fingerprint(transformer),
        pairs=pairs.digest(),
        images=len(pairs.latents),
        prompts=len(pairs.rows.unique()),
        layers=layers,
        start=None if start is None else _start_digest(Path(start)),
        validation_by=None if validation is None else getattr(validation, "identity", "the caller"),
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
            state = make_state(parameters, settings, accelerator)
            validate = None if validation is None else lambda: validation(transformer)
            steps = train(
                transformer, family, pairs, settings, state, accelerator, checkpoint=folder / CHECKPOINT, run=run,
                validate=validate, start=anchor,
            )  # fmt: skip
            hidden = not accelerator.is_main_process
            with tqdm(desc="fine-tuning", total=settings.steps, disable=hidden, mininterval=5.0) as bar:
                for done, loss in steps:
                    bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                    bar.update(done - bar.n)
            if accelerator.is_main_process:
                write_results(folder, pipeline, state, run)
            accelerator.wait_for_everyone()
    finally:
        if place != before:
            pipeline.to(before)
    return read_finetuned(folder)


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


def _start_digest(folder: Path) -> str:
    """A short hash of the LoRA in a folder. Raises FileNotFoundError where there is none."""
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} holds no {WEIGHTS} to start from; give the folder of a finished fine-tuning")
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:16]


def _is_finished(folder: Path, run: dict) -> bool:
    """Whether this very run is finished there. Raises ValueError where a folder holds another."""
    if (folder / RECORD).is_file():
        there = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        check_run({name: there.get(name) for name in run}, run, folder)
        check_steps(there["losses"], there["validation"], run["settings"], folder)
        return len(there["losses"]) == run["settings"]["steps"] and (folder / WEIGHTS).is_file()
    if (folder / WEIGHTS).is_file() and not (folder / CHECKPOINT).is_file():
        raise ValueError(f"{folder} holds a LoRA that was not trained here; choose another folder, or remove it")
    return False
