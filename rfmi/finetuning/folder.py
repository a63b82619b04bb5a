"""The folder of a fine-tuning.

    pytorch_lora_weights.safetensors   the adapter, for `pipeline.load_lora_weights(folder)`
    README.md                          the model card
    training.json                      settings, losses, validation, versions
    checkpoint.safetensors             where a longer training goes on; it may be removed

`training.json` is written last and vouches for the rest.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE as WEIGHTS

from rfmi.finetuning.adapter import write_lora
from rfmi.finetuning.loop import FREE, flat
from rfmi.finetuning.settings import FinetuningSettings
from rfmi.files import read_record, read_tensors, whole_file, write_atomically, write_record
from rfmi.runs import PACKAGES, SETTINGS, check_same, versions
from rfmi.training import CHECKPOINT, Training, check_steps

RECORD, CARD = "training.json", "README.md"
ANEW = "remove it and call `rfmi.finetune` again, which writes it anew"


@dataclass(frozen=True)
class Finetuned:
    """A finished fine-tuning.

    folder: for `pipeline.load_lora_weights`.
    settings: as they were asked for.
    losses: of every step.
    validation: (step, the held-out loss with its sign turned), step 0 before training; empty where none was held out.
    chosen_step: the step whose averaged weights were saved.
    """

    folder: Path
    settings: FinetuningSettings
    losses: tuple[float, ...]
    validation: tuple[tuple[int, float], ...]
    chosen_step: int


def read_finetuned(folder: str | Path) -> Finetuned:
    """A finished fine-tuning.

    folder: of `rfmi.finetune`. Raises FileNotFoundError where a part of one is missing, ValueError for a damaged file.
    """
    folder = Path(folder)
    for name in (RECORD, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no finished fine-tuning: {name} is missing; run it again")
    record = read_record(folder / RECORD, ANEW)
    for name, expected in record["files"].items():
        if (folder / name).is_file() and digest(folder / name) != expected:
            raise ValueError(f"{folder / name} is damaged (cut short or changed); {ANEW}")
    listed = {name: tuple(value) if isinstance(value, list) else value for name, value in record["settings"].items()}
    losses, validation = tuple(record["losses"]), tuple((step, value) for step, value in record["validation"])
    return Finetuned(folder, FinetuningSettings(**listed), losses, validation, record["chosen_step"])


def is_finished(folder: Path, run: dict[str, Any], settings: FinetuningSettings) -> bool:
    """Whether this very run is finished there. Raises ValueError where a folder holds another, or a damaged record."""
    if (folder / SETTINGS).exists() or (folder / "units").exists():
        raise ValueError(f"{folder} holds a selection or an evaluation; choose another folder")
    if not (folder / RECORD).is_file():
        if (folder / WEIGHTS).is_file() and not (folder / CHECKPOINT).is_file():
            raise ValueError(f"{folder} holds a LoRA that was not trained here; choose another folder, or remove it")
        return False
    there = read_record(folder / RECORD, ANEW)
    check_same(flat({name: there.get(name) for name in run}), flat(run), folder, FREE)
    check_steps(there["losses"], there["validation"], settings.steps, settings.validation_every, folder)
    if len(there["losses"]) < settings.steps or not (folder / WEIGHTS).is_file():
        return False
    if (folder / CHECKPOINT).is_file():
        read_tensors(folder / CHECKPOINT)  # which notices damage
    if not (folder / CARD).is_file():
        write_atomically(folder / CARD, _card(there, settings))
    return True


def write_folder(
    folder: Path, pipeline: DiffusionPipeline, training: Training, run: dict[str, Any], settings: FinetuningSettings
) -> None:
    """Write the folder of a training that is over, whose adapter is still in the pipeline."""
    record = {**run, "losses": training.losses, "validation": training.validation}
    record["chosen_step"] = training.chosen_step
    record["versions"] = versions((*PACKAGES, "peft", "accelerate", "safetensors"))
    (folder / RECORD).unlink(missing_ok=True)  # of a shorter run: it does not vouch for what follows
    with whole_file(folder / WEIGHTS) as temporary:
        write_lora(pipeline, training.result, temporary)
    write_atomically(folder / CARD, _card(record, settings))
    write_record(folder / RECORD, record | {"files": {name: digest(folder / name) for name in (WEIGHTS, CARD)}})


def digest(path: Path) -> str:
    """The sha256 of a file; of a safetensors file with its header in order, which its writer leaves to chance."""
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        end = 8 + int.from_bytes(data[:8], "little")
        with suppress(ValueError):  # where it is damaged
            data = json.dumps(json.loads(data[8:end]), sort_keys=True).encode() + data[end:]
    return hashlib.sha256(data).hexdigest()


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
