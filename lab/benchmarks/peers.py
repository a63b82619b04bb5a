"""Our estimator and others, measured in one run: the same samples, machine and two cores, one process at a time.

    python lab/benchmarks/peers.py --output data/peers

For every task and seed it draws the pairs with `lab.oracles.tasks`, and for every estimator it starts run_one.py in
that estimator's environment, which it makes first where it is missing. A run that was killed goes on where it was; a
finished one only writes its tables again. README.md tells what the tables hold.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))  # so that a checkout runs as it is, installed or not

from peer_runs import Environment, Estimator, run, without_folders  # noqa: E402
from peer_tables import write_results  # noqa: E402

from lab.oracles.tasks import TASKS  # noqa: E402
from lab.paths import cache_folder  # noqa: E402
from lab.study.provenance import provenance  # noqa: E402

HERE = ROOT / "lab" / "benchmarks"
ENVIRONMENTS = {
    "ours": Environment(HERE / "adaptors/ours.py"),
    "bmi": Environment(HERE / "adaptors/benchmark_mi.py", ROOT / ".venv-peers-bmi", HERE / "requirements-bmi.txt"),
    "minde": Environment(
        HERE / "adaptors/diffusion_mi.py", ROOT / ".venv-peers-minde", HERE / "requirements-minde.txt"
    ),
}
OURS = "RFMI"
PROCESSORS = Path("/proc/cpuinfo")  # where the system names their model
NOT_BY_DEFAULT = ("D-V", "MINDE-J", "MINDE-authors")
TEN_TASKS = (
    "1v1-normal-0.75",
    "multinormal-sparse-5-5-2-2.0",
    "student-identity-3-3-2",
    "spiral-multinormal-sparse-3-3-2-2.0",
    "1v1-additive-0.1",
    "wiggly-1v1-normal-0.75",
    "swissroll_x-normal_cdf-1v1-normal-0.75",
    "asinh-student-identity-5-5-2",
    "half_cube-multinormal-sparse-5-5-2-2.0",
    "multinormal-dense-25-25-0.5",
)
MINDE_TASKS = TEN_TASKS[:4]


def critic(name: str, smoke: bool) -> Estimator:
    """A neural estimator of benchmark-mi: a critic of 16 and 8 units, the package's default."""
    quick = {"max_n_steps": 40, "test_every_n_steps": 20, "batch_size": 64} if smoke else {}
    return Estimator("bmi", {"class": name, "arguments": {"hidden_layers": [16, 8], "verbose": False, **quick}})


def known_estimators(minde_seconds: float, minde_tasks: tuple[str, ...], smoke: bool) -> dict[str, Estimator]:
    """Every estimator this driver knows, the quick ones first."""

    def minde(**arguments: object) -> Estimator:
        return Estimator("minde", {"seconds": minde_seconds, "threads": 1, "arguments": arguments}, minde_tasks)

    return {
        OURS: Estimator("ours", {"arguments": {}}),
        "CCA": Estimator("bmi", {"class": "CCAMutualInformationEstimator", "arguments": {}}),
        "KSG": Estimator("bmi", {"class": "KSGEnsembleFirstEstimator", "arguments": {"neighborhoods": [10]}}),
        "MINE": critic("MINEEstimator", smoke),
        "InfoNCE": critic("InfoNCEEstimator", smoke),
        "NWJ": critic("NWJEstimator", smoke),
        "D-V": critic("DonskerVaradhanEstimator", smoke),
        "MINDE": minde(type="c"),
        "MINDE-J": minde(type="j"),
        "MINDE-authors": minde(type="c", learning_rate=1e-3, batch_size=128),
    }


def refuse_unknown(names: tuple[str, ...], known: Iterable[str], what: str) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.3)
            raise ValueError(f"there is no {what} {name!r}; did you mean {' or '.join(near or known)}?")


def check(options: argparse.Namespace) -> None:
    """Fill in what was left open; raises ValueError for an option that cannot be meant."""
    refuse_unknown(options.estimators, known_estimators(0.0, (), False), "estimator")
    refuse_unknown(options.tasks, TASKS, "task")
    if options.minde_tasks is None:
        options.minde_tasks = tuple(task for task in MINDE_TASKS if task in options.tasks)
    refuse_unknown(options.minde_tasks, options.tasks, "task among --tasks named")
    options.seeds = tuple(int(seed) for seed in options.seeds)
    needed = 1.2 * options.minde_seconds + 60
    if options.limit < needed:
        raise ValueError(f"--limit {options.limit:g} would end MINDE before its time; give at least {needed:g}")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line's options, checked."""
    default = tuple(name for name in known_estimators(0.0, (), False) if name not in NOT_BY_DEFAULT)
    listed = {"type": lambda text: tuple(part for part in text.split(",") if part), "metavar": "A,B,..."}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, help="folder of the tables (data/peers; --smoke: the work folder)")
    parser.add_argument("--work", type=Path, help="folder of finished units (peers in the project's cache)")
    parser.add_argument("--estimators", default=default, help=f"also known: {', '.join(NOT_BY_DEFAULT)}", **listed)
    parser.add_argument("--tasks", default=TEN_TASKS, help="tasks of all estimators but MINDE (ten)", **listed)
    parser.add_argument("--minde-tasks", help="tasks of MINDE, some of --tasks (four)", **listed)
    parser.add_argument("--minde-seconds", type=float, default=240.0, help="training time of MINDE on a task (240)")
    parser.add_argument("--n", type=int, default=10_000, help="pairs of a sample (10000)")
    parser.add_argument("--seeds", default=("0",), help="seeds of the samples and of the estimators (0)", **listed)
    parser.add_argument("--cores", type=int, default=2, help="processors and threads of every process (2)")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds after which a process has failed (900)")
    parser.add_argument("--error-floor", type=float, default=0.02, help="errors below this count as equal (0.02 nats)")
    parser.add_argument("--retry-failed", action="store_true", help="measure units again that were failures")
    parser.add_argument("--smoke", action="store_true", help="500 pairs, two tasks, a few steps: does everything run?")
    options = parser.parse_args(arguments)
    try:
        check(options)
    except ValueError as error:
        parser.error(str(error))
    options.work = (options.work or cache_folder() / "peers").resolve()
    if options.smoke:
        options.n, options.minde_seconds, options.work = 500, 2.0, options.work / "smoke"
        options.tasks = options.minde_tasks = MINDE_TASKS[:2]
    options.output = (options.output or (options.work / "tables" if options.smoke else ROOT / "data/peers")).resolve()
    return options


def main(arguments: list[str]) -> None:
    """Measure and write the tables."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the unit's process ends too
    known = known_estimators(options.minde_seconds, options.minde_tasks, options.smoke)
    models = re.findall(r"model name\s*: (.*)", PROCESSORS.read_text()) if PROCESSORS.is_file() else []
    source = {
        "command": without_folders(" ".join(["python lab/benchmarks/peers.py", *arguments])),
        "processor": next(iter(models), "unknown"),
        "cores": options.cores,
        "load_at_start": round(os.getloadavg()[0], 2),
        "n": options.n,
        "seeds": list(options.seeds),
    }
    records = run(
        {name: known[name] for name in known if name in options.estimators},
        ENVIRONMENTS,
        tasks=options.tasks,
        n=options.n,
        seeds=options.seeds,
        work=options.work,
        cores=options.cores,
        limit=options.limit,
        retry_failed=options.retry_failed,
    )
    write_results(options.output, records, provenance() | source, ours=OURS, error_floor=options.error_floor)
    print(f"tables in {os.path.relpath(options.output)}")


if __name__ == "__main__":
    main(sys.argv[1:])
