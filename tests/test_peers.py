"""The driver and the tables of lab/benchmarks/, with small adaptors in the place of the other packages."""

import importlib
import json
import math
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from lab.paths import repository_root
from lab.oracles.tasks import TASKS

BENCHMARKS = repository_root() / "lab" / "benchmarks"
TASK = "1v1-normal-0.75"
TRUTH = TASKS[TASK].mutual_information
N = 60

CORRELATION = """
import math
import pathlib
import time
import numpy as np

PACKAGES = ("numpy",)

def estimate(x, y, seed, settings):
    with open(settings["calls"], "a") as file:
        file.write(f"{settings['name']} {seed}\\n")
    while pathlib.Path(settings.get("waits_for_the_end_of", "")).is_file():
        with open(settings["calls"] + ".waiting", "a") as file:
            file.write(".")
        time.sleep(0.05)
    value = -0.5 * math.log(1 - np.corrcoef(x[:, 0], y[:, 0])[0, 1] ** 2)
    curve = [{"steps": k, "seconds": 0.1 * k, "estimate": value * k / 2} for k in (1, 2)]
    excluded = settings.get("excluded", 0.0)
    return {"estimate": value, "curve": curve, "excluded_seconds": excluded, "details": {"seed": seed}}
"""
FAULTS = {
    "raises": ("raise ValueError('none in /some/folder/file.py')", "status 1: ValueError: none in file.py"),
    "gives nan": ("return {'estimate': float('nan')}", "not a finite number: nan"),
    "gives infinity": ("return {'estimate': float('inf')}", "not a finite number: inf"),
    "leaves without a result": ("os._exit(0)", "not a finite number: None"),
    "is killed": ("os.kill(os.getpid(), 9)", "signal 9"),
    "hangs": ("time.sleep(60)", "not finished within 2 seconds"),
}


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("peers")


@pytest.fixture
def tables(peers):
    return importlib.import_module("peer_tables")


@pytest.fixture
def measure(peers, tmp_path):
    """A function that runs named fake estimators, their adaptor's text given, and returns the records."""

    def run(names=("A", "B"), text=CORRELATION, settings=None, **options):
        adaptor = tmp_path / "adaptor.py"
        adaptor.write_text(text)
        common = {"calls": str(tmp_path / "calls.txt")} | (settings or {})
        estimators = {name: peers.Estimator("fake", common | {"name": name}) for name in names}
        chosen = {"tasks": (TASK,), "n": N, "seeds": (0,), "work": tmp_path / "work", "limit": 60.0} | options
        return peers.run(estimators, {"fake": peers.Environment(adaptor)}, **chosen)

    return run


def calls(tmp_path):
    return (tmp_path / "calls.txt").read_text().split("\n")[:-1]


def correlation_information(seed):
    x, y = TASKS[TASK].sample(N, seed)
    return -0.5 * math.log(1 - np.corrcoef(x[:, 0], y[:, 0])[0, 1] ** 2)


def test_every_estimator_gets_the_task_s_own_samples_and_seed(measure, tmp_path):
    records = measure(seeds=(0, 3))
    assert [(r["estimator"], r["seed"]) for r in records] == [("A", 0), ("B", 0), ("A", 3), ("B", 3)]
    for record in records:
        assert record["estimate"] == pytest.approx(correlation_information(record["seed"]), rel=1e-12)
        assert record["details"] == {"seed": record["seed"]} and record["truth"] == TRUTH and record["failure"] is None
        assert record["process_seconds"] > record["seconds"] > 0
        assert record["peak_mebibytes"] >= record["mebibytes_before"] > 1
        assert record["versions"]["numpy"] == np.__version__


def test_time_spent_on_the_curve_is_taken_out(measure):
    (record,) = measure(["A"], settings={"excluded": 5.0})
    assert -5.0 < record["seconds"] < 0  # the fake adaptor claims more than it took


