"""Notebook 02's recorded numbers: of the forty tasks, of the pairs kept aside and of nothing else, and those of its
sentences."""

import json

import nbformat
import pandas as pd
import pytest

import rfmi
from lab.oracles.pairs import KEPT_ASIDE, KIND_OF, KINDS, PAIRS, has_labels
from lab.oracles.tasks import TASKS
from lab.paths import data_folder, notebooks_folder, repository_root


@pytest.fixture(scope="module")
def recorded():
    text = (repository_root() / "reports" / "results" / "mi_benchmark.json").read_text(encoding="utf-8")
    return json.loads(text)


@pytest.fixture(scope="module")
def estimates(recorded):
    return pd.DataFrame(recorded["estimates"])


@pytest.fixture(scope="module")
def aside(recorded):
    return pd.DataFrame(recorded["pairs"])


def test_every_task_is_there_with_its_truth_and_an_interval_around_its_value(estimates):
    truth = estimates.task.map(lambda task: TASKS[task].mutual_information)
    assert estimates.true.tolist() == pytest.approx(truth.tolist(), rel=1e-12)
    assert set(estimates.task) == set(TASKS)
    assert not estimates.duplicated(["task", "n", "seed"]).any()
    assert estimates.value.between(estimates.low, estimates.high, inclusive="neither").all()


def test_the_summary_is_that_of_the_estimates(recorded, estimates):
    error = (estimates.value - estimates.true).abs()
    by_n = error.groupby(estimates.n).mean()
    assert {int(n): mean for n, mean in recorded["mae"].items()} == pytest.approx(by_n.to_dict(), rel=1e-5)
    inside = estimates.true.between(estimates.low, estimates.high).groupby(estimates.n).mean()
    assert {int(n): share for n, share in recorded["coverage"].items()} == pytest.approx(inside.to_dict())


def test_the_halves_are_twenty_tasks_each_and_their_errors_those_of_the_estimates(recorded, estimates):
    bent = estimates.task.str.contains("additive|student|spiral|swissroll")
    assert estimates[~bent].task.nunique() == estimates[bent].task.nunique() == 20
    for half, part in (("Gaussian", estimates[~bent]), ("not Gaussian", estimates[bent])):
        for name, column in (("mae", "value"), ("flow_mae", "flow"), ("copula_mae", "copula")):
            means = (part[column] - part.true).abs().groupby(part.n).mean()
            found = {int(n): row[name] for n, row in recorded["gaussian_halves"][half].items()}
            assert found == pytest.approx(means.to_dict())


def test_the_second_experiment_is_of_the_pairs_kept_aside_with_their_truths(aside):
    assert set(aside.pair) == KEPT_ASIDE and not aside.duplicated(["pair", "n", "seed"]).any()
    truth = aside.pair.map(lambda pair: PAIRS[pair].mutual_information)
    assert aside.true.tolist() == pytest.approx(truth.tolist(), rel=1e-12)
    assert aside.kind.tolist() == aside.pair.map(KIND_OF).tolist()
    assert aside.value.between(aside.low, aside.high, inclusive="neither").all()


@pytest.mark.parametrize(("table", "by"), [("beyond", "n"), ("by_kind", "kind")])
def test_its_tables_are_those_of_its_estimates(recorded, aside, table, by):
    groups = {str(key): part for key, part in aside.groupby(by)}
    assert recorded[table].keys() == groups.keys() and (by == "n" or groups.keys() == KINDS.keys())
    for key, part in groups.items():
        found = recorded[table][key]
        for name, column in (("mae", "value"), ("ksg_mae", "ksg")):
            assert found[name] == pytest.approx((part[column] - part.true).abs().mean())
        assert found["coverage"] == pytest.approx(part.true.between(part.low, part.high).mean())
        if by == "n":
            assert found["median_width"] == pytest.approx((part.high - part.low).median())


