"""The folder of a selection: one file a prompt while it grows, one table and one image folder when it is whole.

    settings.json            what was asked for, and of which weights
    units/00012.safetensors  every candidate of prompt 12, the latents of those kept: written whole or not at all
    images/00012_00007.png   a kept image, named by prompt and seed, in Hugging Face's imagefolder layout
    images/metadata.jsonl    its prompt, seed and score
    candidates.parquet       seed, score, standard error and fate of every candidate
    latents.safetensors      the kept latents (n, C, h, w), and the number of each one's prompt
    embeddings.safetensors   one row a prompt, in order, and the null prompt's last
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from rfmi.runs import whole_file, write_atomically, write_tensors
from rfmi.pipelines import Conditioning, PipelineField
from rfmi.selection.candidates import Candidates

SETTINGS, TABLE, METADATA = "settings.json", "candidates.parquet", "metadata.jsonl"
LATENTS, EMBEDDINGS = "latents.safetensors", "embeddings.safetensors"


@dataclass(frozen=True)
class Selection:
    """A finished selection: its folder, one row a candidate, the kept latents (n, C, h, w) with the number of each
    one's prompt (n,), and the conditioning, one row a prompt and the null prompt's last.
    """

    folder: Path
    candidates: pd.DataFrame
    latents: Tensor
    prompt_id: Tensor
    conditioning: Conditioning


def open_folder(folder: Path, settings: dict) -> None:
    """Start a folder of results, or go on in one that was started with the same settings.

    Raises ValueError where it was started with others: they would be mixed.
    """
    path, settings = folder / SETTINGS, json.loads(json.dumps(settings))
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(name for name in {*there, *settings} if there.get(name) != settings.get(name))
        if changed:
            raise ValueError(
                f"{folder} holds results with another {', '.join(changed)}; choose another folder, or remove it"
            )
    write_atomically(path, json.dumps(settings, indent=1) + "\n")


def fingerprint(module: nn.Module) -> str:
    """A short hash of a network's weights, by the sum of each tensor, and of how its adapters are switched."""
    sums = {name: f"{value.double().sum().item():.9g}" for name, value in module.state_dict().items()}
    for name, layer in module.named_modules():
        if isinstance(layer, BaseTunerLayer):
            sums[f"{name} adapters"] = str([layer.disable_adapters, layer.active_adapters, layer.scaling])
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()[:16]


def unit_path(folder: Path, prompt_id: int) -> Path:
    return folder / "units" / f"{prompt_id:05d}.safetensors"


def image_name(prompt_id: int, seed: int) -> str:
    return f"{prompt_id:05d}_{seed:05d}.png"


def write_unit(folder: Path, prompt_id: int, prompt: str, found: Candidates, images: Tensor, seed: int) -> None:
    """Keep a finished prompt: first its images (k, 3, height, width), then its file, which vouches for them."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for candidate, image in zip(found.kept, images, strict=True):
        pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / "images" / image_name(prompt_id, seed + candidate))
    tensors = {f"columns.{name}": values for name, values in found.columns.items()}
    tensors |= {"kept": torch.tensor(found.kept), "latents": found.latents}
    record = {"prompt": prompt, "fates": found.fates, "seed": seed}
    write_tensors(unit_path(folder, prompt_id), tensors, {"record": json.dumps(record)})


def read_unit(folder: Path, prompt_id: int) -> tuple[pd.DataFrame, Tensor]:
    """(one row a candidate, the kept latents best first)."""
    with safe_open(unit_path(folder, prompt_id), framework="pt") as file:
        record = json.loads(file.metadata()["record"])
        columns = {
            name.removeprefix("columns."): file.get_tensor(name).numpy()
            for name in file.keys()  # noqa: SIM118
            if name.startswith("columns.")
        }
        latents, kept = file.get_tensor("latents"), file.get_tensor("kept").tolist()
    table = pd.DataFrame(columns)
    table.insert(0, "fate", record["fates"])
    table.insert(0, "seed", record["seed"] + np.arange(len(table)))
    table.insert(0, "prompt", record["prompt"])
    table.insert(0, "prompt_id", prompt_id)
    table["rank"] = pd.Series({candidate: rank for rank, candidate in enumerate(kept)})
    return table, latents


def kept_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the kept candidates, in the order of their latents."""
    return table[table["rank"].notna()].sort_values(["prompt_id", "rank"])


def finish_folder(folder: Path, field: PipelineField) -> None:
    """Write metadata, latents, embeddings and at last the table from all prompts' files."""
    units = [read_unit(folder, i) for i in range(len(field.prompts))]
    table = pd.concat([unit[0] for unit in units], ignore_index=True)
    kept = kept_rows(table)
    lines = [
        json.dumps(
            {
                "file_name": image_name(row.prompt_id, row.seed),
                "text": row.prompt,
                "prompt_id": row.prompt_id,
                "seed": row.seed,
                "score": row.score,
            }
        )
        for row in kept.itertuples()
    ]
    write_atomically(folder / "images" / METADATA, "\n".join(lines) + "\n")
    numbers = torch.tensor(kept.prompt_id.to_numpy())
    write_tensors(folder / LATENTS, {"latents": torch.cat([unit[1] for unit in units]), "prompt_id": numbers}, {})
    write_tensors(folder / EMBEDDINGS, dict(field.conditioning.to("cpu").tensors), {})
    with whole_file(folder / TABLE) as temporary:
        table.to_parquet(temporary)


def read_selection(folder: str | Path) -> Selection:
    """A finished selection. Raises FileNotFoundError for a folder that lacks a part of it, its images included."""
    folder = Path(folder)
    for name in (SETTINGS, TABLE, LATENTS, EMBEDDINGS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no finished selection: {name} is missing; run `rfmi.select` again")
    table = pd.read_parquet(folder / TABLE)
    for row in kept_rows(table).itertuples():
        if not (folder / "images" / image_name(row.prompt_id, row.seed)).is_file():
            raise FileNotFoundError(
                f"{folder} has lost the image {image_name(row.prompt_id, row.seed)}; remove "
                f"{unit_path(folder, row.prompt_id).name} from its units and run `rfmi.select` again"
            )
    kept = load_file(folder / LATENTS)
    return Selection(folder, table, kept["latents"], kept["prompt_id"], Conditioning(load_file(folder / EMBEDDINGS)))
