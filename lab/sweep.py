"""A grid of runs of the notebooks, each point of it one `python -m lab run` with a report folder of its own.

A grid is a YAML file:

    output: FOLDER                      holds a folder for each point (default: reports-GRID of the checkout)
    profile: cpu                        as for `run`
    notebooks: [5, 6]                   all where it is left out
    parameters:                         every combination of these values; or else
      learning_rate: [0.001, 0.002]
    points:                             these, each in the folder that its `output` names, where it has one
      - {learning_rate: 0.001, output: slow}
    slurm:                              what a job asks for, by sbatch's names or submitit's
      {partition: gpu, gpus_per_node: 1, timeout_min: 1440}

A point is a run like any other: what is finished stays, and what was killed goes on at the last finished unit. Points
that run at the same time share the cache, and so its units.
"""

from __future__ import annotations

import itertools
import logging
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import yaml

from lab.study.profiles import RESERVED, Job, Refusal, check_known, needed, plan, read_yaml

COMMAND = (sys.executable, "-m", "lab")
ENTRIES = {"output": str, "profile": str, "notebooks": list, "parameters": dict, "points": list, "slurm": dict}
FINISHED = "finished"
log = logging.getLogger("lab")


@dataclass(frozen=True, eq=False)
class Point:
    """One run of a sweep: what it is called, its report folder, its command and the jobs of this."""

    name: str
    output: Path
    command: list[str]
    jobs: list[Job]

    def __call__(self) -> str:
        """Run it to its end, with all that it says in run.log of its folder; its state."""
        said = self.output / "run.log"
        with open(said, "w", encoding="utf-8") as file:
            process = subprocess.Popen(self.command, stdout=file, stderr=subprocess.STDOUT)
        try:
            code = process.wait()
        finally:  # what is interrupted, or put back into a queue, leaves nothing running
            process.send_signal(signal.SIGINT)
        if code == 0:
            return FINISHED
        lines = said.read_text(encoding="utf-8", errors="replace").splitlines()
        reasons = [line for line in lines if " failed at " in line or line.startswith("refused: ")]
        return f"failed: {(reasons or lines or [''])[-1] or f'exit code {code}'}"

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue at a job's time limit: the same run, which goes on where it was."""
        return needed("submitit", "a sweep on SLURM").helpers.DelayedSubmission(self)


def read_grid(file: Path, notebooks: Path, root: Path) -> tuple[list[Point], dict[str, Any]]:
    """The points of a grid, every name and value checked, and what its jobs ask of SLURM. Raises Refusal.

    notebooks, root: the folder of the notebooks, the one for reports whose folder is not named
    """
    if not file.is_file():
        raise Refusal(f"there is no grid {file}; name a YAML file with lists of values under `parameters:`")
    grid = read_yaml(file.read_text(encoding="utf-8"), f"the grid {file}")
    if not isinstance(grid, dict):
        raise Refusal(f"the grid {file} is no mapping; write `parameters:` and lists of values below it")
    check_known("entry of a grid called", map(str, grid), ENTRIES)
    grid = {entry: value for entry, value in grid.items() if value is not None}
    for entry, value in grid.items():
        if not isinstance(value, ENTRIES[entry]):
            kind = {str: "text", list: "list", dict: "mapping"}[ENTRIES[entry]]
            raise Refusal(f"{entry} of the grid is no {kind}, got {value!r}; lab/sweep.py shows one")
    profile, names = grid.get("profile", "cpu"), [str(name) for name in grid.get("notebooks", [])]
    base = Path(grid.get("output") or root / f"reports-{file.stem}").expanduser().resolve()
    points = [make_point(changes, base, notebooks, profile, names) for changes in changes_of(grid)]
    for output, count in Counter(point.output for point in points).items():
        if count > 1:
            raise Refusal(f"{count} points of the grid have the folder {output}; give each an `output` of its own")
    return points, grid.get("slurm", {})


