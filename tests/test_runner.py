"""The runner: what is misspelt is refused before anything runs, a report says what was run, nothing is run twice."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from tqdm import tqdm

from lab import __main__ as command_line
from lab.study import pages, runner
from lab.paths import repository_root
from lab.study.profiles import Refusal, choose_notebooks, default_parameters, plan

FAILING = """
# A study that fails
---
parameters
output = ""
---
first = 1
---
print(first / 0)
"""
SLOW = """
# A slow study
---
parameters
pause = 0.2
output = ""
---
from slow_work import unit

from lab.study.cache import Cache, run_units
from lab.study.report import save_results

units = [{"seed": seed, "pause": pause} for seed in range(12)]
---
values = run_units(unit, units, kind="slow", cache=Cache(code_version="1"))
save_results("slow", {"values": values}, output)
"""
SLOW_WORK = """
import time

import numpy as np


def unit(seed, pause):
    time.sleep(pause)
    return np.random.default_rng(seed).standard_normal()
"""
RUN = """
import sys
from pathlib import Path
from lab import __main__ as command_line
command_line.notebooks_folder = lambda: Path(sys.argv[1])
sys.exit(command_line.main(sys.argv[2:]))
"""


@pytest.fixture
def study(write_notebook, tmp_path, monkeypatch):
    """The notebooks' folder of a study with two notebooks, which the command line is made to see."""
    write_notebook(name="01_small", profiles={"smoke": {}, "cpu": {"01_small": {"n_samples": 5}}})
    folder = write_notebook(name="02_second", profiles={"gpu": {}}).parent
    monkeypatch.setattr(command_line, "notebooks_folder", lambda: folder)
    return folder


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"profile": "cpuu"}, "no profile 'cpuu'; did you mean cpu"),
        ({"profile": "cpu", "names": ["02_secnd"]}, "no notebook '02_secnd'; did you mean 02_second"),
        ({"profile": "cpu", "names": ["7"]}, "no notebook '7'; choose from: 01_small, 02_second"),
        ({"profile": "cpu", "overrides": [("n_sample", "5")]}, "no parameter 'n_sample'; did you mean n_samples"),
        (
            {"profile": "cpu", "overrides": [("n_samples", "many")]},
            "n_samples of 01_small is of type int .* got 'many'",
        ),
        ({"profile": "cpu", "overrides": [("n_samples", "2.5")]}, "n_samples of 01_small is of type int .* got 2.5"),
        ({"profile": "cpu", "overrides": [("n_samples", "true")]}, "n_samples of 01_small is of type int .* got True"),
        ({"profile": "cpu", "overrides": [("exact", "1")]}, "exact of 01_small is of type bool .* got 1"),
        ({"profile": "cpu", "overrides": [("names", "[1, 2]")]}, "names of 01_small is of type list"),
        ({"profile": "cpu", "overrides": [("output", "here")]}, "use --output"),
    ],
)
def test_what_is_misspelt_is_refused(study, request_, message):
    with pytest.raises(Refusal, match=message):
        plan(study, **request_)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("01_smal: {n_samples: 5}", "profile bad names it.*'01_smal'; did you mean 01_small"),
        ("01_small: {n_sampels: 5}", "parameter of 01_small called 'n_sampels'; did you mean n_samples"),
        ("01_small: {scale: large}", "scale of 01_small is of type float"),
        ("- 01_small", "not a mapping of notebook to parameters"),
        ("01_small: 5", "not a mapping of notebook to parameters"),
    ],
)
def test_a_bad_profile_is_refused_whatever_notebook_is_asked_for(study, content, message):
    (study / "profiles" / "bad.yaml").write_text(content)
    with pytest.raises(Refusal, match=message):
        plan(study, profile="bad", names=["02_second"])


def test_a_derived_default_is_refused(write_notebook):
    path = write_notebook("parameters\nn = 3\nsteps = 2 * n\noutput = ''")
    with pytest.raises(Refusal, match="steps of 01_small has the default '2 \\* n'; make it a plain value"):
        default_parameters(path)


def test_a_notebook_without_the_parameter_output_is_refused(write_notebook):
    path = write_notebook("parameters\nn = 3")
    with pytest.raises(Refusal, match="01_small has no parameter output"):
        plan(path.parent, profile="smoke")


def test_the_profile_and_the_command_line_give_the_parameters(study):
    first, second = plan(study, profile="cpu", overrides=[("scale", "1e-1"), ("names", "[b, c]")], output="reports")
    assert first.parameters == {"n_samples": 5, "scale": 0.1, "names": ["b", "c"], "output": "reports"}
    assert second.parameters == {"scale": 0.1, "names": ["b", "c"], "output": "reports"}


@pytest.mark.parametrize("name", ["02_second", "02_second.ipynb", "notebooks/02_second.ipynb", "02", "2"])
def test_a_notebook_is_named_in_several_ways(study, name):
    assert [path.name for path in choose_notebooks([name], study)] == ["02_second.ipynb"]


