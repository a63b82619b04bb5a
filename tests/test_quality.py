"""Image-quality measures against closed forms, scipy, scikit-learn and brute force, and intervals that cover."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neighbors import NearestNeighbors

from rfmi.quality import diversity, interval_of, quality, quality_draws


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def measures(real, generated, **options):
    return quality_draws(real, generated, generator=torch.Generator(), **{"resamples": 2, "k": 1} | options).loc[0]


def frechet_distance(real, generated):
    return measures(real, generated).frechet_distance


def cmmd(real, generated):
    return measures(real, generated).cmmd


def precision_recall(real, generated):
    return tuple(measures(real, generated, k=3)[["precision", "recall"]])


def exact_sample(mean, factor, n, seed):
    """A sample whose mean is `mean` and whose covariance is factor @ factor.T, not only in expectation."""
    draws = normal(n, len(mean), seed)
    draws = draws - draws.mean(0)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(draws.T.cov()), draws.T, upper=False)
    return torch.as_tensor(mean, dtype=torch.float64) + whitened.T @ factor.T


def test_frechet_distance_of_gaussians_that_share_their_axes():
    rotation = torch.linalg.qr(normal(4, 4)).Q
    wide, narrow = torch.tensor([1.0, 2.0, 3.0, 0.5]).double(), torch.tensor([2.0, 2.0, 1.0, 0.1]).double()
    a = exact_sample([0.0, 0, 0, 0], rotation * wide, 50, 1)
    b = exact_sample([1.0, 2, 0, 2], rotation * narrow, 80, 2)
    expected = 9 + (wide - narrow).square().sum().item()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(7 * a, 7 * b) == pytest.approx(49 * expected, rel=1e-9)


def test_frechet_distance_is_that_of_scipys_matrix_root():
    a, b = normal(60, 5, 1), normal(70, 5, 2) @ normal(5, 5, 3) + 1
    s_a, s_b = (np.cov(part.numpy().T) for part in (a, b))
    root = sqrtm(s_a @ s_b).real
    expected = float((a.mean(0) - b.mean(0)).square().sum()) + np.trace(s_a + s_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_is_that_of_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")

    class Features(torch.nn.Identity):
        num_features = 5

    theirs = fid.FrechetInceptionDistance(Features())
    a, b = normal(60, 5, 1), normal(70, 5, 2) @ normal(5, 5, 3) + 1
    theirs.update(a, real=True)
    theirs.update(b, real=False)
    assert frechet_distance(a, b) == pytest.approx(theirs.compute().item(), rel=1e-9)


def test_frechet_distance_of_fewer_images_than_features():
    a = normal(6, 20)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-5)
    assert frechet_distance(a, a + 1) == pytest.approx(20, abs=1e-5)


def test_frechet_distance_of_two_samples_of_one_distribution_has_the_bias_it_is_said_to_have():
    d, n = 16, 1000
    found = np.mean([frechet_distance(normal(n, d, 2 * i), normal(n, d, 2 * i + 1)) for i in range(20)])
    assert found == pytest.approx(d * (d + 5) / (2 * n), rel=0.1)


def test_cmmd_of_two_points_in_closed_form():
    a, b = torch.tensor([[2.0, 0.0]] * 3), torch.tensor([[0.0, 0.1]] * 5)  # unit length: sqrt 2 apart
    assert cmmd(a, b) == pytest.approx(2000 * (1 - np.exp(-2 / 200)), rel=1e-9)


def test_cmmd_is_that_of_scikit_learns_kernel():
    a, b = normal(40, 6, 1), normal(30, 6, 2) + 0.5
    x, y = ((part / part.norm(dim=1, keepdim=True)).numpy() for part in (a, b))
    kernel = {"gamma": 1 / (2 * 10**2)}
    expected = rbf_kernel(x, x, **kernel).mean() + rbf_kernel(y, y, **kernel).mean()
    expected -= 2 * rbf_kernel(x, y, **kernel).mean()
    assert cmmd(a, b) == pytest.approx(1000 * expected, rel=1e-6)
    shift = torch.from_numpy(x.mean(0) - y.mean(0)).square().sum().item()
    assert cmmd(a, b) == pytest.approx(10 * shift, rel=0.02)  # what the wide kernel amounts to


@pytest.mark.parametrize("k", [1, 3])
def test_neighbourhoods_are_those_of_scikit_learn(k):
    real, generated = normal(1100, 8, 1), normal(1050, 8, 2) + 0.5  # more rows than a table holds at once
    radii, _ = NearestNeighbors(n_neighbors=k).fit(real.numpy()).kneighbors()
    precision = (cdist(generated, real) <= radii[:, -1]).any(1).mean()
    assert 0 < precision < 1
    assert measures(real, generated, k=k).precision == pytest.approx(precision)


def test_precision_and_recall_by_brute_force():
    real, generated = normal(50, 3, 1), 0.6 * normal(40, 3, 2) + 0.5
    table = cdist(real, generated)
    near_real = np.sort(cdist(real, real), axis=1)[:, 3]
    near_generated = np.sort(cdist(generated, generated), axis=1)[:, 3]
    precision = np.mean([any(table[i, j] <= near_real[i] for i in range(50)) for j in range(40)])
    recall = np.mean([any(table[i, j] <= near_generated[j] for j in range(40)) for i in range(50)])
    assert 0 < recall < precision < 1
    assert precision_recall(real, generated) == pytest.approx((precision, recall))
    assert precision_recall(generated, real) == pytest.approx((recall, precision))


def test_identical_sets_are_perfect():
    a = normal(30, 4)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert cmmd(a, a) == pytest.approx(0, abs=1e-9)
    assert precision_recall(a, a) == pytest.approx((1, 1))
    assert precision_recall(a.float(), a.float().flip(0)) == pytest.approx((1, 1))


def test_disjoint_and_nested_sets():
    a = normal(200, 2)
    assert precision_recall(a, a + 1000) == (0.0, 0.0)
    inside = a[a.norm(dim=1) < 0.8]  # a generator that draws only the middle
    precision, recall = precision_recall(a, inside)
    assert precision == 1 and recall < 0.6
    assert precision_recall(inside, a) == (recall, precision)


def test_diversity_by_hand():
    features = torch.tensor([[0.0, 0.0], [5.0, 5.0], [3.0, 4.0], [5.0, 5.0], [0.0, 8.0]])
    found = diversity(features, ["a red circle", "b", "a red circle", "b", "a red circle"])
    assert found.tolist() == pytest.approx([(5 + 8 + 5) / 3, 0])
    assert diversity(features, torch.tensor([7, 1, 7, 1, 7])).tolist() == found.tolist()


def test_quality_gives_the_measures_and_repeats_itself():
    real, generated = normal(80, 4, 1), normal(60, 4, 2) + 0.3
    table = quality(real, generated, generator=torch.Generator().manual_seed(0))
    assert table.value.to_dict() == pytest.approx(measures(real, generated, k=3).to_dict())
    assert ((table.low < table.value) & (table.value < table.high)).all()
    assert table.equals(quality(real, generated, generator=torch.Generator().manual_seed(0)))
    assert not table.equals(quality(real, generated, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("measure", ["frechet_distance", "cmmd"])
def test_intervals_cover_the_expected_value_at_this_number_of_images(measure):
    d, n, repeats = 3, 100, 80
    tables = [
        interval_of(
            quality_draws(
                normal(n, d, 2 * i),
                normal(n, d, 2 * i + 1) + 0.5,
                generator=torch.Generator().manual_seed(i),
                resamples=60,
            )
        ).loc[measure]
        for i in range(repeats)
    ]
    expected = np.mean([table.value for table in tables])
    covered = np.mean([table.low <= expected <= table.high for table in tables])
    width = np.mean([table.high - table.low for table in tables])
    assert covered >= 0.87
    assert width == pytest.approx(2 * 1.96 * np.std([table.value for table in tables]), rel=0.3)  # and no wider


def test_resampled_groups_pair_two_models_and_know_that_their_images_are_alike():
    prompts = [i // 5 for i in range(100)]
    of_prompt = normal(20, 3, 7).repeat_interleave(5, 0)
    real, base = of_prompt + 0.1 * normal(100, 3, 1), of_prompt + 0.1 * normal(100, 3, 2) + 0.4

    def draws(generated, groups=prompts):
        return quality_draws(real, generated, generator=torch.Generator().manual_seed(0), groups=groups)

    moved = base + 0.05
    paired = (draws(moved) - draws(base))[1:].cmmd.std()
    assert paired < 0.5 * np.hypot(draws(moved)[1:].cmmd.std(), draws(base)[1:].cmmd.std())
    half = real + 100.0 * (torch.arange(100) >= 50)[:, None]
    spread = [draws(half, groups)[1:].precision.std() for groups in (prompts, list(range(100)))]
    assert spread[0] == pytest.approx((0.25 / 20) ** 0.5, rel=0.2)  # five images of a prompt are not five draws
    assert spread[1] == pytest.approx((0.25 / 100) ** 0.5, rel=0.2)
    ungrouped = quality(real, base, generator=torch.Generator())
    assert draws(base).loc[0].to_dict() == pytest.approx(ungrouped.value.to_dict())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frechet_distance(normal(5, 3), normal(5, 2)), r"got \(5, 3\) and \(5, 2\)"),
        (lambda: frechet_distance(normal(1, 3), normal(5, 3)), "two images or more"),
        (lambda: frechet_distance(normal(5, 3)[0], normal(5, 3)), "must be tables"),
        (lambda: cmmd(normal(5, 3), normal(5, 3) / 0), "not finite"),
        (lambda: cmmd(normal(5, 3), torch.zeros(5, 3)), "length zero"),
        (lambda: precision_recall(normal(3, 3), normal(5, 3)), "3 features have no neighbour number 3"),
        (lambda: measures(normal(3, 3), normal(3, 3), k=0), "choose 1 <= k < n"),
        (lambda: diversity(normal(3, 3), [1, 1, 2]), "the group 2 has one image"),
        (lambda: diversity(normal(3, 3), [1, 1]), "3 features and 2 labels"),
        (lambda: measures(normal(5, 3), normal(5, 3), resamples=1), "two resamples"),
        (lambda: measures(normal(5, 3), normal(5, 3), groups=[1] * 4), "as many of each"),
    ],
)
def test_faults_are_named_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as fault:
        call()
    assert "\n" not in str(fault.value)
