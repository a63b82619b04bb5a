"""Runs that may be killed: whole files that notice damage, folders that know what they are of, units that go to whoever
is free."""

import errno
import hashlib
import json
import os
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

Unit = TypeVar("Unit")
SETTINGS = "settings.json"
ANEW = "remove it and call again, which computes it anew"
HEADER = 256  # bytes before the tensor of a file that is written in parts
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "diffusers", "transformers")
MACHINE = re.sub(r"\W", "-", platform.node())
SECONDS_BETWEEN_LOOKS = 0.2  # at units that other processes have taken
SECONDS_TO_SIGN = 10.0  # most between a claim's first appearance and its process's name in it


@contextmanager
def disk_space(folder: Path) -> Iterator[None]:
    """Turns the errors of a full disk into an OSError of one sentence, and removes what was written in part."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if not full and not any(words in str(error) for words in ("No space left", "os error 28", "quota exceeded")):
            raise
        for leftover in folder.glob(f"*.{_writer()}.tmp"):
            leftover.unlink(missing_ok=True)
        sentence = f"the disk of {folder} is full; make room and call again, which goes on where it was"
        raise OSError(errno.ENOSPC, sentence) from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """The temporary name to write a file under, which takes its own name when the context ends: a reader, or a crash at
    any moment, sees the old file or the new one. Raises OSError, in a sentence, where the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{_writer()}.tmp")
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


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and the claims of this machine's processes that are no more."""
    for path in [*folder.glob("*.tmp"), *folder.glob("*.claim")]:
        if not _is_at_work(path):
            path.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """A number or an array as JSON can write it, for `json.dumps(default=plain)`; TypeError for anything else."""
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return value.tolist()
    kind = type(value).__name__
    raise TypeError(f"a result holds numbers, texts, lists and mappings only, got {kind}; convert it first")


def check_same(there: Mapping[str, Any], asked: Mapping[str, Any], place: Path, free: Sequence[str] = ()) -> None:
    """Raises ValueError where what a place was made with, `there`, is not what is `asked` for: they would be mixed.

    there, asked: facts by name, values that JSON can hold. free: names of those that may differ.
    """
    asked = json.loads(json.dumps(asked))
    changed = sorted(name for name in {*there, *asked} - {*free} if there.get(name) != asked.get(name))
    if changed:
        names = ", ".join(changed)
        raise ValueError(f"{place} holds results with another {names}; choose another folder, or remove it")


def open_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Start a folder of results, or go on in one of the same settings.

    Raises ValueError for a folder of other settings, with damaged ones, or with something else in it.
    """
    path = folder / SETTINGS
    names = [each.name for each in folder.iterdir()] if folder.is_dir() else []
    if not path.exists() and any(name == "units" or name.endswith((".json", ".safetensors")) for name in names):
        raise ValueError(f"{folder} holds something else; choose another folder, or remove it")
    for _ in deal({folder: path}, "opening"):
        write_record(path, settings)
    check_same(read_settings(folder), settings, folder)
    for part in folder.glob("**/"):
        remove_leftovers(part)


def read_settings(folder: Path) -> dict[str, Any]:
    """What a folder of results was opened with. Raises ValueError, with what to do, where the file is damaged."""
    return read_record(folder / SETTINGS, f"restore it, or remove {folder}, and call again")


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """The version of Python and of those of these packages that are installed."""
    installed = {"python": platform.python_version()}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            installed[package] = metadata.version(package)
    return installed


def process_state():
    """Accelerate's `PartialState` of this run; it has to be told where processes have no accelerator.

    Warns where `accelerate launch` was asked for several processes and started one, as it does with --cpu.
    """
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
    launched_as_several = {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys()
    if launched_as_several and state.num_processes == 1 and "WORLD_SIZE" not in os.environ:
        said = "accelerate launch was asked for several processes and started one, as it does with --cpu"
        warnings.warn(f"{said}; start them with torchrun --nproc-per-node", stacklevel=1)
    return state


def own_device(device: torch.device | str | None) -> torch.device | str | None:
    """The device asked for; where none is and several processes run, this one's. None leaves a pipeline where it is."""
    state = process_state()
    return state.device if device is None and state.num_processes > 1 else device