@pytest.mark.parametrize("words", [["--profile", "smok"], ["03_third", "--profile", "smoke"], ["-p", "sclae", "2"]])
def test_a_refused_run_writes_nothing(study, tmp_path, capsys, words):
    assert command_line.main(["run", "--output", str(tmp_path / "reports"), *words]) == command_line.REFUSED
    assert capsys.readouterr().err.startswith("refused: there is no ")
    assert not (tmp_path / "reports").exists()


def test_a_report_from_first_run_to_changed_parameter(study, tmp_path, caplog):
    caplog.set_level("INFO", logger="rfmi")
    output = tmp_path / "reports"
    words = ["run", "--output", str(output), "--profile", "cpu", "01"]
    assert command_line.main(words) == command_line.SUCCESS

    assert json.loads((output / "results" / "small.json").read_text())["n"] == 5
    page, index = (output / "01_small.html").read_text(), (output / "index.html").read_text()
    finder = pages.FigureFinder()
    finder.feed(page)
    assert finder.figures == [{"name": "small_draws", "alt": 'A line of "draws".'}]
    assert re.search(r"<figcaption>\s*The draws &lt;in order&gt;\.\s*</figcaption>", page)
    assert 'src="figures/small_draws.png" alt="A line of &#34;draws&#34;."' in index
    for text in (
        "A small study",
        "Is the mean of $n$ draws small?",
        "The mean of 5 draws is small.",
        "n_samples = 5",
        "results/small.json",
    ):
        assert text in index
    assert "02_second" not in index
    executed = nbformat.read(output / "notebooks" / "01_small.ipynb", as_version=4)
    nbformat.validate(executed)
    assert "papermill" not in executed.metadata and executed.metadata.kernelspec.name == "python3"

    files = {path: path.stat().st_mtime_ns for path in output.rglob("*.*") if path.name != "index.html"}
    assert command_line.main(words) == command_line.SUCCESS
    assert "01_small: finished already" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in files} == files

    assert command_line.main([*words, "-p", "n_samples", "7"]) == command_line.SUCCESS
    assert json.loads((output / "results" / "small.json").read_text())["n"] == 7
    assert "The mean of 7 draws is small." in (output / "index.html").read_text()


def test_a_report_that_came_with_the_checkout_is_made_again(study, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", logger="rfmi")
    words = ["run", "--output", str(tmp_path / "reports"), "--profile", "cpu", "01"]
    assert command_line.main(words) == command_line.SUCCESS
    monkeypatch.setenv("RFMI_CACHE", str(tmp_path / "of_another_machine"))
    caplog.clear()
    assert command_line.main(words) == command_line.SUCCESS
    assert "01_small: done" in caplog.text and "finished already" not in caplog.text


def test_what_ends_a_finished_notebook_being_finished(study, tmp_path, monkeypatch):
    output = tmp_path / "reports"
    (job,) = plan(study, profile="smoke", names=["01"], output=str(output))
    (output / "notebooks").mkdir(parents=True)
    page = output / "01_small.html"
    page.write_text("page")
    record = {"fingerprint": runner.fingerprint(job), "files": ["01_small.html"]}
    (output / "notebooks" / "01_small.json").write_text(json.dumps(record))
    assert not runner.is_finished(job, output)  # nothing says that it was made here
    runner.Cache().write(runner.KIND, runner.made_where(job, output), record["fingerprint"])
    assert runner.is_finished(job, output)

    (changed,) = plan(study, profile="smoke", names=["01"], overrides=[("scale", "2")], output=str(output))
    assert not runner.is_finished(changed, output)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "code_version", lambda *modules: "other code")
        assert not runner.is_finished(job, output)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "data_digests", lambda folder: {"other": "data"})
        assert not runner.is_finished(job, output)
    source = job.notebook.read_text()
    job.notebook.write_text(source.replace("The mean of", "The average of"))
    assert not runner.is_finished(job, output)
    job.notebook.write_text(source)
    assert runner.is_finished(job, output)
    page.unlink()
    assert not runner.is_finished(job, output)


def test_a_failing_notebook_is_named_and_the_others_are_finished(write_notebook, tmp_path, monkeypatch, capsys, caplog):
    write_notebook(FAILING, name="01_fails")
    folder = write_notebook(name="02_small").parent
    monkeypatch.setattr(command_line, "notebooks_folder", lambda: folder)
    output = tmp_path / "reports"
    assert command_line.main(["run", "--output", str(output), "--profile", "smoke"]) == command_line.FAILED
    assert "01_fails failed at cell In [4] 'print(first / 0)': ZeroDivisionError: division by zero" in caplog.text
    assert "1 of 2 notebooks failed" in capsys.readouterr().err
    assert (output / "02_small.html").is_file() and not (output / "01_fails.html").exists()
    assert (output / "notebooks" / "01_fails.failed.ipynb").is_file()
    assert "02_small.html" in (output / "index.html").read_text()


