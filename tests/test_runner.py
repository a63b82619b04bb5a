"""The runner: what is misspelt is refused before anything runs, a report says what was run, nothing is run twice."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial

import nbformat
import pytest
import yaml
from tqdm import tqdm

from lab import __main__ as command_line
from lab.paths import notebooks_folder, repository_root
from lab.study import fingerprints, pages, runner
from lab.study.fingerprints import executed
from lab.study.profiles import Job, Refusal, choose_notebooks, default_parameters, numbered_notebooks, plan
from lab.study.units import BACKEND

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
import time

import numpy as np

from lab import study

def unit(seed, pause):
    time.sleep(pause)
    return np.random.default_rng(seed).standard_normal()
---
values = study.run(unit, [dict(seed=seed, pause=pause) for seed in range(12)])
study.save_results("slow", {"values": values}, output)
"""
RUN = """
import sys
from functools import partial
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
        ("shared: {n_sampels: 5}", "parameter of any notebook .*'n_sampels'; did you mean n_samples"),
        ("shared: {output: here}", "parameter of any notebook .*'output'"),
        ("shared: {scale: large}", "scale of 01_small is of type float"),
    ],
)
def test_a_bad_profile_is_refused_whatever_notebook_is_asked_for(study, content, message):
    (study / "profiles" / "bad.yaml").write_text(content)
    with pytest.raises(Refusal, match=message):
        plan(study, profile="bad", names=["02_second"])


def test_what_is_shared_goes_to_every_notebook_that_has_it_and_its_own_values_come_first(write_notebook):
    profile = {"shared": {"n_samples": 5, "only": True}, "02_second": {"n_samples": 6}}
    write_notebook(name="01_small", profiles={"cpu": profile})
    folder = write_notebook(name="02_second", profiles={"cpu": profile}).parent
    write_notebook("parameters\nonly = False\noutput = ''", name="03_other", profiles={"cpu": profile})
    jobs = plan(folder, profile="cpu", overrides=[("scale", "2")])
    assert [job.parameters for job in jobs] == [
        {"n_samples": 5, "scale": 2},
        {"n_samples": 6, "scale": 2},
        {"only": True},
    ]


@pytest.mark.parametrize("profile", sorted(path.stem for path in (notebooks_folder() / "profiles").glob("*.yaml")))
def test_the_notebooks_on_fine_tuning_speak_of_the_same_models(profile):
    notebooks = numbered_notebooks(notebooks_folder())
    values = {job.name[:2]: default_parameters(job.notebook) | job.parameters for job in plan_of(profile)}
    both = values["05"].keys() & values["06"].keys()
    assert len(notebooks) >= 6 and both
    assert {name: values["05"][name] for name in both} == {name: values["06"][name] for name in both}


@pytest.mark.parametrize("profile", ["cpu", "full", "gpu"])
def test_profiles_hold_only_what_differs_from_the_defaults(profile):
    content = yaml.safe_load((notebooks_folder() / "profiles" / f"{profile}.yaml").read_text())
    shared, defaults = content.pop("shared"), {job.name: default_parameters(job.notebook) for job in plan_of(profile)}
    assert not [
        (notebook, name)
        for notebook, values in content.items()
        for name, value in values.items()
        if value == shared.get(name, defaults[notebook][name])
    ]
    for name, value in shared.items():
        assert any(own[name] != value for own in defaults.values() if name in own), name


def plan_of(profile: str) -> list:
    return plan(notebooks_folder(), profile=profile)


def test_a_derived_default_is_refused(write_notebook):
    path = write_notebook("parameters\nn = 3\nsteps = 2 * n\noutput = ''")
    with pytest.raises(Refusal, match="01_small has 'steps = 2 \\* n' among its parameters; assign plain values"):
        default_parameters(path)


def test_a_notebook_without_the_parameter_output_is_refused(write_notebook):
    path = write_notebook("parameters\nn = 3")
    with pytest.raises(Refusal, match="01_small has no parameter output"):
        plan(path.parent, profile="smoke")


def test_the_profile_and_the_command_line_give_the_parameters(study):
    first, second = plan(study, profile="cpu", overrides=[("scale", "1e-1"), ("names", "[b, c]")])
    assert first.parameters == {"n_samples": 5, "scale": 0.1, "names": ["b", "c"]}
    assert second.parameters == {"scale": 0.1, "names": ["b", "c"]}


@pytest.mark.parametrize("name", ["02_second", "02_second.ipynb", "notebooks/02_second.ipynb", "02", "2"])
def test_a_notebook_is_named_in_several_ways(study, name):
    assert [path.name for path in choose_notebooks([name], study)] == ["02_second.ipynb"]


@pytest.mark.parametrize("words", [["--profile", "smok"], ["03_third", "--profile", "smoke"], ["-p", "sclae", "2"]])
def test_a_refused_run_writes_nothing(study, tmp_path, capsys, words):
    assert command_line.main(["run", "--output", str(tmp_path / "reports"), *words]) == command_line.REFUSED
    assert capsys.readouterr().err.startswith("refused: there is no ")
    assert not (tmp_path / "reports").exists()


@pytest.mark.slow
def test_a_report_from_first_run_to_changed_parameter(study, tmp_path, caplog):
    caplog.set_level("INFO", logger="lab")
    output = tmp_path / "reports"
    words = ["run", "--output", str(output), "--profile", "cpu", "01"]
    assert command_line.main(words) == command_line.SUCCESS

    assert json.loads((output / "results" / "small.json").read_text())["n"] == 5
    page, index = (output / "01_small.html").read_text(), (output / "index.html").read_text()
    assert '<figure id="small_draws"' in page and 'A line of "draws".' in page
    assert re.search(r"<figcaption>\s*The draws &lt;in order&gt;\.\s*</figcaption>", page)
    assert 'src="thumbnails/01_small.png" alt="A line of &#34;draws&#34;."' in index
    for text in ("A small study", "<mi>n</mi>", "The mean of 5 draws is small.", "n_samples = 5", "results/small.json"):
        assert text in index
    assert "results/small.csv" in index and (output / "thumbnails" / "01_small.png").is_file()
    assert {*json.loads((output / "records" / "01_small.json").read_text())["code"]} > {"cells", "rfmi", "data"}
    assert "02_second" not in index
    executed = nbformat.read(output / "notebooks" / "01_small.ipynb", as_version=4)
    nbformat.validate(executed)
    assert "papermill" not in executed.metadata and executed.metadata.kernelspec.name == "python3"

    own = [path for path in output.rglob("*.*") if path.name != "index.html" and path.parent.name != "thumbnails"]
    files = {path: path.stat().st_mtime_ns for path in own}
    assert command_line.main(words) == command_line.SUCCESS
    assert "01_small: finished already" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in files} == files

    assert command_line.main([*words, "-p", "n_samples", "7"]) == command_line.SUCCESS
    assert json.loads((output / "results" / "small.json").read_text())["n"] == 7
    assert "The mean of 7 draws is small." in (output / "index.html").read_text()


@pytest.mark.slow
def test_a_report_that_came_with_the_checkout_is_made_again(study, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", logger="lab")
    words = ["run", "--output", str(tmp_path / "reports"), "--profile", "cpu", "01"]
    assert command_line.main(words) == command_line.SUCCESS
    monkeypatch.setenv("RFMI_CACHE", str(tmp_path / "of_another_machine"))
    caplog.clear()
    assert command_line.main(words) == command_line.SUCCESS
    assert "01_small: done" in caplog.text and "finished already" not in caplog.text


def test_what_ends_a_finished_notebook_being_finished(study, tmp_path, monkeypatch):
    output = tmp_path / "reports"
    (job,) = plan(study, profile="smoke", names=["01"])
    (output / "records").mkdir(parents=True)
    page, source = output / "01_small.html", job.notebook.read_text()
    page.write_text("page")
    outputs = executed(nbformat.reads(source, as_version=4))
    record = {"fingerprint": runner.fingerprint(job), "files": ["01_small.html"], "executed": outputs}
    (output / "records" / "01_small.json").write_text(json.dumps(record))
    assert not runner.is_finished(job, output, keep=True)  # nothing says that it was made here
    runner.made_here(job, output).write(record["fingerprint"])
    assert runner.is_finished(job, output, keep=True)
    assert not runner.is_finished(job, output, keep=False)  # no executed notebook in the report folder

    (changed,) = plan(study, profile="smoke", names=["01"], overrides=[("scale", "2")])
    assert not runner.is_finished(changed, output, keep=True)
    with monkeypatch.context() as patch:
        patch.setattr(fingerprints, "code_version", lambda *modules: "other code")
        assert not runner.is_finished(job, output, keep=True)
    with monkeypatch.context() as patch:
        patch.setattr(fingerprints, "data_digests", lambda folder: {"other": "data"})
        assert not runner.is_finished(job, output, keep=True)
    printed = json.dumps([nbformat.v4.new_output("stream", text="large")])
    for part in ("The mean of", '"outputs": []'):  # what it says, and the outputs that it holds
        job.notebook.write_text(source.replace(part, part.replace("mean", "average").replace("[]", printed), 1))
        assert not runner.is_finished(job, output, keep=True)
    job.notebook.write_text(source)
    assert runner.is_finished(job, output, keep=True)
    page.unlink()
    assert not runner.is_finished(job, output, keep=True)


@pytest.mark.slow
def test_a_run_that_is_kept_fills_in_the_notebook_and_leaves_no_second_copy(study, tmp_path, caplog):
    caplog.set_level("INFO", logger="lab")
    path, output = study / "01_small.ipynb", tmp_path / "reports"
    words = ["run", "--output", str(output), "--profile", "cpu", "--keep", "01"]
    before = path.read_text()
    assert command_line.main(words) == command_line.SUCCESS
    first = path.read_text()
    notebook = nbformat.reads(first, as_version=4)
    assert [cell.id for cell in notebook.cells if "injected" not in cell.id] == [f"cell-{n}" for n in range(7)]
    (injected,) = [cell for cell in notebook.cells if pages.INJECTED in cell.metadata.get("tags", [])]
    assert injected.source == "# Parameters\nn_samples = 5"  # not where the report was
    assert notebook.cells[-1].outputs[0].text == "The mean of 5 draws is small.\n"
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
    assert not list(output.rglob("*.ipynb")) and (output / "records" / "01_small.json").is_file()
    assert 'href="../notebooks/01_small.ipynb"' in (output / "index.html").read_text()

    assert command_line.main(words) == command_line.SUCCESS
    assert "01_small: finished already" in caplog.text
    assert command_line.main([*words, "--force"]) == command_line.SUCCESS
    assert path.read_text() == first != before
    assert command_line.main(words[:5] + ["01"]) == command_line.SUCCESS  # not kept: the notebook stays as it is
    assert path.read_text() == first and (output / "notebooks" / "01_small.ipynb").is_file()


def test_parameters_of_ones_own_are_not_kept(study, tmp_path, capsys):
    words = ["run", "--output", str(tmp_path / "reports"), "--keep", "-p", "scale", "2"]
    assert command_line.main(words) == command_line.REFUSED
    assert "leave out -p" in capsys.readouterr().err


def test_the_cell_of_a_runs_parameters_does_not_change_the_fingerprint(study):
    (job,) = plan(study, profile="smoke", names=["01"])
    first = runner.fingerprint(job)
    notebook = nbformat.read(job.notebook, as_version=4)
    cell = nbformat.v4.new_code_cell("n_samples = 9", metadata={"tags": [pages.INJECTED]})
    notebook.cells.insert(3, cell)
    nbformat.write(notebook, job.notebook)
    assert runner.fingerprint(job) == first
    assert default_parameters(job.notebook)["n_samples"] == 3


@pytest.mark.slow
def test_nbval_runs_a_notebook_at_its_defaults(write_notebook):
    path = write_notebook("# One\n---\nparameters\nn = 1\n---\nn = 2\n---\nassert n == 1\nprint(n)\n---\nassert n == 1")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].metadata["tags"] = [pages.INJECTED]
    notebook.cells[3].metadata["tags"] = ["nbval-check-output"]
    notebook.cells[3].execution_count = 4
    notebook.cells[3].outputs = [nbformat.v4.new_output("stream", name="stdout", text="1\n")]
    nbformat.write(notebook, path)
    options = ["-p", "conftest", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env", "-q"]
    command = [sys.executable, "-m", "pytest", str(path), *options]
    done = subprocess.run(command, cwd=repository_root(), capture_output=True, text=True)
    assert "3 passed" in done.stdout, done.stdout
    notebook.cells[3].outputs[0].text = "2\n"
    nbformat.write(notebook, path)
    assert subprocess.run(command, cwd=repository_root(), capture_output=True).returncode == 1


@pytest.mark.slow
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
        runner.execute(Job(path, "smoke", {}), tmp_path, tmp_path / "failed.ipynb", seconds_a_cell=1)


@pytest.mark.slow
def test_a_killed_report_goes_on_to_the_same_numbers(write_notebook, tmp_path, cache, monkeypatch):
    notebooks = write_notebook(SLOW, name="01_slow", profiles={"smoke": {}, "fast": {"01_slow": {"pause": 0.0}}}).parent
    script, output = tmp_path / "run.py", tmp_path / "reports"
    script.write_text(RUN)
    command = [sys.executable, str(script), str(notebooks), "run", "--output", str(output), "--profile", "smoke"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    while len(list(cache.rglob("unit/*.json"))) < 2 and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = {path: path.stat().st_mtime_ns for path in cache.rglob("unit/*.json")}
    assert 2 <= len(finished) < 12
    assert not [path for path in output.rglob("*") if path.is_file()]  # nothing half-written

    monkeypatch.setattr(command_line, "notebooks_folder", lambda: notebooks)
    words = ["run", "--output", str(output), "--profile"]
    assert command_line.main([*words, "smoke"]) == command_line.SUCCESS
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    resumed = json.loads((output / "results" / "slow.json").read_text())
    seconds = json.loads((output / "records" / "01_slow.json").read_text())["seconds_of_units"]
    assert seconds > 11 * 0.2  # those of the killed run as well
    assert re.search(r"<td>unit</td><td>12</td><td>\d+ s</td><td><code>\w{16}<", (output / "01_slow.html").read_text())
    monkeypatch.setenv("RFMI_CACHE", str(tmp_path / "empty"))
    assert command_line.main([*words, "fast"]) == command_line.SUCCESS
    assert json.loads((output / "results" / "slow.json").read_text()) == resumed


@pytest.mark.slow
def test_plain_papermill_writes_where_it_was_started(write_notebook, tmp_path):
    path, output = write_notebook(), tmp_path / "out.ipynb"
    parameters = ["-p", "n_samples", "4", "-p", "output", "here"]
    command = [sys.executable, "-m", "papermill", str(path), str(output), *parameters, "--no-progress-bar"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    cells = nbformat.read(output, as_version=4).cells
    assert cells[-1].outputs[0].text == "The mean of 4 draws is small.\n"
    assert (tmp_path / "here" / "results" / "small.json").is_file() and not (repository_root() / "here").exists()


def test_a_folder_that_cannot_be_written_to_is_refused_in_a_sentence(study, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    for output in ("file", "file/reports"):
        words = ["run", "--output", str(tmp_path / output), "--profile", "smoke"]
        assert command_line.main(words) == command_line.REFUSED
        assert "choose another one with --output" in capsys.readouterr().err
    monkeypatch.setenv("RFMI_CACHE", str(tmp_path / "file" / "cache"))
    assert command_line.main(["run", "--output", str(tmp_path / "reports")]) == command_line.REFUSED
    assert "set RFMI_CACHE to a folder that can be" in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()


def test_a_name_that_the_terminal_does_not_hold_ends_no_run(study, tmp_path):
    script = tmp_path / "run.py"
    nothing = "import lab.study.runner\nlab.study.runner.run = lambda *jobs, **options: []\nsys.exit"
    script.write_text(RUN.replace("sys.exit", nothing))
    words = ["run", "--output", str(tmp_path / "Bücher"), "--profile", "smoke"]
    command = [sys.executable, str(script), str(study), *words]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(repository_root())}
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"B\\xfccher" in done.stdout


def test_a_backend_that_is_not_there_is_refused_before_a_notebook_runs(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(BACKEND, "")
    words = ["run", "--output", str(tmp_path / "reports"), "--profile", "smoke", "--backend", "dusk"]
    assert command_line.main(words) == command_line.REFUSED
    assert "refused: RFMI_BACKEND=dusk cannot be used" in capsys.readouterr().err
    assert not list((tmp_path / "reports").iterdir())


def test_a_cache_that_is_named_from_here_is_the_same_one_for_notebooks(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RFMI_CACHE", "kept")
    assert command_line.main(["run", "--profile", "smok"]) == command_line.REFUSED
    assert os.environ["RFMI_CACHE"] == str(tmp_path / "kept")


@pytest.mark.parametrize("words", [["-p", "names", "[a"], ["--profile", "bad"]])
def test_what_cannot_be_read_as_yaml_is_refused(study, tmp_path, capsys, words):
    (study / "profiles" / "bad.yaml").write_text("01_small: {n_samples")
    assert command_line.main(["run", "--output", str(tmp_path / "reports"), *words]) == command_line.REFUSED
    assert "cannot be read as YAML" in capsys.readouterr().err


def seconds_of(*words: str) -> float:
    """The least of three times that a Python process takes for something."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, *words], cwd=repository_root(), capture_output=True)
        times.append(time.perf_counter() - started)
    return min(times)


