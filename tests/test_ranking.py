"""Ranking measures against scipy and by hand, and intervals that cover."""

import pytest
import torch
from scipy.stats import spearmanr

from rfmi.statistics import bootstrap_mean, place_of_choice, rank_correlation


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
