"""The experiments of notebook 01 on small sizes: against closed forms, figures known from elsewhere, and by hand."""

import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from lab.oracles.closed_form import GaussianMixtureField, GaussianPairField
from lab.study import closed_form_experiments as experiments


def test_spread_of_one_draw_at_correlation_three_quarters():
    table = experiments.form_spreads([0.75], [1], 20_000, seed=0)
    spread = table[table.times == "uniform"].groupby("form").spread.mean()
    known = {"squared": 0.77, "inner product": 0.96, "re-noising": 2.17}  # nats, known from an independent run
    assert {form: spread[form] for form in known} == pytest.approx(known, rel=0.05)
    assert table.off.abs().max() < 4


def test_truncation_is_the_divergence_left():
    stops = torch.tensor([0.5, 0.9], dtype=torch.float64)
    table = experiments.truncation_losses([0.75], stops, 50, seed=0)
    left = GaussianPairField.from_correlations([0.75]).mutual_information
    seen = [-0.5 * math.log(1 - (0.75 * t) ** 2 / (t**2 + (1 - t) ** 2)) for t in (0.5, 0.9)]
    assert table[table.of == "the mean"].nats.tolist() == pytest.approx([left - part for part in seen])
    one_pair = table[table.of == "one pair"].nats.tolist()
    assert one_pair[0] > one_pair[1] > 0


def test_fitted_fields_have_the_signs_of_theory_and_converge():
    truth = GaussianPairField.from_correlations([0.3, 0.6, 0.8])
    table = experiments.fitted_field_bias(truth, [50, 50_000], n_fits=12, n_pairs=500, seed=0)
    bias = table.groupby(["fitted_to", "form"]).bias.mean()
    assert bias[50, "squared"] > 0.05 and bias[50, "re-noising"] < -0.05
    assert abs(bias[50, "residual"]) < min(bias[50, "squared"], -bias[50, "re-noising"])
    assert bias[50_000].abs().max() < 0.01


def test_a_constant_ripple_costs_what_theory_says():
    field = GaussianPairField.from_correlations([0.75])
    table = experiments.end_of_path_bias(field, [0.9, 0.9999], 0.1, n_pairs=4_000, seed=0)
    bias = table.groupby(["error", "form", "remaining"]).bias.mean()
    growth = bias["constant in t", "squared"].iloc[0] - bias["constant in t", "squared"].iloc[1]
    expected = 0.5 * 0.1**2 * ((-math.log(1e-4) - 0.9999) - (-math.log(0.1) - 0.9))  # sine squared is 1/2 on average
    assert growth == pytest.approx(expected, rel=0.1)
    assert bias["fading as 1 - t"].abs().max() < 0.005


@pytest.fixture(scope="module")
def scored():
    pair = GaussianPairField.from_correlations([0.7, 0.5])
    mixture = GaussianMixtureField(torch.tensor([[-1.0], [0.0], [2.0]]), torch.tensor([[0.3]]))
    prompts = {"pair": (pair, pair.sample(4, experiments.seeded(0))[1]), "labels": (mixture, torch.arange(3))}
    options = {"candidates": 12, "guidance": 1.0, "sampling_steps": 20, "noises": [1, 2], "seed": 0}
    return {(name, 1.0): experiments.candidate_scores(*field, **options) for name, field in prompts.items()}


def test_candidate_scores_are_tables_beside_the_exact_value(scored):
    for (name, _), (tables, exact) in scored.items():
        assert exact.shape == ((4, 12) if name == "pair" else (3, 12))
        assert all(table.shape == exact.shape and bool(torch.isfinite(table).all()) for table in tables.values())
        torch.testing.assert_close(tables["change of variables"], exact, rtol=0, atol=0.05)
    assert list(tables)[3:6] == ["re-noising, 10 x 1", "re-noising, 10 x 2", "residual, 10 x 2"]


def test_ranking_table_has_a_row_for_each_prompt(scored):
    table = experiments.ranking_table(scored)
    assert len(table) == (4 + 3) * 7
    by_score = table[table.field == "pair"].groupby("score")["rank"].mean()
    assert by_score["change of variables"] > 0.95 and by_score["squared path"] < -0.5
    assert table.place.between(0, 1).all()


def test_summary_and_curves_by_hand():
    table = pd.DataFrame({"form": ["a"] * 4 + ["b"] * 4, "draws": [1, 1, 8, 8] * 2, "y": [0.0, 2.0, 1.0, 1.0] * 2})
    rows = experiments.summarise(table, ["form", "draws"], "y", seed=0, resamples=200)
    assert rows.y.tolist() == [1.0] * 4 and rows.n.tolist() == [2] * 4
    assert rows.low[0] == 0.0 and rows.high[0] == 2.0 and rows.low[1] == rows.high[1] == 1.0
    figure, axes = plt.subplots()
    experiments.curves(axes, table, "draws", "y", xscale="log", xlabel="times", legend=False)
    assert axes.get_legend() is None and axes.get_xlabel() == "times"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "8"]
    plt.close(figure)
