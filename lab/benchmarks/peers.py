"""Our estimator and others, measured in one run: the same samples, machine and two cores, one process at a time.

    python -m lab.benchmarks.peers

A run that was killed goes on where it was; a finished one only writes its tables again. README.md tells what they hold.
"""

import argparse
import itertools
import os
import re
import sys
from pathlib import Path

from lab.benchmarks.peer_runs import CORES, measured
from lab.benchmarks.peer_tables import write_results
from lab.oracles.tasks import TASKS
from lab.paths import data_folder
from lab.study.provenance import provenance

CRITIC = {"hidden_layers": [16, 8], "verbose": False}
ESTIMATORS = {  # their environments and settings, the quick ones first
    "RFMI": ("ours", {"arguments": {}}),
    "CCA": ("benchmark_mi", {"class": "CCAMutualInformationEstimator", "arguments": {}}),
    "KSG": ("benchmark_mi", {"class": "KSGEnsembleFirstEstimator", "arguments": {"neighborhoods": [10]}}),
    "MINE": ("benchmark_mi", {"class": "MINEEstimator", "arguments": CRITIC}),
    "InfoNCE": ("benchmark_mi", {"class": "InfoNCEEstimator", "arguments": CRITIC}),
    "NWJ": ("benchmark_mi", {"class": "NWJEstimator", "arguments": CRITIC}),
    "MINDE": ("diffusion_mi", {"arguments": {"type": "c"}}),
}
MINDE_TASKS = ("multinormal-sparse-5-5-2-2.0", "student-identity-2-2-1", "spiral-multinormal-sparse-3-3-2-2.0")
ALL_TASKS = ("1v1-normal-0.75", "1v1-additive-0.1", *MINDE_TASKS)


def main(arguments: list[str]) -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    several = {"nargs": "+", "metavar": "NAME"}
    parser.add_argument("--estimators", choices=ESTIMATORS, default=ESTIMATORS, help="who takes part (all)", **several)
    parser.add_argument("--tasks", choices=TASKS, default=ALL_TASKS, help="what is estimated (five)", **several)
    parser.add_argument("--minde-tasks", choices=TASKS, default=MINDE_TASKS, help="MINDE's among them (3)", **several)
    parser.add_argument("--minde-seconds", type=float, default=240.0, help="training time of MINDE on a task (240)")
    parser.add_argument("--n", type=int, default=10_000, help="pairs of a sample (10000)")
    parser.add_argument("--seeds", type=int, default=[0], help="of samples and estimators (0)", **several)
    parser.add_argument("--output", type=Path, default=data_folder() / "peers", help="the tables' folder (data/peers)")
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # the processes started here inherit it
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    source = provenance() | {
        "command": " ".join(["python -m lab.benchmarks.peers", *arguments]),
        "processor": model[1] if model else "unknown",
        "cores": CORES,
        "load_at_start": round(os.getloadavg()[0], 2),
        "n": options.n,
        "seeds": options.seeds,
    }
    records = []
    for task, seed, name in itertools.product(options.tasks, options.seeds, options.estimators):
        environment, settings = ESTIMATORS[name]
        if name == "MINDE":
            settings = settings | {"seconds": options.minde_seconds}
        unit = {"environment": environment, "settings": settings, "task": task, "n": options.n, "seed": seed}
        if name != "MINDE" or task in options.minde_tasks:
            records.append({"estimator": name} | measured(unit))
    write_results(options.output, records, source)


if __name__ == "__main__":
    main(sys.argv[1:])