def work_on(
    folder: Path,
    settings: Mapping[str, Any],
    paths: Mapping[Unit, Path],
    description: str,
    whole: Callable[[Path], bool] = is_whole,
) -> Iterator[Unit]:
    """The units of a folder as `deal` gives them, after it was opened; ends when all files are there and whole.

    Raises ValueError, as `open_folder` does, when the first unit is asked for.
    """
    open_folder(folder, settings)
    yield from deal(paths, description, whole)


def deal(
    paths: Mapping[Unit, Path], description: str, whole: Callable[[Path], bool] = Path.exists
) -> Iterator[Unit]:
    """The units whose file is not there, each to whichever process asks first; ends when all files are there.

    paths: the file that vouches for each unit, written before the next is asked for. What a dead process had taken
        goes to another.
    whole: whether a file is there, as it was written; a damaged one is dealt again.
    """
    missing = dict(paths)
    with tqdm(desc=description, total=len(paths), mininterval=5.0, delay=5.0) as bar:
        while missing:
            left = {}
            for unit, path in missing.items():
                done = whole(path)
                if not done and _claimed(path):
                    try:
                        if not whole(path):
                            yield unit
                        done = path.exists()
                    finally:
                        _claim(path).unlink(missing_ok=True)
                if done:
                    bar.update()
                else:
                    left[unit] = path
            if len(left) == len(missing):
                time.sleep(SECONDS_BETWEEN_LOOKS)
            missing = left


@contextmanager
def _noticing_damage(path: Path, advice: str) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged (cut short or changed); {advice}") from error


def _sealed(facts: Mapping[str, Any], tensors: Mapping[str, Tensor] = {}) -> dict[str, Any]:
    """Facts as JSON holds them, with the sha256 of them and of tensors on the CPU."""
    held = json.loads(json.dumps(facts, default=plain))
    return held | {"sha256": _checksum(held, tensors)}


def _opened(sealed: Any, tensors: Mapping[str, Tensor] = {}) -> dict[str, Any]:
    """The facts of `_sealed`; ValueError where they or the tensors are not those that were sealed."""
    facts = dict(sealed) if isinstance(sealed, dict) else {}
    if facts.pop("sha256", None) != _checksum(facts, tensors):
        raise ValueError("the sha256 is another")
    return facts


def _checksum(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    hashed = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        hashed.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        hashed.update(value.reshape(-1).view(torch.uint8).numpy())
    return hashed.hexdigest()


def _claim(path: Path) -> Path:
    return path.with_name(f"{path.name}.claim")


def _claimed(path: Path) -> bool:
    """Whether this process takes a unit: nobody has, or somebody who is no more."""
    claim = _claim(path)
    claim.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        try:
            with disk_space(claim.parent), open(claim, "x", encoding="utf-8") as file:
                file.write(_writer())
            return True
        except FileExistsError:
            if _is_at_work(claim):
                return False
            claim.unlink(missing_ok=True)
        except OSError:
            claim.unlink(missing_ok=True)
            raise
    return False


def _writer() -> str:
    """What names this process in files: its machine and its number."""
    return f"{MACHINE}.{os.getpid()}"


def _is_at_work(path: Path) -> bool:
    """Whether the process that a temporary file or a claim names may still be at work: of another machine always."""
    try:
        text, written = path.name if path.suffix == ".tmp" else path.read_text(encoding="utf-8"), path.stat().st_mtime
        if not text:  # taken at this moment, or by a process that died before it wrote its name
            return time.time() - written < SECONDS_TO_SIGN
        named = re.search(rf"{re.escape(MACHINE)}\.(\d+)", text)
        if named is None:
            return True
        process = psutil.Process(int(named[1]))
        own = process.create_time() < written + 1  # and not a later process that was given its number
        return own and process.status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, psutil.NoSuchProcess):
        return False
    except psutil.AccessDenied:
        return True
