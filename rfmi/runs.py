"""Runs that may be killed: folders that know what they are of, units that go to whoever is free."""

import json
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from filelock import SoftFileLease, Timeout
from tqdm import tqdm

from rfmi.files import MACHINE, disk_space, is_whole, read_record, write_record

Unit = TypeVar("Unit")
SETTINGS = "settings.json"
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "diffusers", "transformers")
SECONDS_BETWEEN_LOOKS = 0.2  # at units that other processes have taken
SECONDS_OF_A_CLAIM = 300.0  # without a sign of life, after which its machine is taken for dead


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and the claims of this machine's processes that are no more."""
    for path in folder.glob(f"*.{MACHINE}.*.tmp"):
        if not psutil.pid_exists(int(path.stem.rpartition(".")[2])):
            path.unlink(missing_ok=True)
    for path in folder.glob("*.claim"):
        _remove_if_nobodys(path)
        with suppress(Timeout), _claim(path.with_suffix("")):  # a dead process's is taken, and given back
            pass


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
        said = "accelerate launch started one process in place of several, as it does with --cpu"
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
    """The units of a folder as `deal` gives them; asked for the first, raises ValueError as `open_folder` does."""
    open_folder(folder, settings)
    yield from deal(paths, description, whole)


def deal(
    paths: Mapping[Unit, Path], description: str, whole: Callable[[Path], bool] = Path.exists, wait: bool = True
) -> Iterator[Unit]:
    """The units whose file is not there, each to whichever process asks first; ends when all files are there.

    paths: the file that vouches for each unit, written before the next is asked for. A dead process's go to others.
    whole: whether a file is there, as it was written; a damaged one is dealt again.
    wait: False ends where others are at work on all that is left.
    """
    missing = dict(paths)
    claims = {unit: _claim(path) for unit, path in paths.items()}
    with tqdm(desc=description, total=len(paths), mininterval=5.0, delay=5.0) as bar:
        while missing:
            left = {}
            for unit, path in missing.items():
                done = whole(path)
                if not done:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with suppress(Timeout), disk_space(path.parent), claims[unit]:
                        if not whole(path):
                            yield unit
                        done = path.exists()
                if done:
                    bar.update()
                else:
                    left[unit] = path
                    _remove_if_nobodys(Path(claims[unit].lock_file))
            if len(left) == len(missing):
                if not wait:
                    return
                time.sleep(SECONDS_BETWEEN_LOOKS)
            missing = left


def _remove_if_nobodys(claim: Path) -> None:
    """Remove a claim whose process was killed in the moment between making the file and writing its name into it."""
    with suppress(FileNotFoundError):
        if not claim.stat().st_size and time.time() - claim.stat().st_mtime > SECONDS_OF_A_CLAIM / 10:
            claim.unlink()


def _claim(path: Path) -> SoftFileLease:
    """What whoever makes a file holds meanwhile, without waiting for it; `Timeout` where another does."""
    return SoftFileLease(path.with_name(f"{path.name}.claim"), lease_duration=SECONDS_OF_A_CLAIM, timeout=0)
