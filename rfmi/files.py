"""Files that are written whole or not at all, and notice when they are cut short or changed."""

import errno
import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

ANEW = "remove it and call again, which computes it anew"
HEADER = 256  # bytes before the tensor of a file that is written in parts
MACHINE = re.sub(r"\W", "-", platform.node())


@contextmanager
def disk_space(folder: Path) -> Iterator[None]:
    """Turns the errors of a full disk into an OSError of one sentence, and removes what was written in part."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if not full and not any(words in str(error) for words in ("No space left", "os error 28", "quota exceeded")):
            raise
        for leftover in folder.glob(f"*.{writer()}.tmp"):
            leftover.unlink(missing_ok=True)
        sentence = f"the disk of {folder} is full; make room and call again, which goes on where it was"
        raise OSError(errno.ENOSPC, sentence) from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """The temporary name to write a file under, which takes its own name when the context ends: a reader, or a crash at
    any moment, sees the old file or the new one. Raises OSError, in a sentence, where the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{writer()}.tmp")
    with disk_space(path.parent):
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
    os.replace(temporary, path)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_record(path: Path, facts: Mapping[str, Any]) -> None:
    """Write facts that JSON can hold with their sha256, whole or not at all."""
    write_atomically(path, json.dumps(_sealed(facts), indent=1) + "\n")


def read_record(path: Path, advice: str = ANEW) -> dict[str, Any]:
    """The facts of such a file. Raises ValueError, with advice, for one that is cut short or changed."""
    with _noticing_damage(path, advice):
        return _opened(json.loads(path.read_bytes()))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], **facts: Any) -> None:
    """Write a safetensors file, whole or not at all, with facts that JSON can hold, and the sha256 of all of it."""
    whole = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}
    with whole_file(path) as temporary:
        save_file(whole, temporary, {"record": json.dumps(_sealed(facts, whole))})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of such a file, mapped into memory, and the facts, by name. Raises ValueError, with what to do, for
    one that is cut short or changed."""
    with _noticing_damage(path, ANEW), safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, _opened(json.loads((file.metadata() or {}).get("record", "null")), tensors)


def write_parts(path: Path, name: str, parts: Iterable[Tensor]) -> None:
    """Write a safetensors file of one float32 tensor, whole or not at all, from its parts (n_i, *) as they come."""
    shape = torch.Size([0])
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        file.write(bytes(HEADER))
        for part in parts:
            file.write(part.float().contiguous().numpy())
            shape = torch.Size([shape[0] + len(part), *part.shape[1:]])
        entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, file.tell() - HEADER]}
        file.seek(0)
        file.write((HEADER - 8).to_bytes(8, "little") + json.dumps({name: entry}).encode().ljust(HEADER - 8))


def is_whole(path: Path) -> bool:
    """Whether a file of `write_tensors` is there as it was written."""
    try:
        read_tensors(path)
    except (FileNotFoundError, ValueError):
        return False
    return True


def digests(folder: Path, names: Iterable[str]) -> dict[str, str | None]:
    """The sha256 of files in a folder by their names, None for one that is not there."""

    def digest(name: str) -> str | None:
        try:
            with open(folder / name, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return None

    listed = list(names)
    with ThreadPoolExecutor() as pool:
        return dict(zip(listed, pool.map(digest, listed), strict=True))


def changed_files(folder: Path, listed: Mapping[str, str]) -> list[str]:
    """The names of files in a folder that are not there, or have another sha256 than is listed by their names."""
    return [name for name, digest in digests(folder, listed).items() if digest != listed[name]]


def plain(value: Any) -> Any:
    """A number or an array as JSON can write it, for `json.dumps(default=plain)`; TypeError for anything else."""
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return value.tolist()
    kind = type(value).__name__
    raise TypeError(f"a result holds numbers, texts, lists and mappings only, got {kind}; convert it first")


def short_hash(facts: Any) -> str:
    """16 hexadecimal digits for facts as JSON writes them, and for what it cannot write as a text."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextmanager
def _noticing_damage(path: Path, advice: str) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged (cut short or changed); {advice}") from error


def _sealed(facts: Mapping[str, Any], tensors: Mapping[str, Tensor] = {}) -> dict[str, Any]:
    """Facts as JSON holds them, with the sha256 of them and of tensors on the CPU."""
    held = json.loads(json.dumps(facts, default=plain))
    hashed = hashlib.sha256(json.dumps(held, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        hashed.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        hashed.update(value.reshape(-1).view(torch.uint8).numpy())
    return held | {"sha256": hashed.hexdigest()}


def _opened(sealed: Any, tensors: Mapping[str, Tensor] = {}) -> dict[str, Any]:
    """The facts of `_sealed`; ValueError where they or the tensors are not those that were sealed."""
    facts = dict(sealed) if isinstance(sealed, dict) else {}
    if facts.pop("sha256", None) != _sealed(facts, tensors)["sha256"]:
        raise ValueError("the sha256 is another")
    return facts


def writer() -> str:
    """What names this process in files: its machine and its number."""
    return f"{MACHINE}.{os.getpid()}"
