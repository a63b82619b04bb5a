"""Files that are there whole or not at all, whatever ends the process that writes them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def disk_space(folder: Path) -> Iterator[None]:
    """Turns the errors of a full disk into an OSError of one sentence, and removes what was written in part."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if not full and not any(words in str(error) for words in ("No space left", "os error 28", "quota exceeded")):
            raise
        for leftover in folder.glob(f"*.{os.getpid()}.tmp"):
            leftover.unlink(missing_ok=True)
        raise OSError(
            errno.ENOSPC,
            f"the disk of {folder} is full; make room and call again, which goes on where it was",
        ) from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """The temporary name to write a file under; it takes its own name, whole and on the disk, when the context ends.
    A reader, or a crash at any moment, sees the old file or the new one. Raises OSError, in a sentence, where the disk
    is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with disk_space(path.parent):
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
    os.replace(temporary, path)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all."""
    with whole_file(path) as temporary:
        save_file({name: value.detach().contiguous().clone() for name, value in tensors.items()}, temporary, metadata)
