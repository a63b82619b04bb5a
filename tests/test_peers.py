"""The runs and the tables of lab/benchmarks/, with a small adaptor in the place of the packages."""

import json
import math
import os
import platform
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from lab.benchmarks import peer_runs, peer_tables, peers
from lab.oracles.pairs import KEPT_ASIDE, KIND_OF, KINDS, PAIRS, has_labels
from lab.oracles.tasks import TASKS
from lab.paths import data_folder, repository_root

TASK = "1v1-normal-0.75"
TRUTH = TASKS[TASK].mutual_information
N = 60
TABLES = ("table", "units", "error_against_time", "time_to_our_error")

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
    "raises": ("raise ValueError('none in /some/folder/file.py')", "ended with status 1: ValueError: none in file.py"),
    "gives nan": ("return {'estimate': float('nan')}", "gave no finite number"),
    "gives infinity": ("return {'estimate': float('inf')}", "gave no finite number"),
    "leaves without a result": ("os._exit(0)", "gave no finite number"),
    "is killed": ("os.kill(os.getpid(), 9)", "ended with status -9: no message"),
    "hangs": ("time.sleep(60)", "not finished within 2 seconds"),
}


@pytest.fixture
def adaptor(monkeypatch, tmp_path):
    """The file of the adaptor that takes the place of ours, with its text in it."""
    monkeypatch.setattr(peer_runs, "ADAPTORS", str(tmp_path))
    file = tmp_path / "ours.py"
    file.write_text(CORRELATION)
    return file


@pytest.fixture
def measure(adaptor, tmp_path):
    """A function that measures one unit by the adaptor, with further settings, and returns the record."""

    def run(name="A", seed=0, n=N, **settings):
        settings = {"calls": str(tmp_path / "calls.txt"), "name": name} | settings
        unit = {"environment": "ours", "settings": settings, "task": TASK, "n": n, "seed": seed}
        return {"estimator": name} | peer_runs.measured(unit)

    return run


def calls(tmp_path):
    return (tmp_path / "calls.txt").read_text().split("\n")[:-1]


def correlation_information(seed):
    x, y = TASKS[TASK].sample(N, seed)
    return -0.5 * math.log(1 - np.corrcoef(x[:, 0], y[:, 0])[0, 1] ** 2)


@pytest.mark.parametrize("seed", [0, 3])
def test_every_estimator_gets_the_task_s_own_samples_and_seed(measure, seed):
    for record in (measure("A", seed), measure("B", seed)):
        assert record["estimate"] == pytest.approx(correlation_information(seed), rel=1e-12)
        assert record["details"] == {"seed": seed} and record["truth"] == TRUTH and record["failure"] is None
        assert record["process_seconds"] > record["seconds"] > 0
        assert record["peak_mebibytes"] >= record["mebibytes_before"] > 1
        assert record["versions"]["numpy"] == np.__version__


def test_memory_is_that_of_the_estimate(measure, adaptor):
    before = measure()
    adaptor.write_text(CORRELATION.replace("    value =", "    np.ones(2**25).sum()\n    value ="))
    more = measure()
    added = [record["peak_mebibytes"] - record["mebibytes_before"] for record in (before, more)]
    assert added[0] < 100 and added[1] == pytest.approx(256, abs=50)


def test_our_own_imports_are_made_before_the_clock_starts():
    told = "import ours, sys; print('torch' in sys.modules)"
    folder = repository_root() / peer_runs.ADAPTORS
    variables = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{repository_root()}"}
    ended = subprocess.run([sys.executable, "-c", told], env=variables, capture_output=True, text=True)
    assert ended.stdout == "True\n"


def test_time_spent_on_the_curve_is_taken_out(measure):
    assert -5.0 < measure(excluded=5.0)["seconds"] < 0  # the adaptor claims more than it took


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_is_kept_as_a_failure_and_not_as_a_number(measure, adaptor, monkeypatch, tmp_path, fault):
    statement, reason = FAULTS[fault]
    good = measure("RFMI")
    adaptor.write_text(f"import os, time\nPACKAGES = ()\ndef estimate(x, y, seed, settings):\n    {statement}\n")
    monkeypatch.setattr(peer_runs, "LIMIT", 2.0)
    bad = measure("bad")
    assert (bad["estimate"], bad["failure"], bad["curve"]) == (None, reason, [])
    monkeypatch.setattr(peer_runs, "told_by", None)  # nothing is measured any more
    assert measure("bad") == bad

    peer_tables.write_results(tmp_path / "out", [good, bad], {})
    table = pd.read_csv(tmp_path / "out/table.csv").set_index("estimator")
    assert table.loc["bad", "failures"] == 1 and table.loc["RFMI", "failures"] == 0
    assert table.loc["bad", ["error", "seconds_ratio", "error_ratio"]].isna().all()
    assert pd.read_csv(tmp_path / "out/error_against_time.csv")["estimator"].unique().tolist() == ["RFMI"]
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert [unit["estimate"] for unit in results["units"]] == [good["estimate"], None]
    assert results["provenance"]["environments"]["ours"]["python"] == platform.python_version()


