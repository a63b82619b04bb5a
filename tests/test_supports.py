"""What is done to arrays before and beside the flow, and what the estimator says of pairs of known information.

Supports, orders, folds and neighbours are held against sums that are written out here.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.signal import lfilter
from scipy.special import digamma
from scipy.stats import kstest, norm, rankdata
from sklearn.base import clone

from lab.oracles.closed_form import GaussianPairField
from lab.oracles.pairs import KEPT_ASIDE, PAIRS
from rfmi import estimate_mutual_information
from rfmi.arrays.folds import deal, held_together, variance_factor
from rfmi.arrays.mutual_information import MutualInformationEstimator
from rfmi.arrays.neighbours import Opinion, neighbour_information, neighbour_opinion, table_information
from rfmi.arrays.order import Order
from rfmi.arrays.supports import Support

RANDOM = np.random.default_rng(0)
A, B, C = RANDOM.standard_normal((3, 300))
SHARES = RANDOM.dirichlet([1.0, 2.0, 3.0, 4.0], 300)
UNITS = np.array([1e-12, 1e12, 1e-3, 1e7, 1.0])


def unit_vectors(n, d, seed=0):
    rows = np.random.default_rng(seed).standard_normal((n, d))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def columns(*parts):
    return np.column_stack(parts)


def on_circles(*angles):
    return np.column_stack([part for angle in angles for part in (np.cos(angle), np.sin(angle))])


def autoregressive(n, memory, seed):
    return lfilter([1.0], [1.0, -memory], np.random.default_rng(seed).standard_normal(n + 500))[500:]


def gaussian_pair(n, seed, correlations=(0.8, 0.4)):
    field = GaussianPairField.from_correlations(list(correlations))
    x, y = field.sample(n, torch.Generator().manual_seed(seed))
    return x.numpy(), y.numpy(), field.pointwise(x, y).numpy(), field.mutual_information


# --- columns that others determine


@pytest.mark.parametrize("precision", [np.float64, np.float32])
@pytest.mark.parametrize("units", [np.ones(5), UNITS])
@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        (columns(A, B, A), [0, 1]),
        (columns(A, -3 * A), [0]),
        (columns(A, B, A + 2 * B - 3), [0, 1]),
        (columns(A, A**2), [0]),
        (columns(A**2, A), [1]),
        (columns(A, B, A * B), [0, 1]),
        (columns(A, B, A * B - 2 * B**2 + A, A - B), [0, 1]),
        (SHARES, [0, 1, 2]),
    ],
)
def test_columns_that_others_determine_are_dropped(rows, kept, units, precision):
    rows = (rows * units[: rows.shape[1]]).astype(precision).astype(float)
    support = Support.of(rows)
    np.testing.assert_array_equal(support.kept, kept)
    assert support.dimension == len(kept) and not support.ellipsoids
    np.testing.assert_array_equal(support.reduced(rows), rows[:, kept])


@pytest.mark.parametrize("k", [3, 4, 6])
def test_indicators_lose_one_column_and_lie_on_nothing(k):
    """Any two values lie on a sphere, and so do the corners of a cube; a flow to it would mix them up."""
    support = Support.of(np.eye(k)[RANDOM.integers(0, k, 600)])
    assert len(support.kept) == support.dimension == k - 1 and not support.ellipsoids


# --- ellipsoids


@pytest.mark.parametrize("precision", [np.float64, np.float32])
@pytest.mark.parametrize("offset", [0.0, 3.0])
@pytest.mark.parametrize("d", [2, 3, 5])
def test_ellipsoids_are_found_in_any_units(d, offset, precision):
    rows = ((unit_vectors(500, d) + offset) * UNITS[:d]).astype(precision).astype(float)
    support = Support.of(rows)
    ((found, centre, axes),) = support.ellipsoids
    assert support.dimension == d - 1
    np.testing.assert_array_equal(support.kept[found], np.arange(d))
    np.testing.assert_allclose(axes, UNITS[:d], rtol=1e-4)
    np.testing.assert_allclose(centre / UNITS[:d], np.full(d, offset), atol=1e-4)


def test_each_circle_of_a_torus_is_found():
    support = Support.of(on_circles(*RANDOM.uniform(0, 2 * np.pi, (2, 500))))
    assert support.dimension == 2
    assert sorted(tuple(found) for found, _, _ in support.ellipsoids) == [(0, 1), (2, 3)]


def test_a_sphere_is_found_among_other_columns():
    coins = RANDOM.integers(0, 2, (500, 2))
    support = Support.of(columns(coins, unit_vectors(500, 3), RANDOM.standard_normal(500)))
    ((found, _, _),) = support.ellipsoids
    np.testing.assert_array_equal(found, [2, 3, 4])
    assert support.dimension == 5


@pytest.mark.parametrize("precision", [np.float64, np.float32])
@pytest.mark.parametrize(
    "rows",
    [
        RANDOM.standard_normal((400, 4)),
        RANDOM.standard_cauchy((400, 3)),
        RANDOM.lognormal(0, 2, (400, 3)),
        RANDOM.poisson(3, (400, 3)),
        RANDOM.uniform(size=(400, 3)),
        RANDOM.integers(0, 2, (400, 3)),
        RANDOM.standard_normal((60, 30)),
        unit_vectors(400, 3) * RANDOM.normal(1, 0.01, (400, 1)),
        columns(RANDOM.standard_normal(400), RANDOM.poisson(2, 400), RANDOM.exponential(size=400)),
    ],
)
def test_where_nothing_is_nothing_is_found(rows, precision):
    support = Support.of(rows.astype(precision).astype(float))
    np.testing.assert_array_equal(support.kept, np.arange(rows.shape[1]))
    assert not support.ellipsoids


# --- what is added


@pytest.mark.parametrize("d", [2, 3, 5])
def test_unit_vectors_become_normal_and_are_recovered(d):
    rows = unit_vectors(2000, d)
    full = Support.of(rows).completed(rows, np.random.default_rng(1))
    assert all(kstest(column, norm.cdf).pvalue > 1e-3 for column in full.T)
    np.testing.assert_allclose(np.corrcoef(full, rowvar=False), np.eye(d), atol=0.08)
    np.testing.assert_allclose(full / np.linalg.norm(full, axis=1, keepdims=True), rows, atol=1e-6)


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_repeated_values_are_spread_and_are_recovered(unit):
    rows = columns(RANDOM.poisson(3, 500), np.round(RANDOM.standard_normal(500), 1), RANDOM.standard_normal(500)) * unit
    support = Support.of(rows)
    full = support.completed(rows, np.random.default_rng(1))
    assert [len(np.unique(column)) for column in full.T] == [500] * 3
    np.testing.assert_array_equal(full[:, 2], rows[:, 2])
    for spread, column in zip(full.T[:2], rows.T[:2], strict=True):
        values = np.unique(column)
        np.testing.assert_array_equal(values[np.searchsorted(values, spread, side="right") - 1], column)


def test_new_rows_are_completed_as_those_that_were_fitted():
    """However many there are: the fitted rows say which columns repeat values."""
    counts, normal, sphere = RANDOM.poisson(3, 100), RANDOM.standard_normal(100), unit_vectors(100, 3)
    support = Support.of(columns(counts, normal, sphere))
    for n in (1, 3, 1000):
        rows = columns(RANDOM.poisson(2, n).clip(max=5), RANDOM.standard_normal(n), unit_vectors(n, 3, seed=5))
        full = support.completed(rows, np.random.default_rng(1))
        np.testing.assert_array_equal(np.floor(full[:, 0]), rows[:, 0])
        assert (full[:, 0] > rows[:, 0]).all()
        np.testing.assert_array_equal(full[:, 1], rows[:, 1])
        directions = full[:, 2:] / np.linalg.norm(full[:, 2:], axis=1, keepdims=True)
        np.testing.assert_allclose(directions, rows[:, 2:], atol=1e-6)


# --- order


def ordered(x, y):
    order = Order.of(x, y)
    return order.apply(x, order.x), order.apply(y, order.y)


NUMBERS = columns(A, B, RANDOM.poisson(2, 300), RANDOM.standard_cauchy(300), C)
OTHERS = columns(A + C, np.round(B, 1))
CLASSES = np.digitize(A + 0.5 * RANDOM.standard_normal(300), [-1.0, 0.3, 0.8])


@pytest.mark.parametrize("y", [OTHERS, CLASSES])
def test_order_follows_from_the_data_alone(y):
    expected = ordered(NUMBERS, y)
    rows, of_columns = RANDOM.permutation(300), RANDOM.permutation(5)
    moved_y = RANDOM.permutation(4)[y][rows] if y.ndim == 1 else y[rows][:, ::-1]
    for side, moved in zip(expected, ordered(NUMBERS[rows][:, of_columns], moved_y), strict=True):
        np.testing.assert_array_equal(moved, side)
    for side, swapped in zip(reversed(expected), ordered(moved_y, NUMBERS[rows][:, of_columns]), strict=True):
        np.testing.assert_array_equal(swapped, side)


@pytest.mark.parametrize("y", [OTHERS, CLASSES])
def test_order_does_not_depend_on_units(y):
    own, other = Order.of(NUMBERS, y), Order.of(NUMBERS * UNITS, y if y.ndim == 1 else y * UNITS[:2])
    for part in ("rows", "x", "y"):
        np.testing.assert_array_equal(getattr(own, part), getattr(other, part))


@pytest.mark.parametrize("y", [OTHERS, CLASSES])
def test_an_estimate_goes_with_the_rows_and_with_nothing_else(y):
    rows, of_columns = RANDOM.permutation(300), RANDOM.permutation(5)
    moved_y = np.array(["d", "b", "a", "c"])[y][rows] if y.ndim == 1 else y[rows][:, ::-1]
    own = estimate(NUMBERS, y, steps=40)
    moved = estimate(NUMBERS[rows][:, of_columns], moved_y, steps=40)
    assert moved.value == own.value and moved.standard_error == own.standard_error
    assert moved.forms == own.forms and moved.diagnostics == own.diagnostics
    np.testing.assert_array_equal(moved.pointwise, own.pointwise[rows])


# --- folds


@pytest.mark.parametrize("seed", range(5))
def test_independent_rows_are_worth_themselves(seed):
    generator = np.random.default_rng(seed)
    x, y = generator.standard_normal((1000, 3)), generator.standard_t(2, (1000, 2))
    assert variance_factor(x, y) == variance_factor(x, x + y[:, :1]) == 1
    assert variance_factor(x, generator.integers(0, 3, 1000)) == 1
    assert variance_factor(generator.integers(0, 3, 1000), generator.integers(0, 3, 1000)) == 1
    assert variance_factor(autoregressive(1000, 0.9, seed)[:, None], y) == 1


@pytest.mark.parametrize(("one", "other"), [(0.9, 0.9), (0.7, 0.9), (0.5, 0.6)])
def test_series_are_worth_fewer_rows_as_bartlett_says(one, other):
    x, y = autoregressive(40_000, one, 1), autoregressive(40_000, other, 2)
    expected = (1 + one * other) / (1 - one * other)
    assert variance_factor(x[:, None], y[:, None]) == pytest.approx(expected, rel=0.15)
    assert variance_factor(np.exp(x)[:, None] * 1e9, -y[:, None]) == pytest.approx(expected, rel=0.15)


def test_equal_pairs_of_continuous_numbers_are_held_together():
    x, y = columns(A, B), C[:, None]
    rows = np.append(np.arange(300), [3, 7, 7])
    groups = held_together(x[rows], y[rows], None)
    assert len(set(groups)) == 300
    assert groups[300] == groups[3] and groups[301] == groups[302] == groups[7]
    np.testing.assert_array_equal(np.unique(held_together(x, y, None)), np.arange(300))


def test_rounded_numbers_and_atoms_are_dealt_one_by_one():
    x = np.where(A > 0.5, 0.0, A)  # nothing above a threshold is seen
    many = held_together(x[:, None], np.where(A > 0.5, 1.0, B)[:, None], None)
    rounded = held_together(np.round(A, 1)[:, None], np.round(B, 1)[:, None], None)
    counted = held_together(RANDOM.poisson(2, (300, 1)).astype(float), CLASSES, None)
    for groups in (many, rounded, counted):
        assert len(set(groups)) == 300


def test_rows_that_remember_are_held_in_blocks_of_time():
    time = RANDOM.permutation(1000)
    groups = held_together(RANDOM.standard_normal((1000, 1)), RANDOM.standard_normal((1000, 1)), time)
    for group in set(groups):
        inside = np.sort(time[groups == group])
        assert len(inside) == 50 and inside[-1] - inside[0] == 49


@pytest.mark.parametrize("folds", [2, 3, 5, 10])
@pytest.mark.parametrize(
    "groups", [np.arange(103), np.repeat(np.arange(40), RANDOM.integers(1, 5, 40)), np.arange(1000) // 50]
)
def test_folds_are_of_one_size_and_split_no_group(groups, folds):
    fold = deal(groups, folds, 0)
    sizes, largest = np.bincount(fold), np.bincount(groups).max()
    assert len(sizes) == folds and sizes.max() - sizes.min() <= 2 * largest
    assert all(len(set(fold[groups == group])) == 1 for group in set(groups))
    np.testing.assert_array_equal(deal(groups, folds, 0), fold)
    assert (deal(groups, folds, 1) != fold).any()


def test_no_fold_is_empty_where_there_are_fewer_groups_than_folds():
    assert set(np.bincount(deal(np.arange(1000) // 50, 33, 0))) == {50}


# --- neighbours


def scores(column):
    return norm.ppf((rankdata(column) - 0.5) / len(column))


def brute_force(x, y, k):
    """Kraskov's sum as it is written, with the count of all that are as far as the k-th where several are."""
    apart = []
    for side in (x, y):
        if side.ndim == 1:
            apart.append(np.where(side[:, None] == side[None], 0.0, np.inf))
        else:
            apart.append(np.max([np.abs(np.subtract.outer(scores(c), scores(c))) for c in side.T], axis=0))
    both, n = np.maximum(*apart), len(x)
    reach = np.sort(both, axis=1)[:, [k]]
    below, above = reach - 1e-12, reach + 1e-12  # equal distances between normal scores differ by their rounding
    inside = (both < above).sum(1)
    tied = (inside > k + 1) | (reach[:, 0] == 0)
    near = [np.where(tied, (each < above).sum(1), (each < below).sum(1)) for each in apart]
    return digamma(np.where(tied, inside, k)) + digamma(n) - digamma(near[0]) - digamma(near[1])


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize(
    ("x", "y"),
    [
        (columns(A), columns(A + B)),
        (columns(A, C), columns(A + B)),
        (RANDOM.poisson(3, (300, 1)), columns(A)),
        (np.round(columns(A)), np.round(columns(A + B))),
        (columns(A), CLASSES),
        (columns(A, B), columns(A + C, B * C)),
        (np.round(columns(A, B)), np.round(columns(A + C, B))),
        (RANDOM.poisson(3, (300, 2)), columns(A, B)),
        (columns(A, B), CLASSES),
        (CLASSES, columns(A, B, C)),
    ],
)
def test_neighbours_say_what_brute_force_says(x, y, k):
    np.testing.assert_allclose(neighbour_information(x, y, (1, k))[k], brute_force(x, y, k), atol=1e-12)


