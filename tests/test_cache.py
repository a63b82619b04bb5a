"""Units of work: nothing repeated, nothing half-written believed, and a killed run goes on to the same numbers."""

import importlib
import json
import linecache
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import ClassVar

import joblib
import numpy as np
import psutil
import pytest
import torch
from joblib.parallel import LokyBackend

import lab.study.code as code_module
from lab import study
from lab.paths import repository_root
from lab.study.code import Meaning, canonical, code_version, digest
from lab.study.provenance import cost_of_units
from lab.study.units import BACKEND, SECONDS_FILE, Unit
from rfmi.selection import Pruning

UNITS = [{"n": 5, "seed": seed} for seed in range(4)]


def draw(n: int, seed: int) -> dict:
    """A unit of work with a number of every kind; on one thread, which it reports."""
    values = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {
        "mean": values.mean(),
        "values": values.numpy(),
        "n": np.int64(n),
        "pair": (1, 2.5),
        "threads": torch.get_num_threads(),
    }


def counted(folder: str, n: int, seed: int) -> float:
    """A unit of work that leaves one more line each time it is computed."""
    with open(Path(folder) / f"{n}-{seed}", "a") as file:
        file.write("computed\n")
    return seed / 7


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.json"))


def test_fresh_kept_and_parallel_results_are_the_same(tmp_path, monkeypatch):
    fresh = study.run(draw, UNITS)
    assert study.run(draw, UNITS) == fresh
    monkeypatch.setenv("RFMI_CACHE", str(tmp_path / "there"))
    assert study.run(draw, UNITS, workers=2) == fresh
    expected = torch.randn(5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert fresh[3]["values"] == expected.tolist()  # every digit
    assert fresh[3]["pair"] == [1, 2.5] and fresh[3]["threads"] == 1


def test_nothing_is_computed_twice(tmp_path, cache):
    log = tmp_path / "log"
    log.mkdir()
    units = [{"folder": str(log), **unit} for unit in UNITS]
    assert study.run(counted, units[:2] + units[:2]) == [0, 1 / 7, 0, 1 / 7]
    assert study.run(counted, units[::-1]) == [3 / 7, 2 / 7, 1 / 7, 0]
    assert [path.read_text() for path in log.iterdir()] == ["computed\n"] * 4
    assert len(files(cache)) == 4


def test_what_resumes_by_itself_is_called_each_time_and_may_return_anything(tmp_path):
    units = [{"folder": str(tmp_path), **unit} for unit in UNITS[:2]]
    for _ in range(2):
        assert study.run(counted, units, cached=False) == [0, 1 / 7]
    assert [path.read_text() for path in sorted(tmp_path.glob("5-*"))] == ["computed\n" * 2] * 2
    (table,) = study.run(as_set, [{"n": 3}], cached=False, workers=2)
    assert table == {0, 1, 2}


def begin_and_wait(folder: str, n: int, seed: int) -> list[str]:
    """A unit that writes a folder by itself, as a training does; a second call finds it. Tells who began which."""
    mark = Path(folder) / f"{n}-{seed}"
    if not mark.exists():
        with open(Path(folder) / "begun", "a") as file:
            file.write(f"{os.getpid()} {seed}\n")
        time.sleep(0.4)
        mark.touch()
    return [mark.name]


def test_runs_take_different_ones_of_the_units_that_resume_by_themselves(tmp_path, start_child):
    units = [{"folder": str(tmp_path), **unit} for unit in UNITS]
    child = start_child(lambda: study.run(begin_and_wait, units, cached=False))
    assert study.run(begin_and_wait, units, cached=False) == [[f"5-{seed}"] for seed in range(4)]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    begun = [line.split() for line in (tmp_path / "begun").read_text().splitlines()]
    assert sorted(seed for _, seed in begun) == list("0123") and len({process for process, _ in begun}) == 2


class Recording(LokyBackend):
    """A backend of somebody's own, which tells that it was used."""

    used: ClassVar[list[int]] = []

    def configure(self, n_jobs=1, **options):
        self.used.append(n_jobs)
        return super().configure(n_jobs, **options)


class AllAtOnce(Recording):
    """One that gives its results together, as ray's does."""

    supports_return_generator = False


@pytest.mark.parametrize("backend", ["threading", "Recording", "AllAtOnce"])
def test_units_are_computed_by_the_backend_that_is_asked_for_to_the_same_results(tmp_path, monkeypatch, backend):
    expected = study.run(draw, UNITS)
    for name, factory in (("Recording", Recording), ("AllAtOnce", AllAtOnce)):
        joblib.register_parallel_backend(name, factory)
    monkeypatch.setattr(Recording, "used", used := [])
    monkeypatch.setenv("RFMI_CACHE", str(tmp_path / "there"))
    monkeypatch.setenv(BACKEND, backend)
    assert study.run(draw, UNITS, workers=2) == expected
    told = study.together(partial(deal_out, str(tmp_path / "dealt")), 2)
    assert len(told) == 6 and used == ([] if backend == "threading" else [2, 2])


@pytest.mark.parametrize(
    ("backend", "modules", "message"),
    [
        ("dusk", {}, "RFMI_BACKEND=dusk cannot be used: Invalid backend: dusk, expected one of .*loky"),
        ("dask", {"distributed": None}, "RFMI_BACKEND=dask needs the package distributed.*pip install distributed"),
        ("dask", {"distributed": ModuleType("distributed")}, "set DASK_SCHEDULER_ADDRESS"),
        ("ray", {"ray": None}, "RFMI_BACKEND=ray needs the package ray"),
    ],
)
def test_a_backend_that_is_not_there_is_refused_first(tmp_path, monkeypatch, backend, modules, message):
    monkeypatch.setenv(BACKEND, backend)
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    units = [{"folder": str(tmp_path), **unit} for unit in UNITS]
    with pytest.raises(ValueError, match=message):
        study.run(counted, units)
    with pytest.raises(ValueError, match=message):
        study.together(partial(counted, str(tmp_path), 5, 0))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def as_set(n: int) -> set:
    return set(range(n))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"n": 5', '"n": 6'),
        lambda text: json.dumps({**json.loads(text), "result": {"mean": 0.0}}),
        lambda text: json.dumps({**json.loads(text), "seconds": 0.5}),
        lambda text: json.dumps({**json.loads(text), "code": "another"}),
        lambda text: "[1, 2]",
        lambda text: "null",
    ],
    ids=["empty", "cut short", "other parameters", "other result", "other seconds", "other code", "a list", "null"],
)
def test_a_damaged_file_is_computed_again(cache, damage):
    expected = study.run(draw, UNITS[:1])
    (path,) = files(cache)
    whole = json.loads(path.read_text())
    path.write_text(damage(path.read_text()))
    assert Unit("draw", UNITS[0], whole["code"]).read() is None
    assert study.run(draw, UNITS[:1]) == expected
    assert json.loads(path.read_text())["result"] == whole["result"]


