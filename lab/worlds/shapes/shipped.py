"""The shipped models' folders, with the checksum of every file checked before they are used; models load in silence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from lab.paths import data_folder

CHECKSUMS = "checksums.json"


def base_pipeline() -> Path:
    """The folder of the shipped pipeline, checked; `StableDiffusion3Pipeline.from_pretrained` loads it."""
    return check_folder(data_folder() / "base_model")


def write_checksums(folder: Path) -> None:
    """Write the sha256 of every file of a model's folder, the model card aside."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in (CHECKSUMS, "README.md")]
    sums = {path.relative_to(folder).as_posix(): _sha256(path) for path in paths}
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")


@cache
def check_folder(folder: Path) -> Path:
    """`folder`, when every file named in its checksums is there and is what it was.

    Raises FileNotFoundError or ValueError, in one sentence, for a file that is missing or is not what was shipped.
    """
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


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def quietly() -> Iterator[None]:
    """Errors alone are shown, of imports too; afterwards diffusers and transformers speak as before."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries = (of_diffusers, of_transformers)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, bar) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bar:
                library.enable_progress_bar()