def test_the_first_sentence_is_the_recorded_numbers(recorded):
    n, (low, high) = "10000", recorded["mae_interval"]["10000"]
    text = " ".join(nbformat.read(notebooks_folder() / "02_benchmark.ipynb", 4).cells[0].source.split())
    assert f"off by {recorded['mae'][n]:.3f} nats" in text and f"{low:.3f} to {high:.3f}" in text
    assert recorded["tasks"][n] == recorded["within_0.1"][n] == 40 and "each of the 40" in text
    assert f"{recorded['coverage'][n]:.0%}" in text
    for row in recorded["beyond"].values():
        assert f"{row['mae']:.3f}" in text and f"{row['ksg_mae']:.3f}" in text and f"{row['coverage']:.0%}" in text
    published = pd.read_csv(data_folder() / "published" / "mi_benchmark.csv", index_col="estimator")
    assert f"{published[n].min():.3f} nats" in text


def test_the_reading_is_the_recorded_numbers(recorded, estimates):
    most = max(recorded["seeds"].values())
    shares = [recorded["coverage"][n] for n, seeds in recorded["seeds"].items() if seeds == most]
    cells = nbformat.read(notebooks_folder() / "02_benchmark.ipynb", 4).cells
    text = next(" ".join(cell.source.split()) for cell in cells if cell.source.startswith("## Reading"))
    assert f"{min(shares):.1%} to {max(shares):.1%}" in text
    laws = {row["test"]: row for row in recorded["digits"]}
    assert all(row["holds"] for name, row in laws.items() if name != "dependence")
    twice = laws["additivity"]  # the one whose own interval misses
    assert twice["high"] < twice["expected"] and f"{twice['expected']:.2f}" in text
    assert "{value:.2f} ({low:.2f} to {high:.2f})".format(**twice) in text
    spirals = estimates[(estimates.n == 10_000) & estimates.task.str.startswith("spiral")]
    others = estimates[(estimates.n == 10_000) & ~estimates.task.str.startswith("spiral")]
    assert (spirals.value - spirals.true).abs().mean() > 2 * (others.value - others.true).abs().mean()


def test_the_recorded_open_pairs_are_all_there_with_their_truths_and_none_kept_aside():
    opened = pd.read_csv(data_folder() / "recorded" / "open_pairs.csv")
    assert not opened.duplicated(["pair", "n", "seed"]).any()
    assert set(opened.pair) == set(opened[opened.n == 1000].pair) == set(PAIRS) - KEPT_ASIDE
    truth = opened.pair.map(lambda pair: PAIRS[pair].mutual_information)
    assert opened.true.tolist() == pytest.approx(truth.tolist(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("pair", "n"), [("saw tooth", 300), ("number of the cluster", 1000)])
def test_a_recorded_estimate_of_an_open_pair_comes_again(pair, n):
    opened = pd.read_csv(data_folder() / "recorded" / "open_pairs.csv")
    (row,) = opened[(opened.pair == pair) & (opened.n == n) & (opened.seed == 1)].itertuples()
    task = PAIRS[pair]
    x, y = task.sample(n, seed=1)
    found = rfmi.estimate_mutual_information(
        x, y, seed=1, discrete_y=True if has_labels(task) else None, progress=False
    )
    standard_error = (row.high - row.low) / (2 * 1.96)
    assert abs(found.value - row.value) < standard_error / 10


def test_the_other_packages_were_asked_about_pairs_kept_aside_one_of_each_kind():
    rivals = pd.read_csv(data_folder() / "peers" / "by_kind.csv")
    assert set(rivals.pair) <= KEPT_ASIDE and rivals.kind.tolist() == rivals.pair.map(KIND_OF).tolist()
    for _, asked in rivals.groupby("estimator"):
        assert set(asked.kind) == set(KINDS) and not asked.duplicated(["pair", "n", "seed"]).any()
    truth = rivals.pair.map(lambda pair: PAIRS[pair].mutual_information)
    assert rivals.truth.tolist() == pytest.approx(truth.tolist(), rel=1e-5)
    assert rivals.value.isna().tolist() == rivals.failure.notna().tolist()
