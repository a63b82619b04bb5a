"""Ranking measures against scipy and by hand, and intervals that cover."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kendalltau, spearmanr
from sklearn.metrics import roc_auc_score

from lab.oracles.ranking import place_of_choice, rank_correlation
from rfmi.statistics import (
    MEAN,
    bootstrap_mean,
    concordance,
    mean_of_categories,
    share_of_the_way,
)


def tables(ties=False):
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    scores = reference + torch.randn(5, 12, generator=generator, dtype=torch.float64)
    return (scores.round(), reference.round()) if ties else (scores, reference)


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlation_is_that_of_scipy(ties):
    scores, reference = tables(ties)
    expected = [spearmanr(a, b).statistic for a, b in zip(scores, reference, strict=True)]
    assert rank_correlation(scores, reference).tolist() == pytest.approx(expected)


def test_a_perfect_score_chooses_the_first_and_a_reversed_one_the_last():
    _, reference = tables()
    assert rank_correlation(reference.exp(), reference).tolist() == pytest.approx([1] * 5)
    assert place_of_choice(reference.exp(), reference).tolist() == [1] * 5
    assert rank_correlation(-reference, reference).tolist() == pytest.approx([-1] * 5)
    assert place_of_choice(-reference, reference).tolist() == [0] * 5


def test_place_of_choice_by_hand():
    reference, scores = torch.tensor([[0.0, 1.0, 2.0, 5.0]]), torch.tensor([[0.0, 1.0, 9.0, 3.0]])
    assert place_of_choice(scores, reference).tolist() == pytest.approx([2 / 3])
    assert place_of_choice(scores, torch.tensor([[1.0, 1.0, 1.0, 1.0]])).tolist() == pytest.approx([0.5])


def test_a_constant_score_has_no_rank_correlation():
    assert bool(rank_correlation(torch.ones(1, 4), torch.arange(4.0)[None]).isnan().all())


def test_bootstrap_interval_covers_about_as_often_as_it_says():
    draws = torch.randn(300, 40, generator=torch.Generator().manual_seed(1))
    means = [bootstrap_mean(row, seed=0, resamples=500) for row in draws]
    covered = sum(mean.low <= 0 <= mean.high for mean in means)
    assert 0.89 * 300 <= covered <= 0.98 * 300
    assert means[0].value == pytest.approx(float(draws[0].mean())) and means[0].n == 40
    assert bootstrap_mean(draws[0], seed=0, resamples=500) == means[0]


def by_prompt(values):
    """Values (categories, prompts), or (categories, prompts, noises), as tables have them."""
    values = np.asarray(values, dtype=float)
    names = [f"category {i}" for i in range(len(values))]
    index = pd.MultiIndex.from_product([names, range(values.shape[1])], names=["category", "prompt"])
    flat = values.reshape(len(index), *values.shape[2:])
    return pd.Series(flat, index) if flat.ndim == 1 else pd.DataFrame(flat, index)


def test_categories_weigh_alike_whatever_their_number_of_prompts():
    values = pd.concat({"a": pd.Series([1.0, 2.0, 3.0]), "b": pd.Series([10.0])}, names=["category", "prompt"])
    table = mean_of_categories(values, seed=0)
    assert table.index.tolist() == ["a", "b", MEAN] and table.n.tolist() == [3, 1, 4]
    assert table.value.tolist() == [2, 10, 6]
    assert table.loc["b", ["low", "high"]].tolist() == [10, 10]


def test_intervals_of_prompts_and_noises_that_both_vary_cover_about_as_often_as_they_say():
    random, covered, alone = np.random.default_rng(0), 0, 0
    for i in range(150):
        drawn = random.normal(size=(1, 30, 1)) + random.normal(size=(1, 1, 12))
        table = mean_of_categories(by_prompt(drawn), seed=i, resamples=300).loc[MEAN]
        covered += table.low <= 0 <= table.high
        prompts = mean_of_categories(by_prompt(drawn.mean(2)), seed=i, resamples=300).loc[MEAN]
        alone += prompts.low <= 0 <= prompts.high
    assert 0.87 * 150 <= covered <= 0.99 * 150
    assert alone < 0.8 * 150, "noises that all prompts share are not seen by a resampling of prompts alone"


def test_a_mean_of_one_category_and_one_noise_is_the_plain_bootstrap():
    values = np.random.default_rng(1).normal(size=(1, 40))
    table = mean_of_categories(by_prompt(values), seed=3, resamples=500).loc[MEAN]
    assert table.to_dict() == pytest.approx(vars(bootstrap_mean(values[0], seed=3, resamples=500)))


def test_a_share_of_the_way_is_by_hand_the_ratio_of_the_means():
    start, reached, goal = by_prompt([[0.0, 1.0], [2.0, 2.0]]), by_prompt([[1.0, 1.5], [3.0, 2.0]]), 5.0
    share = share_of_the_way(start, reached, start + goal, seed=0)
    assert share.value == pytest.approx((1.5 / 2 + 1 / 2) / 2 / 5) and share.n == 4
    assert share.low < share.value < share.high


def test_a_share_of_no_way_is_no_number():
    """Where the goal is no way above the start there is nothing to go a share of, and no interval."""
    start = by_prompt([[0.0, 1.0, 0.0, 1.0]])
    for goal in (start, start - 1):
        share = share_of_the_way(start, start + 0.5, goal, seed=0)
        assert all(math.isnan(number) for number in (share.value, share.low, share.high)) and share.n == 4
    scattered = share_of_the_way(start, start, start + [3, -2, 3, -3], seed=0)
    assert scattered.value == 0 and math.isnan(scattered.low) and math.isnan(scattered.high)
    whole = share_of_the_way(start, start + 0.5, start + 1, seed=0)
    assert (whole.value, whole.low, whole.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rank_correlation(torch.zeros(2, 3), torch.zeros(2, 4)), "tables of one shape"),
        (lambda: place_of_choice(torch.zeros(3), torch.zeros(3)), "tables of one shape"),
        (lambda: rank_correlation(torch.zeros(2, 2), torch.zeros(2, 2)), "3 candidates or more"),
        (lambda: bootstrap_mean(torch.zeros(1), seed=0), "at least two finite values"),
        (lambda: bootstrap_mean(torch.tensor([1.0, float("nan")]), seed=0), "at least two finite values"),
    ],
)
def test_faults_are_named_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as fault:
        call()
    assert "\n" not in str(fault.value)


# Concordance within a prompt


@pytest.mark.parametrize("decimals", [0, 6])
def test_concordance_is_the_area_of_verdicts_and_kendalls_of_grades(decimals):
    random = np.random.default_rng(0)
    truth = random.normal(size=40)
    scores = (truth + random.normal(size=40)).round(decimals)
    verdicts = truth > 0.3
    assert concordance(verdicts, scores) == pytest.approx(roc_auc_score(verdicts, scores), abs=1e-12)
    if decimals:
        assert 2 * concordance(truth, scores) - 1 == pytest.approx(kendalltau(truth, scores).statistic, abs=1e-12)
    assert concordance(truth, truth) == 1 and concordance(truth, -truth) == 0 and concordance(truth, 0 * truth) == 0.5


def test_a_truth_that_is_all_alike_is_refused():
    with pytest.raises(ValueError, match="all alike"):
        concordance([1, 1, 1], [0.1, 0.2, 0.3])