def test_help_and_refusals_take_less_than_twice_a_bare_import_of_torch():
    yardstick = seconds_of("-c", "import torch")
    assert seconds_of("-m", "lab", "--help") < 2 * yardstick
    assert seconds_of("-m", "lab", "run", "--profile", "smok") < 2 * yardstick


@pytest.mark.slow
def test_an_interrupted_run_says_one_sentence(write_notebook, tmp_path):
    text = "parameters\noutput = ''\n---\nfrom pathlib import Path\nimport time\n" + (
        f"Path({str(tmp_path / 'begun')!r}).touch()\ntime.sleep(60)"
    )
    folder, script = write_notebook(text).parent, tmp_path / "run.py"
    script.write_text(RUN)
    words = ["run", "--output", str(tmp_path / "reports"), "--profile", "smoke"]
    command = [sys.executable, str(script), str(folder), *words]
    environment = {**os.environ, "PYTHONPATH": str(repository_root())}
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs do not hear Ctrl-C
    options = {"env": environment, "start_new_session": True, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, preexec_fn=heard, **options)
    while not (tmp_path / "begun").exists() and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == command_line.INTERRUPTED
    lines = [line for line in told.splitlines() if line and "running, profile" not in line]
    assert lines == ["interrupted; the same command goes on at the last finished unit"]


