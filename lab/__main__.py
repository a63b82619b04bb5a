"""The command line: `python -m lab run --profile NAME [notebooks...]` makes a report, `python -m lab sweep GRID` many;
`render` makes a report's pages again, `compare` says which results of two reports differ.

What takes seconds to import (torch, papermill) is imported when a command has been checked.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lab.paths import cache_folder, notebooks_folder, repository_root
from lab.study.profiles import Refusal, plan

SUCCESS, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
SECONDS_A_CELL = 4 * 3600
# MKL's results otherwise depend on where in memory an array happens to lie, so that a resumed run would differ in bits
REPRODUCIBLE = {"MKL_CBWR": "AUTO"}
QUIET = {  # in notebooks, unless set otherwise
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore:A worker stopped while some jobs:UserWarning",  # another one takes its place
}


def check_writable(folder: Path, advice: str) -> None:
    """Raises Refusal for a folder in which nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise Refusal(f"{folder} cannot be written to ({error.strerror}); {advice}") from None


def run_command(arguments: argparse.Namespace) -> int:
    """Check everything, then run the notebooks into the report folder."""
    own = repository_root() / f"reports-{arguments.profile}"  # the committed report is written where it is named only
    output = (Path(arguments.output).expanduser() if arguments.output else own).resolve()
    if arguments.keep and arguments.parameters:
        raise Refusal("--keep writes the notebooks, which hold a profile as it is; leave out -p")
    jobs = plan(
        notebooks_folder(),
        profile=arguments.profile,
        names=arguments.notebooks,
        overrides=[tuple(pair) for pair in arguments.parameters],
    )
    check_writable(cache_folder(), "set RFMI_CACHE to a folder that can be")
    check_writable(output, "choose another one with --output")
    from lab.study.runner import run
    from lab.study.units import BACKEND, chosen_backend

    if arguments.backend:
        os.environ[BACKEND] = arguments.backend  # of the notebooks' kernels too
    with chosen_backend():
        pass  # refused here, before a notebook is
    options = {"force": arguments.force, "keep": arguments.keep, "seconds_a_cell": arguments.cell_timeout}
    failures = run(jobs, notebooks_folder(), output, **options)
    if failures:
        print(f"{len(failures)} of {len(jobs)} notebooks failed; the others are in {output}", file=sys.stderr)
        return FAILED
    print(f"the report is in {output / 'index.html'}")
    return SUCCESS


def render_command(arguments: argparse.Namespace) -> int:
    """Make the pages of a report again, of its notebooks and records; of the committed one, the README too."""
    from lab.front import written
    from lab.study.runner import render_again
    from rfmi.files import write_atomically

    committed = repository_root() / "reports"
    output = Path(arguments.output or committed).expanduser().resolve()
    render_again(output)
    if output == committed.resolve():
        readme = repository_root() / "README.md"
        write_atomically(readme, written(readme.read_text(encoding="utf-8"), output))
    print(f"the report is in {output / 'index.html'}")
    return SUCCESS


def compare_command(arguments: argparse.Namespace) -> int:
    """Print the results that differ: verdict, key, A, B. FAILED where one does by more than its interval allows."""
    from lab.study.numbers import AGREEING, compare

    try:
        rows = compare(Path(arguments.one), Path(arguments.other))
    except ValueError as error:
        raise Refusal(str(error)) from None
    counts = Counter(each.verdict for each in rows)
    table = [(each.verdict, each.key, each.one, each.other) for each in rows if each.verdict != "equal"]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    print(f"{len(rows)} results: {', '.join(f'{n} {verdict}' for verdict, n in sorted(counts.items()))}")
    return SUCCESS if {*counts} <= AGREEING else FAILED


def sweep_command(arguments: argparse.Namespace) -> int:
    """Check every point of a grid, then run those that are not finished."""
    from lab import sweep

    if arguments.jobs < 1:
        raise Refusal(f"--jobs counts points at once and is at least 1, got {arguments.jobs}")
    points, asked = sweep.read_grid(Path(arguments.grid), notebooks_folder(), repository_root())
    check_writable(cache_folder(), "set RFMI_CACHE to a folder that can be")
    for point in points:
        check_writable(point.output, "choose another `output` in the grid")
    local = partial(sweep.here, jobs=arguments.jobs)
    states = sweep.run(points, local if arguments.executor == "local" else partial(sweep.on_slurm, asked=asked))
    return SUCCESS if {*states.values()} == {sweep.FINISHED} else FAILED