def test_estimators_with_tasks_of_their_own_run_on_these_only(peers, measure, tmp_path):
    other = "1v1-bimodal-0.75"
    measure(["A"])
    adaptor = tmp_path / "adaptor.py"
    settings = {"calls": str(tmp_path / "calls.txt"), "name": "few"}
    estimators = {
        "few": peers.Estimator("fake", settings, (other,)),
        "all": peers.Estimator("fake", settings | {"name": "all"}),
    }
    environments = {"fake": peers.Environment(adaptor)}
    records = peers.run(estimators, environments, tasks=(TASK,), n=N, seeds=(0,), work=tmp_path / "work")
    assert {(r["estimator"], r["task"]) for r in records} == {("few", other), ("all", TASK)}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_is_kept_as_a_failure_and_not_as_a_number(measure, tables, tmp_path, fault):
    statement, reason = FAULTS[fault]
    text = f"import os, time\nPACKAGES = ()\ndef estimate(x, y, seed, settings):\n    {statement}\n"
    (good,) = measure(["good"])
    (bad,) = measure(["bad"], text=text, limit=2.0)
    assert bad["estimate"] is None and reason in bad["failure"]
    assert (measure(["bad"], text=text, limit=2.0)[0]["date"], bad["curve"]) == (bad["date"], [])

    tables.write_results(tmp_path / "out", [good, bad], {}, ours="good", error_floor=0.02)
    table = pd.read_csv(tmp_path / "out/table.csv").set_index("estimator")
    assert table.loc["bad", "failures"] == 1 and table.loc["good", "failures"] == 0
    assert table.loc["bad", ["error", "seconds_ratio", "error_ratio"]].isna().all()
    assert pd.read_csv(tmp_path / "out/error_against_time.csv")["estimator"].unique().tolist() == ["good"]
    units = json.loads((tmp_path / "out/results.json").read_text())["units"]
    assert [unit["estimate"] for unit in units] == [good["estimate"], None]


def test_a_finished_unit_is_not_measured_again(measure, tmp_path):
    first = measure()
    assert measure() == first and calls(tmp_path) == ["A 0", "B 0"]
    assert measure(["A", "B", "C"])[:2] == first and calls(tmp_path) == ["A 0", "B 0", "C 0"]


@pytest.mark.parametrize("change", ["settings", "samples", "code"])
def test_what_was_measured_otherwise_is_measured_again(measure, tmp_path, change):
    measure(["A"])
    again = {
        "settings": {"settings": {"excluded": 1e-6}},
        "samples": {"n": N + 1},
        "code": {"text": CORRELATION + "\nFACTOR = 2\n"},
    }
    measure(["A"], **again[change])
    assert calls(tmp_path) == ["A 0", "A 0"]