def test_progress_bars_are_stripped_and_warnings_kept():
    stream = io.StringIO()
    for step in tqdm(range(2), file=stream, desc="walk", mininterval=0):
        stream.write(f"/somebody/of/one/site-packages/a warning at {step}\n")
    whole = stream.getvalue()
    bars = whole.replace("/somebody/of/one/site-packages/a warning", "").replace(" at 0\n", "").replace(" at 1\n", "")
    below = io.StringIO()
    with tqdm(range(2), file=below, desc="inner", mininterval=0, position=1) as inner:
        for step in inner:
            below.write(f"/somebody/of/one/site-packages/a warning at {step}\n")
    texts = whole, bars, below.getvalue(), "\n\x1b[A" * 3
    cell = nbformat.v4.new_code_cell(
        "walk()", outputs=[nbformat.v4.new_output("stream", name="stderr", text=text) for text in texts]
    )
    notebook = pages.clean(nbformat.v4.new_notebook(cells=[cell]))
    first, second = (output.text for output in notebook.cells[0].outputs)
    assert first == "a warning at 0\na warning at 1\n"
    assert second.split() == first.split()


def test_a_verdict_is_what_the_cells_of_that_tag_say():
    markdown, code, tags = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell, {"tags": ["verdict"]}
    printed = [nbformat.v4.new_output("stream", name="stdout", text="within 0.05\nwithin 0.10\n")]
    cells = [
        markdown("# A verdict in the title"),
        markdown("## The verdict\n\nAll hold:", metadata=tags),
        code("check()", outputs=printed, metadata=tags),
        markdown("## Limits\n\nNone."),
    ]
    said = pages.summarise(nbformat.v4.new_notebook(cells=cells), "01_small")
    assert said["title"] == "A verdict in the title" and said["question"] == said["answer"] == ""
    assert said["verdict"] == "All hold:\n\nwithin 0.05  \nwithin 0.10"