def test_neighbours_of_numbers_and_a_label_say_what_ross_wrote():
    """Ross, "Mutual information between discrete and continuous data sets", 2014; a small class has few neighbours."""
    labels = np.where(np.arange(300) < 8, 4, CLASSES)
    expected, places = [], columns(scores(A), scores(C))
    for row in range(300):
        apart = np.abs(places - places[row]).max(1)
        own = np.sort(apart[labels == labels[row]])
        k = min(10, len(own) - 1)
        expected.append(digamma(k) + digamma(300) - digamma(len(own)) - digamma((apart < own[k]).sum()))
    np.testing.assert_allclose(neighbour_information(columns(A, C), labels, (10,))[10], expected, atol=1e-12)


@pytest.mark.parametrize("k", [1, 3])
def test_neighbours_of_two_labels_say_what_their_table_says(k):
    """Cells with one pair alone, as there always are, have no neighbours and count by themselves."""
    x, y = CLASSES, np.where(RANDOM.random(300) < 0.9, CLASSES, RANDOM.integers(0, 6, 300))
    table = np.zeros((4, 6), int)
    np.add.at(table, (x, y), 1)
    assert (table == 1).any()
    expected = digamma(table[x, y]) + digamma(300) - digamma(table.sum(1)[x]) - digamma(table.sum(0)[y])
    several = (table[x, y] > k) | (table[x, y] == 1)
    np.testing.assert_allclose(neighbour_information(x, y, (k,))[k][several], expected[several], atol=1e-12)


