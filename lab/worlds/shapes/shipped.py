"""The shipped models' folders, with the checksum of every file checked before they are used."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lab.paths import data_folder
from lab.worlds.quiet import quietly

if TYPE_CHECKING:
    from diffusers import StableDiffusion3Pipeline

CHECKSUMS = "checksums.json"


def base_pipeline() -> Path:
    """The folder of the shipped pipeline, with every file checked against its stored checksum.

    `StableDiffusion3Pipeline.from_pretrained(base_pipeline())` loads it. Raises FileNotFoundError or ValueError,
    in one sentence, for a file that is missing or is not what was shipped.
    """
    return check_folder(data_folder() / "base_model")


def base_clip() -> Path:
    """The folder of the shipped CLIP, checked likewise; `transformers.CLIPModel.from_pretrained` loads it."""
    return check_folder(data_folder() / "base_clip")


def load_pipeline(device: torch.device | str, dtype: torch.dtype) -> StableDiffusion3Pipeline:
    """The shipped pipeline. dtype: of its transformer; latents, encoders and autoencoder stay float32."""
    with quietly():
        from diffusers import StableDiffusion3Pipeline

        pipeline = StableDiffusion3Pipeline.from_pretrained(base_pipeline()).to(device)
        pipeline.transformer.to(dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_checksums(folder: Path) -> None:
    """Write the sha256 of every file of a model's folder, the model card aside."""
    sums = {path.relative_to(folder).as_posix(): _sha256(path) for path in _files(folder)}
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")


@cache
def check_folder(folder: Path) -> Path:
    """`folder`, when every file named in its checksums is there and is what it was."""
    if not (folder / CHECKSUMS).is_file():
        raise FileNotFoundError(
            f"{folder} holds no {CHECKSUMS}; fetch the folder again, or make it with 'python -m lab train-base'"
        )
    for name, expected in json.loads((folder / CHECKSUMS).read_text(encoding="utf-8")).items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing; fetch the folder {folder} again")
        if _sha256(folder / name) != expected:
            raise ValueError(f"{folder / name} is not the file that was shipped (checksum); fetch it again")
    return folder


def _files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name not in (CHECKSUMS, "README.md")
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
