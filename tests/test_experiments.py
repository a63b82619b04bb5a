"""The experiments of notebook 01 against closed forms and by hand, and its recorded numbers against theory."""

import json
import math

import nbformat
import pandas as pd
import pytest
import torch

from lab.oracles.closed_form import GaussianPairField
from lab.oracles.experiments import end_of_path_bias, forms, means, seeded, truncation_losses
from lab.paths import notebooks_folder, repository_root
from rfmi.times import StratifiedTimes

PAIR = GaussianPairField.from_correlations([0.75])


@pytest.fixture(scope="module")
def recorded():
    text = (repository_root() / "reports" / "results" / "closed_form.json").read_text(encoding="utf-8")
    return json.loads(text)


def growth(early, late):
    """What a constant ripple of amplitude 0.1 adds between two cuts in theory: sine squared is 1/2 on average."""
    return 0.5 * 0.1**2 * ((-math.log(1 - late) - late) - (-math.log(1 - early) - early))


def left(stop):
    """The information that stopping at t leaves out of a pair of correlation 0.75."""
    seen = -0.5 * math.log(1 - (0.75 * stop) ** 2 / (stop**2 + (1 - stop) ** 2))
    return PAIR.mutual_information - seen


def test_spread_of_one_draw_at_correlation_three_quarters():
    x, y = PAIR.sample(20_000, seeded(0))
    read = forms(PAIR, x, y, times=StratifiedTimes.uniform(1), generator=seeded(0))
    known = {"squared": 0.77, "inner product": 0.96, "re-noising": 2.17}  # nats, known from an independent run
    assert {form: float(read[form].pointwise.std()) for form in known} == pytest.approx(known, rel=0.05)


def test_truncation_is_the_divergence_left():
    table = pd.DataFrame(truncation_losses(0.75, torch.tensor([0.5, 0.9], dtype=torch.float64), 50, seed=0))
    assert table[table.of == "the mean"].nats.tolist() == pytest.approx([left(0.5), left(0.9)])
    one_pair = table[table.of == "one pair"].nats.tolist()
    assert one_pair[0] > one_pair[1] > 0


def test_a_constant_ripple_costs_what_theory_says():
    table = pd.DataFrame(row for stop in (0.9, 0.9999) for row in end_of_path_bias(PAIR, stop, 0.1, 4_000, seed=0))
    bias = table.groupby(["error", "form", "remaining"]).bias.mean()
    squared = bias["constant in t", "squared"]
    assert squared.iloc[0] - squared.iloc[1] == pytest.approx(growth(0.9, 0.9999), rel=0.1)
    assert bias["fading as 1 - t"].abs().max() < 0.005


def test_means_by_hand():
    table = pd.DataFrame({"form": ["a"] * 4 + ["b"] * 4, "draws": [1, 1, 8, 8] * 2, "y": [0.0, 2.0, 1.0, 1.0] * 2})
    rows = means(table, ["form", "draws"], "y", seed=0)
    assert rows.y.tolist() == [1.0] * 4 and rows.n.tolist() == [2] * 4
    assert rows.low[0] == 0.0 and rows.high[0] == 2.0 and rows.low[1] == rows.high[1] == 1.0


# What the report says


def test_recorded_identities_hold(recorded):
    assert set(recorded["identities"]) == {"1, rate", "1, integral", "2", "3", "4", "5"}
    assert all(row["largest_gap"] < 1e-6 for name, row in recorded["identities"].items() if name != "5")


def test_recorded_truncation_is_the_divergence_left(recorded):
    rows = [row for row in recorded["truncation"] if row["correlation"] == 0.75 and row["of"] == "the mean"]
    assert [row["nats"] for row in rows] == pytest.approx([left(1 - row["remaining"]) for row in rows], abs=1e-9)


def test_recorded_biases_have_the_signs_and_the_growth_of_theory(recorded):
    bias = pd.DataFrame(recorded["bias_of_fitted_fields"]).set_index(["fitted_to", "form"]).bias
    assert bias[400, "squared"] > 0.1 and bias[400, "re-noising"] < -0.1
    assert abs(bias[400, "residual"]) < 0.4 * -bias[400, "re-noising"]
    ends = pd.DataFrame(recorded["bias_at_the_end"])
    squared = ends[(ends.form == "squared") & (ends.error == "constant in t")].bias.tolist()
    assert squared[-1] - squared[0] == pytest.approx(growth(0.9, 0.99999), rel=0.1)
    assert ends[ends.error == "fading as 1 - t"].bias.abs().max() < 0.005


def test_the_first_sentences_are_the_recorded_numbers(recorded):
    rank = pd.DataFrame(recorded["ranking"]).set_index(["field", "guidance", "score"])
    path = rank.xs("path (Algorithm 2)", level="score").xs(1.0, level="guidance")
    text = " ".join(nbformat.read(notebooks_folder() / "01_rfmi_in_closed_form.ipynb", 4).cells[0].source.split())
    for name in ("pair, equal", "pair, unequal", "labels"):
        row = path.loc[name]
        assert f"{row['rank']:.2f} (" in text and f"{row.low:.2f} to {row.high:.2f})" in text
    last = rank.xs("re-noising, 10 x 64", level="score")["rank"].round(2)
    assert f"{last.drop('labels', level='field').min():.2f} or more in both pairs" in text
    guided = rank.loc[("labels", 4.5, "re-noising, 10 x 64")]
    assert f"{guided['rank']:.2f} ({guided.low:.2f} to {guided.high:.2f})" in text