def test_a_table_says_what_entropies_by_grassbergers_series_say():
    """G(1) = -gamma - log 2, G(2) = 2 + G(1), G(2 m + 1) = G(2 m), G(2 m + 2) = G(2 m) + 2 / (2 m + 1)."""
    g = {1: -np.euler_gamma - np.log(2), 2: 2 - np.euler_gamma - np.log(2)}
    for count in range(3, 301):
        g[count] = g[count - 1] if count % 2 else g[count - 2] + 2 / (count - 1)
    x, y = CLASSES, np.where(RANDOM.random(300) < 0.9, CLASSES, RANDOM.integers(0, 6, 300))
    table = np.zeros((4, 6), int)
    np.add.at(table, (x, y), 1)

    def entropy(counts):
        return np.log(300) - sum(count * g[count] for count in counts if count) / 300

    expected = entropy(table.sum(1)) + entropy(table.sum(0)) - entropy(table.ravel())
    values, error = table_information(x, y)
    assert values.mean() == pytest.approx(expected, abs=1e-12)
    plain = np.log(table[x, y] * 300 / (table.sum(1)[x] * table.sum(0)[y])).mean()
    assert error == pytest.approx(abs(expected - plain), abs=1e-12)


def test_the_error_of_a_thin_table_holds_its_bias():
    """40 labels each, half of the pairs scrambled: three pairs a cell."""
    x = RANDOM.integers(0, 40, 400)
    y = np.where(RANDOM.random(400) < 0.5, x, RANDOM.integers(0, 40, 400))
    same, other = 0.5 + 0.5 / 40, 0.5 / 40
    truth = np.log(40) + same * np.log(same) + 39 * other * np.log(other)
    values, error = table_information(x, y)
    assert abs(values.mean() - truth) < 2 * np.hypot(error, values.std() / 20)
    assert abs(values.mean() - truth) < abs(neighbour_information(x, y, (1,))[1].mean() - truth)


