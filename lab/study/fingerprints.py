"""What a notebook's page depends on, as hashes: its cells, the code that they call, the committed data, the outputs."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from lab.paths import data_folder
from lab.study import HOMES
from lab.study.code import bare, code_version, digest
from lab.study.pages import INJECTED, tagged
from lab.study.profiles import Job
from rfmi.runs import versions

STUDY = (*HOMES, "profiles")  # the modules of lab.study that notebooks call
TIMED = ("lab.benchmarks.finetuning_speed", "lab.benchmarks.full_size")  # the benchmarks that notebooks run
CODE = ("rfmi", "lab.oracles", "lab.paths", *(f"lab.study.{name}" for name in STUDY), *TIMED, "lab.worlds")
UNKNOWN = "unknown"  # of a record that does not say by which code it was computed


def data_digests(folder: Path) -> dict[str, str]:
    """The hash of every committed data file, the cache left out."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: digest(path.read_bytes().hex()) for name, path in files.items() if not name.startswith("cache/")}


def parts_of_code() -> dict[str, str]:
    """The hash of each part of what notebooks use: code, and committed data."""
    return {part: code_version(part) for part in CODE} | {"data": digest(data_digests(data_folder()))[:16]}


def own_code(notebook: NotebookNode) -> dict[str, str]:
    """The hash of a notebook's own code, the cell left out that a run has put there; comments do not count."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and not tagged(cell, INJECTED)]
    source = "\n".join(cell.source for cell in cells)
    with suppress(SyntaxError):  # of what is no Python, as %matplotlib is none
        source = bare(source)
    return {"cells": digest(source)[:16]}


def executed(notebook: NotebookNode) -> str:
    """The hash of all that came out of a notebook's cells."""
    return digest([cell.outputs for cell in notebook.cells if cell.cell_type == "code"])


def fingerprint(job: Job, code: dict[str, str] | None = None) -> str:
    """The hash of all that a notebook's page depends on, of its cells all but a run's own; `code`: of `parts_of_code`."""
    cells = [cell for cell in nbformat.read(job.notebook, as_version=4).cells if not tagged(cell, INJECTED)]
    told = [[cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in cells]
    return digest([told, job.parameters, code or parts_of_code(), versions()])


def changed(record: dict[str, Any], notebook: NotebookNode, present: dict[str, str]) -> list[str]:
    """What is another than when a notebook was executed: parts of its code, the data, its outputs; or UNKNOWN."""
    if "code" not in record:
        return [UNKNOWN]
    now = own_code(notebook) | present | {"outputs": executed(notebook)}
    then = record["code"] | {"outputs": record["executed"]}
    return [part for part in now if then.get(part) != now[part]]