def test_a_finished_unit_is_not_measured_again(measure, tmp_path):
    first = measure()
    assert measure() == first and calls(tmp_path) == ["A 0"]


@pytest.mark.parametrize("change", ["settings", "sample", "code"])
def test_what_was_measured_otherwise_is_measured_again(measure, adaptor, tmp_path, change):
    measure()
    if change == "code":
        adaptor.write_text(CORRELATION + "\nFACTOR = 2\n")
    measure(**{"settings": {"excluded": 1e-6}, "sample": {"n": N + 1}, "code": {}}[change])
    assert calls(tmp_path) == ["A 0", "A 0"]


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_where_it_was(measure, tmp_path, ending):
    gate = tmp_path / "gate"
    gate.write_text("")  # B waits for its end
    settings = {"A": {}, "B": {"waits_for_the_end_of": str(gate)}}
    common = {"calls": str(tmp_path / "calls.txt")}
    script = f"""
import signal
from lab.benchmarks import peer_runs
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background inherits that it is ignored
peer_runs.ADAPTORS = {str(tmp_path)!r}
for name, own in {settings!r}.items():
    settings = {common!r} | {{"name": name}} | own
    peer_runs.measured({{"environment": "ours", "settings": settings, "task": {TASK!r}, "n": {N}, "seed": 0}})
"""
    driver = subprocess.Popen([sys.executable, "-c", script], cwd=repository_root(), stderr=subprocess.DEVNULL)
    heartbeat, beats = tmp_path / "calls.txt.waiting", -1
    patience = time.monotonic() + 60
    while not heartbeat.is_file():
        assert driver.poll() is None and time.monotonic() < patience
        time.sleep(0.05)
    driver.send_signal(ending)
    driver.wait(timeout=30)
    while beats != heartbeat.stat().st_size:  # the unit's process ends with the driver, even where that was killed
        assert time.monotonic() < patience
        beats = heartbeat.stat().st_size
        time.sleep(0.5)
    gate.unlink()
    records = [measure(name, **own) for name, own in settings.items()]
    assert calls(tmp_path) == ["A 0", "B 0", "B 0"]  # A was finished and is not repeated, B was not
    assert [record["estimate"] for record in records] == [pytest.approx(correlation_information(0), rel=1e-12)] * 2
    assert all(record["failure"] is None for record in records)


def test_the_command_measures_what_it_is_asked_for(adaptor, monkeypatch, tmp_path):
    other, kept = "1v1-bimodal-0.75", os.sched_getaffinity(0)
    settings = {"calls": str(tmp_path / "calls.txt")}
    fakes = {name: ("ours", settings | {"name": name}) for name in ("RFMI", "MINE", "MINDE")}
    fakes["MINDE"][1]["seconds"] = 240.0
    monkeypatch.setattr(peers, "ESTIMATORS", fakes)
    asked = ["--tasks", TASK, other, "--minde-tasks", other, "--minde-seconds", "7", "--n", str(N), "--seeds", "1", "2"]
    try:
        peers.main([*asked, "--output", str(tmp_path / "out")])
    finally:
        os.sched_setaffinity(0, kept)
    units = pd.read_csv(tmp_path / "out/units.csv")
    expected = [(name, task, seed) for task in (TASK, other) for seed in (1, 2) for name in fakes]
    expected = [unit for unit in expected if unit[:2] != ("MINDE", TASK)]
    assert list(units[["estimator", "task", "seed"]].itertuples(index=False, name=None)) == expected
    assert set(units["n"]) == {N} and set(units.query("ended_by == 'clock'")["estimator"]) == {"MINDE"}
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert {unit["settings"]["seconds"] for unit in results["units"] if unit["estimator"] == "MINDE"} == {7.0}
    assert results["provenance"]["command"].startswith("python -m lab.benchmarks.peers --tasks")