def test_the_answer_stands_below_the_title_and_the_main_figure_first():
    markdown, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell

    def shown(name):
        html = f'<figure id="{name}"><img src="data:," alt="of {name}"></figure>'
        return [nbformat.v4.new_output("display_data", data={"text/html": html})]

    cells = [
        markdown("# A title\n\n**Yes.**"),
        markdown("## Question\n\nIs it?\n\nThis is how."),
        code("first()", outputs=shown("first")),
        code("second()", outputs=shown("second"), metadata={"tags": ["main"]}),
    ]
    said = pages.summarise(nbformat.v4.new_notebook(cells=cells), "01_small")
    assert (said["answer"], said["question"]) == ("**Yes.**", "Is it?\n\nThis is how.")
    assert said["figures"] == [{"name": name, "alt": f"of {name}"} for name in ("second", "first")]


@pytest.fixture
def report(study, tmp_path, monkeypatch):
    """The folder of a report whose notebook, kept in `study`, was run when its code and data were as they are."""
    monkeypatch.setattr(fingerprints, "data_digests", lambda folder: {"some": "data"})
    path, output = study / "01_small.ipynb", tmp_path / "reports"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="The mean of 3 draws is small.")]
    nbformat.write(notebook, path)
    runner.write_record(
        output,
        {
            "name": "01_small",
            "profile": "smoke",
            "parameters": {},
            "seconds": 1.0,
            "seconds_of_units": 0,
            "provenance": {"date": "today", "commit": "0", "machine": "m", "versions": {}},
            "files": ["results/small.json"],
            "notebook": "../notebooks/01_small.ipynb",
            "code": fingerprints.own_code(notebook) | fingerprints.parts_of_code(),
            "executed": executed(notebook),
        },
    )
    (output / "results").mkdir()
    (output / "results" / "small.json").write_text('{"mean": {"value": 0.5, "low": 0.1, "high": 0.9, "n": 3}}')
    return output


