"""Run the numbered notebooks into the report folder, each one once.

output/
    index.html, {name}.html        what a reader opens
    figures/, results/             written by the notebooks themselves
    records/{name}.json            what a notebook says, where it comes from, its fingerprint
    notebooks/{name}.ipynb         as executed; of a run that keeps its outputs, the notebook itself holds them

A notebook is finished, and skipped, when its record's fingerprint is the present one (sources, parameters, code, data
and versions of the libraries), every file that the record names is there, and the cache knows that it was made here: a
report that came with the checkout is made again. A notebook is executed away from the report folder and moved there
when it is done, so a killed run leaves nothing half-written, and goes on at the last finished unit of its work.
"""

from __future__ import annotations

import json
import logging
import os
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

from lab.paths import data_folder
from lab.study.pages import INJECTED, clean, summarise, write_index, write_page
from lab.study.profiles import RESERVED, Job, numbered_notebooks
from lab.study.provenance import commit, provenance
from lab.study.code import code_version
from lab.study.units import SECONDS_FILE, Unit, seconds_of_units
from rfmi.runs import digest, versions, write_atomically

KERNEL = "python3"
CODE = ("rfmi", "lab.oracles", "lab.worlds", "lab.study")  # what a notebook may use
SECONDS_TO_START = 120
log = logging.getLogger("lab")


class NotebookFailure(RuntimeError):
    """A notebook did not run to its end; the message names the notebook, the cell and the error."""


