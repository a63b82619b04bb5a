"""Mutual information of arrays against closed forms and against the generic estimators, and its manners."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.stats import norm, spearmanr
from sklearn.preprocessing import QuantileTransformer

from lab.oracles.closed_form import GaussianMixtureField, GaussianPairField
from lab.oracles.tasks import student_task
from rfmi import estimate_mutual_information
from rfmi.arrays import flow
from rfmi.arrays.coordinates import CanonicalCoordinates, Whitening, normal_scores, shrink_correlations
from rfmi.arrays.cross_fit import CrossFit
from rfmi.arrays.gaussian_base import GaussianBase
from rfmi.arrays.network import FittedField, ResidualNetwork, train
from rfmi.estimators import monte_carlo_forms

RHO = [0.8, 0.4]


def estimate(x, y, **options):
    return estimate_mutual_information(x, y, progress=False, **options)


def gaussian_pair(n, seed, correlations=RHO):
    field = GaussianPairField.from_correlations(correlations)
    x, y = field.sample(n, torch.Generator().manual_seed(seed))
    return field, x.numpy(), y.numpy()


def base_of(correlations, folds=1):
    return GaussianBase(torch.tensor(correlations).expand(folds, 1, -1).clone())


# --- the Gaussian base


def test_base_is_the_gaussian_pairs_field():
    field, _, y = gaussian_pair(64, 0)
    t = torch.linspace(0, 1, 64, dtype=torch.float64)
    x_t, condition = torch.randn(64, 2, dtype=torch.float64), torch.from_numpy(y)
    fitted = FittedField(GaussianBase(torch.tensor([[RHO]], dtype=torch.float64)), None, 0)
    conditional, unconditional = fitted.both(x_t, t, condition)
    torch.testing.assert_close(conditional, field(x_t, t, condition))
    torch.testing.assert_close(unconditional, field(x_t, t))


def test_base_with_labels_is_the_mixtures_field():
    means, prior = torch.tensor([[-1.2, 0.3], [0.4, -0.3], [1.0, 0.0]]).double(), torch.tensor([0.2, 0.5, 0.3]).double()
    variance = 1 - torch.tensor(RHO).double() ** 2
    field = GaussianMixtureField(means, variance.diag(), prior)
    places = means / torch.tensor(RHO).double()
    base = GaussianBase(torch.tensor([[RHO]]).double(), means[None], prior[None, None])
    t, x_t = torch.linspace(0, 1, 30).double(), torch.randn(30, 2).double()
    label = torch.arange(30) % 3
    conditional, unconditional = FittedField(base, None, 0).both(x_t, t, places[label])
    torch.testing.assert_close(conditional, field(x_t, t, label))
    torch.testing.assert_close(unconditional, field(x_t, t))
    torch.testing.assert_close(base.exact_re_noising(0, x_t, places[label]), field.pointwise(x_t, label))


def test_exact_forms_are_what_monte_carlo_estimates():
    field, x, y = gaussian_pair(4000, 1)
    base = GaussianBase(torch.tensor([[RHO]], dtype=torch.float64))
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    torch.testing.assert_close(base.exact_re_noising(0, x, y), field.pointwise(x, y))
    forms = monte_carlo_forms(
        FittedField(base, None, 0), x, y, times=base.times(8), generator=torch.Generator().manual_seed(0)
    )
    gap = forms.squared.pointwise - base.exact_squared(0, x, y)
    assert abs(gap.mean()) < 3.5 * gap.std() / len(gap) ** 0.5
    assert float(base.exact_squared(0, x, y).mean()) == pytest.approx(field.mutual_information, abs=0.05)


def test_every_field_is_known_at_clean_data():
    network = ResidualNetwork(1, 2, 2, torch.Generator().manual_seed(0))
    torch.nn.init.normal_(network.last)
    x, y = torch.randn(50, 2), torch.randn(50, 2)
    field = FittedField(base_of(RHO), network, 0)
    for velocity in field.both(x, torch.ones(50), y):
        torch.testing.assert_close(velocity, x)
    assert not torch.allclose(*field.both(x, torch.full((50,), 0.5), y))


def test_a_new_network_is_the_base():
    network = ResidualNetwork(2, 2, 3, torch.Generator().manual_seed(0))
    x, y, t = torch.randn(50, 2), torch.randn(50, 3), torch.rand(50)
    base = base_of(RHO, folds=2)
    for trained, alone in zip(
        FittedField(base, network, 1).both(x, t, y), FittedField(base, None, 1).both(x, t, y), strict=True
    ):
        torch.testing.assert_close(trained, alone)
    torch.testing.assert_close(FittedField(base, network, 1)(x, t), FittedField(base, None, 1)(x, t))


# --- coordinates


def test_normal_scores_undo_monotone_maps():
    x = np.random.default_rng(0).standard_normal((2000, 2))
    plain, bent = Whitening.fit(x), Whitening.fit(np.stack([np.exp(x[:, 0]), norm.cdf(x[:, 1])], 1))
    other = np.random.default_rng(1).standard_normal((500, 2))
    inside = (np.abs(other) < 2).all(1)
    bent_other = np.stack([np.exp(other[:, 0]), norm.cdf(other[:, 1])], 1)
    np.testing.assert_allclose(plain(other)[inside], bent(bent_other)[inside], atol=0.02)


def test_coordinates_never_see_the_rows_they_are_applied_to():
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((300, 3)), generator.standard_normal((300, 2))
    maps = CanonicalCoordinates.fit(x[:200], y[:200])
    first = maps(x[200:201], y[200:201])
    altered = maps(np.vstack([x[200:201], 100 * x[201:]]), np.vstack([y[200:201], y[201:]]))
    np.testing.assert_allclose(first[0][0], altered[0][0])


def test_a_column_that_repeats_others_is_dropped():
    x = np.random.default_rng(0).standard_normal((500, 1))
    assert Whitening.fit(np.hstack([x, 3 * x]))(np.hstack([x, 3 * x])).shape == (500, 1)


@pytest.mark.parametrize(("n", "dim"), [(1000, 40), (2000, 40)])
@pytest.mark.slow
def test_shrinkage_finds_the_signal_among_noise(n, dim):
    generator, correlations = np.random.default_rng(0), []
    for _ in range(5):
        x, y = generator.standard_normal((n, dim)), generator.standard_normal((n, dim))
        y[:, 0] = 0.8 * x[:, 0] + 0.6 * y[:, 0]
        correlations.append(CanonicalCoordinates.fit(x, y).correlations[:2])
    assert np.mean(correlations, 0)[0] == pytest.approx(0.8, abs=0.02)
    assert np.median(correlations, 0)[1] == 0
    assert (shrink_correlations(np.array([0.9]), 60, 60, 100) == 0).all()


# --- training


def test_training_lowers_the_loss_and_repeats_itself():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1000, 1, generator=generator)
    y = (x**2 - 1) / 2**0.5 + 0.3 * torch.randn(1, 1000, 1, generator=generator)
    base = base_of([0.0])

    def fitted():
        generator = torch.Generator().manual_seed(0)
        network = ResidualNetwork(1, 1, 1, generator)
        *_, averaged = train(network, base, x, y, torch.arange(800)[None], steps=150, generator=generator)
        return averaged

    first, second = fitted(), fitted()
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    options = {"times": base.times(8), "generator": torch.Generator().manual_seed(1)}
    forms = monte_carlo_forms(FittedField(base, first, 0), x[0, 800:], y[0, 800:], **options)
    assert forms.re_noising.value > 2 * forms.re_noising.standard_error


# --- cross-fitting


def test_no_fold_sees_what_it_scores():
    _, x, y = gaussian_pair(120, 0)
    fold = np.arange(120) % 7 % 3
    split = CrossFit.of(x, y, fold, False, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert split.limit == np.inf and torch.equal(split.fold, torch.from_numpy(fold))
    smallest = 120 - np.bincount(fold).max()
    for k, rows in enumerate(split.training_rows.numpy()):
        assert len(set(rows)) == smallest and (fold[rows] != k).all()
        held, seen = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        own = CanonicalCoordinates.fit(x[seen], y[seen])(x[held], y[held])
        for ours, theirs in zip((split.x, split.y), own, strict=True):
            np.testing.assert_allclose(ours[k, held], theirs, rtol=1e-5, atol=1e-5)


def test_the_order_of_a_labels_indicators_changes_nothing():
    generator = np.random.default_rng(0)
    label = generator.choice(3, 300, p=[0.2, 0.3, 0.5])
    x, fold = label[:, None] + generator.standard_normal((300, 2)), np.arange(300) % 3
    splits = [
        CrossFit.of(x, np.eye(3)[:, order][label], fold, True, torch.Generator().manual_seed(0), torch.device("cpu"))
        for order in ([0, 1, 2], [2, 0, 1])
    ]
    shares = np.bincount(label) / 300
    one, other = (split.exact(split.monte_carlo(None, 0))["re_noising"] for split in splits)
    np.testing.assert_allclose(one, other, atol=1e-4)
    for split in splits:
        assert split.limit == pytest.approx(-(shares * np.log(shares)).sum())
        torch.testing.assert_close(split.base.label_prior.sum(-1), torch.ones(3, 1))


# --- the estimate


@pytest.mark.slow
def test_gaussian_pair_in_unequal_dimensions():
    field, x, y = gaussian_pair(2000, 2)
    wide = np.hstack([y, np.random.default_rng(0).standard_normal((2000, 3))])
    result = estimate(x, wide)
    low, high = result.interval
    assert low < field.mutual_information < high
    assert high - low < 0.2
    exact = field.pointwise(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    assert spearmanr(result.pointwise, exact).statistic > 0.98
    assert result.pointwise.mean() == pytest.approx(result.forms["re_noising"])
    assert result.value == result.forms["flow"] and set(result.forms) == {"squared", "re_noising", "residual", "flow"}
    assert result.evaluations > 0


def test_neighbours_are_asked_in_few_dimensions():
    field, x, y = gaussian_pair(300, 2)
    result = estimate(x, y, steps=20)
    assert set(result.forms) == {"squared", "re_noising", "residual", "flow", "neighbours"}
    assert result.forms["neighbours"] == pytest.approx(field.mutual_information, abs=0.2)
    assert min(result.forms["flow"], result.forms["neighbours"]) <= result.value
    assert result.value <= max(result.forms["flow"], result.forms["neighbours"])


@pytest.mark.slow
def test_information_does_not_depend_on_monotone_maps():
    _, x, y = gaussian_pair(1000, 3)
    there = estimate(x, y, steps=40)
    bent = estimate(np.exp(x), norm.cdf(y), steps=40)
    assert bent.value == pytest.approx(there.value, abs=0.03)


@pytest.mark.parametrize(("x_unit", "y_unit"), [(1e-8, 1.0), (1e-8, 1e-12), (1e300, 1e-300)])
def test_information_does_not_depend_on_units(x_unit, y_unit):
    """scikit-learn's QuantileTransformer takes values within 1e-7 of each other for equal, whatever their unit."""
    _, x, y = gaussian_pair(400, seed=3)
    assert estimate(x * x_unit, y * y_unit, steps=40).value == pytest.approx(estimate(x, y, steps=40).value, abs=1e-4)
    labels = (y[:, 0] > 0).astype(int)
    small, own = (estimate(part, labels, discrete_y=True, steps=40).value for part in (x * x_unit, x))
    assert small == pytest.approx(own, abs=1e-4) and own > 0.1


