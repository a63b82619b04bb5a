"""Runs that may be killed: folders that know what they are of, units that go to whoever is free."""

import json
import os
import platform
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from tqdm import tqdm

from rfmi.files import MACHINE, disk_space, is_whole, read_record, write_record, writer

Unit = TypeVar("Unit")
SETTINGS = "settings.json"
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "diffusers", "transformers")
SECONDS_BETWEEN_LOOKS = 0.2  # at units that other processes have taken
SECONDS_BETWEEN_SIGNS = 30.0  # of life that a claim gives; without any for 15 minutes, its machine is taken for dead
SECONDS_TO_SIGN = 10.0  # most between a claim's first appearance and its process's name in it


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and the claims of this machine's processes that are no more."""
    for path in [*folder.glob("*.tmp"), *folder.glob("*.claim")]:
        if not _is_at_work(path):
            path.unlink(missing_ok=True)


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
    paths: Mapping[Unit, Path], description: str, whole: Callable[[Path], bool] = Path.exists, wait: bool = True
) -> Iterator[Unit]:
    """The units whose file is not there, each to whichever process asks first; ends when all files are there.

    paths: the file that vouches for each unit, written before the next is asked for. What a dead process had taken
        goes to another.
    whole: whether a file is there, as it was written; a damaged one is dealt again.
    wait: False ends where others are at work on all that is left.
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
                            with _refreshed(_claim(path)):
                                yield unit
                        done = path.exists()
                    finally:
                        _claim(path).unlink(missing_ok=True)
                if done:
                    bar.update()
                else:
                    left[unit] = path
            if len(left) == len(missing):
                if not wait:
                    return
                time.sleep(SECONDS_BETWEEN_LOOKS)
            missing = left


def _claim(path: Path) -> Path:
    return path.with_name(f"{path.name}.claim")


@contextmanager
def _refreshed(claim: Path) -> Iterator[None]:
    """Keeps a claim's time fresh: other machines cannot look for its process."""
    ended = threading.Event()

    def refresh() -> None:
        while not ended.wait(SECONDS_BETWEEN_SIGNS):
            with suppress(OSError):
                os.utime(claim)

    threading.Thread(target=refresh, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _claimed(path: Path) -> bool:
    """Whether this process takes a unit: nobody has, or somebody who is no more."""
    claim = _claim(path)
    claim.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        try:
            with disk_space(claim.parent), open(claim, "x", encoding="utf-8") as file:
                file.write(writer())
            return True
        except FileExistsError:
            if _is_at_work(claim):
                return False
            claim.unlink(missing_ok=True)
        except OSError:
            claim.unlink(missing_ok=True)
            raise
    return False


def _is_at_work(path: Path) -> bool:
    """Whether the process that a temporary file or a claim names may be at work still; elsewhere by its time."""
    try:
        text, written = path.name if path.suffix == ".tmp" else path.read_text(encoding="utf-8"), path.stat().st_mtime
        if not text:  # taken at this moment, or by a process that died before it wrote its name
            return time.time() - written < SECONDS_TO_SIGN
        named = re.search(rf"{re.escape(MACHINE)}\.(\d+)", text)
        if named is None:
            return time.time() - written < 30 * SECONDS_BETWEEN_SIGNS
        process = psutil.Process(int(named[1]))
        own = process.create_time() < written + 1  # and not a later process that was given its number
        return own and process.status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, psutil.NoSuchProcess):
        return False
    except psutil.AccessDenied:
        return True
