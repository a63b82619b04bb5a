"""Our estimator and others, measured in one run: the same samples, machine and two cores, one process at a time.

    python -m lab.benchmarks.peers

A run that was killed goes on where it was; a finished one only writes its tables again. README.md tells what they hold.
"""

import argparse
import itertools
import os
import sys
from pathlib import Path

from lab.benchmarks.peer_runs import CORES, KNOWN, measured
from lab.benchmarks.peer_tables import write_results
from lab.oracles.pairs import KEPT_ASIDE, KINDS
from lab.paths import data_folder
from lab.study.provenance import processor, provenance

CRITIC = {"hidden_layers": [16, 8], "verbose": False}
ESTIMATORS = {  # their environments and settings, the quick ones first
    "RFMI": ("ours", {"arguments": {}}),
    "CCA": ("benchmark_mi", {"class": "CCAMutualInformationEstimator", "arguments": {}}),
    "KSG": ("benchmark_mi", {"class": "KSGEnsembleFirstEstimator", "arguments": {"neighborhoods": [10]}}),
    "MINE": ("benchmark_mi", {"class": "MINEEstimator", "arguments": CRITIC}),
    "InfoNCE": ("benchmark_mi", {"class": "InfoNCEEstimator", "arguments": CRITIC}),
    "NWJ": ("benchmark_mi", {"class": "NWJEstimator", "arguments": CRITIC}),
    "MINDE": ("diffusion_mi", {"class": "MINDEEstimator", "seconds": 240.0, "arguments": {"type": "c"}}),
    "MMG": ("diffusion_mi", {"class": "MMGEstimator", "seconds": 240.0, "arguments": {}}),
}
MINDE_TASKS = ("multinormal-sparse-5-5-2-2.0", "student-identity-2-2-1", "spiral-multinormal-sparse-3-3-2-2.0")
ALL_TASKS = ("1v1-normal-0.75", "1v1-additive-0.1", *MINDE_TASKS)
ROUNDS = list(zip(*([name for name in kind if name in KEPT_ASIDE] for kind in KINDS.values()), strict=True))


def main(arguments: list[str]) -> None:
    """Measure, and write the tables after every unit."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    several = {"nargs": "+", "metavar": "NAME"}
    usual = [name for name in ESTIMATORS if name != "MMG"]
    parser.add_argument("--pairs", action="store_true", help="pairs of other kinds in place of tasks, to by_kind.csv")
    parser.add_argument("--estimators", choices=ESTIMATORS, default=usual, help="who takes part (not MMG)", **several)
    parser.add_argument("--tasks", choices=KNOWN, default=ALL_TASKS, help="what is estimated (five)", **several)
    parser.add_argument("--minde-tasks", choices=KNOWN, default=MINDE_TASKS, help="MINDE's and MMG's (3)", **several)
    parser.add_argument("--minde-seconds", type=float, default=240.0, help="their training time on a task (240)")
    parser.add_argument("--n", type=int, default=10_000, help="rows of a sample (10000)")
    parser.add_argument("--seeds", type=int, default=[0], help="of samples and estimators (0)", **several)
    parser.add_argument("--output", type=Path, default=data_folder() / "peers", help="the tables' folder (data/peers)")
    if "--pairs" in arguments:
        parser.set_defaults(tasks=sum(ROUNDS, ()), minde_tasks=ROUNDS[0])
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # the processes started here inherit it
    source = provenance() | {
        "command": " ".join(["python -m lab.benchmarks.peers", *arguments]),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_at_start": round(os.getloadavg()[0], 2),
    }
    records = []
    for task, seed, name in itertools.product(options.tasks, options.seeds, options.estimators):
        environment, settings = ESTIMATORS[name]
        if "seconds" in settings:
            settings = settings | {"seconds": options.minde_seconds}
        unit = {"environment": environment, "settings": settings, "task": task, "n": options.n, "seed": seed}
        if "seconds" not in settings or task in options.minde_tasks:
            records.append({"estimator": name} | measured(unit))
            write_results(options.output, records, source, options.pairs)


if __name__ == "__main__":
    main(sys.argv[1:])