def changes_of(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parameters that each point of a grid changes. Raises Refusal for a grid without points."""
    values, listed = grid.get("parameters", {}), grid.get("points", [])
    for name, value in values.items():
        if not isinstance(value, list):
            raise Refusal(f"parameter {name} of the grid has {value!r}; write a list of values, as [{value!r}]")
    chosen = [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values()) if values] or listed
    if not chosen or (values and listed):
        raise Refusal("a grid has points: lists of values under `parameters:`, or else mappings under `points:`")
    for changes in chosen:
        if not isinstance(changes, dict):
            raise Refusal(f"a point of the grid maps parameters to values, got {changes!r}")
    return [{str(name): value for name, value in changes.items()} for changes in chosen]


def make_point(changes: Mapping[str, Any], base: Path, notebooks: Path, profile: str, names: Sequence[str]) -> Point:
    """One point, its parameters checked as those of a `run` are."""
    pairs = [(name, as_text(value)) for name, value in changes.items() if name != RESERVED]
    told = re.sub(r"[^\w.,=+-]+", "_", ",".join(f"{name}={text}" for name, text in pairs))
    folder = str(changes.get(RESERVED) or told or profile)
    jobs = plan(notebooks, profile=profile, names=names, overrides=pairs)
    for name, text in pairs:
        if re.match(r"-(?!\d+$|\d*\.\d+$)", text):
            raise Refusal(
                f"{name} of the grid has {text!r}, which a command line takes for an option; write it without exponent "
                "or a leading minus"
            )
    parameters = [word for name, text in pairs for word in ("-p", name, text)]
    output = (base / folder).resolve()
    command = [*COMMAND, "run", *names, "--profile", profile, "--output", str(output), *parameters]
    return Point(folder, output, command, jobs)


def as_text(value: Any) -> str:
    """A value as the command line has it."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=sys.maxsize).removesuffix("...\n").strip()


def run(points: Sequence[Point], start: Callable[[list[Point]], Iterator[tuple[Point, str]]]) -> dict[str, str]:
    """Start the points that are not finished, and print how each of them stands at the end; their states by name.

    start: gives each point with its state whenever that changes, as `here` and `on_slurm` do
    """
    from lab.study.runner import is_finished

    missing = [point for point in points if not all(is_finished(job, point.output, keep=False) for job in point.jobs)]
    states = {point.name: "not finished" if point in missing else FINISHED for point in points}
    changes = start(missing)
    try:
        for point, state in changes:
            log.info("%s: %s", point.name, state)
            states[point.name] = state
    finally:
        width = max(map(len, states))
        print("\n".join(f"{name:{width}}  {state}" for name, state in states.items()))
    return states


def here(points: list[Point], jobs: int) -> Iterator[tuple[Point, str]]:
    """Run points on this machine, `jobs` at once."""
    pool = joblib.Parallel(jobs, backend="threading", return_as="generator_unordered", pre_dispatch="n_jobs")
    return pool(joblib.delayed(lambda point: (point, point()))(point) for point in points)


def on_slurm(points: list[Point], asked: Mapping[str, Any], cluster: str = "slurm") -> Iterator[tuple[Point, str]]:
    """Run each point as a job, and wait for all; the jobs go on where the waiting is interrupted.

    asked: a job's parameters, by sbatch's names or submitit's. Raises Refusal where they cannot be asked for.
    """
    if not {"time", "timeout_min"} & asked.keys():
        raise Refusal("the grid's `slurm:` has no timeout_min; give the minutes a job may take: five is the default")
    submitit = needed("submitit", "a sweep on SLURM")
    options = {f"slurm_{name}": value for name, value in asked.items()}
    timeouts = {"slurm_max_num_timeout": options.pop("slurm_max_num_timeout", 3)}
    executors = {}
    try:
        for point in points:
            executor = submitit.AutoExecutor(point.output / "slurm", cluster=cluster, **timeouts)
            executor.update_parameters(**{"slurm_job_name": point.name, **options})
            executors[point] = executor
    except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
        raise Refusal(f"no job can be submitted as `slurm:` of the grid has it: {str(error).splitlines()[0]}") from None
    return submitted(executors, submitit.SlurmJob)


def submitted(executors: Mapping[Point, Any], job_class: type) -> Iterator[tuple[Point, str]]:
    """Submit the points whose earlier job is not there any more, and wait for all jobs."""
    jobs = {}
    for point, executor in executors.items():
        earlier = [path.name.removesuffix("_submitted.pkl") for path in executor.folder.glob("*_submitted.pkl")]
        there = [job for each in earlier if not (job := job_class(executor.folder, each)).done(force_check=True)]
        try:
            jobs[point] = there[0] if there else executor.submit(point)
            yield point, f"running as job {jobs[point].job_id}"
        except (OSError, RuntimeError) as error:
            yield point, f"failed: not submitted: {' '.join(str(error).split())}"
    for point, job in jobs.items():
        try:
            yield point, job.result()
        except RuntimeError:
            yield point, f"failed: job {job.job_id} ended as {job.state}; what it said is in {executors[point].folder}"
