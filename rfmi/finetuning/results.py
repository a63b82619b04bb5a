"""The folder of a fine-tuning, as diffusers and people read it.

    pytorch_lora_weights.safetensors   the adapter, for `pipeline.load_lora_weights(folder)`
    README.md                          the model card
    training.json                      settings, losses, validation, versions: written last, it vouches for the rest
    checkpoint.safetensors             where a longer training goes on; it may be removed
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE as WEIGHTS

from rfmi.finetuning.adapter import write_lora
from rfmi.finetuning.settings import FinetuningSettings
from rfmi.runs import PACKAGES, disk_space, versions, write_atomically
from rfmi.training import Training

RECORD, CARD = "training.json", "README.md"


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


def write_results(folder: Path, pipeline: DiffusionPipeline, training: Training, run: dict[str, Any]) -> None:
    """Write the folder of a training that is over, whose adapter is still in the pipeline."""
    record = {**run, "losses": training.losses, "validation": training.validation}
    record["chosen_step"] = training.chosen_step
    record["versions"] = versions((*PACKAGES, "peft", "accelerate", "safetensors"))
    temporary = folder / f"lora.{os.getpid()}.part"
    try:
        with disk_space(folder):
            write_lora(pipeline, training.result, temporary)
            (folder / RECORD).unlink(missing_ok=True)  # of a shorter run: it does not vouch for what follows
            os.replace(temporary / WEIGHTS, folder / WEIGHTS)
            write_atomically(folder / CARD, _card(record))
            write_atomically(folder / RECORD, json.dumps(record, indent=1) + "\n")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_finetuned(folder: str | Path) -> Finetuned:
    """A finished fine-tuning. Raises FileNotFoundError for a folder that lacks a part of one."""
    folder = Path(folder)
    for name in (RECORD, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no finished fine-tuning: {name} is missing; run it again")
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    listed = {name: tuple(value) if isinstance(value, list) else value for name, value in record["settings"].items()}
    validation = tuple((step, value) for step, value in record["validation"])
    return Finetuned(
        folder, FinetuningSettings(**listed), tuple(record["losses"]), validation, record["chosen_step"]
    )


def run_record(settings: FinetuningSettings, pipeline: DiffusionPipeline, **facts: object) -> dict[str, Any]:
    """What tells one run from another, as JSON can hold it; the base model by its name alone if it is a folder."""
    name = str(pipeline.config.get("_name_or_path") or type(pipeline).__name__)
    base = Path(name).name if Path(name).exists() else name
    return json.loads(json.dumps({"settings": asdict(settings), "base_model": base, **facts}))


def _card(record: dict[str, Any]) -> str:
    settings, losses, values = FinetuningSettings(**record["settings"]), record["losses"], dict(record["validation"])
    kind, (mean, deviation) = "DoRA" if settings.dora else "LoRA", settings.noise_level
    loss = "advantage" if settings.signed else "flow-matching"
    tail, layers = losses[-max(1, len(losses) // 10) :], ", ".join(record["layers"])
    chosen = f"- **Weights.** The moving average ({settings.averaging:g}) after step {record['chosen_step']}"
    if values:
        chosen += (
            f", the best of {len(values) - (0 in values)} by held-out loss: {-values[record['chosen_step']]:.4g}, "
            f"against {-values.get(0, float('nan')):.4g} before training"
        )
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
{chosen}.
- **Record.** Settings, every loss, the validation curve and the versions are in `training.json`.
"""