def test_neighbours_find_the_information_of_a_gaussian_pair():
    x, y, _, truth = gaussian_pair(3000, 0, [0.8])
    assert neighbour_opinion(x, y).value == pytest.approx(truth, abs=0.05)
    apart = np.random.default_rng(0).standard_normal((3000, 1))
    assert neighbour_opinion(x, apart).value == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("sampling", [0.0, 0.1])
def test_opinions_that_agree_stay_and_the_exact_one_counts(sampling):
    agreed = Opinion(0.7, 0.1).joined(Opinion(0.7, 0.05), sampling)
    assert agreed.value == pytest.approx(0.7) and 0.05 < agreed.error < 0.1
    exact, doubtful = Opinion(0.7, 0.001), Opinion(0.8, 0.2)
    for joined in (exact.joined(doubtful, sampling), doubtful.joined(exact, sampling)):
        assert joined.value == pytest.approx(0.7, abs=0.005) and joined.error < 0.02


@pytest.mark.parametrize("errors", [(0.0, 0.0), (0.05, 0.05), (0.01, 0.2), (0.3, 0.1)])
@pytest.mark.parametrize("gap", [0.8, 3.0])
def test_opinions_that_disagree_get_an_interval_that_spans_both(gap, errors):
    low, high = Opinion(1.0, errors[0]), Opinion(1.0 + gap, errors[1])
    for joined in (low.joined(high, 0.05), high.joined(low, 0.05)):
        assert low.value < joined.value < high.value
        assert joined.error >= gap / 3
        assert joined.value - 1.96 * joined.error < low.value and joined.value + 1.96 * joined.error > high.value


