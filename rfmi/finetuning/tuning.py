"""`rfmi.finetune`: a pipeline, a selection of its own images, and a LoRA that makes it draw more like the good ones.

No judge and no other model has a say. With `hold_out`, one prompt in a few is kept back, the loss of its images is
looked at, on the same noise, while training, and the average of the weights with the best value is saved; without, the
last one is. The folder that it is written to:

    pytorch_lora_weights.safetensors   the adapter, for `pipeline.load_lora_weights(folder)`
    README.md                          the model card
    training.json                      settings, losses, validation, versions: written last, it vouches for the rest
    checkpoint.safetensors             where a longer training goes on; it may be removed
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE as WEIGHTS
from torch import nn
from tqdm import tqdm

from rfmi.finetuning.adapter import adapted_layers, adapter_in, load_lora, write_lora
from rfmi.finetuning.loop import FREE, flat, loop, make_accelerator
from rfmi.finetuning.pairs import Pairs, training_pairs
from rfmi.finetuning.settings import FinetuningSettings
from rfmi.pipelines import Family, family_of, fingerprint
from rfmi.runs import PACKAGES, SETTINGS, check_same, disk_space, process_state, versions, write_atomically
from rfmi.selection import Selection, read_selection
from rfmi.training import CHECKPOINT, Training, check_steps

RECORD, CARD = "training.json", "README.md"
DEFAULTS = FinetuningSettings()


@dataclass(frozen=True)
class Finetuned:
    """A finished fine-tuning.

    folder: for `pipeline.load_lora_weights`.
    losses: of every step.
    validation: (step, the held-out loss with its sign turned), step 0 before training; empty where none was held out.
    chosen_step: the step whose averaged weights were saved.
    """

    folder: Path
    settings: FinetuningSettings
    losses: tuple[float, ...]
    validation: tuple[tuple[int, float], ...]
    chosen_step: int


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
    selection: a finished selection, or its folder; neither text encoders nor autoencoder are used.
    output: a folder of its own. A killed call goes on at its last checkpoint, a finished one is only read.
    by: the column of the selection that says how good each image is, the larger the better.
    settings: by default, learn from all images by their scores; `PAPER` has the published ones.
    hold_out: one prompt in so many is kept for an early choice of the weights; None, or more than there are, for none.
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
    name = str(pipeline.config.get("_name_or_path") or type(pipeline).__name__)
    run = {
        "settings": asdict(settings),
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
    if _is_finished(folder, run, settings):
        return read_finetuned(folder)
    processes, before = process_state(), transformer.device
    place = processes.device if processes.num_processes > 1 else torch.device(before if device is None else device)
    accelerator = make_accelerator(settings, place)
    anchor = None  # no adapter: the base model
    try:
        if place != before:
            pipeline.to(place)
        with adapter_in(transformer, settings, layers) as parameters:
            if start is not None:
                load_lora(pipeline, start)
                anchor = {name: value.detach().clone() for name, value in parameters.items()}
            training, steps = loop(
                transformer, family, pairs, parameters, settings, accelerator, folder, run, held_out, anchor
            )
            hidden = not accelerator.is_main_process
            with tqdm(desc="fine-tuning", total=settings.steps, disable=hidden, mininterval=5.0, delay=5.0) as bar:
                for done, loss in steps:
                    bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                    bar.update(done - bar.n)
            if accelerator.is_main_process:
                _write(folder, pipeline, training, run, settings)
            accelerator.wait_for_everyone()
    finally:
        if place != before:
            pipeline.to(before)
    return read_finetuned(folder)


def read_finetuned(folder: str | Path) -> Finetuned:
    """A finished fine-tuning. Raises FileNotFoundError for a folder that lacks a part of one."""
    folder = Path(folder)
    for name in (RECORD, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no finished fine-tuning: {name} is missing; run it again")
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    listed = {name: tuple(value) if isinstance(value, list) else value for name, value in record["settings"].items()}
    losses, validation = tuple(record["losses"]), tuple((step, value) for step, value in record["validation"])
    return Finetuned(folder, FinetuningSettings(**listed), losses, validation, record["chosen_step"])


def _parts(selection: Selection, hold_out: int | None) -> tuple[Selection, Selection | None]:
    """What is trained on, and what is held out: every `hold_out`-th prompt."""
    if hold_out is not None and (not isinstance(hold_out, int) or hold_out < 2):
        raise ValueError(f"hold_out is {hold_out!r}; keep one prompt in two or more, or None for none")
    numbers = [] if hold_out is None else sorted(set(selection.prompt_id.tolist()))
    kept = [i for i in numbers if i % hold_out == hold_out - 1]
    if not kept:
        return selection, None
    return selection.of_prompts(sorted({*numbers} - {*kept})), selection.of_prompts(kept)


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
        said = f"the selection, with latents {tuple(x.shape[1:])}, does not fit the pipeline's transformer ({reason})"
        raise ValueError(f"{said}; select with this pipeline")


def _start_digest(folder: Path) -> str:
    """A short hash of the LoRA in a folder. Raises FileNotFoundError where there is none."""
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} holds no {WEIGHTS} to start from; give the folder of a finished fine-tuning")
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:16]


def _is_finished(folder: Path, run: dict[str, Any], settings: FinetuningSettings) -> bool:
    """Whether this very run is finished there. Raises ValueError where a folder holds another."""
    if (folder / SETTINGS).is_file():
        raise ValueError(f"{folder} holds a selection or an evaluation; choose another folder")
    if (folder / RECORD).is_file():
        there = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        check_same(flat({name: there.get(name) for name in run}), flat(run), folder, FREE)
        check_steps(there["losses"], there["validation"], settings.steps, settings.validation_every, folder)
        return len(there["losses"]) == settings.steps and (folder / WEIGHTS).is_file()
    if (folder / WEIGHTS).is_file() and not (folder / CHECKPOINT).is_file():
        raise ValueError(f"{folder} holds a LoRA that was not trained here; choose another folder, or remove it")
    return False


def _write(
    folder: Path, pipeline: DiffusionPipeline, training: Training, run: dict[str, Any], settings: FinetuningSettings
) -> None:
    """Write the folder of a training that is over, whose adapter is still in the pipeline."""
    record = {**run, "losses": training.losses, "validation": training.validation}
    record["chosen_step"] = training.chosen_step
    record["versions"] = versions((*PACKAGES, "peft", "accelerate", "safetensors"))
    own_place = {"dir": folder, "prefix": "lora.", "ignore_cleanup_errors": True}
    with disk_space(folder), TemporaryDirectory(**own_place) as temporary:
        write_lora(pipeline, training.result, temporary)
        (folder / RECORD).unlink(missing_ok=True)  # of a shorter run: it does not vouch for what follows
        os.replace(Path(temporary) / WEIGHTS, folder / WEIGHTS)
        write_atomically(folder / CARD, _card(record, settings))
        write_atomically(folder / RECORD, json.dumps(record, indent=1) + "\n")


def _card(record: dict[str, Any], settings: FinetuningSettings) -> str:
    losses, values, layers = record["losses"], dict(record["validation"]), ", ".join(record["layers"])
    kind, loss = "DoRA" if settings.dora else "LoRA", "advantage" if settings.signed else "flow-matching"
    tail, (mean, deviation) = losses[-max(1, len(losses) // 10) :], settings.noise_level
    chosen = f"The moving average ({settings.averaging:g}) after step {record['chosen_step']}"
    if values:
        first, best = -values[0], -values[record["chosen_step"]]
        chosen += f", the best of {len(values) - 1} by held-out loss: {best:.4g}, against {first:.4g} before training"
    return f"""---
base_model: {record["base_model"]}
library_name: diffusers
pipeline_tag: text-to-image
tags: [lora, text-to-image, diffusers, rfmi]
---

# {kind} for {record["base_model"]}, fine-tuned on images of its own

Trained by `rfmi.finetuning` on {record["images"]} images that were selected for {record["prompts"]} prompts \
(weighting `{settings.weighting}`, by `{record["by"]}`).

```python
pipe.load_lora_weights("this folder")   # pipe: a pipeline of the base model
```

- **Adapter.** {kind} of rank {settings.rank}, alpha {settings.alpha or settings.rank}, on {layers}.
- **Training.** {len(losses)} steps of {settings.images_a_step} images, {loss} loss, AdamW at \
{settings.learning_rate:g}, logit(sigma) of mean {mean:g} and deviation {deviation:g}, seed {settings.seed}. \
Mean loss over the last tenth: {sum(tail) / len(tail):.4f}.
- **Weights.** {chosen}.
- **Record.** Settings, every loss, the validation curve and the versions are in `training.json`.
"""
