"""Run the numbered notebooks into the report folder, each one once.

output/
    index.html, {name}.html        what a reader opens
    figures/, results/             written by the notebooks themselves
    notebooks/{name}.ipynb         as executed
    notebooks/{name}.json          its record: what it says, where it comes from, its fingerprint

A notebook is finished when its record's fingerprint is the present one (sources, parameters, the package's code, the
committed data and the versions of the libraries), every file the record names is there and the cache knows that it was
made here; then it is skipped. A report that came with the checkout was made elsewhere and is made again. Within
a notebook the cache of `lab.study.cache` resumes at the last finished unit. A notebook is executed away from the
report folder and moved there when it is done, so a killed run leaves nothing half-written.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

import rfmi
from rfmi.runs import write_atomically
from lab.study.cache import Cache, code_version, digest
from lab.study.pages import clean, summarise, write_index, write_page
from lab.paths import data_folder, repository_root
from lab.study.profiles import RESERVED, Job, numbered_notebooks
from lab.study.provenance import provenance, versions

KERNEL = "python3"
KIND = "report"
SECONDS_TO_START = 120
log = logging.getLogger("rfmi")


class NotebookFailure(RuntimeError):
    """A notebook did not run to its end; the message names the notebook, the cell and the error."""


def output_parameter(output: Path) -> str:
    """The report folder as a notebook's parameter: relative to the checkout where it lies inside, so that no path is
    of one machine.
    """
    output = output.resolve()
    return output.relative_to(repository_root()).as_posix() if output.is_relative_to(repository_root()) else str(output)


def data_digests(folder: Path) -> dict[str, str]:
    """The hash of every committed data file, the cache left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    inside = ((path.relative_to(folder).as_posix(), path) for path in files)
    return {name: digest(path.read_bytes().hex()) for name, path in inside if not name.startswith("cache/")}


def fingerprint(job: Job) -> str:
    """The hash of all that a notebook's outputs depend on."""
    cells = nbformat.read(job.notebook, as_version=4).cells
    sources = [[cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in cells]
    return digest([sources, job.parameters, code_version(rfmi), data_digests(data_folder()), versions()])


def read_record(output: Path, name: str) -> dict[str, Any] | None:
    """The record of a finished notebook; None where there is none that can be read."""
    try:
        return json.loads((output / "notebooks" / f"{name}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def is_finished(job: Job, output: Path) -> bool:
    """Whether the notebook's report is there and is what running it again would give."""
    record = read_record(output, job.name)
    if record is None or record.get("fingerprint") != fingerprint(job):
        return False
    made_here = Cache().read(KIND, made_where(job, output)) == (True, record["fingerprint"])
    return made_here and all((output / file).is_file() for file in record.get("files", []))


def made_where(job: Job, output: Path) -> dict[str, str]:
    """The cache's parameters of a finished notebook: its name and the report folder."""
    return {"name": job.name, "output": str(output.resolve())}


def first_line(source: str) -> str:
    """What tells a reader which cell is meant: its first line of code."""
    return repr(next(iter(source.strip().splitlines()), ""))


def last_cell(path: Path) -> str:
    """The cell at which a notebook stopped without an error of its own, for a message."""
    cells = nbformat.read(path, as_version=4).cells if path.is_file() else []
    begun = [cell for cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
    return f"cell {first_line(begun[-1].source)}" if begun else "its start"


def execute(
    job_name: str, source: Path, target: Path, parameters: dict[str, Any], seconds_a_cell: int
) -> nbformat.NotebookNode:
    """Execute a notebook in its own folder into `target`. Raises NotebookFailure."""
    try:
        return papermill.execute_notebook(
            str(source),
            str(target),
            parameters=parameters,
            cwd=str(source.parent),
            kernel_name=KERNEL,
            start_timeout=SECONDS_TO_START,
            execution_timeout=seconds_a_cell,
            progress_bar=False,
            stderr_file=sys.stderr,
        )
    except PapermillExecutionError as error:
        reason = f"cell In [{error.exec_count}] {first_line(error.source)}: {error.ename}: {error.evalue}"
    except CellTimeoutError:
        reason = f"{last_cell(target)}, which took longer than {seconds_a_cell} s; allow more with --cell-timeout"
    except DeadKernelError:
        reason = f"{last_cell(target)}, which ended the kernel, as a shortage of memory does; use smaller parameters"
    raise NotebookFailure(f"{job_name} failed at {reason}")


def written_files(output: Path) -> dict[str, int]:
    """The figures and results in the report folder, each with the time it was written."""
    files = [
        path for part in ("figures", "results") for path in sorted((output / part).glob("*.*")) if path.suffix != ".tmp"
    ]
    return {path.relative_to(output).as_posix(): path.stat().st_mtime_ns for path in files}


def run_notebook(job: Job, output: Path, seconds_a_cell: int) -> None:
    """Run one notebook into the report folder and write its record last. Raises NotebookFailure."""
    state, before, started = fingerprint(job), written_files(output), time.monotonic()
    executed, failed = (output / "notebooks" / f"{job.name}{suffix}.ipynb" for suffix in ("", ".failed"))
    executed.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / executed.name
        try:
            notebook = clean(execute(job.name, job.notebook, target, job.parameters, seconds_a_cell))
        except NotebookFailure as failure:
            if not target.is_file():
                raise
            shutil.copyfile(target, failed)
            raise NotebookFailure(f"{failure}; as far as it ran it is in {failed}") from failure
    failed.unlink(missing_ok=True)
    after = written_files(output)
    record = {
        "name": job.name,
        **summarise(notebook, job.name),
        "profile": job.profile,
        "parameters": {name: value for name, value in job.parameters.items() if name != RESERVED},
        "seconds": round(time.monotonic() - started, 1),
        "provenance": provenance(),
        "files": [file for file in after if before.get(file) != after[file]]
        + [f"{job.name}.html", f"notebooks/{executed.name}"],
        "fingerprint": state,
    }
    write_atomically(executed, nbformat.writes(notebook) + "\n")
    write_page(output / f"{job.name}.html", notebook, record)
    write_atomically(executed.with_suffix(".json"), json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    Cache().write(KIND, made_where(job, output), state)


def run(jobs: Sequence[Job], notebooks: Path, output: Path, *, force: bool = False, seconds_a_cell: int) -> list[str]:
    """Run the jobs that are not finished, write the index, and return the messages of those that failed (none: all is
    well).
    """
    failures = []
    for job in jobs:
        if not force and is_finished(job, output):
            log.info("%s: finished already, nothing has changed; skipped (--force runs it again)", job.name)
        else:
            log.info("%s: running, profile %s", job.name, job.profile)
            started = time.monotonic()
            try:
                run_notebook(job, output, seconds_a_cell)
                log.info("%s: done in %.0f s", job.name, time.monotonic() - started)
            except NotebookFailure as failure:
                log.error("%s", failure)
                failures.append(str(failure))
        records = (read_record(output, name) for name in numbered_notebooks(notebooks))
        write_index(output / "index.html", [record for record in records if record])
    return failures


def refresh(paths: Sequence[Path], *, seconds_a_cell: int) -> None:
    """Execute notebooks with their own defaults and write their outputs into them, volatile metadata stripped.

    Raises NotebookFailure and leaves that notebook as it was.
    """
    for path in paths:
        log.info("%s: running with its defaults", path.stem)
        with tempfile.TemporaryDirectory() as scratch:
            notebook = execute(path.stem, path, Path(scratch) / path.name, {}, seconds_a_cell)
        write_atomically(path, nbformat.writes(clean(notebook)) + "\n")