# --- the estimator


def estimate(x, y, **options):
    return estimate_mutual_information(x, y, progress=False, **options)


@pytest.fixture(scope="module")
def of_numbers():
    x, y, *_ = gaussian_pair(1000, 3)
    return MutualInformationEstimator(progress=False).fit(x, y)


@pytest.fixture(scope="module")
def of_labels():
    names = np.array(["low", "middle", "high", "top"])[CLASSES]
    return MutualInformationEstimator(steps=40, progress=False).fit(columns(A, B), pd.Series(names))


def test_rare_labels_are_estimated_and_said():
    """One label has a single pair, so that the fold that scores it knows nothing of it."""
    labels = np.where(np.arange(300) == 7, 9, np.where(A > 0.5, 1, 0)).astype(str)
    result = estimate(columns(A), labels, steps=40)
    assert np.isfinite(result.pointwise).all() and "1 label" in result.diagnostics["rare_labels"]
    assert result.interval[0] < 0.62 < result.interval[1]  # the entropy of a label that A determines


def test_the_estimator_has_the_manners_of_sklearn():
    options = dict(seed=3, steps=40, folds=3, progress=False)
    estimator = MutualInformationEstimator(**options)
    assert estimator.get_params() == options | {"discrete_y": None, "device": "cpu"}
    assert estimator.fit(columns(A, B), A + C) is estimator
    copy = clone(estimator)
    assert copy.get_params() == estimator.get_params() and not hasattr(copy, "result_")
    copy.set_params(seed=4)
    assert copy.seed == 4 and estimator.seed == 3
    expected = estimate_mutual_information(columns(A, B), A + C, **options)
    assert estimator.result_.value == expected.value
    np.testing.assert_array_equal(estimator.result_.pointwise, expected.pointwise)