def test_failures_are_measured_again_where_that_is_asked(measure, tmp_path):
    gate = tmp_path / "open"
    text = f"{CORRELATION}\nwhen_open = estimate\n" + (
        f"def estimate(x, y, seed, settings):\n    open({str(gate)!r})\n    return when_open(x, y, seed, settings)\n"
    )
    assert "FileNotFoundError" in measure(["A"], text=text)[0]["failure"]
    gate.write_text("")
    assert measure(["A"], text=text)[0]["estimate"] is None
    (again,) = measure(["A"], text=text, retry_failed=True)
    assert again["estimate"] == pytest.approx(correlation_information(0), rel=1e-12)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_where_it_was(measure, tmp_path, ending):
    gate = tmp_path / "gate"
    settings = {"waits_for_the_end_of": str(gate), "calls": str(tmp_path / "calls.txt")}
    (tmp_path / "adaptor.py").write_text(CORRELATION)
    script = f"""
import pathlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background inherits that it is ignored
sys.path.insert(0, {str(BENCHMARKS)!r})
import peer_runs
settings = {settings!r}
estimators = {{name: peer_runs.Estimator("fake", settings | {{"name": name}}) for name in ("A", "B")}}
gate, done = pathlib.Path({str(gate)!r}), peer_runs.Unit.write
def write(self, result):
    gate.write_text("")  # the next unit will wait
    return done(self, result)
peer_runs.Unit.write = write
peer_runs.run(estimators, {{"fake": peer_runs.Environment(pathlib.Path({str(tmp_path / "adaptor.py")!r}))}},
          tasks=({TASK!r},), n={N}, seeds=(0,), work=pathlib.Path({str(tmp_path / "work")!r}), limit=60.0)
"""
    driver = subprocess.Popen([sys.executable, "-c", script], cwd=repository_root(), stderr=subprocess.DEVNULL)
    patience = time.monotonic() + 60
    while not (tmp_path / "calls.txt").is_file() or calls(tmp_path) != ["A 0", "B 0"]:
        assert driver.poll() is None and time.monotonic() < patience
        time.sleep(0.05)
    driver.send_signal(ending)
    driver.wait(timeout=30)
    heartbeat, beats = tmp_path / "calls.txt.waiting", -1
    while beats != heartbeat.stat().st_size:  # the unit's process ends with the driver, even where that was killed
        assert time.monotonic() < patience
        beats = heartbeat.stat().st_size
        time.sleep(0.5)
    gate.unlink()
    records = measure(settings=settings)
    assert calls(tmp_path) == ["A 0", "B 0", "B 0"]  # A was finished and is not repeated, B was not
    assert [record["estimate"] for record in records] == [pytest.approx(correlation_information(0), rel=1e-12)] * 2
    assert all(record["failure"] is None for record in records)


def record(estimator, error, seconds, *, task=TASK, curve=(), settings=None):
    """A finished unit whose estimate is off by `error`, or a failure where that is None."""
    failed = error is None
    return {
        "estimator": estimator,
        "task": task,
        "n": N,
        "seed": 0,
        "truth": 1.0,
        "environment": "fake",
        "settings": settings or {},
        "estimate": None if failed else 1.0 + error,
        "failure": "broken" if failed else None,
        "seconds": None if failed else seconds,
        "process_seconds": seconds + 1.0,
        "peak_mebibytes": None if failed else 100.0 * seconds,
        "mebibytes_before": None if failed else 50.0,
        "interval": None,
        "details": {},
        "versions": {},
        "date": "",
        "curve": [{"steps": k, "seconds": s, "estimate": 1.0 + e} for k, (s, e) in enumerate(curve, start=1)],
    }


def test_ratios_compare_the_same_samples(tables):
    records = [
        record("ours", 0.01, 2.0),
        record("ours", -0.09, 4.0, task="second"),
        record("ours", 0.5, 1.0, task="third"),
        record("peer", -0.02, 20.0),
        record("peer", 0.18, 10.0, task="second"),
        record("peer", None, 1.0, task="third"),
    ]
    table = tables.estimators_table(tables.units_table(records), "ours").set_index("estimator")
    peer, ours = table.loc["peer"], table.loc["ours"]
    assert list(table.index) == ["peer", "ours"]  # best mean error first: 0.1 against 0.2
    assert (peer["units"], peer["failures"], peer["units_shared_with_ours"]) == (3, 1, 2)
    assert peer["error"] == pytest.approx(0.10) and peer["our_error_there"] == pytest.approx(0.05)
    assert peer["error_ratio"] == pytest.approx(2.0)
    assert peer["seconds_ratio"] == pytest.approx(5.0)
    assert peer["memory_ratio"] == pytest.approx(5.0)
    assert (ours["error_ratio"], ours["seconds_ratio"], ours["memory_ratio"]) == (1.0, 1.0, 1.0)


