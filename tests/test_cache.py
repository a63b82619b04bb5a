"""The cache of finished units: nothing repeated, nothing half-written believed, and a killed run goes on to the same
numbers.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from lab.study import cache as cache_module
from lab.study.cache import Cache, code_version, is_running, remove_leftovers, run_units

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


def files(cache: Cache) -> list[Path]:
    return sorted(cache.folder.rglob("*.json"))


def test_fresh_kept_and_parallel_results_are_the_same(tmp_path):
    here, there = Cache(tmp_path / "here"), Cache(tmp_path / "there")
    fresh = run_units(draw, UNITS, kind="draw", cache=here)
    assert run_units(draw, UNITS, kind="draw", cache=here) == fresh
    assert run_units(draw, UNITS, kind="draw", cache=there, workers=2) == fresh
    expected = torch.randn(5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert fresh[3]["values"] == expected.tolist()  # every digit
    assert fresh[3]["pair"] == [1, 2.5] and fresh[3]["threads"] == 1


def test_nothing_is_computed_twice(tmp_path):
    cache, log = Cache(tmp_path / "cache"), tmp_path / "log"
    log.mkdir()
    units = [{"folder": str(log), **unit} for unit in UNITS]
    assert run_units(counted, units[:2] + units[:2], kind="counted", cache=cache) == [0, 1 / 7, 0, 1 / 7]
    assert run_units(counted, units[::-1], kind="counted", cache=cache) == [3 / 7, 2 / 7, 1 / 7, 0]
    assert [path.read_text() for path in log.iterdir()] == ["computed\n"] * 4
    assert len(files(cache)) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"n": 5', '"n": 6'),
        lambda text: json.dumps({**json.loads(text), "result": {"mean": 0.0}}),
        lambda text: json.dumps({**json.loads(text), "code_version": "another"}),
        lambda text: "[1, 2]",
        lambda text: "null",
    ],
    ids=["empty", "cut short", "other parameters", "other result", "other code", "a list", "null"],
)
def test_a_damaged_file_is_computed_again(tmp_path, damage):
    cache = Cache(tmp_path)
    expected = run_units(draw, UNITS[:1], kind="draw", cache=cache)
    (path,) = files(cache)
    whole = path.read_text()
    path.write_text(damage(whole))
    assert cache.read("draw", UNITS[0]) == (False, None)
    assert run_units(draw, UNITS[:1], kind="draw", cache=cache) == expected
    assert path.read_text() == whole


def test_the_key_holds_kind_parameters_seed_and_code(tmp_path):
    cache = Cache(tmp_path, code_version="1")
    paths = {
        cache.path("draw", {"n": 5, "seed": 0}),
        cache.path("other", {"n": 5, "seed": 0}),
        cache.path("draw", {"n": 6, "seed": 0}),
        cache.path("draw", {"n": 5, "seed": 1}),
        Cache(tmp_path, code_version="2").path("draw", {"n": 5, "seed": 0}),
    }
    assert len(paths) == 5
    assert cache.path("draw", {"seed": 0, "n": 5}) in paths  # the order does not matter
    cache.write("draw", {"n": 5, "seed": 0}, 1.0)
    assert json.loads(files(cache)[0].read_text())["parameters"] == {"n": 5, "seed": 0}


def test_code_version_follows_the_source(tmp_path, monkeypatch):
    module = tmp_path / "some_study_module.py"
    monkeypatch.syspath_prepend(tmp_path)
    module.write_text("A = 1\n")
    first = code_version("some_study_module", cache_module)
    assert first == code_version("some_study_module", cache_module) != code_version(cache_module)
    module.write_text("A = 2\n")
    assert code_version("some_study_module", cache_module) != first


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_names_its_unit_and_keeps_what_is_finished(tmp_path, workers):
    cache = Cache(tmp_path)

    def fails_late(n: int, seed: int) -> int:
        if seed == 2:
            raise ArithmeticError("no mean here")
        return seed

    with pytest.raises(ArithmeticError, match="no mean here") as raised:
        run_units(fails_late, UNITS, kind="late", cache=cache, workers=workers)
    assert '"seed":2' in raised.value.__notes__[0]
    assert cache.read("late", UNITS[0]) == (True, 0) and cache.read("late", UNITS[2]) == (False, None)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"workers": 0}, ValueError, "at least 1, got 0"),
        ({"kind": "../draw"}, ValueError, "use letters, digits"),
        ({"units": [{"n": object(), "seed": 1}]}, TypeError, "got object; convert it first"),
        ({"function": lambda n, seed: {1, 2}}, TypeError, "got set; convert it first"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(tmp_path, change, error, message):
    arguments = {"function": draw, "units": UNITS, "kind": "draw", "workers": 1, **change}
    with pytest.raises(error, match=message):
        run_units(cache=Cache(tmp_path), **arguments)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_ended_process_does_not_run_though_nobody_has_asked_after_it():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_running(process.pid) and is_running(os.getpid())
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    assert not is_running(process.pid)
    process.wait()
    assert not is_running(process.pid)


def test_only_leftovers_of_ended_writers_are_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for process in (ended.pid, os.getpid()):
        (tmp_path / f"unit.json.{process}.tmp").write_text("{")
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"unit.json.{os.getpid()}.tmp"]


SCRIPT = """
import sys, time
from pathlib import Path
from lab.study.cache import Cache, run_units

def walk(n, seed, log):
    import torch
    path = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).cumsum(0)
    with open(Path(log) / str(seed), "a") as file:
        file.write("computed\\n")
    time.sleep(0.15)
    return {"end": path[-1], "path": path}

def units(log):
    return [{"n": 2000, "seed": seed, "log": log} for seed in range(16)]

if __name__ == "__main__":
    run_units(walk, units(sys.argv[2]), kind="walk", cache=Cache(sys.argv[1], "1"), workers=int(sys.argv[3]))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path, monkeypatch, workers):
    (tmp_path / "walking.py").write_text(SCRIPT)
    log = tmp_path / "log"
    log.mkdir()
    cache = Cache(tmp_path / "cache", "1")
    command = [sys.executable, str(tmp_path / "walking.py"), str(cache.folder), str(log), str(workers)]
    paths = os.pathsep.join([str(Path(cache_module.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command, start_new_session=True, env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.DEVNULL
    )
    while len(files(cache)) < 3 and process.poll() is None:
        time.sleep(0.01)
    workers_of_it = [worker.pid for worker in psutil.Process(process.pid).children(recursive=True)]
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    while any(is_running(worker) for worker in workers_of_it):  # a write that it was in keeps it until it is done
        time.sleep(0.01)

    finished = files(cache)
    assert 3 <= len(finished) < 16
    assert all(json.loads(path.read_text())["result"] for path in finished)  # each is whole
    before = {path: path.stat().st_mtime_ns for path in finished}
    started = {path.name: path.read_text().count("\n") for path in log.iterdir()}

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "walking", raising=False)
    walking = importlib.import_module("walking")
    units = walking.units(str(log))
    resumed = run_units(walking.walk, units, kind="walk", cache=cache, workers=1)
    assert {path: path.stat().st_mtime_ns for path in finished} == before
    computed = {path.name: path.read_text().count("\n") for path in log.iterdir()}
    done = {json.loads(path.read_text())["parameters"]["seed"] for path in finished}
    assert all(computed[str(seed)] == started.get(str(seed), 0) + (seed not in done) for seed in range(16))
    assert not list(cache.folder.rglob("*.tmp"))
    assert resumed == run_units(walking.walk, units, kind="walk", cache=Cache(tmp_path / "undisturbed", "1"))