def test_a_cell_that_takes_too_long_is_named(write_notebook, tmp_path):
    path = write_notebook("parameters\noutput = ''\n---\nimport time\ntime.sleep(60)")
    with pytest.raises(
        runner.NotebookFailure, match="01_small failed at cell 'import time', which took longer than 1 s"
    ):
        runner.execute("01_small", path, tmp_path / "out.ipynb", {}, seconds_a_cell=1)


def test_a_killed_report_goes_on_to_the_same_numbers(write_notebook, tmp_path, cache, monkeypatch):
    notebooks = write_notebook(SLOW, name="01_slow", profiles={"smoke": {}, "fast": {"01_slow": {"pause": 0.0}}}).parent
    (notebooks / "slow_work.py").write_text(SLOW_WORK)
    script, output = tmp_path / "run.py", tmp_path / "reports"
    script.write_text(RUN)
    command = [sys.executable, str(script), str(notebooks), "run", "--output", str(output), "--profile", "smoke"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    while len(list(cache.rglob("*.json"))) < 2 and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = {path: path.stat().st_mtime_ns for path in cache.rglob("*.json")}
    assert 2 <= len(finished) < 12
    assert not [path for path in output.rglob("*") if path.is_file()]  # nothing half-written

    monkeypatch.setattr(command_line, "notebooks_folder", lambda: notebooks)
    words = ["run", "--output", str(output), "--profile"]
    assert command_line.main([*words, "smoke"]) == command_line.SUCCESS
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    resumed = json.loads((output / "results" / "slow.json").read_text())
    monkeypatch.setenv("RFMI_CACHE", str(tmp_path / "empty"))
    assert command_line.main([*words, "fast"]) == command_line.SUCCESS
    assert json.loads((output / "results" / "slow.json").read_text()) == resumed


def test_plain_papermill_from_the_checkout(write_notebook, tmp_path):
    path, output = write_notebook(), tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", str(path), str(output), "-p", "n_samples", "4", "--no-progress-bar"]
    subprocess.run(command, cwd=repository_root(), check=True, capture_output=True)
    cells = nbformat.read(output, as_version=4).cells
    assert cells[-1].outputs[0].text == "The mean of 4 draws is small.\n"


def test_refresh_fills_in_the_defaults_and_strips_what_is_volatile(write_notebook, study):
    path = study / "01_small.ipynb"
    assert command_line.main(["refresh", "01"]) == command_line.SUCCESS
    first = path.read_text()
    notebook = nbformat.reads(first, as_version=4)
    assert [cell.id for cell in notebook.cells] == [f"cell-{n}" for n in range(7)]
    assert notebook.cells[-1].outputs[0].text == "The mean of 3 draws is small.\n"
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
    assert command_line.main(["refresh", "01"]) == command_line.SUCCESS
    assert path.read_text() == first


def test_progress_bars_are_stripped_and_warnings_kept():
    stream = io.StringIO()
    for step in tqdm(range(2), file=stream, desc="walk", mininterval=0):
        stream.write(f"/somebody/of/one/site-packages/a warning at {step}\n")
    whole = stream.getvalue()
    bars = whole.replace("/somebody/of/one/site-packages/a warning", "").replace(" at 0\n", "").replace(" at 1\n", "")
    texts = whole, bars
    cell = nbformat.v4.new_code_cell(
        "walk()", outputs=[nbformat.v4.new_output("stream", name="stderr", text=text) for text in texts]
    )
    notebook = pages.clean(nbformat.v4.new_notebook(cells=[cell]))
    assert [output.text for output in notebook.cells[0].outputs] == ["a warning at 0\na warning at 1\n"]


def test_a_verdict_is_found_by_its_tag_or_its_heading():
    markdown, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    printed = [nbformat.v4.new_output("stream", name="stdout", text="within 0.05\nwithin 0.10\n")]
    cells = [
        markdown("# A verdict in the title"),
        markdown("## The verdict\n\nAll hold:"),
        code("check()", outputs=printed),
    ]
    end = markdown("## Limits\n\nNone.")
    notebook = nbformat.v4.new_notebook(cells=[*cells, end])
    assert pages.summarise(notebook, "01_small")["title"] == "A verdict in the title"
    assert pages.find_section(notebook, "verdict") == "All hold:\n\nwithin 0.05  \nwithin 0.10"
    notebook.cells[2].metadata["tags"] = ["verdict"]
    assert pages.find_section(notebook, "verdict") == "within 0.05  \nwithin 0.10"
    assert pages.find_section(notebook, "question") == ""


def test_no_run_writes_the_committed_report_unless_it_is_named(monkeypatch, tmp_path):
    """`run` without --output has a folder of the profile's own, whatever else is asked for."""
    folders = []
    monkeypatch.setattr(command_line, "repository_root", lambda: tmp_path)
    monkeypatch.setattr(command_line, "run", lambda jobs, notebooks, output, **options: folders.append(output) or [])
    for profile in ("smoke", "full"):
        assert command_line.main(["run", "--profile", profile, "01"]) == command_line.SUCCESS
    assert folders == [tmp_path / "reports-smoke", tmp_path / "reports-full"]