def said_of_changes(report, capsys) -> str:
    """What a page says at its top when it is made again."""
    assert command_line.main(["render", "--output", str(report)]) == command_line.SUCCESS
    capsys.readouterr()
    found = re.search(r'<p class="changed">\s*(.*?)\s*</p>', (report / "01_small.html").read_text())
    return found[1] if found else ""


def test_pages_are_made_again_without_a_run_and_say_what_has_changed_since(report, study, monkeypatch, capsys):
    monkeypatch.setattr(runner, "execute", None)  # nothing is run
    path = study / "01_small.ipynb"
    text = path.read_text()
    assert said_of_changes(report, capsys) == ""
    assert "The mean of 3 draws is small." in (report / "index.html").read_text()
    assert (report / "results" / "small.csv").read_text() == "key,value,low,high,n\nmean/value,0.5,0.1,0.9,3\n"
    path.write_text(text.replace("# A small study", "# A new title").replace("draws = scale", "# why\\ndraws = scale"))
    assert said_of_changes(report, capsys) == ""
    assert "A new title" in (report / "index.html").read_text()
    assert "A new title" in (report / "01_small.html").read_text()
    path.write_text(text.replace("is small", "is smaller"))
    assert said_of_changes(report, capsys) == "Changed since this was computed: outputs."
    path.write_text(text.replace("default_rng(0)", "default_rng(1)"))
    assert said_of_changes(report, capsys) == "Changed since this was computed: cells."
    path.write_text(text)
    monkeypatch.setattr(fingerprints, "code_version", lambda part: "other")
    assert said_of_changes(report, capsys).startswith("Changed since this was computed: rfmi, lab.oracles")
    record = runner.read_record(report, "01_small")
    del record["code"]  # as of an older version
    runner.write_record(report, record)
    assert "may have changed" in said_of_changes(report, capsys)


