"""One file per finished unit of work, so that a killed run resumes where it was and a finished one repeats nothing.

A unit is one call of a function with plain parameters (task, n, seed, ...). Its file is named

    key = sha256(kind, parameters with their seed, code version)

and holds these in readable form beside the result and the result's checksum. Files are written to a temporary name in
the same folder, flushed to the disk and then renamed, which is atomic: a file is there whole or not at all. A file
that does not parse, answers another key or fails its checksum is computed again, never trusted. Results go through
JSON whether they were computed now or read back, so both give the same numbers (Python writes a double with all its
digits).
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import joblib
import numpy as np
import psutil
import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from rfmi.runs import write_atomically
from lab.paths import cache_folder

SECONDS_BETWEEN_PROGRESS = 10.0


def plain(value: Any) -> Any:
    """A number or an array of numpy or torch as JSON can write it; what `json.dumps(default=...)` asks for.

    Raises TypeError for anything else.
    """
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return value.tolist()
    raise TypeError(
        f"a result holds numbers, texts, lists and mappings only, got {type(value).__name__}; convert it first"
    )


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces. Two equal values give the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=plain)


def digest(value: Any) -> str:
    """The sha256 of a value's canonical JSON text."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def code_version(*modules: ModuleType | str) -> str:
    """The hash of these modules' source, of a package's every module, so that other code has another key."""
    sources = {}
    for module in modules:
        module = importlib.import_module(module) if isinstance(module, str) else module
        file = Path(module.__file__)
        files = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
        for path in files:
            name = f"{module.__name__}:{path.relative_to(file.parent).as_posix()}"
            sources[name] = _bare(path.read_text(encoding="utf-8"))
    return digest(sources)[:16]


def _bare(source: str) -> str:
    """Python source without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def is_running(process: int) -> bool:
    """Whether a process of this number runs on this machine; a zombie, ended but not yet asked after, does not."""
    try:
        return psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of writers that are no more."""
    for path in folder.glob("*.tmp"):
        writer = re.search(r"\.(\d+)\.tmp$", path.name)
        if writer and not is_running(int(writer[1])):
            path.unlink(missing_ok=True)


class Cache:
    """The finished units in `folder` (default: RFMI_CACHE, else data/cache), for one version of the code."""

    def __init__(self, folder: str | Path | None = None, code_version: str = "") -> None:
        self.folder = Path(folder) if folder else cache_folder()
        self.code_version = code_version

    def path(self, kind: str, parameters: dict) -> Path:
        """The file of a unit.

        Raises ValueError for a kind that is no plain name, TypeError for parameters JSON cannot write.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]+", kind):
            raise ValueError(f"a kind names a folder: use letters, digits, - and _ only, got {kind!r}")
        return self.folder / kind / f"{digest([kind, parameters, self.code_version])}.json"

    def read(self, kind: str, parameters: dict) -> tuple[bool, Any]:
        """(True, result) of a finished unit, (False, None) where there is none, or none that can be trusted."""
        try:
            entry = json.loads(self.path(kind, parameters).read_text(encoding="utf-8"))
            asked = [kind, json.loads(canonical(parameters)), self.code_version]
            whole = [entry["kind"], entry["parameters"], entry["code_version"]] == asked
            if whole and entry["sha256"] == digest(entry["result"]):
                return True, entry["result"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass  # absent, cut short or damaged: to be computed (again)
        return False, None

    def write(self, kind: str, parameters: dict, result: Any) -> Any:
        """Keep a unit's result; returns it as a later read will."""
        result = json.loads(canonical(result))
        entry = {
            "kind": kind,
            "parameters": parameters,
            "code_version": self.code_version,
            "result": result,
            "sha256": digest(result),
        }
        write_atomically(self.path(kind, parameters), json.dumps(entry, indent=1, default=plain) + "\n")
        return result


def compute_unit(function: Callable[..., Any], unit: dict, kind: str, cache: Cache) -> Any:
    """Compute one unit on one thread, so that its numbers do not depend on how many run at once, and keep it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            result = function(**unit)
    except BaseException as error:
        error.add_note(f"in the unit of work {kind} {canonical(unit)}")
        raise
    finally:
        torch.set_num_threads(threads)
    return cache.write(kind, unit, result)


def run_units(
    function: Callable[..., Any],
    units: list[dict],
    *,
    kind: str,
    cache: Cache,
    workers: int = 1,
    description: str = "",
) -> list[Any]:
    """`function(**unit)` for every unit, in order; computes what `cache` lacks, each unit once, kept as soon as it is
    finished.

    function: returns what JSON can hold (numpy and torch numbers and arrays included); units: plain parameters each,
    with their seed; workers: processes, 1 computes in this one. An error in a unit ends the run and names the unit;
    finished ones stay.
    """
    if workers < 1:
        raise ValueError(f"workers counts processes and is at least 1, got {workers}")
    paths = [cache.path(kind, unit) for unit in units]
    remove_leftovers(cache.folder / kind)
    results, missing = {}, {}
    for path, unit in zip(paths, units, strict=True):
        if path in results or path in missing:
            continue
        found, result = cache.read(kind, unit)
        if found:
            results[path] = result
        else:
            missing[path] = unit
    if missing:
        parallel = joblib.Parallel(n_jobs=min(workers, len(missing)), return_as="generator_unordered")
        calls = (joblib.delayed(keyed_unit)(path, function, unit, kind, cache) for path, unit in missing.items())
        progress = tqdm(
            parallel(calls),
            total=len(missing),
            desc=description or kind,
            mininterval=SECONDS_BETWEEN_PROGRESS,
            ncols=80,
        )
        results.update(progress)
    return [results[path] for path in paths]


def keyed_unit(path: Path, function: Callable[..., Any], unit: dict, kind: str, cache: Cache) -> tuple[Path, Any]:
    """A unit's file and result, for units that come back in the order in which they finish."""
    return path, compute_unit(function, unit, kind, cache)
