"""`rfmi.finetune`: a pipeline, a selection of its own images, and a LoRA that makes it draw more like the good ones.

No judge and no other model has a say. With `hold_out`, one prompt in a few is kept back, the loss of its images is
looked at, on the same noise, while training, and the average of the weights with the best value is saved; without, the
last one is.
"""

from dataclasses import asdict
from numbers import Integral
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import nn
from tqdm import tqdm

from rfmi.checks import check_device
from rfmi.finetuning.adapter import adapted_layers, adapter_in, load_lora
from rfmi.finetuning.folder import RECORD, WEIGHTS, Finetuned, digest, is_finished, read_finetuned, write_folder
from rfmi.finetuning.loop import check_processes, loop
from rfmi.finetuning.pairs import Pairs, training_pairs
from rfmi.finetuning.settings import FinetuningSettings
from rfmi.pipelines import Family, family_of, fingerprint
from rfmi.pipelines.interface import computing_dtype
from rfmi.pipelines.twins import are_twins, sketch_of
from rfmi.runs import process_state, remove_leftovers
from rfmi.selection import Selection, read_selection

DEFAULTS = FinetuningSettings()


def finetune(
    pipeline: DiffusionPipeline,
    selection: Selection | str | Path,
    *,
    output: str | Path,
    by: str = "score",
    settings: FinetuningSettings = DEFAULTS,
    hold_out: int | None = None,
    start: str | Path | None = None,
    device: torch.device | str | None = None,
) -> Finetuned:
    """Train a LoRA on a selection's kept images and write it to the folder `output`.

    pipeline: it is left as it was, in every case; its transformer's gradient checkpointing is used if it is enabled.
    selection: a finished selection, or its folder; neither text encoders nor autoencoder are used. It is one that this
        pipeline drew, in whatever dtype; whose model drew another is refused, unless `start` is given.
    output: a folder of its own. A killed call goes on at its last checkpoint, however the images of a step are split
        then; a finished one is only read.
    by: the column of the selection that says how good each image is, the larger the better.
    settings: by default, learn from all images by their scores; `PAPER` has the published ones.
    hold_out: one prompt in so many is kept for an early choice of the weights; None, or more than there are, for none.
    start: the folder of a LoRA to go on from, as a second round does; what is learned is held against the model with
        it, which drew the images; that is taken on trust.
    device: where to train, None where the pipeline is; processes of `accelerate launch` each take their own.
    Raises ValueError before anything starts for a selection, settings, targets or a folder that do not fit;
    FileNotFoundError for a selection or a start that is not there; FloatingPointError where a loss is no number;
    MemoryError where the device is too small for one image; OSError for a full disk.
    """
    if not isinstance(settings, FinetuningSettings):
        advice = "give a FinetuningSettings, as in FinetuningSettings(weighting='verdict')"
        raise ValueError(f"settings is {settings!r:.60}; {advice}")
    family, folder, transformer = family_of(pipeline), Path(output), pipeline.transformer
    place = _place(device, transformer.device)
    selection = selection if isinstance(selection, Selection) else read_selection(selection)
    learned, looked_at = _parts(selection, hold_out)
    pairs = training_pairs(learned, settings, by)
    held_out = None if looked_at is None else training_pairs(looked_at, settings, by)
    layers = adapted_layers(pipeline, settings.targets)
    _check_fit(pairs, transformer, family)
    if start is None:
        _check_origin(selection, transformer)
    name = str(pipeline.config.get("_name_or_path") or type(pipeline).__name__)
    run = {
        "settings": asdict(settings),
        "images_a_step": settings.images_a_step,
        "base_model": Path(name).name if Path(name).exists() else name,
        "weights": fingerprint(transformer),
        "by": by,
        "pairs": pairs.digest(),
        "held_out": None if held_out is None else held_out.digest(),
        "images": len(pairs.latents),
        "prompts": len(pairs.rows.unique()),
        "layers": layers,
        "start": None if start is None else _start_digest(Path(start)),
    }
    state, before, finished = process_state(), transformer.device, is_finished(folder, run, settings)
    state.wait_for_everyone()  # before one of them writes
    remove_leftovers(folder)
    if finished:
        return read_finetuned(folder)
    check_processes(settings, place)
    anchor = None  # no adapter: the base model
    try:
        if place != before:
            pipeline.to(place)
        with adapter_in(transformer, settings, layers) as parameters:
            if start is not None:
                load_lora(pipeline, start)
                anchor = {name: value.detach().clone() for name, value in parameters.items()}
            training, steps = loop(transformer, family, pairs, parameters, settings, folder, run, held_out, anchor)
            hidden = not state.is_main_process
            with tqdm(desc="fine-tuning", total=settings.steps, disable=hidden, mininterval=5.0, delay=5.0) as bar:
                for done, loss in steps:
                    bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                    bar.update(done - bar.n)
            if state.is_main_process:
                write_folder(folder, pipeline, training, run, settings)
            state.wait_for_everyone()
    finally:
        if place != before:
            pipeline.to(before)
    return read_finetuned(folder)


def _place(device: torch.device | str | None, before: torch.device) -> torch.device:
    """Where to train; ValueError for a device that is not there."""
    state = process_state()
    if device is None or state.num_processes > 1:
        return state.device if state.num_processes > 1 else before
    return check_device(device)


def _parts(selection: Selection, hold_out: int | None) -> tuple[Selection, Selection | None]:
    """What is trained on, and what is held out: every `hold_out`-th prompt."""
    if hold_out is not None and (not isinstance(hold_out, Integral) or hold_out < 2):
        raise ValueError(f"hold_out is {hold_out}; keep one prompt in two or more, or None for none")
    numbers = [] if hold_out is None else sorted(set(selection.prompt_id.tolist()))
    kept = [i for i in numbers if i % hold_out == hold_out - 1]
    if not kept:
        return selection, None
    return selection.of_prompts(sorted({*numbers} - {*kept})), selection.of_prompts(kept)


@torch.no_grad()
def _check_fit(pairs: Pairs, transformer: nn.Module, family: Family) -> None:
    """Raises ValueError, with the transformer's reason, for latents or conditioning that are of another model."""
    x, device, dtype = pairs.latents[:1], transformer.device, computing_dtype(transformer)
    conditioning = pairs.conditioning.rows(pairs.rows[:1]).to(device, dtype)
    try:
        v = family.velocity(transformer, x.to(device, dtype), torch.full((1,), 0.5, device=device), conditioning)
        reason = f"it answers with {tuple(v.shape[1:])}" if v.shape != x.shape else ""
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error)
    if reason:
        said = f"the selection, with latents {tuple(x.shape[1:])}, does not fit the pipeline's transformer ({reason})"
        raise ValueError(f"{said}; select with this pipeline")


def _check_origin(selection: Selection, transformer: nn.Module) -> None:
    """Raises ValueError for a selection that another model drew, where it is known which did."""
    _, _, drew = (selection.origin or {}).get("transformer", "").partition(" ")
    if drew and not are_twins(drew, sketch_of(transformer)):
        said = "the selection was drawn by another model, of other weights or another configuration"
        raise ValueError(f"{said}; select with this pipeline, or give the LoRA that drew it as `start`")


def _start_digest(folder: Path) -> str:
    """A short hash of the LoRA in a folder. FileNotFoundError where there is none, ValueError for a damaged one."""
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} holds no {WEIGHTS} to start from; give the folder of a finished fine-tuning")
    if (folder / RECORD).is_file():
        read_finetuned(folder)
    return digest(folder / WEIGHTS)[:16]