def test_normal_scores_are_those_of_the_library_where_units_are_large():
    random = np.random.default_rng(0)
    seen, others = random.standard_t(2, size=(2, 300, 2))
    library = QuantileTransformer(n_quantiles=300, output_distribution="normal", subsample=None).fit(seen)
    limit = norm.ppf(1 - 0.5 / 300)
    plain = QuantileTransformer(n_quantiles=300, subsample=None).fit(seen)
    both = normal_scores(plain, others), library.transform(others)
    ours, theirs = (np.clip(scores, -limit, limit) for scores in both)
    np.testing.assert_array_equal(ours, theirs)


def test_independence_is_zero_within_the_interval():
    generator = np.random.default_rng(0)
    result = estimate(generator.standard_normal((800, 2)), generator.standard_t(3, (800, 2)))
    low, high = result.interval
    assert low <= 0 <= high


@pytest.mark.slow
def test_dependence_that_no_correlation_shows():
    task = student_task(2, 2, dof=1)
    result = estimate(*task.sample(3000, 5))
    low, high = result.interval
    assert result.network_used
    assert low < task.mutual_information < high
    assert abs(result.value - task.mutual_information) < 0.25 * task.mutual_information


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.slow
def test_labels(shared):
    covariance = torch.eye(2) if shared else torch.stack([torch.eye(2), torch.eye(2) * 0.3, torch.eye(2) * 2])
    field = GaussianMixtureField(torch.tensor([[-2.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), covariance)
    x, label = field.sample(1500, torch.Generator().manual_seed(0))
    names = np.array(["left", "middle", "right"])[label.numpy()]
    result = estimate(x.numpy(), names, discrete_y=True)
    low, high = result.interval
    assert low < field.mutual_information < high
    assert result.value <= np.log(3) + 1e-3
    exact = field.pointwise(x, label).numpy()
    assert np.corrcoef(result.pointwise, exact)[0, 1] > (0.95 if shared else 0.7)


def test_same_arguments_same_numbers():
    _, x, y = gaussian_pair(300, 4)
    first, second, other = (estimate(x, y, seed=seed, steps=40) for seed in (1, 1, 2))
    assert first.value == second.value
    np.testing.assert_array_equal(first.pointwise, second.pointwise)
    assert first.value != other.value


def test_every_pair_is_scored_without_being_seen():
    """Noise that could only be remembered gives no information: a network that saw its pairs would claim some."""
    generator = np.random.default_rng(1)
    result = estimate(generator.standard_normal((60, 4)), generator.standard_normal((60, 4)), folds=3)
    assert result.value < 0.3


def test_small_n_and_many_dimensions_are_said():
    _, x, y = gaussian_pair(60, 5)
    result = estimate(x, np.hstack([y, np.random.default_rng(0).standard_normal((60, 10))]), steps=20)
    assert "few_samples" in result.diagnostics


def test_a_deterministic_pair_is_at_the_limit():
    x = np.random.default_rng(0).standard_normal((400, 1))
    result = estimate(x, x + 1e-9 * np.random.default_rng(1).standard_normal((400, 1)), steps=20)
    assert "truncation_limit" in result.diagnostics
    assert result.value > 2


def test_a_result_shows_itself_in_a_line():
    _, x, y = gaussian_pair(60, 5)
    result = estimate(x, y, steps=20)
    low, high = result.interval
    assert f"{result.value:.3f} nats, 95% interval {low:.3f} to {high:.3f}" in repr(result)
    assert all(sentence in repr(result) for sentence in result.diagnostics.values()) and len(repr(result)) < 400


# --- manners


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import rfmi", ("torch", "diffusers", "sklearn", "pandas")),
        ("from rfmi import estimate_mutual_information", ("diffusers", "transformers", "peft", "accelerate")),
    ],
)
def test_an_import_brings_only_what_it_needs(statement, absent):
    program = f"{statement}; import sys; print(sorted(set({absent!r}) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"x": np.full((60, 2), np.nan)}, "x has NaN"),
        ({"y": np.zeros(60)}, "y is constant"),
        ({"y": np.arange(60), "discrete_y": True}, "60 labels"),
        ({"y": np.arange(50)}, "60 rows"),
        ({"discrete_y": "yes"}, "discrete_y"),
        ({"folds": 7}, "folds is 7"),
        ({"steps": 3}, "steps is 3"),
        ({"seed": -1}, "seed is -1"),
        ({"device": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_training(monkeypatch, options, words):
    """What is refused, and how, is in tests/test_inputs.py; here, that all of it is asked for."""
    monkeypatch.setattr(flow, "train", None)
    x, y = np.random.default_rng(0).standard_normal((2, 60, 2))
    with pytest.raises(ValueError, match=words):
        estimate(**{"x": x, "y": y} | options)