def test_the_key_holds_kind_parameters_seed_and_code(cache):
    keys = {
        Unit("draw", {"n": 5, "seed": 0}, "1").key,
        Unit("other", {"n": 5, "seed": 0}, "1").key,
        Unit("draw", {"n": 6, "seed": 0}, "1").key,
        Unit("draw", {"n": 5, "seed": 1}, "1").key,
        Unit("draw", {"n": 5, "seed": 0}, "2").key,
    }
    assert len(keys) == 5
    assert Unit("draw", {"seed": 0, "n": 5}, "1").key in keys  # the order does not matter
    Unit("draw", {"n": 5, "seed": 0}, "1").write(1.0)
    assert json.loads(files(cache)[0].read_text())["parameters"] == {"n": 5, "seed": 0}


def test_code_version_follows_the_source(tmp_path, monkeypatch):
    module = tmp_path / "some_study_module.py"
    monkeypatch.syspath_prepend(tmp_path)
    module.write_text("A = 1\n")
    first = code_version("some_study_module", code_module)
    assert first == code_version("some_study_module", code_module) != code_version(code_module)
    module.write_text('"""What A is."""\n\nA = 1  # one\n')
    assert code_version("some_study_module", code_module) == first
    module.write_text("A = 2\n")
    assert code_version("some_study_module", code_module) != first