SHAPES = """
PACKAGES = ("numpy",)

def estimate(x, y, seed, settings):
    if y.ndim == 1:
        raise ValueError("labels")
    return {"estimate": float(y.shape[1]), "details": {"sums": y.sum(axis=1).tolist(), "kind": y.dtype.kind}}
"""


def test_the_others_get_labels_as_one_hot_columns_and_ours_as_they_are(adaptor, monkeypatch, tmp_path):
    labels = next(name for name, task in PAIRS.items() if has_labels(task))
    for name in ("ours", "other"):
        (tmp_path / f"{name}.py").write_text(SHAPES)
    (tmp_path / "other.txt").write_text("")
    monkeypatch.setattr(peer_runs, "python_of", lambda environment: sys.executable)
    unit = {"settings": {}, "task": labels, "n": N, "seed": 0}
    other, ours = (peer_runs.measured(unit | {"environment": name}) for name in ("other", "ours"))
    assert other["estimate"] == len(set(PAIRS[labels].sample(N, 0)[1].tolist())) > 1
    assert other["details"] == {"sums": [1.0] * N, "kind": "f"}
    assert (ours["estimate"], ours["failure"]) == (None, "ended with status 1: ValueError: labels")
    assert other["truth"] == PAIRS[labels].mutual_information


def test_pairs_by_kind_go_to_a_table_of_their_own(adaptor, monkeypatch, tmp_path):
    kept = os.sched_getaffinity(0)
    settings = {"calls": str(tmp_path / "calls.txt")}
    fakes = {name: ("ours", settings | {"name": name}) for name in ("InfoNCE", "MINDE")}
    fakes["MINDE"][1]["seconds"] = 240.0
    monkeypatch.setattr(peers, "ESTIMATORS", fakes)
    monkeypatch.setattr(peers, "ROUNDS", [("two moons",), ("turned bodies",)])
    adaptor.write_text(SHAPES)
    try:
        peers.main(["--pairs", "--n", str(N), "--output", str(tmp_path / "out")])
    finally:
        os.sched_setaffinity(0, kept)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["by_kind.csv", "by_kind.json"]
    table = pd.read_csv(tmp_path / "out/by_kind.csv")
    rows = table[["estimator", "kind", "pair", "n", "seed"]].itertuples(index=False, name=None)
    assert list(rows) == [
        ("InfoNCE", "labels", "two moons", N, 0),
        ("MINDE", "labels", "two moons", N, 0),
        ("InfoNCE", "manifolds", "turned bodies", N, 0),
    ]
    assert table["value"].isna().tolist() == table["failure"].notna().tolist() == [True, True, False]
    made = json.loads((tmp_path / "out/by_kind.json").read_text())
    assert made["provenance"]["command"].startswith("python -m lab.benchmarks.peers --pairs")
    assert [unit["estimate"] for unit in made["units"]] == [None, None, 9.0]


def test_a_round_has_a_pair_of_each_kind_and_together_they_are_those_kept_aside():
    assert all([KIND_OF[name] for name in names] == list(KINDS) for names in peers.ROUNDS)
    assert sorted(sum(peers.ROUNDS, ())) == sorted(KEPT_ASIDE)


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


def test_ratios_compare_the_same_samples():
    records = [
        record("RFMI", 0.01, 2.0),
        record("RFMI", -0.09, 4.0, task="second"),
        record("RFMI", 0.5, 1.0, task="third"),
        record("peer", -0.02, 20.0),
        record("peer", 0.18, 10.0, task="second"),
        record("peer", None, 1.0, task="third"),
    ]
    table = peer_tables.estimators_table(peer_tables.units_table(records)).set_index("estimator")
    peer, ours = table.loc["peer"], table.loc["RFMI"]
    assert list(table.index) == ["peer", "RFMI"]  # best mean error first: 0.1 against 0.2
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
def test_the_time_to_our_error(curve, our_error, floor):
    points, first, kept = CURVES[curve]
    records = [record("RFMI", our_error, 0.5), record("peer", 0.0, 9.0, curve=points, settings={"seconds": 4})]
    units, readings = peer_tables.units_table(records), peer_tables.error_against_time(records)
    (row,) = peer_tables.time_to_our_error(units, readings, floor + 1e-9).to_dict("records")
    last = points[-1][0]
    for reading, reached in (("first", first), ("kept", kept)):
        assert row[f"{reading}_is_lower_bound"] == (reached is None)
        assert row[f"{reading}_ratio"] == (last if reached is None else reached) / 0.5
        assert pd.isna(row[f"{reading}_seconds"]) if reached is None else row[f"{reading}_seconds"] == reached
    assert (row["ended_by"], row["training_seconds"]) == ("clock", last)