CURVES = {  # readings (seconds, error); the first time within 0.1; the time from when on it stays there, None for never
    "comes and stays": ([(1, -0.9), (2, -0.05), (4, 0.05)], 2, 2),
    "crosses and comes back": ([(1, -0.9), (2, 0.0), (4, 0.3), (8, 0.09)], 2, 8),
    "crosses and leaves": ([(1, -0.9), (2, 0.0), (4, 0.3)], 2, None),
    "never": ([(1, -0.9), (2, -0.5), (4, -0.3)], None, None),
    "from the beginning": ([(1, 0.0), (2, 0.05), (4, -0.05)], 1, 1),
}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize(("our_error", "floor"), [(-0.1, 0.0), (0.001, 0.1)], ids=["ours", "floor"])
def test_the_time_to_our_error(tables, curve, our_error, floor):
    points, first, kept = CURVES[curve]
    records = [record("ours", our_error, 0.5), record("peer", 0.0, 9.0, curve=points, settings={"seconds": 4})]
    (row,) = tables.time_to_our_error(records, "ours", floor + 1e-9).to_dict("records")
    last = points[-1][0]
    for reading, reached in (("first", first), ("kept", kept)):
        assert row[f"{reading}_is_lower_bound"] == (reached is None)
        assert row[f"{reading}_ratio"] == (last if reached is None else reached) / 0.5
        assert pd.isna(row[f"{reading}_seconds"]) if reached is None else row[f"{reading}_seconds"] == reached
    assert (row["ended_by"], row["training_seconds"]) == ("clock", last)


def test_without_our_estimate_there_is_nothing_to_compare(tables, tmp_path):
    records = [record("ours", None, 1.0), record("peer", 0.1, 9.0, curve=[(1, 0.0)])]
    assert tables.time_to_our_error(records, "ours", 0.02).empty
    peer = tables.estimators_table(tables.units_table(records), "ours").set_index("estimator").loc["peer"]
    assert peer["units_shared_with_ours"] == 0 and math.isnan(peer["seconds_ratio"])


def test_the_curve_table_has_one_row_a_reading(tables):
    records = [record("ours", 0.01, 2.0), record("peer", 0.2, 9.0, curve=[(1, -0.5), (2, 0.25)])]
    table = tables.error_against_time(records)
    assert table["error"].tolist() == pytest.approx([0.01, 0.5, 0.25])
    assert table["seconds"].tolist() == [2.0, 1.0, 2.0]
    assert table["steps"].isna().tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--estimators", "MINDER"], "MINDE"),
        (["--tasks", "1v1-norml-0.75"], "1v1-normal-0.75"),
        (["--minde-tasks", "1v1-bimodal-0.75"], "there is no task among --tasks named"),
        (["--seeds", "0,one"], "one"),
        (["--minde-seconds", "900"], "at least 1140"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_runs(peers, capsys, cache, arguments, said):
    with pytest.raises(SystemExit):
        peers.main(arguments)
    assert said in capsys.readouterr().err and not cache.exists()


def test_the_default_tasks_are_tasks(peers):
    options = peers.parse([])
    assert set(options.minde_tasks) <= set(options.tasks) <= set(TASKS) and len(options.minde_tasks) == 4
    assert peers.parse(["--tasks", f"{TASK},1v1-bimodal-0.75"]).minde_tasks == (TASK,)


def test_paths_are_cut_to_their_last_part(peers):
    slash = "/"
    text = f"open {slash}home{slash}someone{slash}data.npz, --output data/peers of a/b/c"
    assert peers.without_folders(text) == "open data.npz, --output data/peers of a/b/c"


@pytest.mark.parametrize("name", ["CCA", "MINE", "InfoNCE", "MINDE"])
def test_the_other_packages_themselves(peers, tmp_path, name):
    estimator = peers.known_estimators(1.0, (TASK,), True)[name]
    if not peers.ENVIRONMENTS[estimator.environment].is_made():
        pytest.skip("its environment is not made; python lab/benchmarks/peers.py --smoke makes it")
    sample = {"tasks": (TASK,), "n": 500, "seeds": (0,)}
    (unit,) = peers.run({name: estimator}, peers.ENVIRONMENTS, work=tmp_path, limit=120.0, **sample)
    assert unit["failure"] is None and unit["versions"]["python"]
    assert abs(unit["estimate"] - TRUTH) <= TRUTH + 0.1  # a few steps: an estimate, not yet a good one
    assert bool(unit["curve"]) == (name != "CCA")