def test_code_version_knows_worlds_and_other_files(tmp_path, monkeypatch):
    class World:
        name, sources = "here", ("lab.paths", "data/weights.json")

    monkeypatch.setattr(code_module, "repository_root", lambda: tmp_path)
    weights = tmp_path / "data" / "weights.json"
    weights.parent.mkdir()
    weights.write_text("1")
    first = code_version(World())
    assert code_version(World()) == first != code_version("lab.paths")
    weights.write_text("2")
    assert code_version(World()) != first


def test_equal_values_have_one_text_and_one_digest():
    a, b = {"x": 1, "y": torch.tensor([1.0, 2.0])}, {"y": [1.0, 2.0], "x": 1}
    assert canonical(a) == canonical(b) == '{"x":1,"y":[1.0,2.0]}'
    assert digest(a) == digest(b) != digest({"x": 2, "y": [1.0, 2.0]})
    with pytest.raises(TypeError, match="got set"):
        canonical({"x": {1}})


CELL = '''
import numpy as np
import rfmi
from lab import study
from functools import cache


SCALE = 2.0
TABLE = {"a": [1, 2]}
unrelated = 3

@cache
def helper(n):
    """What it does."""
    return n * SCALE

def unit(n, seed=0):
    inner = lambda k: k + TABLE["a"][0]
    return inner(helper(n)) + np.pi
'''


def meaning_of(source: str, name: str = "unit") -> str:
    """The code version of a function of a notebook's cell."""
    source = dedent(source)
    file = f"<cell {hash(source)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    space = {"__name__": "__main__"}
    exec(compile(source, file, "exec"), space)
    return Meaning(space[name], (), strict=True).version()


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("return n * SCALE", "return n * SCALE  # scaled", True),
        ('"""What it does."""', '"""What it does, in other words."""', True),
        ("def unit(n, seed=0):", "def unit(\n    n,\n    seed=0,\n):", True),
        ("unrelated = 3", "unrelated = 4", True),
        ("return inner(helper(n)) + np.pi", "return inner(helper(n)) - np.pi", False),
        ("return n * SCALE", "return n / SCALE", False),
        ("SCALE = 2.0", "SCALE = 2.5", False),
        ("[1, 2]", "[1, 3]", False),
        ("seed=0", "seed=1", False),
        ("k + TABLE", "k - TABLE", False),
        ("SCALE = 2.0", "SCALE = np.float64(2.0)", True),
    ],
)
def test_the_key_of_a_notebook_function_follows_what_it_is_computed_by(old, new, same):
    assert old in CELL
    assert (meaning_of(CELL.replace(old, new)) == meaning_of(CELL)) == same


def test_functions_that_are_named_bring_their_modules():
    source = """
        import rfmi
        from lab import study
        from rfmi.selection import Pruning

        def unit(n):
            return rfmi.score, study.spread, Pruning
    """
    file = "<cell of modules>"
    linecache.cache[file] = (0, None, dedent(source).splitlines(keepends=True), file)
    space = {"__name__": "__main__"}
    exec(compile(dedent(source), file, "exec"), space)
    modules = {*Meaning(space["unit"], ("lab.paths",), strict=True).modules}
    assert {"lab.paths", "lab.study.models", Pruning.__module__} < modules
    assert any(name.startswith("rfmi.scoring") for name in modules)


def test_a_default_closure_and_partial_are_part_of_the_meaning():
    def made(scale):
        def unit(n):
            return n * scale

        unit.__module__ = "__main__"
        return unit

    versions = [Meaning(made(scale), (), strict=True).version() for scale in (1.0, 1.0, 2.0)]
    assert versions[0] == versions[1] != versions[2]
    versions = [Meaning(partial(made(1.0), n), (), strict=True).version() for n in (1, 1, 2)]
    assert versions[0] == versions[1] != versions[2]


