"""One estimate in a process of its own: started by peers.py with the Python of an estimator's environment.

    python run_one.py ADAPTOR SAMPLES RESULT --seed 0 --settings '{}' --cores 2

ADAPTOR is a Python file with PACKAGES (names of installed packages, for their versions) and

    estimate(x, y, seed, settings) -> {"estimate": nats, ...}

of float64 arrays x (n, d_x) and y (n, d_y). It may add "interval" [low, high]; "curve", points {"steps", "seconds",
"estimate"} of the estimate during training; "excluded_seconds", spent on reading that curve and not needed for the
estimate; and "details". RESULT is written in one piece, with the seconds of `estimate` alone and the peak memory of the
process. An error ends the process and leaves no RESULT. Needs nothing but NumPy, for it runs in environments that have
nothing else in common.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import sys
import threading
import time
from importlib import metadata
from pathlib import Path


def end_with_parent(parent: int) -> None:
    """End this process soon after its parent, however that ended: left alone, it would slow the next one down."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def peak_mebibytes() -> float:
    """The largest resident memory of this process so far, or of a child of it that has ended, if that was larger.

    Linux hands the parent's peak on to a child in ru_maxrss, so there the process's own high-water mark is read
    instead.
    """
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    status = Path("/proc/self/status")
    if status.is_file():
        own = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    else:
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return max(own, children) / unit


def main() -> None:
    parser = argparse.ArgumentParser(description="One estimate in a process of its own.")
    parser.add_argument("adaptor", type=Path)
    parser.add_argument("samples", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--settings", type=json.loads, default={})
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()

    end_with_parent(os.getppid())
    if hasattr(os, "sched_setaffinity"):  # this process and its threads stay on the first of its processors
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    import numpy as np  # after the limit, so that its thread pools are made for that many cores

    sys.path.insert(0, str(options.adaptor.parent))
    adaptor = importlib.import_module(options.adaptor.stem)
    with np.load(options.samples) as samples:
        x, y = samples["x"], samples["y"]
    before = peak_mebibytes()
    started = time.perf_counter()
    result = adaptor.estimate(x, y, options.seed, options.settings)
    elapsed = time.perf_counter() - started

    result["seconds"] = elapsed - result.pop("excluded_seconds", 0.0)
    result["peak_mebibytes"] = peak_mebibytes()
    result["mebibytes_before"] = before
    installed = {name: metadata.version(name) for name in adaptor.PACKAGES}
    result["versions"] = {"python": platform.python_version(), **installed}
    temporary = options.result.with_name(options.result.name + ".part")
    temporary.write_text(json.dumps(result), encoding="utf-8")
    os.replace(temporary, options.result)


if __name__ == "__main__":
    main()