def test_without_our_estimate_there_is_nothing_to_compare():
    records = [record("RFMI", None, 1.0), record("peer", 0.1, 9.0, curve=[(1, 0.0)])]
    units, readings = peer_tables.units_table(records), peer_tables.error_against_time(records)
    assert peer_tables.time_to_our_error(units, readings).empty
    peer = peer_tables.estimators_table(units).set_index("estimator").loc["peer"]
    assert peer["units_shared_with_ours"] == 0 and math.isnan(peer["seconds_ratio"])


def test_the_curve_table_has_one_row_a_reading():
    records = [record("RFMI", 0.01, 2.0), record("peer", 0.2, 9.0, curve=[(1, -0.5), (2, 0.25)])]
    table = peer_tables.error_against_time(records)
    assert table["error"].tolist() == pytest.approx([0.01, 0.5, 0.25])
    assert table["seconds"].tolist() == [2.0, 1.0, 2.0]
    assert table["steps"].isna().tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--estimators", "MINDER"], "MINDE"),
        (["--tasks", "1v1-norml-0.75"], "1v1-normal-0.75"),
        (["--minde-tasks", "1v1-norml-0.75"], "1v1-normal-0.75"),
        (["--seeds", "0", "one"], "one"),
        (["--pair"], "--pair"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_runs(capsys, cache, arguments, said):
    with pytest.raises(SystemExit):
        peers.main(arguments)
    assert said in capsys.readouterr().err and not cache.exists()


def test_the_committed_tables_are_those_of_the_committed_units(tmp_path):
    committed = data_folder() / "peers"
    results = json.loads((committed / "results.json").read_text())
    peer_tables.write_results(tmp_path, [unit | {"versions": {}} for unit in results["units"]], {})
    for name in TABLES:
        assert (tmp_path / f"{name}.csv").read_text() == (committed / f"{name}.csv").read_text()
    made = json.loads((tmp_path / "results.json").read_text())
    assert all(made[name] == results[name] for name in ("error_floor", "table", "units"))


def test_the_command_alone_asks_for_the_committed_units():
    units = pd.read_csv(data_folder() / "peers" / "units.csv")
    assert set(units["estimator"]) == set(peers.ESTIMATORS) - {"MMG"}
    for name, tasks in units.groupby("estimator")["task"]:
        assert tuple(tasks) == (peers.MINDE_TASKS if name == "MINDE" else peers.ALL_TASKS)


@pytest.mark.slow
def test_an_environment_of_its_own_is_made_and_made_again(monkeypatch, tmp_path):
    monkeypatch.setattr(peer_runs, "ROOT", tmp_path)
    monkeypatch.setattr(peer_runs, "ADAPTORS", "")
    (tmp_path / "small.txt").write_text("# asks for nothing\n")
    for _ in range(2):
        peer_runs.python_of.cache_clear()
        python = peer_runs.python_of("small")
        told = subprocess.run([python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True)
        assert told.stdout.strip() == str(tmp_path / ".venv-peers-small")


@pytest.mark.parametrize("name", ["CCA", "MINE", "InfoNCE", "MINDE", "MMG"])
def test_the_other_packages_themselves(name):
    environment, settings = peers.ESTIMATORS[name]
    if not (repository_root() / f".venv-peers-{environment}").is_dir():
        pytest.skip("its environment is not made; python -m lab.benchmarks.peers makes it")
    settings = settings | ({"seconds": 1.0} if "seconds" in settings else {})
    unit = {"environment": environment, "settings": settings, "task": TASK, "n": 1000, "seed": 0}
    record = peer_runs.measured(unit)
    assert record["failure"] is None and record["versions"]["python"]
    bound = {"CCA": 0.1, "MMG": 2.0}.get(name, TRUTH + 0.1)  # of few steps: an estimate, not yet a good one
    assert abs(record["estimate"] - TRUTH) <= bound
    assert bool(record["curve"]) == (name != "CCA")
