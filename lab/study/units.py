"""Units of work, each computed once: one file per finished unit, so that a killed run resumes where it was.

A unit is one call function(**parameters) with plain parameters (task, n, seed, ...). Its file is named by the hash of
the function's name, the parameters and what the result is computed by, as `lab.study.code` finds it.

A file is there whole or not at all. One that does not parse, answers another key or fails its checksum is removed and
computed again, never trusted. Runs that share a cache, on any number of machines, share its units. Results go through
JSON whether they were computed now or read back, so both give the same numbers (Python writes a double with all its
digits). The seconds that a unit took stand beside its result: what a page says it cost is that, also where nothing had
to be computed again.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from lab.paths import cache_folder
from lab.study.code import Meaning, canonical, digest
from lab.study.profiles import Refusal, needed
from rfmi.files import write_atomically
from rfmi.runs import deal, remove_leftovers

BACKEND = "RFMI_BACKEND"  # the environment variable that names joblib's backend: loky, dask, ray, threading
SECONDS_FILE = "RFMI_SECONDS"  # the environment variable that names the file for the seconds of a notebook's units


def check_kind(kind: str) -> str:
    """`kind`, where it can name a folder. Raises ValueError where it cannot."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", kind):
        raise ValueError(f"{kind!r} would name a folder or a file: use letters, digits, - and _ only")
    return kind


@dataclass(frozen=True)
class Unit:
    """One unit of work and its file in the cache; the folder goes along to other processes."""

    kind: str
    parameters: dict
    code: str = ""
    folder: Path = field(default_factory=cache_folder)

    @property
    def key(self) -> str:
        """What the unit's file is named by. Raises TypeError for parameters that JSON cannot write."""
        return digest([self.kind, self.parameters, self.code])

    @property
    def path(self) -> Path:
        return self.folder / check_kind(self.kind) / f"{self.key}.json"

    @property
    def asked(self) -> dict[str, Any]:
        """What its file says it answers."""
        return {"kind": self.kind, "parameters": json.loads(canonical(self.parameters)), "code": self.code}

    def read(self) -> dict[str, Any] | None:
        """The finished unit with its `result` and `seconds`; None where there is none, or none any more since what was
        there could not be trusted."""
        try:
            entry = json.loads(self.path.read_text(encoding="utf-8"))
            right = {name: entry[name] for name in self.asked} == self.asked
            if right and entry["sha256"] == digest([entry["result"], entry["seconds"]]):
                return entry
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            pass  # cut short or damaged
        self.path.unlink(missing_ok=True)
        return None

    def write(self, result: Any, seconds: float = 0.0) -> dict[str, Any]:
        """Keep the unit's result; returns what a later `read` will."""
        answer = {"seconds": round(seconds, 3), "result": json.loads(canonical(result))}
        entry = {**self.asked, **answer, "sha256": digest([answer["result"], answer["seconds"]])}
        write_atomically(self.path, json.dumps(entry, indent=1) + "\n")
        return entry


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread, so that numbers do not depend on how many units are computed at once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def chosen_backend() -> Iterator[None]:
    """joblib's backend that RFMI_BACKEND names, where it is set; else the present one, by default loky's processes.

    "dask" is the cluster whose scheduler DASK_SCHEDULER_ADDRESS names, "ray" that of RAY_ADDRESS, or this machine.
    Raises Refusal for a backend that is not there.
    """
    name, options = os.environ.get(BACKEND, ""), {}
    if name == "dask":
        needed("distributed", f"{BACKEND}=dask")
        options = {"scheduler_host": os.environ.get("DASK_SCHEDULER_ADDRESS")}
        if not options["scheduler_host"]:
            raise Refusal(f"{BACKEND}=dask needs a cluster; set DASK_SCHEDULER_ADDRESS to its scheduler's address")
    elif name == "ray":
        needed("ray.util.joblib", f"{BACKEND}=ray").register_ray()
    try:
        backend = joblib.parallel_config(name, **options) if name else nullcontext()
    except (ValueError, OSError) as error:
        raise Refusal(f"{BACKEND}={name} cannot be used: {error}") from error
    with backend:
        yield


def parallel(workers: int, apart: bool = False) -> joblib.Parallel:
    """`workers` of the chosen backend, whose results come as they are finished, where it can do that (ray's cannot).

    apart: in processes of their own, or one after the other: threads would write the same temporary files
    """
    with chosen_backend():
        backend, _ = joblib.parallel.get_active_backend()
        stream, threads = backend.supports_return_generator, getattr(backend, "uses_threads", False)
        workers = 1 if apart and threads else workers
        return joblib.Parallel(n_jobs=workers, return_as="generator_unordered" if stream else "list")