def test_a_report_that_is_not_there_is_not_made_again(report, study, tmp_path, capsys):
    for folder, message in ((tmp_path, "holds no report"), (report, "is not there; run 01_small again")):
        (study / "01_small.ipynb").unlink(missing_ok=True)
        assert command_line.main(["render", "--output", str(folder)]) == command_line.REFUSED
        assert message in capsys.readouterr().err


def test_two_reports_are_compared_by_their_intervals(report, tmp_path, capsys):
    other = tmp_path / "other"
    (other / "results").mkdir(parents=True)
    for value, state, verdict in ((0.5, command_line.SUCCESS, "equal"), (1.0, command_line.SUCCESS, "within")):
        result = {"mean": {"value": value, "low": value - 0.4, "high": value + 0.4, "n": 3}}
        (other / "results" / "small.json").write_text(json.dumps(result))
        assert command_line.main(["compare", str(report), str(other)]) == state
        assert f"1 results: 1 {verdict}" in capsys.readouterr().out
    (other / "results" / "small.json").write_text('{"mean": {"value": 2.0, "low": 1.5, "high": 2.5}, "new": 1}')
    assert command_line.main(["compare", str(report), str(other)]) == command_line.FAILED
    told = capsys.readouterr().out
    assert re.search(r"beyond +small/mean/value +0.5 \(0.1 to 0.9\) +2 \(1.5 to 2.5\)", told)
    assert re.search(r"only in B +small/new +- +1", told)
    assert command_line.main(["compare", str(report), str(tmp_path / "nowhere")]) == command_line.REFUSED
    assert "nowhere holds no results" in capsys.readouterr().err


def test_no_run_writes_the_committed_report_unless_it_is_named(monkeypatch, tmp_path):
    """`run` without --output has a folder of the profile's own, whatever else is asked for, and keeps nothing."""
    calls = []
    monkeypatch.setattr(command_line, "repository_root", lambda: tmp_path)
    monkeypatch.setattr(runner, "run", lambda jobs, notebooks, output, **options: calls.append((output, options)) or [])
    for profile in ("smoke", "full"):
        assert command_line.main(["run", "--profile", profile, "01"]) == command_line.SUCCESS
    assert [output for output, _ in calls] == [tmp_path / "reports-smoke", tmp_path / "reports-full"]
    assert not any(options["keep"] for _, options in calls)