def data_digests(folder: Path) -> dict[str, str]:
    """The hash of every committed data file, the cache left out."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: digest(path.read_bytes().hex()) for name, path in files.items() if not name.startswith("cache/")}


def fingerprint(job: Job) -> str:
    """The hash of all that a notebook's outputs depend on; of its cells all but the one that a run has put there."""
    cells = nbformat.read(job.notebook, as_version=4).cells
    told = [[cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in cells]
    sources = [cell for cell in told if INJECTED not in cell[-1]]
    return digest([sources, reported(job.parameters), code_version(*CODE), data_digests(data_folder()), versions()])


def reported(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name != RESERVED}


def record_of(output: Path, name: str) -> Path:
    return output / "records" / f"{name}.json"


def read_record(output: Path, name: str) -> dict[str, Any] | None:
    """The record of a finished notebook; None where there is none that can be read."""
    try:
        return json.loads(record_of(output, name).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def made_here(job: Job, output: Path) -> Unit:
    """What the cache keeps of a finished notebook: that it was made into this folder, with its fingerprint."""
    return Unit("report", {"name": job.name, "output": str(output)})


def is_finished(job: Job, output: Path, keep: bool) -> bool:
    """Whether the notebook's report is there and is what running it again would give."""
    record, made = read_record(output, job.name), made_here(job, output).read()
    executed = executed_at(job, output, keep)
    if record is None or made is None or not executed.is_file():
        return False
    return (
        record.get("fingerprint") == made["result"] == fingerprint(job)
        and digest(executed.read_text(encoding="utf-8")) == record.get("executed")
        and all((output / file).is_file() for file in record.get("files", []))
    )


def executed_at(job: Job, output: Path, keep: bool) -> Path:
    """Where the executed notebook is written: over its source where outputs are kept, else into the report folder."""
    return job.notebook if keep else output / "notebooks" / job.notebook.name


def named(source: str) -> str:
    """What tells a reader which cell is meant: its first line of code."""
    return repr(next(iter(source.strip().splitlines()), ""))


def last_begun(path: Path) -> str:
    """The cell at which a notebook stopped without an error of its own."""
    cells = nbformat.read(path, as_version=4).cells
    begun = [cell.source for cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
    return named(begun[-1] if begun else "")


def execute(job: Job, target: Path, seconds_a_cell: int) -> nbformat.NotebookNode:
    """Execute a notebook in its own folder into `target`. Raises NotebookFailure."""
    try:
        return papermill.execute_notebook(
            str(job.notebook),
            str(target),
            parameters=job.parameters,
            cwd=str(job.notebook.parent),
            kernel_name=KERNEL,
            start_timeout=SECONDS_TO_START,
            execution_timeout=seconds_a_cell,
            progress_bar=False,
            stderr_file=sys.stderr,
            extra_arguments=["--log-level=CRITICAL"],  # a kernel's own messages are of no use to a reader
        )
    except PapermillExecutionError as error:
        reason = f"cell In [{error.exec_count}] {named(error.source)}: {error.ename}: {error.evalue}"
    except CellTimeoutError:
        reason = f"cell {last_begun(target)}, which took longer than {seconds_a_cell} s; allow more with --cell-timeout"
    except DeadKernelError:
        reason = f"cell {last_begun(target)}, which ended the kernel, as too little memory does; use smaller parameters"
    raise NotebookFailure(f"{job.name} failed at {reason}")


def written_files(output: Path) -> dict[str, int]:
    """The figures and results in the report folder, each with the time it was written."""
    paths = sorted(path for part in ("figures", "results") for path in (output / part).glob("*.*"))
    return {path.relative_to(output).as_posix(): path.stat().st_mtime_ns for path in paths if path.suffix != ".tmp"}


def run_notebook(job: Job, output: Path, keep: bool, seconds_a_cell: int, revision: str) -> None:
    """Run one notebook into the report folder and write its record last. Raises NotebookFailure."""
    state, before, started = fingerprint(job), written_files(output), time.monotonic()
    executed, failed = executed_at(job, output, keep), output / "notebooks" / f"{job.name}.failed.ipynb"
    with tempfile.TemporaryDirectory() as scratch:
        target, noted = Path(scratch) / job.notebook.name, Path(scratch) / "seconds"
        os.environ[SECONDS_FILE] = str(noted)
        try:
            notebook = clean(execute(job, target, seconds_a_cell))
        except NotebookFailure as failure:
            failed.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target, failed)
            raise NotebookFailure(f"{failure}; as far as it ran it is in {failed}") from failure
        finally:
            del os.environ[SECONDS_FILE]
        of_units = seconds_of_units(noted)
    failed.unlink(missing_ok=True)
    text, after = nbformat.writes(notebook) + "\n", written_files(output)
    record = {
        "name": job.name,
        **summarise(notebook, job.name),
        "profile": job.profile,
        "parameters": reported(job.parameters),
        "seconds": round(time.monotonic() - started, 1),
        "seconds_of_units": of_units,
        "provenance": provenance(revision),
        "files": [file for file in after if before.get(file) != after[file]] + [f"{job.name}.html"],
        "notebook": Path(os.path.relpath(executed, output)).as_posix(),
        "executed": digest(text),
        "fingerprint": state,
    }
    write_atomically(executed, text)
    write_page(output / f"{job.name}.html", notebook, record)
    write_atomically(record_of(output, job.name), json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    made_here(job, output).write(state)


def run(
    jobs: Sequence[Job], notebooks: Path, output: Path, *, seconds_a_cell: int, force: bool = False, keep: bool = False
) -> list[str]:
    """Run the jobs that are not finished and write the index; returns the messages of those that failed.

    force: run finished ones as well
    keep: write the executed notebooks over their sources, not into the report folder
    """
    failures, revision = [], commit()
    for job in jobs:
        if not force and is_finished(job, output, keep):
            log.info("%s: finished already, nothing has changed; skipped (--force runs it again)", job.name)
        else:
            log.info("%s: running, profile %s", job.name, job.profile)
            started = time.monotonic()
            try:
                run_notebook(job, output, keep, seconds_a_cell, revision)
                log.info("%s: done in %.0f s", job.name, time.monotonic() - started)
            except NotebookFailure as failure:
                log.error("%s", failure)
                failures.append(str(failure))
        records = (read_record(output, name) for name in numbered_notebooks(notebooks))
        write_index(output / "index.html", [record for record in records if record])
    return failures