def train_base_command(arguments: argparse.Namespace) -> int:
    """Train the base model of the small world, or its CLIP, from the last checkpoint where there is one."""
    from lab.making.clip import train_clip
    from lab.making.pipeline import train_base
    from lab.making.recipe import RECIPES
    from lab.making.workshop import Workshop

    if arguments.profile not in RECIPES:
        raise Refusal(f"there is no recipe {arguments.profile!r}; there are {', '.join(RECIPES)}")
    recipe = RECIPES[arguments.profile]
    work = Path(arguments.work) if arguments.work else cache_folder() / "base_model" / arguments.profile
    output = Path(arguments.output) if arguments.output else work / "output"
    start = Path(arguments.start) if arguments.start else None
    if start is not None and not (start / "training.json").is_file():
        raise Refusal(f"{start} is no folder of a finished training: it has no training.json")
    shop = Workshop(recipe, work, arguments.device, arguments.checkpoint_seconds)
    if arguments.clip:
        train_clip(shop, output)
    else:
        train_base(shop, output, start)
    print(f"the model is in {output}")
    return SUCCESS


def make_parser() -> argparse.ArgumentParser:
    """One subcommand each; a subcommand sets `command` to the function that carries it out."""
    parser = argparse.ArgumentParser(prog="python -m lab", description="Run the study's notebooks.")
    commands = parser.add_subparsers(required=True, metavar="command")

    adder = commands.add_parser("run", help="run notebooks into the report folder")
    adder.add_argument("notebooks", nargs="*", help="names or numbers, as 02_benchmark or 02; all where none is given")
    adder.add_argument(
        "--cell-timeout", type=int, default=SECONDS_A_CELL, metavar="SECONDS", help="the longest a cell may take"
    )
    adder.add_argument("--profile", default="cpu", help="a file of notebooks/profiles (default: cpu)")
    adder.add_argument(
        "--output", default="", metavar="FOLDER", help="the report folder (default: reports-PROFILE of the checkout)"
    )
    pairs = {"nargs": 2, "action": "append", "default": [], "metavar": ("NAME", "VALUE")}
    adder.add_argument("-p", dest="parameters", help="replace a parameter", **pairs)
    adder.add_argument(
        "--backend", default="", help="of joblib, for units of work: loky, dask, ray (default: RFMI_BACKEND, else loky)"
    )
    adder.add_argument("--force", action="store_true", help="run notebooks that are finished and unchanged as well")
    adder.add_argument(
        "--keep", action="store_true", help="write the executed notebooks over their sources, as `make reproduce` does"
    )
    adder.set_defaults(command=run_command)

    adder = commands.add_parser("render", help="make the pages of a report again, without running anything")
    adder.add_argument("--output", default="", metavar="FOLDER", help="the report folder (default: the committed one)")
    adder.set_defaults(command=render_command)

    adder = commands.add_parser("compare", help="print the results that differ between two reports")
    adder.add_argument("one", metavar="A", help="a report folder")
    adder.add_argument("other", metavar="B", help="another one")
    adder.set_defaults(command=compare_command)

    adder = commands.add_parser("sweep", help="run a grid of parameters, with a report folder for each point")
    adder.add_argument("grid", help="a YAML file; lab/sweep.py says what is in it")
    adder.add_argument("--executor", choices=("local", "slurm"), default="local", help="where points run")
    adder.add_argument("--jobs", type=int, default=1, help="points at once on this machine (default: 1)")
    adder.set_defaults(command=sweep_command)

    adder = commands.add_parser("train-base", help="train the base model of the small world; resumes by itself")
    adder.add_argument("--profile", default="cpu", help="a name in lab/making/recipe.py (default: cpu)")
    adder.add_argument("--start", default="", metavar="FOLDER", help="a finished folder, to train its flow longer")
    adder.add_argument("--work", default="", metavar="FOLDER", help="checkpoints (default: a folder of the cache)")
    adder.add_argument("--output", default="", metavar="FOLDER", help="the model's folder (default: WORK/output)")
    adder.add_argument("--device", default="cpu", help="where to train (default: cpu)")
    adder.add_argument("--clip", action="store_true", help="train the CLIP of the world in place of the pipeline")
    adder.add_argument("--checkpoint-seconds", type=float, default=120.0, help="time between checkpoints")
    adder.set_defaults(command=train_base_command)
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Carry out one command; returns the exit code: 0 done, 1 a notebook failed, 2 refused before anything ran."""
    for name, value in (QUIET | REPRODUCIBLE).items():
        os.environ.setdefault(name, value)
    os.environ["RFMI_CACHE"] = str(cache_folder().resolve())  # one folder, whichever a kernel or a job starts in
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a folder's name may hold what a terminal does not
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in ("lab", "rfmi"):
        logging.getLogger(name).setLevel(logging.INFO)
    arguments = make_parser().parse_args(words)
    try:
        return arguments.command(arguments)
    except Refusal as refusal:
        print(f"refused: {refusal}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # the cell that was interrupted, once more
        print("interrupted; the same command goes on at the last finished unit", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
