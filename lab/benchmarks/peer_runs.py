"""One unit, an estimate from one sample of a task, in a process of its own and in its package's environment.

A unit that fails, gives no finite number or takes too long is kept as well, with the reason in "failure".
"""

import json
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from lab import study
from lab.oracles.pairs import PAIRS
from lab.oracles.tasks import TASKS
from lab.paths import repository_root

ROOT = repository_root()
KNOWN = TASKS | PAIRS
ADAPTORS = "lab/benchmarks/adaptors"  # NAME.py for each environment, NAME.txt for all but ours
RUN_ONE = "lab/benchmarks/run_one.py"
OUR_CODE = ("rfmi.arrays", "rfmi.fields", "rfmi.times", "rfmi.estimators")
CORES = 2
LIMIT = 900.0  # seconds of a process, beside the seconds of training that its settings name
VARIABLES = {"OMP_NUM_THREADS": str(CORES), "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
FOLDERS = re.compile(r"(?<![\w.])(?:/[\w.@+-]+)+/")  # those of one machine are of no use to a reader
UNTOLD = dict.fromkeys(("estimate", "seconds", "peak_mebibytes", "mebibytes_before", "interval", "failure"))


@cache
def python_of(environment: str) -> str:
    """The Python of an environment: for ours this one, else that of a virtual environment, made or made complete."""
    if environment == "ours":
        return sys.executable
    python = ROOT / f".venv-peers-{environment}" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]
    subprocess.run([python, *install, ROOT / ADAPTORS / f"{environment}.txt"], check=True)
    return str(python)


def told_by(command: list[str], folder: Path, limit: float) -> dict:
    """What a process, which does not outlive this call, leaves in result.json of its folder, or why it failed."""
    path = os.pathsep.join([str(ROOT / ADAPTORS), str(ROOT)])
    options = {"cwd": folder, "env": os.environ | VARIABLES | {"PYTHONPATH": path}, "errors": "replace"}
    try:
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit, **options)
    except subprocess.TimeoutExpired:
        return {"failure": f"not finished within {limit:g} seconds"}
    if ended.returncode:
        last = (ended.stdout.strip().splitlines() or ["no message"])[-1]
        return {"failure": f"ended with status {ended.returncode}: {FOLDERS.sub('', last.strip())[:300]}"}
    result = json.loads((folder / "result.json").read_text(), parse_constant=lambda name: None)  # NaN, infinities: None
    return result if result.get("estimate") is not None else result | {"failure": "gave no finite number"}


def peer_estimate(environment: str, settings: dict, task: str, n: int, seed: int) -> dict:
    """The number that an estimator gives and what it cost, or None and the reason."""
    x, y = KNOWN[task].sample(n, seed)
    if y.ndim == 1 and environment != "ours":  # labels: ours takes them as they are
        y = (y[:, None] == np.unique(y)).astype(float)
    command = [python_of(environment), str(ROOT / RUN_ONE), environment, str(seed), json.dumps(settings)]
    with TemporaryDirectory() as folder:
        np.savez(Path(folder) / "samples.npz", x=x, y=y)
        (Path(folder) / "result.json").write_text("{}")
        started = time.perf_counter()
        told = told_by(command, Path(folder), LIMIT + settings.get("seconds", 0.0))
        told["process_seconds"] = time.perf_counter() - started
        told["date"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return UNTOLD | {"curve": [], "details": {}, "versions": {}} | told


def measured(unit: dict) -> dict:
    """The record of a unit, kept where sample, settings and code are the same, else measured now."""
    environment, task = unit["environment"], unit["task"]
    needed = OUR_CODE if environment == "ours" else [f"{ADAPTORS}/{environment}.txt"]
    uses = ["lab.oracles.tasks", "lab.oracles.pairs", RUN_ONE, f"{ADAPTORS}/{environment}.py", *needed]
    (record,) = study.run(peer_estimate, [unit], uses=uses, description=f"{environment} on {task}")
    return unit | {"truth": float(KNOWN[task].mutual_information)} | record
