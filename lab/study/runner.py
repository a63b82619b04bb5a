"""Run the numbered notebooks into the report folder, each one once.

output/
    index.html, {name}.html        what a reader opens; thumbnails/ is the index's
    figures/, results/             written by the notebooks themselves
    records/{name}.json            what a notebook says, where it comes from, its fingerprint
    notebooks/{name}.ipynb         as executed; of a run that keeps its outputs, the notebook itself holds them

A notebook is finished, and skipped, when its record's fingerprint is the present one (sources, parameters, code, data
and versions), all its files are there, and the cache knows that it was made here: a report that came with the checkout
is made again. A notebook and all it writes are moved to the report folder when it is done, so a killed run leaves
nothing half-written, and goes on at the last finished unit of its work.

Pages and index are made of the executed notebooks and the records alone, and can be made again without a run.
"""

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

from lab.study.fingerprints import changed, executed, fingerprint, own_code, parts_of_code
from lab.study.pages import clean, summarise, write_index, write_page
from lab.study.profiles import RESERVED, Job, Refusal, numbered_notebooks
from lab.study.provenance import commit, cost_of_units, provenance
from lab.study.report import write_table
from lab.study.units import SECONDS_FILE, Unit
from rfmi.files import write_atomically

WRITTEN = "report"  # where a notebook's figures and results are while it runs
log = logging.getLogger("lab")


class NotebookFailure(RuntimeError):
    """A notebook did not run to its end; the message names the notebook, the cell and the error."""


def read_record(output: Path, name: str) -> dict[str, Any]:
    """The record of a finished notebook; empty where there is none that can be read."""
    try:
        return json.loads((output / "records" / f"{name}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def write_record(output: Path, record: dict[str, Any]) -> None:
    """Write the record of a finished notebook."""
    text = json.dumps(record, indent=1, ensure_ascii=False)
    write_atomically(output / "records" / f"{record['name']}.json", text + "\n")


def made_here(job: Job, output: Path) -> Unit:
    """What the cache keeps of a finished notebook: that it was made into this folder, with its fingerprint."""
    return Unit("report", {"name": job.name, "output": str(output)})


def is_finished(job: Job, output: Path, keep: bool) -> bool:
    """Whether the notebook's report is there and is what running it again would give."""
    record, made = read_record(output, job.name), made_here(job, output).read() or {}
    notebook = executed_at(job, output, keep)
    files = [notebook, *(output / file for file in record.get("files", []))]
    return (
        all(file.is_file() for file in files)
        and record.get("fingerprint") == made.get("result") == fingerprint(job)
        and record.get("executed") == executed(nbformat.read(notebook, as_version=4))
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


def execute(job: Job, scratch: Path, failed: Path, seconds_a_cell: int) -> nbformat.NotebookNode:
    """Execute a notebook in its own folder, from which all goes to `scratch`.

    Raises NotebookFailure, and keeps the notebook in `failed` as far as it ran.
    """
    target = scratch / job.notebook.name
    try:
        return papermill.execute_notebook(
            str(job.notebook),
            str(target),
            parameters=job.parameters | {RESERVED: str(scratch / WRITTEN)},
            cwd=str(job.notebook.parent),
            kernel_name="python3",
            start_timeout=120,
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
    failed.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(target, failed)
    raise NotebookFailure(f"{job.name} failed at {reason}; as far as it ran it is in {failed}")


def run_notebook(job: Job, output: Path, keep: bool, seconds_a_cell: int, revision: str) -> float:
    """Run one notebook into the report folder and write its record last; its seconds. Raises NotebookFailure."""
    code, started = parts_of_code(), time.monotonic()  # that of the start, by which all is computed
    state = fingerprint(job, code)
    target, failed = executed_at(job, output, keep), output / "notebooks" / f"{job.name}.failed.ipynb"
    with tempfile.TemporaryDirectory() as folder:
        scratch, written = Path(folder), Path(folder, WRITTEN)
        written.mkdir()
        os.environ[SECONDS_FILE] = str(scratch / "seconds")
        try:
            notebook = clean(execute(job, scratch, failed, seconds_a_cell))
        finally:
            del os.environ[SECONDS_FILE]
        units = cost_of_units(scratch / "seconds")
        files = sorted(path.relative_to(written).as_posix() for path in written.glob("*/*"))
        shutil.copytree(written, output, dirs_exist_ok=True)
    failed.unlink(missing_ok=True)
    text = nbformat.writes(notebook) + "\n"
    record = {
        "name": job.name,
        **summarise(notebook, job.name),
        "profile": job.profile,
        "parameters": job.parameters,
        "seconds": round(time.monotonic() - started, 1),
        "seconds_of_units": round(sum(each["seconds"] for each in units), 1),
        "units": units,
        "provenance": provenance(revision),
        "code": own_code(notebook) | code,
        "files": [*files, f"{job.name}.html"],
        "notebook": Path(os.path.relpath(target, output)).as_posix(),
        "executed": executed(nbformat.reads(text, as_version=4)),
        "fingerprint": state,
    }
    write_atomically(target, text)
    write_page(output / f"{job.name}.html", notebook, record)
    write_record(output, record)
    made_here(job, output).write(state)
    return record["seconds"]


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
            try:
                log.info("%s: done in %.0f s", job.name, run_notebook(job, output, keep, seconds_a_cell, revision))
            except NotebookFailure as failure:
                log.error("%s", failure)
                failures.append(str(failure))
        records = [read_record(output, name) for name in numbered_notebooks(notebooks)]
        write_index(output, list(filter(None, records)))
    return failures


def render_again(output: Path) -> None:
    """Make pages, index and tables of results again from executed notebooks and records, without running anything.

    A page says what has changed since it was computed. Raises Refusal where there is no record, or no notebook of one.
    """
    names = sorted(file.stem for file in (output / "records").glob("*.json"))
    records = [record for name in names if (record := read_record(output, name))]
    if not records:
        raise Refusal(f"{output} holds no report (records/*.json); make one with `python -m lab run`")
    for file in (output / "results").glob("*.json"):
        write_table(file)
    present = parts_of_code()
    for record in records:
        path = output / record["notebook"]
        if not path.is_file():
            raise Refusal(f"the executed notebook {path} is not there; run {record['name']} again")
        notebook = nbformat.read(path, as_version=4)
        record |= summarise(notebook, record["name"]) | {"changed": changed(record, notebook, present)}
        write_page(output / f"{record['name']}.html", notebook, record)
        record["files"] = sorted({*record["files"], *(file.replace(".json", ".csv") for file in record["files"])})
        write_record(output, record)
    write_index(output, records)