def test_new_pairs_are_scored_as_their_densities_say(of_numbers):
    x, y, exact, _ = gaussian_pair(1000, 1)
    scored = of_numbers.score_pairs(x, y)
    assert scored.shape == (1000,)
    assert np.corrcoef(scored, exact)[0, 1] > 0.9
    assert scored.mean() == pytest.approx(exact.mean(), abs=0.15)
    alone = of_numbers.score_pairs(x[5:6], y[5:6])
    assert alone.shape == (1,) and alone[0] == pytest.approx(scored[5], abs=0.05)
    np.testing.assert_array_equal(of_numbers.score_pairs(pd.DataFrame(x), torch.tensor(y)), scored)


def test_pairs_with_a_label_are_scored_by_its_name(of_labels):
    x = columns([-3.0, -3.0, 3.0, 3.0], np.zeros(4))
    low, top, other_low, other_top = of_labels.score_pairs(x, ["low", "top", "low", "top"])
    assert low > 0 > top and other_top > 0 > other_low
    assert of_labels.score_pairs(x[:1], ["low"]) == pytest.approx(low, abs=0.1)


def test_counts_and_unit_vectors_are_scored_one_by_one_as_together():
    circle = on_circles(A)
    counts = np.random.default_rng(0).poisson(np.exp(circle[:, 0]))
    estimator = MutualInformationEstimator(steps=40, progress=False, discrete_y=False).fit(circle, counts)
    scored = estimator.score_pairs(circle, counts)
    assert np.isfinite(scored).all() and scored.mean() == pytest.approx(estimator.result_.value, abs=0.15)
    one_by_one = [estimator.score_pairs(circle[row : row + 1], counts[row : row + 1])[0] for row in range(30)]
    assert np.mean(one_by_one) == pytest.approx(scored[:30].mean(), abs=0.3)


