"""The committed notebooks: they show the experiment, call the instrument, and hold what the full run left."""

import ast
import re

import nbformat
import pytest

from lab import study
from lab.paths import notebooks_folder, profiles_folder, repository_root
from lab.study.fingerprints import CODE
from lab.study.profiles import RESERVED, default_parameters, numbered_notebooks, plan

NOTEBOOKS = numbered_notebooks(notebooks_folder())
PROFILES = sorted(path.stem for path in profiles_folder().glob("*.yaml"))
CALLS = {
    "02": ["rfmi.estimate_mutual_information"],
    "04": ["rfmi.score", "rfmi.select"],
    "05": ["rfmi.finetune", "rfmi.select"],
    "06": ["rfmi.evaluate"],
    "07": ["rfmi.select"],
}
INJECTED = "injected-parameters"


def cells(name, kind=None, tag=None):
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    chosen = [cell for cell in notebook.cells if kind in (None, cell.cell_type)]
    return [cell for cell in chosen if tag is None or tag in cell.metadata.get("tags", [])]


def own_code(name):
    """The code cells that are written, without the one that a run puts in."""
    return [cell for cell in cells(name, "code") if INJECTED not in cell.metadata.get("tags", [])]


def trees(name):
    return [ast.parse(re.sub(r"^[%!].*$", "", cell.source, flags=re.MULTILINE)) for cell in own_code(name)]


def test_the_notebooks_and_profiles_of_the_study_are_there():
    assert [name[:2] for name in NOTEBOOKS] == [f"{number:02d}" for number in range(1, len(NOTEBOOKS) + 1)]
    assert len(NOTEBOOKS) >= 6 and set(PROFILES) >= {"smoke", "cpu", "full", "gpu"}


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_fits_every_notebook(profile):
    jobs = plan(notebooks_folder(), profile=profile)
    assert [job.name for job in jobs] == list(NOTEBOOKS)


def test_fine_tuning_and_evaluation_share_their_parameters():
    tuning, evaluation = (default_parameters(NOTEBOOKS[name]) for name in NOTEBOOKS if name[:2] in ("05", "06"))
    shared = set(tuning) & set(evaluation)
    assert {"world", "model", "seeds", "tuning_steps", "adapter_weight"} <= shared
    assert {name: tuning[name] for name in shared} == {name: evaluation[name] for name in shared}


@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name[:2] in ("03", "04", "05", "06")])
def test_world_and_model_are_parameters(name):
    parameters = default_parameters(NOTEBOOKS[name])
    assert parameters["world"] and parameters["model"] == ""
    source = "\n".join(cell.source for cell in own_code(name) if "parameters" not in cell.metadata.get("tags", []))
    assert parameters["world"] not in source  # no cell knows which world it is


def held_by(name):
    """The profile whose run left a notebook's outputs."""
    injected = cells(name, tag=INJECTED)
    scope = dict(default_parameters(NOTEBOOKS[name]))
    exec("\n".join(cell.source for cell in injected), scope)
    for profile in sorted(PROFILES, key=lambda each: each != "full"):
        asked = (
            default_parameters(NOTEBOOKS[name]) | plan(notebooks_folder(), profile=profile, names=[name])[0].parameters
        )
        if all(scope[key] == value for key, value in asked.items() if key != RESERVED):
            return profile
    return None


def test_notebooks_hold_what_the_full_run_left_but_for_those_that_the_readme_names():
    line = re.search(r"smaller run: ([\d, ]+)", (repository_root() / "README.md").read_text(encoding="utf-8"))
    smaller = set(re.findall(r"\d\d", line[1])) if line else set()
    held = {name[:2]: held_by(name) for name in NOTEBOOKS}
    assert {number for number, profile in held.items() if profile != "full"} == smaller
    assert None not in held.values()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_was_run_once_from_top_to_bottom(name):
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert len(cells(name, tag="parameters")) == 1
    counts = [cell.execution_count for cell in cells(name, "code")]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [output for cell in cells(name, "code") for output in cell.outputs]
    assert outputs and not [each for each in outputs if each.output_type == "error" or each.get("name") == "stderr"]
    checked = cells(name, "code", "nbval-check-output")
    assert checked and all(cell.outputs for cell in checked)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_checked_could_fail(name):
    functions = [node for tree in trees(name) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    asserting = {each.name for each in functions if any(isinstance(node, ast.Assert) for node in ast.walk(each))}
    for cell in cells(name, "code", "nbval-check-output"):
        nodes = list(ast.walk(ast.parse(cell.source)))
        called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        assert any(isinstance(node, ast.Assert) for node in nodes) or called & asserting


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_verdict_is_made_of_numbers(name):
    (verdict,) = cells(name, "code", "verdict")
    printed = "".join(output.get("text", "") for output in verdict.outputs)
    assert re.search(r"\d", printed) and not re.search(r"\b(?:nan|inf)\b", printed)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_shows_no_figure_without_alt_text(name):
    outputs = [output for cell in cells(name, "code") for output in cell.outputs if "data" in output]
    assert not [output for output in outputs if "image/png" in output.data]  # a bare image has none
    images = re.findall(r"<img [^>]*>", "".join(output.data.get("text/html", "") for output in outputs))
    assert all(re.search(r'alt="[^"]+"', image) for image in images)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_easy_to_read(name):
    sources = [cell.source for cell in own_code(name)]
    lengths = sorted(len(source.splitlines()) for source in sources)
    written = [cell for cell in own_code(name) if "parameters" not in cell.metadata.get("tags", [])]
    longest = max(len(cell.source.splitlines()) for cell in written)
    assert len(lengths) <= 25 and longest <= 30  # but for the parameters, which are a list
    assert lengths[len(lengths) // 2] <= 12
    assert max(len(line) for source in sources for line in source.splitlines()) <= 110
    prose = sum(len(cell.source) for cell in cells(name, "markdown"))
    assert prose >= 0.5 * sum(map(len, sources))
    assert not [node for tree in trees(name) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_answer_comes_first(name):
    first = cells(name)[0]
    assert first.cell_type == "markdown"
    title, answer, *_ = [line for line in first.source.splitlines() if line.strip()]
    assert title.startswith("# ") and re.search(r"\d", answer)


@pytest.mark.parametrize(("number", "called"), CALLS.items())
def test_a_notebook_calls_the_instrument(number, called):
    (name,) = [name for name in NOTEBOOKS if name.startswith(number)]
    calls = {ast.unparse(node.func) for tree in trees(name) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert set(called) <= calls


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_change_of_what_a_notebook_imports_changes_its_fingerprint(name):
    nodes = [node for tree in trees(name) for node in ast.walk(tree)]
    named = {f"{node.module}.{each.name}" for node in nodes if isinstance(node, ast.ImportFrom) for each in node.names}
    named |= {each.name for node in nodes if isinstance(node, ast.Import) for each in node.names}
    own = {each for each in named if each.partition(".")[0] in ("rfmi", "lab")} - {"lab.study"}
    assert own
    assert [each for each in own if not any(f"{each}.".startswith(f"{part}.") for part in CODE)] == []


def test_a_change_of_what_study_offers_changes_every_fingerprint():
    homes = {getattr(study, name).__module__ for name in study.__all__}
    assert homes and homes <= {*CODE}
