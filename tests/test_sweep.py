"""Sweeps: a grid is checked as a whole before anything starts, and started again it runs what is missing."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import yaml

from lab import __main__ as command_line, sweep
from lab.paths import repository_root
from lab.study import runner
from lab.study.profiles import Refusal, plan
from lab.sweep import FINISHED, Point, as_text, on_slurm, read_grid

DIVIDING = "parameters\nn = 1\noutput = ''\n---\nprint(12 / n)"
CHILD = """
import sys
from pathlib import Path
from lab import __main__ as command_line
command_line.notebooks_folder = lambda: Path(sys.argv[1])
sys.exit(command_line.main(sys.argv[2:]))
"""


@pytest.fixture
def study(write_notebook, tmp_path, monkeypatch):
    """A function that writes the notebooks of a study, which the command line and its points are made to see."""

    def write(*texts: str) -> Path:
        profiles = {"cpu": {}, "smoke": {}}
        for i, text in enumerate(texts, 1):
            folder = write_notebook(*([text] if text else []), name=f"0{i}_small", profiles=profiles).parent
        script = tmp_path / "child.py"
        script.write_text(CHILD)
        monkeypatch.setattr(command_line, "notebooks_folder", lambda: folder)
        monkeypatch.setattr(sweep, "COMMAND", (sys.executable, str(script), str(folder)))
        monkeypatch.setenv("PYTHONPATH", str(repository_root()), prepend=os.pathsep)
        return folder

    return write


@pytest.fixture
def write_grid(tmp_path):
    """A function that writes a grid whose reports go into `tmp_path`, and returns its path."""

    def write(content: str | dict, name: str = "grid.yaml") -> Path:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("parameters: {n_sample: [1]}", "no parameter 'n_sample'; did you mean n_samples"),
        ("parameters: {n_samples: [5, many]}", "n_samples of 01_small is of type int .* got 'many'"),
        ("parameters: {n_samples: [null]}", "n_samples of 01_small is of type int"),
        ("parameters: {n_samples: 5}", r"parameter n_samples of the grid has 5; write a list of values, as \[5\]"),
        ("parameters: {names: ['[a']}", r"the value '\[a' cannot be read as YAML"),
        ("parameters: {5: [5]}", "no parameter '5'"),
        ("parameters: {scale: [-0.5, -1.0e-5]}", "scale of the grid has '-1.0e-05', which a command"),
        ("{parameters: {n_samples: [5]}, notebooks: [7]}", "no notebook '7'; choose from: 01_small, 02_small"),
        ("{parameters: {n_samples: [5]}, profile: cpuu}", "no profile 'cpuu'; did you mean cpu"),
        ("{parameters: {n_samples: [5]}, slurm: [1]}", "slurm of the grid is no mapping"),
        ("parameter: {n_samples: [5]}", "no entry of a grid called 'parameter'; did you mean parameters"),
        ("parameters: {n_samples: [5}", "cannot be read as YAML"),
        ("", "is no mapping"),
        ("- n_samples: 5", "is no mapping"),
        ("parameters: {}", "a grid has points"),
        ("parameters:", "a grid has points"),
        ("parameters: {n_samples: []}", "a grid has points"),
        ("points: []", "a grid has points"),
        ("{points: [{n_samples: 5}], parameters: {scale: [1.0]}}", "a grid has points"),
        ("points: [5]", "a point of the grid maps parameters to values, got 5"),
        ("points: [{n_samples: 5}, {n_samples: 5}]", "2 points of the grid have the folder .*n_samples=5"),
        ("points: [{n_samples: 5, output: a}, {n_samples: 6, output: ./a}]", "2 points of the grid have the folder"),
    ],
)
def test_a_bad_grid_is_refused_before_anything_starts(study, write_grid, tmp_path, capsys, content, message):
    folder, grid = study("", ""), write_grid(content)
    with pytest.raises(Refusal, match=message):
        read_grid(grid, folder, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert command_line.main(["sweep", str(grid)]) == command_line.REFUSED
    assert capsys.readouterr().err.startswith("refused: ") and sorted(tmp_path.rglob("*")) == before


def test_a_grid_that_is_not_there_and_a_count_that_counts_nothing_are_refused(study, write_grid, tmp_path, capsys):
    study("")
    assert command_line.main(["sweep", str(tmp_path / "gird.yaml")]) == command_line.REFUSED
    assert "there is no grid" in capsys.readouterr().err
    grid = write_grid({"parameters": {"n_samples": [5]}})
    assert command_line.main(["sweep", str(grid), "--jobs", "0"]) == command_line.REFUSED
    assert "at least 1, got 0" in capsys.readouterr().err


def test_points_are_every_combination_or_those_that_are_listed(study, write_grid, tmp_path):
    folder = study("", "")
    product, _ = read_grid(write_grid({"parameters": {"n_samples": [4, 5], "scale": [0.5, 2]}}), folder, tmp_path)
    assert [point.name for point in product] == [f"n_samples={n},scale={scale}" for n in (4, 5) for scale in (0.5, 2)]
    assert {point.output.parent for point in product} == {tmp_path / "reports-grid"}
    listed = [{"n_samples": 4}, {"scale": 3, "output": "three"}, {}]
    grid = {"output": str(tmp_path / "there"), "profile": "smoke", "notebooks": [2], "points": listed}
    grid["slurm"] = {"time": 9}
    points, asked = read_grid(write_grid(grid), folder, tmp_path)
    assert [point.name for point in points] == ["n_samples=4", "three", "smoke"] and asked == {"time": 9}
    assert points[1].output == tmp_path / "there" / "three"
    assert [[(job.name, job.profile, job.parameters) for job in point.jobs] for point in points] == [
        [("02_small", "smoke", changes)] for changes in ({"n_samples": 4}, {"scale": 3}, {})
    ]


VALUES = {"n_samples": 7, "scale": 1e-5, "names": ["b c", "d, e", "- 1e-3", "[", "x" * 200], "exact": False}


def test_a_points_command_asks_for_what_was_checked(study, write_grid, tmp_path):
    folder = study("", "")
    grid = {"points": [{**VALUES, "output": "a b"}], "notebooks": ["02"]}
    (point,), _ = read_grid(write_grid(grid), folder, tmp_path)
    assert [job.parameters for job in point.jobs] == [VALUES]
    asked = command_line.make_parser().parse_args(point.command[len(sweep.COMMAND) :])
    overrides = [tuple(pair) for pair in asked.parameters]
    assert plan(folder, profile=asked.profile, names=asked.notebooks, overrides=overrides) == point.jobs
    assert Path(asked.output) == point.output == tmp_path / "reports-grid" / "a b"


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-5, "1.0e-05"), ("1e-5", "1e-5"), (True, "true"), (3, "3"), ([1.5e-7, 2], "[1.5e-07, 2]"), ("[a", "[a")],
)
def test_values_are_written_as_the_command_line_has_them(value, text):
    assert as_text(value) == text


@pytest.mark.slow
def test_a_sweep_that_is_started_again_runs_what_is_missing(study, write_grid, tmp_path, capsys):
    study(DIVIDING)
    grid = write_grid({"output": str(tmp_path / "out"), "points": [{"n": n, "output": f"n{n}"} for n in (0, 3)]})
    words = ["sweep", str(grid), "--jobs", "2"]
    assert command_line.main(words) == command_line.FAILED
    reason = "01_small failed at cell In [3] 'print(12 / n)': ZeroDivisionError: division by zero"
    n0, n3 = capsys.readouterr().out.splitlines()
    assert n0.startswith(f"n0  failed: {reason}") and n3 == "n3  finished"
    assert (tmp_path / "out" / "n3" / "index.html").is_file()

    logs = {n: tmp_path / "out" / f"n{n}" / "run.log" for n in (0, 3)}
    before = {n: path.stat().st_mtime_ns for n, path in logs.items()}
    assert command_line.main(words) == command_line.FAILED
    assert logs[0].stat().st_mtime_ns > before[0] and logs[3].stat().st_mtime_ns == before[3]
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["failed:", "finished"]

    write_grid({"output": str(tmp_path / "out"), "parameters": {"n": [3]}, "points": []})
    assert command_line.main(words) == command_line.SUCCESS  # in a folder of another name: run anew
    assert capsys.readouterr().out == "n=3  finished\n"


def make_points(tmp_path: Path, **programs: str) -> list[Point]:
    """Points that run small programs in place of notebooks."""
    points = [Point(name, tmp_path / name, [sys.executable, "-c", text], []) for name, text in programs.items()]
    for point in points:
        point.output.mkdir()
    return points


FAILING = "print('01_a failed at cell 1: no luck; as far as it ran')\nprint('1 of 2')\nraise SystemExit(1)"
PROGRAMS = {
    "good": "print('done')",
    "failing": FAILING,
    "silent": "raise SystemExit(3)",
    "refused": "import sys\nprint('refused: there is no x', file=sys.stderr)\nsys.exit(2)",
    "killed": "import os\nos.kill(os.getpid(), 9)",
}
STATES = {
    "good": FINISHED,
    "failing": "failed: 01_a failed at cell 1: no luck; as far as it ran",
    "silent": "failed: exit code 3",
    "refused": "failed: refused: there is no x",
    "killed": "failed: exit code -9",
}


@pytest.mark.parametrize("jobs", [1, 3])
def test_points_tell_how_they_ended(tmp_path, monkeypatch, capsys, jobs):
    monkeypatch.setattr(runner, "is_finished", lambda *given, **options: False)
    points = make_points(tmp_path, **PROGRAMS)
    for point in points:
        point.jobs.append(None)
    assert sweep.run(points, partial(sweep.here, jobs=jobs)) == STATES
    assert capsys.readouterr().out.splitlines() == [f"{name:7}  {state}" for name, state in STATES.items()]
    assert (tmp_path / "good" / "run.log").read_text() == "done\n"


def test_as_many_points_run_at_once_as_are_asked_for(tmp_path):
    together = "import sys, time\nfrom pathlib import Path\nPath('{here}/{i}').touch()\n" + (
        "while len(list(Path('{here}').iterdir())) < 2: time.sleep(0.01)"
    )
    here = tmp_path / "begun"
    here.mkdir()
    points = make_points(tmp_path, **{f"p{i}": together.format(here=here, i=i) for i in range(2)})
    assert [state for _, state in sweep.here(points, jobs=2)] == [FINISHED] * 2


def test_an_interrupted_point_leaves_nothing_running_and_the_table_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "is_finished", lambda *given, **options: False)
    told = tmp_path / "told"
    slow = (
        "import os, signal, time\nfrom pathlib import Path\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where tests run in the background
        "try:\n    os.kill(os.getppid(), signal.SIGALRM)\n    time.sleep(60)\n"
        f"except KeyboardInterrupt:\n    Path({str(told)!r}).touch()"
    )
    points = make_points(tmp_path, first="", slow=slow, never="raise SystemExit(5)")
    for point in points:
        point.jobs.append(None)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            sweep.run(points, partial(sweep.here, jobs=1))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()] == [
        ["first", "finished"],
        ["slow", "not finished"],
        ["never", "not finished"],
    ]
    patience = time.monotonic() + 30
    while not told.exists():  # the interrupted process ends by itself
        assert time.monotonic() < patience
        time.sleep(0.01)


def test_slurm_without_submitit_is_refused_in_a_sentence(study, write_grid, tmp_path, monkeypatch, capsys):
    study("")
    monkeypatch.setitem(sys.modules, "submitit", None)
    grid = {"output": str(tmp_path / "out"), "parameters": {"n_samples": [5]}, "slurm": {"timeout_min": 60}}
    words = ["sweep", str(write_grid(grid)), "--executor", "slurm"]
    assert command_line.main(words) == command_line.REFUSED
    told = capsys.readouterr()
    assert "needs the package submitit" in told.err and "pip install submitit" in told.err and told.out == ""
    del grid["slurm"]
    write_grid(grid)
    assert command_line.main(words) == command_line.REFUSED
    assert "no timeout_min" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cluster", "options", "message"),
    [
        ("local", {"timeout_min": 5, "partitions": "gpu"}, "no job can be submitted .*'partitions'"),
        ("slurm", {"timeout_min": 5}, "no job can be submitted .*srun"),
    ],
)
def test_what_slurm_cannot_be_asked_for_is_refused(tmp_path, monkeypatch, cluster, options, message):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refusal, match=message):
        on_slurm(make_points(tmp_path, good=""), options, cluster=cluster)
    assert not (tmp_path / "good" / "slurm").exists() or not list((tmp_path / "good" / "slurm").iterdir())


@pytest.mark.slow
def test_points_run_as_submitits_jobs(tmp_path):
    pytest.importorskip("submitit")
    told = list(on_slurm(make_points(tmp_path, **PROGRAMS), {"timeout_min": 5, "partition": "gpu"}, cluster="local"))
    assert [state[:14] for _, state in told[: len(PROGRAMS)]] == ["running as job"] * len(PROGRAMS)
    assert {point.name: state for point, state in told[len(PROGRAMS) :]} == STATES


SBATCH = """#!{python}
import os, re, subprocess, sys
from pathlib import Path
text = Path(sys.argv[1]).read_text()
Path({folder!r}, "submitted").write_text(text)
environment = {{**os.environ, "SLURM_JOB_ID": "4242", "SLURM_NTASKS": "1"}}
subprocess.Popen(["bash", sys.argv[1]], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("Submitted batch job 4242")
"""
SRUN = """#!{python}
import subprocess, sys
sys.exit(subprocess.call(sys.argv[sys.argv.index({python!r}) :]))
"""
SACCT = """#!{python}
print("JobID|State|NodeList")
print("77|RUNNING|node")
print("78|CANCELLED|node")
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """The commands of a cluster that runs each job at once, and knows of a job 77 that runs and of one that ended."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT)):
        (folder / name).write_text(text.format(python=sys.executable, folder=str(tmp_path)))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(repository_root()), prepend=os.pathsep)


def test_a_job_is_what_the_grid_asks_of_slurm(tmp_path, cluster):
    pytest.importorskip("submitit")
    options = {"timeout_min": 1440, "partition": "gpu", "gpus_per_node": 2, "max_num_timeout": 9}
    told = [state for _, state in on_slurm(make_points(tmp_path, good=PROGRAMS["good"]), options)]
    assert told == ["running as job 4242", FINISHED]
    asked = (tmp_path / "submitted").read_text()
    for line in ("--time=1440", "--partition=gpu", "--gpus-per-node=2", "--job-name=good"):
        assert f"#SBATCH {line}\n" in asked


def test_a_job_that_is_still_there_is_not_submitted_again(tmp_path, cluster):
    pytest.importorskip("submitit")
    (point,) = make_points(tmp_path, good=PROGRAMS["good"])
    (point.output / "slurm").mkdir()
    for job in (77, 78):
        (point.output / "slurm" / f"{job}_submitted.pkl").touch()
    states = on_slurm([point], {"timeout_min": 5})
    assert next(states) == (point, "running as job 77")


def test_a_job_at_its_time_limit_is_put_back_as_the_same_run(tmp_path):
    pytest.importorskip("submitit")
    (point,) = make_points(tmp_path, good=PROGRAMS["good"])
    assert point.checkpoint().function is point