def test_two_labels_are_scored_from_their_table():
    names = np.array(["low", "middle", "high", "top"])[CLASSES]
    kept = np.where(RANDOM.random(300) < 0.8, CLASSES, RANDOM.integers(0, 4, 300))
    estimator = MutualInformationEstimator().fit(names, kept)
    result = estimator.result_
    table = np.zeros((4, 4))
    np.add.at(table, (CLASSES, kept), 1 / 300)
    ratios = np.log(table / np.outer(table.sum(1), table.sum(0)), where=table > 0, out=np.zeros((4, 4)))
    assert result.value == pytest.approx(result.pointwise.mean())
    assert result.value == pytest.approx((table * ratios).sum(), abs=0.05)
    assert set(result.forms) == {"table"} and not result.network_used and result.evaluations == 0
    np.testing.assert_array_equal(estimator.score_pairs(names, kept), result.pointwise)
    assert estimator.score_pairs(["top"], [3]) == pytest.approx(ratios[3, 3], abs=0.1)


@pytest.mark.parametrize(
    ("fitted", "x", "y", "words"),
    [
        (None, columns(A, B), CLASSES, "fit"),
        ("of_numbers", columns(A), columns(A, B), "x has 1 column"),
        ("of_numbers", columns(A, B), columns(A, B, C), "y has 3 columns"),
        ("of_numbers", columns(A, B), columns(A, B)[:7], "7"),
        ("of_numbers", columns(A, B), columns(A, np.where(B > 2, np.nan, B)), "NaN"),
        ("of_numbers", CLASSES.astype(str), columns(A, B), "text"),
        ("of_labels", columns(A, B), np.full(300, "bottom"), "'bottom' of y"),
        ("of_labels", columns(A, B), np.append(np.full(299, "low"), "lower"), "'lower' of y"),
        ("of_labels", columns(A, B), CLASSES, "y is none of those"),
        ("of_labels", columns(A, B), columns(A, B), "y has 2 columns"),
        ("of_labels", columns(A, B, C), np.full(300, "low"), "x has 3 columns"),
    ],
)
def test_pairs_unlike_the_fitted_ones_are_refused_in_a_sentence(request, fitted, x, y, words):
    estimator = request.getfixturevalue(fitted) if fitted else MutualInformationEstimator()
    with pytest.raises(ValueError, match=words) as caught:
        estimator.score_pairs(x, y)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


# --- known information


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        pytest.param("circle", 0.12, marks=pytest.mark.slow),
        pytest.param("sphere, concentration 5", 0.2, marks=pytest.mark.slow),
        pytest.param("normal with its square", 0.1, marks=pytest.mark.slow),
        pytest.param("exclusive signs", 0.12, marks=pytest.mark.slow),
    ],
)
def test_arrays_without_a_density_and_sharp_labels_have_their_information(name, tolerance):
    task = PAIRS[name]
    assert name not in KEPT_ASIDE
    result = estimate(*task.sample(1000, 11))
    assert result.value == pytest.approx(task.mutual_information, abs=tolerance)
    low, high = result.interval
    assert low < task.mutual_information < high


def test_rows_that_remember_are_said_and_widen_the_interval():
    x, y = PAIRS["two series"].sample(1000, 11)
    mixed = np.random.default_rng(0).permutation(1000)
    result, shuffled = estimate(x, y, steps=40), estimate(x[mixed], y[mixed], steps=40)
    assert "rows_remember" in result.diagnostics and "rows_remember" not in shuffled.diagnostics
    assert result.standard_error > 1.5 * shuffled.standard_error
    low, high = result.interval
    assert low < PAIRS["two series"].mutual_information < high


def test_more_folds_than_blocks_of_time_are_no_fault():
    x = autoregressive(1000, 0.9, 1)[:, None]
    result = estimate(x, x + autoregressive(1000, 0.9, 2)[:, None], folds=40, steps=20)
    assert np.isfinite(result.pointwise).all() and "rows_remember" in result.diagnostics


def test_repeated_pairs_are_said_and_change_little():
    x, y, _, truth = gaussian_pair(400, 0, [0.8])
    again = np.append(np.arange(400), np.arange(20))
    result = estimate(x[again], y[again], steps=40)
    assert "repeated_pairs" in result.diagnostics and "20" in result.diagnostics["repeated_pairs"]
    assert result.value == pytest.approx(estimate(x, y, steps=40).value, abs=0.1)
    assert not estimate(x, y, steps=40).diagnostics
    low, high = result.interval
    assert low < truth < high
