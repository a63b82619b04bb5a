"""One unit after another: an estimator's environment, one process for each estimate, one file for each finished unit.

A unit is (estimator, task, n, seed). Its file is named by these, the samples' hash, the settings and the code that ran,
so a run that was killed goes on at the first unit it lacks and a finished run repeats nothing. A unit that fails, gives
no finite number or takes longer than the limit is kept as well, with the reason in "failure" and no estimate.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from lab.oracles.tasks import TASKS
from lab.study.code import code_version
from lab.study.units import Unit
from rfmi.runs import write_atomically

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MARK = "requirements.sha256"  # written last into an environment that was made
OUR_CODE = ("rfmi.arrays", "rfmi.fields", "rfmi.times", "rfmi.estimators")


def sha256(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@dataclass(frozen=True)
class Environment:
    """Where an estimator runs: made in `folder` from `requirements`; without a folder, where this runs."""

    adaptor: Path
    folder: Path | None = None
    requirements: Path | None = None

    def python(self) -> Path:
        return Path(sys.executable) if self.folder is None else self.folder / "bin" / "python"

    def is_made(self) -> bool:
        """Whether what `requirements` asks for was installed to its end."""
        mark = self.folder and self.folder / MARK
        return mark is None or mark.is_file() and mark.read_text() == sha256(self.requirements)

    def make(self) -> None:
        """Install what `requirements` asks for, unless that was finished before."""
        if self.is_made():
            return
        print(f"making {self.folder.name} from {self.requirements.name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(self.folder)], check=True)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(self.requirements)]
        subprocess.run([str(self.python()), *install], check=True)
        write_atomically(self.folder / MARK, sha256(self.requirements))

    def version(self) -> str:
        """What the environment computes with, as one hash: another gives another unit."""
        files = [HERE / "run_one.py", self.adaptor, *([self.requirements] if self.requirements else [])]
        text = sha256(*files)[:16]
        return text + code_version(*OUR_CODE) if self.folder is None else text


@dataclass(frozen=True)
class Estimator:
    """An estimator: its environment's name, the settings its adaptor gets and, if it does not run on all, its tasks."""

    environment: str
    settings: dict[str, Any]
    tasks: tuple[str, ...] | None = None


def process_environment(cores: int, ours: bool) -> dict[str, str]:
    """The variables of a unit's process: the same number of threads for everybody, and no accelerator."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    threads = {name: str(cores) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    path = {"PYTHONPATH": str(ROOT)} if ours else {}
    return kept | threads | path | {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}


def without_folders(text: str) -> str:
    """A text with every absolute path cut to its last part: the folders of one machine are of no use to a reader."""
    return re.sub(r"(?<![\w.])(?:/[\w.@+-]+)+/", "", text)


def run_process(command: list[str], variables: dict[str, str], log: Path, limit: float) -> tuple[str | None, float]:
    """Run a command, which does not outlive this call; returns why it failed (None if not) and its seconds."""
    started = time.perf_counter()
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=variables, cwd=log.parent)
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            process.kill()
            process.wait()
    seconds = time.perf_counter() - started
    if code is None:
        return f"not finished within {limit:g} seconds", seconds
    if code < 0:
        return f"ended by signal {-code}", seconds
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = without_folders(lines[-1].strip())[:300] if lines else "no message"
    return (f"ended with status {code}: {last}" if code else None), seconds


def finite(value: Any) -> float | None:
    """A number as JSON can hold it; None for one that is not finite, or none."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def measure(
    estimator: Estimator, environment: Environment, samples: Path, seed: int, cores: int, limit: float
) -> dict[str, Any]:
    """One estimate in a process of its own: the number and what it cost, or None and the reason in "failure"."""
    result = samples.with_name("result.json")
    result.unlink(missing_ok=True)
    command = [str(environment.python()), str(HERE / "run_one.py"), str(environment.adaptor), str(samples), str(result)]
    command += ["--seed", str(seed), "--settings", json.dumps(estimator.settings), "--cores", str(cores)]
    variables = process_environment(cores, ours=environment.folder is None)
    failure, seconds = run_process(command, variables, samples.with_name("log.txt"), limit)
    told = json.loads(result.read_text(encoding="utf-8")) if failure is None and result.is_file() else {}
    estimate = finite(told.get("estimate"))
    if failure is None and estimate is None:
        failure = f"the estimate is not a finite number: {told.get('estimate')}"
    return {
        "estimate": estimate,
        "failure": failure,
        "process_seconds": seconds,
        **{name: finite(told.get(name)) for name in ("seconds", "peak_mebibytes", "mebibytes_before")},
        "interval": told.get("interval"),
        "curve": [{name: finite(value) for name, value in point.items()} for point in told.get("curve", [])],
        "details": told.get("details", {}),
        "versions": told.get("versions", {}),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def run(
    estimators: dict[str, Estimator],
    environments: dict[str, Environment],
    *,
    tasks: tuple[str, ...],
    n: int,
    seeds: tuple[int, ...],
    work: Path,
    cores: int = 2,
    limit: float = 900.0,
    retry_failed: bool = False,
) -> list[dict[str, Any]]:
    """Measure every estimator on its tasks and seeds, one process at a time; returns one record a unit.

    work: folder of the finished units; cores: processors and threads of a process; limit: its seconds.
    """
    for name in sorted({estimator.environment for estimator in estimators.values()}):
        environments[name].make()
    versions = {name: environments[name].version() for name in environments}
    own = (task for estimator in estimators.values() for task in estimator.tasks or ())
    records = []
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work, prefix="running-") as scratch:
        for task, seed in itertools.product(dict.fromkeys([*tasks, *own]), seeds):
            x, y = TASKS[task].sample(n, seed)
            samples, digest = Path(scratch) / "samples.npz", hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()[:16]
            np.savez(samples, x=x, y=y)
            for name, estimator in estimators.items():
                if task not in (tasks if estimator.tasks is None else estimator.tasks):
                    continue
                unit = {"estimator": name, "task": task, "n": n, "seed": seed}
                made_of = {"samples": digest, "settings": estimator.settings, "cores": cores}
                key = unit | made_of | {"code": versions[estimator.environment]}
                kept = Unit(name, key, folder=work / "units")
                done = kept.read()
                record = done["result"] if done else None
                if record is None or (retry_failed and record["failure"]):
                    record = measure(estimator, environments[estimator.environment], samples, seed, cores, limit)
                    record = kept.write(record)["result"]
                    said = record["failure"] or f"{record['estimate']:.3f} nats in {record['seconds']:.1f} s"
                    print(f"{name:14}{task}, n = {n}, seed {seed}: {said}", flush=True)
                about = {"truth": float(TASKS[task].mutual_information), "environment": estimator.environment}
                records.append(unit | about | {"settings": estimator.settings} | record)
    return records
