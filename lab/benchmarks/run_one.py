"""One estimate in a process of its own, which peer_runs.py starts with the Python of an adaptor's environment.

    python run_one.py ADAPTOR SEED SETTINGS

It reads samples.npz (x and y, float64) in the working folder and writes result.json there. ADAPTOR is a module with
PACKAGES, whose versions are told, and

    estimate(x, y, seed, settings) -> {"estimate": nats, ...}

which may add "interval" [low, high]; "curve", points {"steps", "seconds", "estimate"} of the estimate during training;
"excluded_seconds", spent on reading that curve; and "details". The environments have NumPy in common and nothing else.
"""

import ctypes
import importlib
import json
import platform
import re
import resource
import signal
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np


def peak_mebibytes() -> float:
    """The largest resident memory so far of this process, whose `ru_maxrss` starts at its parent's, or of a child."""
    own = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]
    return max(int(own), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # end with the parent: left alone, this would slow the next one down
    adaptor = importlib.import_module(sys.argv[1])
    seed, settings = map(json.loads, sys.argv[2:])
    x, y = np.load("samples.npz").values()
    before = peak_mebibytes()
    started = time.perf_counter()
    result = adaptor.estimate(x, y, seed, settings)
    seconds = time.perf_counter() - started - result.pop("excluded_seconds", 0.0)
    cost = {"seconds": seconds, "peak_mebibytes": peak_mebibytes(), "mebibytes_before": before}
    versions = {"python": platform.python_version()} | {name: metadata.version(name) for name in adaptor.PACKAGES}
    Path("result.json").write_text(json.dumps(result | cost | {"versions": versions}))
