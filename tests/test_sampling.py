"""Sampling against diffusers' scheduler, the scores against their definitions, and what a mean over steps is not."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from lab.oracles.closed_form import GaussianMixtureField, GaussianPairField
from lab.oracles.experiments import time_grid
from rfmi.fields import guided
from rfmi.sampling import path_scores, sample


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def setting(n=6):
    field = GaussianPairField.from_correlations([0.75, 0.5])
    condition = field.sample(n, seeded(0))[1]
    return field, torch.randn(n, 2, generator=seeded(1), dtype=torch.float64), condition


@pytest.mark.parametrize("guidance", [1.0, 4.5])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_sampling_is_that_of_diffusers(shift, guidance):
    field, noise, condition = setting()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(28)
    torch.testing.assert_close(1 - time_grid(28, shift), scheduler.sigmas.double(), rtol=1e-5, atol=1e-6)
    expected = noise.float()
    for timestep in scheduler.timesteps:
        t = torch.full((len(expected),), 1 - float(timestep) / 1000, dtype=torch.float64)
        v_c, v_m = -field(expected.double(), t, condition), -field(expected.double(), t)
        expected = scheduler.step((v_m + guidance * (v_c - v_m)).float(), timestep, expected).prev_sample
    found = sample(field, noise, condition, times=time_grid(28, shift), guidance=guidance)
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)


def test_unguided_sampling_keeps_the_normal_coordinates_of_a_gaussian():
    field = GaussianPairField.from_correlations([0.75])
    noise, condition = (
        torch.randn(50, 1, generator=seeded(2), dtype=torch.float64),
        torch.ones(50, 1, dtype=torch.float64),
    )
    found = sample(field, noise, condition, times=torch.linspace(0, 1, 4001, dtype=torch.float64))
    expected = 0.75 + (1 - 0.75**2) ** 0.5 * noise
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def test_path_score_is_algorithm_2():
    field, x_t, condition = setting()
    grid = torch.linspace(0, 1, 21, dtype=torch.float64)
    found = path_scores(field, x_t, condition, times=grid)
    expected = torch.zeros(6, dtype=torch.float64)
    for t in grid[:-1]:
        time = t.expand(6)
        u_c, u_m = field(x_t, time, condition), field(x_t, time)
        expected += t / (1 - t) * (u_c * (u_c - u_m)).sum(1)
        x_t = x_t + u_c / 20
    torch.testing.assert_close(found.samples, x_t)
    torch.testing.assert_close(found.path, expected / 20)


def test_guided_path_score_is_that_of_the_official_code_in_its_own_signs():
    field, x_t, condition = setting()
    grid = time_grid(40, shift=3.0)
    found = path_scores(field, x_t, condition, times=grid, guidance=7.5)
    terms = []
    for sigma, following in zip(1 - grid[:-1], 1 - grid[1:], strict=True):
        time = (1 - sigma).expand(6)
        v_null = -field(x_t, time)
        v_cfg = v_null + 7.5 * (-field(x_t, time, condition) - v_null)
        if 0.05 < float(sigma) < 1:
            terms.append((1 - sigma) / sigma * (v_cfg * (v_cfg - v_null)).sum(1))
        x_t = x_t + (following - sigma) * v_cfg
    assert 1 < len(terms) < 39
    torch.testing.assert_close(found.samples, x_t)
    torch.testing.assert_close(found.guided_path, torch.stack(terms).mean(0))


def test_the_squared_and_the_accumulated_difference_are_sums_along_the_same_trajectory():
    field, x_t, condition = setting()
    grid, expected, difference = time_grid(30), torch.zeros(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    scores = path_scores(field, x_t, condition, times=grid, guidance=4.5)
    for t, later in zip(grid, grid[1:], strict=False):
        u_c, u_m = field(x_t, t.expand(6), condition), field(x_t, t.expand(6))
        expected += (later - t) * t / (1 - t) * (u_c - u_m).square().sum(1)
        difference += (later - t) * (u_c - u_m).norm(dim=1)
        x_t = x_t + (later - t) * (u_m + 4.5 * (u_c - u_m))
    torch.testing.assert_close(scores.squared, expected)
    torch.testing.assert_close(scores.difference, difference)
    torch.testing.assert_close(scores.samples, x_t)
    assert scores.evaluations == 2 * 6 * 30


@pytest.mark.parametrize("guidance", [1.0, 4.5])
@pytest.mark.parametrize("batch", [None, 1, 4])
def test_samples_are_the_ends_of_the_scored_paths_in_batches_of_any_size(guidance, batch):
    field, noise, condition = setting()
    scored = path_scores(field, noise, condition, times=time_grid(9), guidance=guidance)
    found = sample(field, noise, condition, times=time_grid(9), guidance=guidance, batch=batch)
    torch.testing.assert_close(found, scored.samples)


def test_a_part_of_the_grid_goes_on_where_the_part_before_ended():
    field, noise, condition = setting()
    times = time_grid(9)
    halfway = sample(field, noise, condition, times=times[:5], guidance=2.0)
    whole = sample(field, noise, condition, times=times, guidance=2.0)
    assert torch.equal(sample(field, halfway, condition, times=times[4:], guidance=2.0), whole)


def test_without_guidance_the_null_branch_is_not_asked_for():
    field, noise, condition = setting()

    def without_null(x_t, t, y=None):
        assert y is not None
        return field(x_t, t, y)

    found = sample(without_null, noise, condition, times=time_grid(5))
    assert torch.equal(found, sample(field, noise, condition, times=time_grid(5), guidance=1.0))


@pytest.mark.parametrize("form", ["path", "squared"])
def test_path_scores_average_to_mutual_information(form):
    field = GaussianPairField.from_correlations([0.75, 0.5])
    condition = field.sample(20_000, seeded(3))[1]
    noise = torch.randn(20_000, 2, generator=seeded(4), dtype=torch.float64)
    scores = getattr(path_scores(field, noise, condition, times=torch.linspace(0, 1, 201, dtype=torch.float64)), form)
    assert abs(float(scores.mean()) - field.mutual_information) < 4 * float(scores.std()) / len(scores) ** 0.5 + 2e-3


def test_labels_are_conditions_too():
    field = GaussianMixtureField(torch.tensor([[-2.0], [2.0]]), torch.tensor([[0.1]]))
    noise, condition = torch.randn(100, 1, generator=seeded(5), dtype=torch.float64), torch.arange(2).repeat(50)
    found = path_scores(field, noise, condition, times=time_grid(50))
    assert torch.equal(found.samples[:, 0] > 0, condition == 1)
    assert bool(torch.isfinite(found.path).all())


def test_identity_5_a_mean_over_shifted_steps_is_not_an_integral():
    field = GaussianPairField.from_correlations([0.75])
    truth = field.mutual_information
    for steps, shift in ((2_000, 1.0), (2_000, 3.0)):
        grid = time_grid(steps, shift)
        integrand = field.squared_integrand(grid[:-1])
        assert float((grid.diff() * integrand).sum()) == pytest.approx(truth, abs=2e-3)
        plain = float(integrand.mean())
        if shift == 1.0:
            assert plain == pytest.approx(truth, abs=2e-3)
        else:
            assert abs(plain - truth) > 0.05


def test_independent_pairs_score_zero():
    field = GaussianPairField(torch.eye(4), 2)
    condition = torch.ones(5, 2, dtype=torch.float64)
    scores = path_scores(
        field, torch.randn(5, 2, generator=seeded(6), dtype=torch.float64), condition, times=time_grid(10)
    )
    for values in (scores.path, scores.guided_path, scores.squared):
        assert torch.equal(values, torch.zeros(5, dtype=torch.float64))


def test_guidance_moves_the_sample_but_not_the_published_branch():
    field, noise, condition = setting()
    times = torch.tensor([0.2, 0.5], dtype=torch.float64)
    step = path_scores(field, noise, condition, times=times, guidance=3.0)
    u_c, u_m = field(noise, times[:1].expand(6), condition), field(noise, times[:1].expand(6))
    torch.testing.assert_close(step.samples, noise + 0.3 * guided(u_c, u_m, 3.0))
    torch.testing.assert_close(step.path, 0.3 * 0.25 * (u_c * (u_c - u_m)).sum(1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: time_grid(1), "at least 2 steps"),
        (lambda: time_grid(10, shift=0), "a positive shift"),
        (lambda: path_scores(*setting(), times=torch.tensor([0.5])), "increasing grid"),
        (lambda: path_scores(*setting(), times=torch.tensor([0.0, 0.6, 0.5])), "increasing grid"),
        (lambda: path_scores(*setting(), times=torch.tensor([0.0, 1.1])), "increasing grid"),
        (lambda: sample(*setting()[:2], None, times=time_grid(5)), "labels are None"),
        (lambda: path_scores(*setting(), times=torch.tensor([0.0, 1.0])), "the official score is empty"),
    ],
)
def test_faults_are_named_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as fault:
        call()
    assert "\n" not in str(fault.value)
