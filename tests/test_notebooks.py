"""The committed notebooks and the profiles: smoke is what the notebooks hold, and every profile fits them."""

import ast
import re

import nbformat
import pytest

from lab.paths import notebooks_folder
from lab.study.profiles import RESERVED, default_parameters, load_profile, numbered_notebooks, plan

NOTEBOOKS = numbered_notebooks(notebooks_folder())
PROFILES = sorted(path.stem for path in (notebooks_folder() / "profiles").glob("*.yaml"))


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOKS[name], as_version=4)


def code_cells(name: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def test_the_notebooks_and_profiles_of_the_study_are_there():
    assert [name[:2] for name in NOTEBOOKS] == [f"{number:02d}" for number in range(1, len(NOTEBOOKS) + 1)]
    assert len(NOTEBOOKS) >= 2 and set(PROFILES) >= {"smoke", "cpu", "gpu"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_profile_smoke_is_what_the_notebook_holds(name):
    defaults = default_parameters(NOTEBOOKS[name])
    assert defaults.pop(RESERVED) == ""
    assert load_profile("smoke", notebooks_folder() / "profiles")[name] == defaults


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_fits_every_notebook(profile):
    jobs = plan(notebooks_folder(), profile=profile)
    assert [job.name for job in jobs] == list(NOTEBOOKS) == list(load_profile(profile, notebooks_folder() / "profiles"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_committed_as_executed(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells) == 1
    assert not any("injected-parameters" in cell.metadata.get("tags", []) for cell in notebook.cells)
    counts = [cell.execution_count for cell in code_cells(name)]
    assert counts == list(range(1, len(counts) + 1))  # run once, from top to bottom
    outputs = [output for cell in code_cells(name) for output in cell.outputs]
    assert outputs and not [output for output in outputs if output.output_type == "error"]
    checked = [cell for cell in code_cells(name) if "nbval-check-output" in cell.metadata.get("tags", [])]
    assert checked and all(cell.outputs for cell in checked)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_shows_no_figure_without_alt_text(name):
    outputs = [output for cell in code_cells(name) for output in cell.outputs if "data" in output]
    assert not [output for output in outputs if "image/png" in output.data]  # a bare image has none
    images = re.findall(r"<img [^>]*>", "".join(output.data.get("text/html", "") for output in outputs))
    assert all(re.search(r'alt="[^"]+"', image) for image in images)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_holds_the_argument_and_the_package_the_code(name):
    lengths = sorted(len(cell.source.splitlines()) for cell in code_cells(name))
    assert len(lengths) <= 25 and lengths[-1] <= 30 and lengths[len(lengths) // 2] <= 8
    trees = [ast.parse(re.sub(r"^[%!].*$", "", cell.source, flags=re.MULTILINE)) for cell in code_cells(name)]
    assert not [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