def compute(function: Callable[..., Any], unit: Unit, kept: bool, wait: bool) -> tuple[str, dict[str, Any] | None]:
    """(key, entry) of a unit, computed now or by another run meanwhile; without wait, None where one is still at it.

    kept: False computes it in every run, by one at a time: the later ones find what it wrote
    """
    for _ in deal({unit.key: unit.path if kept else unit.path.with_suffix(".never")}, unit.kind, wait=wait):
        result, seconds = timed(function, unit)
        return unit.key, unit.write(result, seconds) if kept else {"result": result, "seconds": seconds}
    return unit.key, unit.read()


def timed(function: Callable[..., Any], unit: Unit) -> tuple[Any, float]:
    """(result, seconds) of a unit that is computed now."""
    started = time.perf_counter()
    try:
        with one_thread():
            result = function(**unit.parameters)
    except BaseException as error:
        given = ", ".join(f"{name}={value!r}" for name, value in unit.parameters.items())
        error.add_note(f"in the unit of work {unit.kind}({given})")
        raise
    return result, time.perf_counter() - started


def run(
    function: Callable[..., Any],
    units: Sequence[Mapping[str, Any]],
    *,
    workers: int = 1,
    uses: Iterable[Any] = (),
    description: str = "",
    cached: bool = True,
) -> list[Any]:
    """`function(**unit)` for every unit, in order, each computed once and kept as soon as it is finished.

    function: defined with `def`, in a notebook too; returns what JSON can hold, arrays and tensors included
    units: dicts of plain parameters, with their seed
    workers: processes, of one thread each, of the backend that RFMI_BACKEND names; 1 computes in this one
    uses: modules, names of modules or worlds whose code the results depend on beside what the function names
    cached: False where the function resumes by itself: nothing but its seconds is kept, results are any objects, and
        one run at a time computes a unit

    Raises ValueError or TypeError before anything is computed. An error in a unit names it, and finished ones stay.
    """
    check_workers(workers)
    code, kind = Meaning(function, uses, strict=cached).version(), check_kind(function.__name__)
    asked = [Unit(kind, dict(parameters), code) for parameters in units]
    by_key = {unit.key: unit for unit in asked}
    entries = {}
    if cached:
        remove_leftovers(cache_folder() / kind)
        entries = {key: entry for key, unit in by_key.items() if (entry := unit.read())}
    missing, wait = [unit for key, unit in by_key.items() if key not in entries], False
    with tqdm(desc=description or kind, total=len(missing), mininterval=10.0, ncols=80, disable=not missing) as bar:
        while missing:
            calls = [joblib.delayed(compute)(function, unit, cached, wait) for unit in missing]
            for key, entry in parallel(min(workers, len(missing)))(calls):
                if entry is not None:
                    entries[key] = entry
                    bar.update()
            missing, wait = [unit for unit in missing if unit.key not in entries], True
    for key, unit in by_key.items():
        note_seconds(unit, entries[key]["seconds"] if cached else longest(unit, entries[key]["seconds"]))
    return [entries[unit.key]["result"] for unit in asked]


def together(function: Callable[[], Any], workers: int = 1) -> Any:
    """`function()` in `workers` processes at once that share its work; returns the result of the first.

    function: calls `rfmi.select` or `rfmi.evaluate` on one folder, where the next missing unit goes to whoever is free
    workers: processes, of one thread each, of the backend that RFMI_BACKEND names; an error in one ends all
    """
    check_workers(workers)
    unit = Unit("together", {}, Meaning(function, (), strict=False).version())
    started = time.perf_counter()
    calls = [joblib.delayed(one_of_several)(function, i) for i in range(workers)]
    results = dict(parallel(workers, apart=True)(calls))
    note_seconds(unit, longest(unit, workers * (time.perf_counter() - started)))
    return results[0]


def one_of_several(function: Callable[[], Any], number: int) -> tuple[int, Any]:
    """(number, `function()`) on one thread; the result from the first process only, since all are the same."""
    with one_thread():
        result = function()
    return number, result if number == 0 else None


def check_workers(workers: int) -> None:
    if workers < 1:
        raise ValueError(f"workers counts processes and is at least 1, got {workers}")


def longest(unit: Unit, seconds: float) -> float:
    """The most that work which resumes by itself has taken: a later call finds it done."""
    kept = Unit("seconds", {"of": unit.kind, "unit": unit.key}, unit.code)
    before = kept.read() or {"seconds": 0.0}
    return kept.write(None, max(seconds, before["seconds"]))["seconds"]


def note_seconds(unit: Unit, seconds: float) -> None:
    """Tell the runner, where there is one, what a unit that this notebook uses has cost."""
    if os.environ.get(SECONDS_FILE):
        with open(os.environ[SECONDS_FILE], "a", encoding="utf-8") as file:
            file.write(f"{unit.key} {unit.kind} {unit.code} {seconds:.3f}\n")
