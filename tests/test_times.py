"""Stratified times and their weights: integrals come out, strata are kept, bad input is refused."""

import math

import pytest
import torch

from lab.oracles.closed_form import GaussianPairField
from rfmi.times import StratifiedTimes, gauss_legendre

GRID = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
SCHEMES = {
    "uniform": lambda draws: StratifiedTimes.uniform(draws),
    "tabulated": lambda draws: StratifiedTimes.from_curve(draws, GRID, GRID**4, floor=0.05),
    "matched": lambda draws: StratifiedTimes.matched(
        draws, GaussianPairField.from_correlations([0.9]).squared_integrand
    ),
}


def density(times, t):
    """q(t), constant on cells; 0 outside of them."""
    cell = (torch.searchsorted(times.edges, t.double(), right=True) - 1).clamp(0, len(times.mass) - 1)
    inside = (t >= times.edges[0]) & (t <= times.edges[-1])
    return (times.mass / times.edges.diff())[cell] * inside


@pytest.fixture(params=SCHEMES)
def scheme(request):
    return SCHEMES[request.param]


@pytest.mark.parametrize("draws", [1, 7])
def test_the_weighted_sum_is_unbiased(scheme, draws):
    t, weights = scheme(draws).draw(40_000, torch.Generator().manual_seed(0))
    sums = (weights * torch.exp(-3 * t)).sum(1)
    error = float(sums.std()) / math.sqrt(len(sums))
    assert abs(float(sums.mean()) - (1 - math.exp(-3)) / 3) < 4 * error


def test_one_draw_per_stratum(scheme):
    draws = 8
    times = scheme(draws)
    t, weights = times.draw(50, torch.Generator().manual_seed(1))
    cumulative = torch.cat([times.mass.new_zeros(1), times.mass.cumsum(0)])
    cell = torch.searchsorted(times.edges, t.contiguous(), right=True) - 1
    level = cumulative[cell] + times.mass[cell] * (t - times.edges[cell]) / times.edges.diff()[cell]
    assert torch.equal((level * draws).floor().long(), torch.arange(draws).expand(50, -1))
    torch.testing.assert_close(weights, 1 / (draws * density(times, t)))


def test_density_integrates_to_one_and_is_never_zero(scheme):
    times = scheme(1)
    middles = (times.edges[1:] + times.edges[:-1]) / 2
    assert float((density(times, middles) * times.edges.diff()).sum()) == pytest.approx(1)
    assert float(density(times, GRID).min()) > 0
    assert torch.equal(density(times, torch.tensor([-0.1, 1.1])), torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("share", [1, 20, 100])
def test_range_and_shared_draws(share):
    t, weights = StratifiedTimes.uniform(5, 0.2, 0.995).draw(100, torch.Generator().manual_seed(2), share)
    assert float(t.min()) >= 0.2 and float(t.max()) < 0.995
    assert torch.equal(t, t[::share].repeat_interleave(share, 0))
    assert len(t[:, 0].unique()) == 100 // share
    torch.testing.assert_close(weights.sum(1), torch.full((100,), 0.795, dtype=torch.float64))


def test_matching_the_integrand_reduces_the_variance():
    field = GaussianPairField.from_correlations([0.99])
    spreads = []
    for times in (StratifiedTimes.uniform(4), StratifiedTimes.matched(4, field.squared_integrand, floor=0.05)):
        t, weights = times.draw(4_000, torch.Generator().manual_seed(3))
        spreads.append(float((weights * field.squared_integrand(t.flatten()).reshape(t.shape)).sum(1).std()))
    assert spreads[1] < 0.3 * spreads[0]


def test_a_curve_of_zeros_gives_the_uniform_density():
    times = StratifiedTimes.matched(1, GaussianPairField.from_correlations([0.0]).squared_integrand)
    torch.testing.assert_close(density(times, GRID), torch.ones(101, dtype=torch.float64))


def test_gauss_legendre_is_exact_for_polynomials():
    t, weights = gauss_legendre(5, 0.25, 0.75)
    assert float(weights @ t**9) == pytest.approx((0.75**10 - 0.25**10) / 10, rel=1e-14)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: StratifiedTimes.uniform(0), "at least one time"),
        (lambda: StratifiedTimes.uniform(3, 0.5, 0.5), "0 <= t_min < t_max <= 1"),
        (lambda: gauss_legendre(3, -0.1, 1), "0 <= t_min < t_max <= 1"),
        (lambda: StratifiedTimes.from_curve(3, GRID, GRID[:-1]), "vectors of one length"),
        (lambda: StratifiedTimes.from_curve(3, GRID.flip(0), GRID), "sort the grid"),
        (lambda: StratifiedTimes.from_curve(3, GRID, -GRID), "not negative"),
        (lambda: StratifiedTimes.from_curve(3, GRID, GRID / 0), "finite"),
        (lambda: StratifiedTimes.from_curve(3, GRID, GRID, floor=0), "floor is 0"),
        (lambda: StratifiedTimes.uniform(3).draw(10, torch.Generator(), share=4), "groups of 4"),
    ],
)
def test_faults_are_named_in_one_sentence(build, message):
    with pytest.raises(ValueError, match=message) as fault:
        build()
    assert "\n" not in str(fault.value)