def test_what_no_key_can_hold_is_refused():
    with pytest.raises(TypeError, match="SCALE is a object, which the key of a unit cannot hold; make it a parameter"):
        meaning_of(CELL.replace("SCALE = 2.0", "SCALE = object()").replace("n * SCALE", "SCALE"))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_names_its_unit_and_keeps_what_is_finished(cache, workers):
    with pytest.raises(ArithmeticError, match="no mean here") as raised:
        study.run(fails_late, UNITS, workers=workers)
    assert "fails_late(n=5, seed=2)" in raised.value.__notes__[0]
    kept = {json.loads(path.read_text())["parameters"]["seed"] for path in files(cache)}
    assert kept & {0, 1} and 2 not in kept


def fails_late(n: int, seed: int) -> int:
    if seed == 2:
        raise ArithmeticError("no mean here")
    return seed


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"workers": 0}, ValueError, "at least 1, got 0"),
        ({"units": [{"n": object(), "seed": 1}]}, TypeError, "got object; convert it first"),
        ({"function": as_set, "units": [{"n": 1}]}, TypeError, "got set; convert it first"),
        ({"function": lambda n, seed: n}, ValueError, "use letters, digits"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(tmp_path, change, error, message):
    arguments = {"function": draw, "units": UNITS, "workers": 1, **change}
    with pytest.raises(error, match=message):
        study.run(**arguments)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def rest(folder: str, seconds: float) -> None:
    """A unit that takes time the first time only, as what resumes by itself does."""
    if not Path(folder).exists():
        time.sleep(seconds)
        Path(folder).mkdir()


def test_what_units_cost_is_told_also_when_nothing_is_computed_again(tmp_path, monkeypatch):
    units = [{"folder": str(tmp_path / name), "seconds": 0.3} for name in "ab"]
    for name in ("first", "again"):
        monkeypatch.setenv(SECONDS_FILE, str(tmp_path / name))
        study.run(rest, units)
        study.run(rest, units[:1])  # the same unit, counted once
        study.run(rest, [{**units[0], "folder": str(tmp_path / "c")}], cached=False)
        study.together(partial(rest, str(tmp_path / "d"), 0.3))
    first, again = (cost_of_units(tmp_path / name) for name in ("first", "again"))
    assert first == again and 1.2 <= sum(each["seconds"] for each in first) < 2.4
    assert [(each["kind"], each["units"], len(each["code"])) for each in first] == [
        ("rest", 3, 16),
        ("together", 1, 16),
    ]
    assert cost_of_units(tmp_path / "nobody") == []


def deal_out(folder: str) -> list[str]:
    """Six units of a folder, as `rfmi.select` takes them; tells who computed each."""
    from rfmi.runs import deal

    for path in deal({i: Path(folder) / f"{i}.json" for i in range(6)}, "six"):
        time.sleep(0.3)
        (Path(folder) / f"{path}.json").write_text(f"{os.getpid()} {torch.get_num_threads()}")
    return [(Path(folder) / f"{i}.json").read_text() for i in range(6)]


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_share_the_units_of_one_folder(tmp_path, workers):
    told = study.together(partial(deal_out, str(tmp_path)), workers)
    processes, threads = zip(*(text.split() for text in told), strict=True)
    assert set(threads) == {"1"} and (workers == 2 or set(processes) == {str(os.getpid())})
    assert workers == 1 or str(os.getpid()) not in processes


def test_an_error_in_one_of_several_processes_ends_all(tmp_path):
    with pytest.raises(ArithmeticError, match="no mean here"):
        study.together(partial(fails_late, 1, 2), 2)


def test_spread_takes_evenly_and_work_folders_follow_their_settings(cache):
    assert study.spread(list("abcdef"), 3) == ["a", "c", "e"] and study.spread(["a"], 5) == ["a"]
    folder = study.work_folder("selections", {"seed": 0, "steps": 8})
    assert folder.parent == cache / "selections" and folder == study.work_folder("selections", {"steps": 8, "seed": 0})
    assert folder != study.work_folder("selections", {"seed": 1, "steps": 8})
    with pytest.raises(ValueError, match="use letters, digits"):
        study.work_folder("../selections", {})


SCRIPT = """
import os, time
from pathlib import Path
from lab import study

def walk(n, seed, log):
    import torch
    path = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).cumsum(0)
    with open(Path(log) / str(seed), "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(0.15)
    return {"end": path[-1], "path": path}

def units(log):
    return [{"n": 2000, "seed": seed, "log": log} for seed in range(16)]
"""
START = "import sys, walking; walking.study.run(walking.walk, walking.units(sys.argv[1]), workers=int(sys.argv[2]))"


@pytest.fixture
def start_run(tmp_path, monkeypatch):
    """A function that starts a run of the units of SCRIPT, of so many workers, in a process of its own."""
    (tmp_path / "walking.py").write_text(SCRIPT)
    (tmp_path / "log").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "walking", raising=False)
    paths = os.pathsep.join([str(tmp_path), str(repository_root()), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}

    def start(workers: int = 1) -> subprocess.Popen:
        command = [sys.executable, "-c", START, str(tmp_path / "log"), str(workers)]
        return subprocess.Popen(command, start_new_session=True, env=environment, stderr=subprocess.DEVNULL)

    return start


@pytest.mark.slow
def test_runs_on_one_cache_share_its_units_also_those_of_one_that_is_killed(tmp_path, cache, monkeypatch, start_run):
    log, victim, other = tmp_path / "log", start_run(), start_run()
    while len({pid for path in log.iterdir() for pid in path.read_text().split()}) < 2:  # both are at it
        assert victim.poll() is other.poll() is None
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.4))
    os.killpg(victim.pid, signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL  # else its claim would hold for SECONDS_OF_A_CLAIM
    walking = importlib.import_module("walking")
    results = study.run(walking.walk, walking.units(str(log)))  # one that comes late
    assert other.wait(60) == 0
    by_unit = [path.read_text().split() for path in sorted(log.iterdir())]
    assert len(by_unit) == 16 and {len(by) for by in by_unit} <= {1, 2}
    again = [by for by in by_unit if len(by) == 2]
    assert len(again) <= 1 and all(by[0] == str(victim.pid) for by in again)  # the one that it was at
    assert str(other.pid) in sum(by_unit, [])
    assert len(files(cache)) == 16 and not list(cache.rglob("*.claim"))
    monkeypatch.setenv("RFMI_CACHE", str(tmp_path / "undisturbed"))
    assert results == study.run(walking.walk, walking.units(str(log)))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path, cache, monkeypatch, start_run, workers):
    log, process = tmp_path / "log", start_run(workers)
    while len(files(cache)) < 3 and process.poll() is None:
        time.sleep(0.01)
    workers_of_it = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    psutil.wait_procs(workers_of_it, timeout=10)  # a write that one was in keeps it until it is done

    finished = files(cache)
    assert 3 <= len(finished) < 16
    assert all(json.loads(path.read_text())["result"] for path in finished)  # each is whole
    before = {path: path.stat().st_mtime_ns for path in finished}
    started = {path.name: path.read_text().count("\n") for path in log.iterdir()}

    walking = importlib.import_module("walking")
    units = walking.units(str(log))
    resumed = study.run(walking.walk, units)
    assert {path: path.stat().st_mtime_ns for path in finished} == before
    computed = {path.name: path.read_text().count("\n") for path in log.iterdir()}
    done = {json.loads(path.read_text())["parameters"]["seed"] for path in finished}
    assert all(computed[str(seed)] == started.get(str(seed), 0) + (seed not in done) for seed in range(16))
    assert not list(cache.rglob("*.tmp"))
    monkeypatch.setenv("RFMI_CACHE", str(tmp_path / "undisturbed"))
    assert resumed == study.run(walking.walk, units)
