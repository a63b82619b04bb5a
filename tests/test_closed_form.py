"""The closed-form fields against definitions, torch.distributions and scipy; the identities by quadrature."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from lab.oracles.change_of_variables import score
from lab.oracles.closed_form import GaussianMixtureField, GaussianPairField
from rfmi.fields import both_branches, expand_time, guided, interpolate
from rfmi.times import gauss_legendre

ONE = torch.ones(1, dtype=torch.float64)


def random_covariance(dimension, seed):
    root = torch.randn(dimension, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T / dimension + 0.2 * torch.eye(dimension, dtype=torch.float64)


def gaussian(d_x, d_y, seed=0):
    mean = torch.randn(d_x + d_y, generator=torch.Generator().manual_seed(seed + 100), dtype=torch.float64)
    return GaussianPairField(random_covariance(d_x + d_y, seed), d_x, mean)


def mixture(labels, dimension, shared, seed=0):
    means = 1.5 * torch.randn(labels, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    covariances = torch.stack([random_covariance(dimension, seed + k) for k in range(1 if shared else labels)])
    prior = torch.arange(1, labels + 1, dtype=torch.float64)
    return GaussianMixtureField(means, covariances[0] if shared else covariances, prior / prior.sum())


FIELDS = {
    "gaussian 1+1": lambda: GaussianPairField.from_correlations([0.75]),
    "gaussian 3+2": lambda: gaussian(3, 2),
    "gaussian 2+5": lambda: gaussian(2, 5, seed=3),
    "gaussian, high information": lambda: GaussianPairField.from_correlations([0.999]),
    "mixture 1-D": lambda: mixture(3, 1, shared=False),
    "mixture 2-D": lambda: mixture(2, 2, shared=False),
    "mixture 5-D, one covariance": lambda: mixture(2, 5, shared=True),
}
NODES = {"gaussian, high information": 150}


@pytest.fixture(params=FIELDS)
def case(request):
    return FIELDS[request.param](), *gauss_legendre(NODES.get(request.param, 30))


def conditions_of(field, n=4):
    if isinstance(field, GaussianMixtureField):
        return torch.arange(field.labels)
    return field.sample(n, torch.Generator().manual_seed(1))[1]


def average(field, values, condition):
    """The mean over the prior of one value per label."""
    return values[..., condition] @ field.prior


# Velocities ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize(("d_x", "d_y"), [(1, 1), (3, 2), (2, 4)])
def test_gaussian_velocity_is_the_conditional_expectation(d_x, d_y, t):
    field = gaussian(d_x, d_y)
    x, y = field.sample(5, torch.Generator().manual_seed(2))
    eps = torch.randn(5, d_x, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    covariance = torch.block_diag(field.joint.covariance, torch.eye(d_x, dtype=torch.float64))
    to_x = torch.eye(2 * d_x + d_y, dtype=torch.float64)[:d_x]
    to_y = torch.eye(2 * d_x + d_y, dtype=torch.float64)[d_x : d_x + d_y]
    to_eps = torch.eye(2 * d_x + d_y, dtype=torch.float64)[d_x + d_y :]
    mean = torch.cat([field.x_mean, field.y_mean, torch.zeros(d_x, dtype=torch.float64)])
    target, state = to_x - to_eps, t * to_x + (1 - t) * to_eps
    times = torch.full((5,), t, dtype=torch.float64)
    x_t = interpolate(x, eps, times)
    for seen, values, condition in (
        (torch.cat([state, to_y]), torch.cat([x_t, y], 1), y),
        (state, x_t, None),
    ):
        regression = torch.linalg.solve(seen @ covariance @ seen.T, seen @ covariance @ target.T).T
        expected = target @ mean + (values - seen @ mean) @ regression.T
        torch.testing.assert_close(field(x_t, times, condition), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("t", [0.2, 0.7])
def test_mixture_velocity_is_the_conditional_expectation(t):
    field = mixture(3, 1, shared=False)
    x = torch.linspace(-25, 25, 40001, dtype=torch.float64)[:, None]
    x_t = torch.tensor([[-1.0], [0.2], [2.5]], dtype=torch.float64)
    likelihood = torch.exp(-((x_t - t * x.T) ** 2) / (2 * (1 - t) ** 2))
    for condition in (None, 0, 2):
        density = sum(
            (field.prior[k] if condition is None else float(k == condition))
            * torch.exp(field.paths[k].log_density(x, torch.ones(len(x)), field.means[k]))
            for k in range(3)
        )
        posterior = likelihood * density
        mean = (posterior @ x) / posterior.sum(1, keepdim=True)
        labels = None if condition is None else torch.full((3,), condition)
        times = torch.full((3,), t, dtype=torch.float64)
        torch.testing.assert_close(field(x_t, times, labels), (mean - x_t) / (1 - t), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(x_t + (1 - times)[:, None] * field(x_t, times, labels), mean, rtol=1e-9, atol=1e-9)


def test_velocities_at_both_ends_of_time(case):
    field = case[0]
    x, condition = field.sample(6, torch.Generator().manual_seed(4))
    zeros, ones = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    prior_mean = field.prior @ field.means if isinstance(field, GaussianMixtureField) else field.x_mean
    torch.testing.assert_close(field(x, zeros), prior_mean - x)
    for velocity in both_branches(field, x, ones, condition):
        torch.testing.assert_close(velocity, x)


def test_score_is_the_gradient_of_the_log_density():
    field = mixture(3, 2, shared=False)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64).requires_grad_()
    t = torch.tensor([0.0, 0.3, 0.6, 0.95], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(torch.logsumexp(field.branches(x, t)[1] + field.prior.log(), 1).sum(), x)
    torch.testing.assert_close(score(field(x, t), x, t), gradient)


def test_one_label_and_independent_pairs_leave_nothing_to_tell():
    for field in (GaussianPairField(torch.eye(5), 3), mixture(1, 2, shared=True)):
        x, condition = field.sample(8, torch.Generator().manual_seed(6))
        conditional, unconditional = both_branches(field, x, torch.linspace(0, 1, 8), condition)
        assert torch.equal(conditional, unconditional)
        assert field.mutual_information == pytest.approx(0, abs=1e-15)
        assert float(field.pointwise(x, condition).abs().max()) <= 1e-15


def test_guidance_interpolates_and_extrapolates_the_branches():
    u_c, u_m = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    assert torch.equal(guided(u_c, u_m, 1), u_c)
    assert torch.equal(guided(u_c, u_m, 0), u_m)
    torch.testing.assert_close(guided(u_c, u_m, 4.5), 4.5 * u_c - 3.5 * u_m)


# Exact information ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.75, -0.99])
def test_gaussian_information_in_one_dimension(rho):
    field = GaussianPairField.from_correlations([rho])
    assert field.mutual_information == pytest.approx(-0.5 * math.log(1 - rho**2), abs=1e-12)


@pytest.mark.parametrize(("d_x", "d_y"), [(1, 1), (3, 2), (2, 5)])
def test_gaussian_pointwise_information_from_the_joint_density(d_x, d_y):
    field = gaussian(d_x, d_y)
    x, y = field.sample(7, torch.Generator().manual_seed(8))
    normal = torch.distributions.MultivariateNormal
    joint = normal(torch.cat([field.x_mean, field.y_mean]), field.joint.covariance)
    of_x = normal(field.x_mean, field.joint.covariance[:d_x, :d_x])
    of_y = normal(field.y_mean, field.joint.covariance[d_x:, d_x:])
    expected = joint.log_prob(torch.cat([x, y], 1)) - of_x.log_prob(x) - of_y.log_prob(y)
    torch.testing.assert_close(field.pointwise(x, y), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("separation", [0.1, 2.0, 12.0])
def test_mixture_information_against_scipy(separation):
    prior = torch.tensor([0.3, 0.7], dtype=torch.float64)
    field = GaussianMixtureField(torch.tensor([[0.0], [separation]]), torch.tensor([[[1.0]], [[0.25]]]), prior)
    first, second = norm(0, 1), norm(separation, 0.5)

    def entropy(x):
        density = 0.3 * first.pdf(x) + 0.7 * second.pdf(x)
        return -density * math.log(density) if density > 0 else 0.0

    whole = quad(entropy, -20, separation + 20, limit=500, points=[0, separation], epsabs=1e-12)[0]
    assert field.mutual_information == pytest.approx(whole - 0.3 * first.entropy() - 0.7 * second.entropy(), abs=1e-8)


def test_far_labels_carry_their_entropy():
    field = GaussianMixtureField(torch.tensor([[0.0, 0.0], [30.0, 0.0]]), torch.eye(2))
    assert field.mutual_information == pytest.approx(math.log(2), abs=1e-12)


def test_samples_have_the_moments_of_their_law():
    field, n = gaussian(2, 3), 100_000
    draws = torch.cat(field.sample(n, torch.Generator().manual_seed(9)), 1)
    torch.testing.assert_close(draws.T.cov(), field.joint.covariance, rtol=0, atol=0.03)
    torch.testing.assert_close(draws.mean(0), torch.cat([field.x_mean, field.y_mean]), rtol=0, atol=0.02)
    field = mixture(3, 2, shared=False)
    x, label = field.sample(n, torch.Generator().manual_seed(10))
    torch.testing.assert_close(label.bincount() / n, field.prior.float(), rtol=0, atol=0.01)
    torch.testing.assert_close(x[label == 2].mean(0), field.means[2], rtol=0, atol=0.03)
    torch.testing.assert_close(x[label == 2].T.cov(), field.paths[2].covariance, rtol=0, atol=0.03)


# Identities, within 1e-6 by quadrature -------------------------------------------------------------------------------


def test_identity_1_squared_form_is_the_divergence_of_each_condition(case):
    field, t, weights = case
    condition = conditions_of(field)
    integral = weights @ field.squared_integrand(t, condition)
    torch.testing.assert_close(integral, field.kl_divergence(ONE, condition)[0], rtol=0, atol=1e-6)


def test_identity_1_rate_of_the_divergence(case):
    field = case[0]
    condition, step = conditions_of(field, 2), 1e-3
    t = torch.tensor([0.15, 0.6, 0.9], dtype=torch.float64)
    near = field.kl_divergence(t + step, condition) - field.kl_divergence(t - step, condition)
    far = field.kl_divergence(t + 2 * step, condition) - field.kl_divergence(t - 2 * step, condition)
    derivative = (8 * near - far) / (12 * step)
    torch.testing.assert_close(derivative, field.squared_integrand(t, condition), rtol=1e-6, atol=1e-6)


def test_identities_1_and_2_average_to_mutual_information(case):
    field, t, weights = case
    forms = (field.squared_integrand, field.inner_product_integrand)
    if isinstance(field, GaussianMixtureField):
        labels = torch.arange(field.labels)
        averages = [weights @ average(field, form(t, labels), labels) for form in forms]
    else:
        averages = [weights @ form(t) for form in forms]
    for value in averages:
        assert float(value) == pytest.approx(field.mutual_information, abs=1e-6)


def test_identity_2_differs_within_a_condition_by_a_term_of_mean_zero():
    field = mixture(3, 1, shared=False)
    t, labels = torch.tensor([0.2, 0.6, 0.95], dtype=torch.float64), torch.arange(3)
    difference = field.inner_product_integrand(t, labels) - field.squared_integrand(t, labels)
    x_t = torch.linspace(-15, 15, 30001, dtype=torch.float64)[:, None]
    for row, time in enumerate(t):
        times = time.expand(len(x_t))
        log_density = field.branches(x_t, times)[1]
        for k in labels:
            u_c, u_m = field.both(x_t, times, k.expand(len(x_t)))
            integrand = log_density[:, k].exp() * (u_m * (u_c - u_m)).sum(1)
            expected = time / (1 - time) * torch.trapezoid(integrand, x_t[:, 0])
            torch.testing.assert_close(difference[row, k], expected, rtol=0, atol=1e-9)
    assert float(difference.abs().min()) > 1e-3
    torch.testing.assert_close(difference @ field.prior, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-9)


def test_gaussian_averages_over_the_condition():
    field = gaussian(2, 3)
    t, y = torch.tensor([0.3, 0.8], dtype=torch.float64), field.sample(200_000, torch.Generator().manual_seed(11))[1]
    for form in (field.squared_integrand, field.inner_product_integrand, field.kl_divergence):
        each = form(t, y)
        bound = 4 * each.std(1) / len(y) ** 0.5
        assert bool(((each.mean(1) - form(t)).abs() < bound).all())


@pytest.mark.parametrize("form", ["squared_integrand", "inner_product_integrand"])
def test_gaussian_integrands_are_expectations_of_the_velocities(form):
    field, t = gaussian(1, 2), torch.tensor([0.1, 0.5, 0.97], dtype=torch.float64)
    y = field.sample(3, torch.Generator().manual_seed(12))[1]
    z = torch.linspace(-9, 9, 1801, dtype=torch.float64)
    for row, time in enumerate(t):
        for column in range(3):
            condition = y[column].expand(len(z), -1)
            x_t = time * field.conditional_mean(condition) + z[:, None] * field.conditional.spread(time[None]).sqrt()
            u_c, u_m = both_branches(field, x_t, time.expand(len(z)), condition)
            left = u_c - u_m if form == "squared_integrand" else u_c
            values = time / (1 - time) * (left * (u_c - u_m)).sum(1) * torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
            expected = torch.trapezoid(values, z)
            torch.testing.assert_close(getattr(field, form)(t, y)[row, column], expected, rtol=0, atol=1e-9)


def test_identity_3_re_noising_is_the_pointwise_information(case):
    field, t, weights = case
    x, condition = field.sample(3, torch.Generator().manual_seed(13))
    integral = weights @ field.re_noising_integrand(t, x, condition)
    torch.testing.assert_close(integral, field.pointwise(x, condition), rtol=0, atol=1e-6)


def test_gaussian_re_noising_integrand_is_an_expectation_over_the_noise():
    field, time = gaussian(1, 1), torch.tensor([0.6], dtype=torch.float64)
    x, y = field.sample(2, torch.Generator().manual_seed(14))
    eps = torch.linspace(-9, 9, 1801, dtype=torch.float64)[:, None]
    for column in range(2):
        point, condition = x[column].expand_as(eps), y[column].expand_as(eps)
        times = time.expand(len(eps))
        u_c, u_m = both_branches(field, interpolate(point, eps, times), times, condition)
        loss = (point - eps - u_m).square() - (point - eps - u_c).square()
        values = (loss * torch.exp(-(eps**2) / 2))[:, 0] / math.sqrt(2 * math.pi) * time / (1 - time)
        expected = torch.trapezoid(values, eps[:, 0])
        torch.testing.assert_close(field.re_noising_integrand(time, x, y)[0, column], expected, rtol=0, atol=1e-9)


# Faults --------------------------------------------------------------------------------------------------------------

EYE, PAIR = torch.eye(2), torch.zeros(2, 1)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GaussianPairField(torch.ones(2, 3), 1), "square"),
        (lambda: GaussianPairField(torch.tensor([[1.0, 0.5], [0.1, 1.0]]), 1), "not symmetric"),
        (lambda: GaussianPairField.from_correlations([1.0]), "not positive definite"),
        (lambda: GaussianPairField(torch.tensor([[1.0, math.nan], [math.nan, 1.0]]), 1), "finite"),
        (lambda: GaussianPairField(EYE, 2), "x_dimension is 2"),
        (lambda: GaussianPairField(EYE, 1, torch.zeros(3)), "the mean has shape"),
        (lambda: GaussianMixtureField(torch.zeros(2), EYE), "a row per label"),
        (lambda: GaussianMixtureField(PAIR, EYE), "covariances have shape"),
        (lambda: GaussianMixtureField(PAIR, torch.eye(1), torch.tensor([0.5, 0.6])), "sum to 1"),
        (lambda: GaussianPairField(EYE, 1)(torch.zeros(3), torch.zeros(3)), "x_t must have shape"),
        (lambda: GaussianPairField(EYE, 1)(torch.zeros(3, 1), torch.full((3,), 1.5)), r"times in \[0, 1\]"),
        (lambda: GaussianPairField(EYE, 1)(torch.zeros(3, 1), torch.zeros(2)), "one per row"),
        (
            lambda: GaussianPairField(EYE, 1).pointwise(torch.zeros(3, 1), torch.zeros(3, 2)),
            "the condition must have shape",
        ),
        (
            lambda: GaussianMixtureField(PAIR, torch.eye(1)).pointwise(torch.zeros(2, 1), torch.zeros(2)),
            "integer labels",
        ),
        (
            lambda: GaussianMixtureField(PAIR, torch.eye(1)).pointwise(torch.zeros(2, 1), torch.tensor([0, 2])),
            r"0 \.\.\. 1",
        ),
        (lambda: GaussianMixtureField(PAIR, torch.eye(1)).squared_integrand(torch.ones(1)), "0 / 0 at t = 1"),
        (lambda: mixture(2, 3, shared=False).mutual_information, "no exact quadrature"),
        (lambda: mixture(5, 3, shared=True).mutual_information, "no exact quadrature"),
        (lambda: score(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1)), "0 / 0"),
        (lambda: expand_time(torch.zeros(2), torch.zeros(3, 1)), "one time per row"),
        (lambda: both_branches(mixture(2, 1, shared=True), PAIR, torch.zeros(2), None), "the null branch itself"),
    ],
)
def test_faults_are_named_in_one_sentence(build, message):
    with pytest.raises(ValueError, match=message) as fault:
        build()
    assert "\n" not in str(fault.value)
