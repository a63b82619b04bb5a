"""Every estimator on fields with known information: unbiased within its own error, exact where it should be."""

import pytest
import torch
from scipy.stats import binom, t as student

from lab.oracles.change_of_variables import change_of_variables
from lab.oracles.closed_form import GaussianMixtureField, GaussianPairField
from rfmi.estimators import Estimate, MonteCarloForms, monte_carlo_forms
from rfmi.times import StratifiedTimes

FORMS = ("squared", "inner_product", "re_noising", "residual")
SEEDS, PAIRS = 200, 400


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def re_noising(field, x, condition, **options):
    return monte_carlo_forms(field, x, condition, **options).re_noising


def pair_field(d_x=3, d_y=2):
    root = torch.randn(d_x + d_y, d_x + d_y, generator=seeded(0), dtype=torch.float64)
    mean = torch.linspace(-1, 1, d_x + d_y, dtype=torch.float64)
    return GaussianPairField(root @ root.T + 0.5 * torch.eye(d_x + d_y), d_x, mean)


def label_field():
    means = torch.tensor([[0.0, 0.0], [1.5, 0.5], [-1.0, 2.0]], dtype=torch.float64)
    covariances = torch.stack(
        [torch.eye(2), torch.diag(torch.tensor([0.3, 0.8])), torch.full((2, 2), 0.4) + torch.eye(2) / 2]
    )
    return GaussianMixtureField(means, covariances, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))


FIELDS = {
    "pair 1+1": lambda: GaussianPairField.from_correlations([0.75]),
    "pair 3+2": pair_field,
    "labels in 2-D": label_field,
}
TIMES = {
    "uniform": lambda field: StratifiedTimes.uniform(4),
    "matched": lambda field: StratifiedTimes.matched(
        4, GaussianPairField.from_correlations([0.75]).squared_integrand, floor=0.2
    ),
}


class CountingField:
    """A field that counts the velocities asked of it."""

    def __init__(self, field, both):
        self.field, self.count = field, 0
        if both:
            self.both = self._both

    def __call__(self, x_t, t, condition=None):
        self.count += len(x_t)
        return self.field(x_t, t, condition)

    def _both(self, x_t, t, condition):
        return self(x_t, t, condition), self(x_t, t)


def errors_by_seed(pointwise, truth):
    """Errors in units of their own standard error, one a seed, from (SEEDS * PAIRS,) point-wise values."""
    estimates = [Estimate.from_pointwise(values, 0) for values in pointwise.reshape(SEEDS, PAIRS)]
    return torch.tensor([(estimate.value - truth) / estimate.standard_error for estimate in estimates])


def assert_unbiased(pointwise, truth):
    """Misses of 3 standard errors no more frequent than chance gives, and no bias visible over all seeds together."""
    errors = errors_by_seed(pointwise, truth)
    allowed = binom.ppf(0.999, SEEDS, 2 * student.sf(3, PAIRS - 1))
    assert int((errors.abs() > 3).sum()) <= allowed
    whole = Estimate.from_pointwise(pointwise, 0)
    assert abs(whole.value - truth) < 3.5 * whole.standard_error


@pytest.fixture(params=FIELDS)
def field(request):
    return FIELDS[request.param]()


# Unbiased ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"times": "matched", "noises": 2}],
    ids=["plain", "matched times"],
)
def test_monte_carlo_forms_are_unbiased_in_200_seeds(field, options):
    generator = seeded(1)
    x, condition = field.sample(SEEDS * PAIRS, generator)
    times = TIMES[options.get("times", "uniform")](field)
    options = {key: value for key, value in options.items() if key != "times"}
    forms = monte_carlo_forms(field, x, condition, times=times, generator=generator, **options)
    for form in FORMS:
        assert_unbiased(getattr(forms, form).pointwise, field.mutual_information)


@pytest.mark.parametrize(("shared", "repeats"), [(False, 4_000), (True, 400)])
def test_re_noising_is_unbiased_for_one_pair(field, shared, repeats):
    x, condition = field.sample(3, seeded(2))
    truth, times, generator = field.pointwise(x, condition), StratifiedTimes.uniform(2), seeded(3)
    if shared:
        draws = [re_noising(field, x, condition, times=times, generator=generator, share=3) for _ in range(repeats)]
        draws = torch.stack([draw.pointwise for draw in draws])
    else:
        many = [torch.cat([part] * repeats) for part in (x, condition)]
        draws = re_noising(field, *many, times=times, generator=generator, noises=2).pointwise.reshape(repeats, 3)
    error = draws.std(0) / repeats**0.5
    assert bool(((draws.mean(0) - truth).abs() < 4 * error).all())


def signs(probes, x, generator):
    """Hutchinson's directions: random signs, for which the divergence is right in the mean."""
    return (torch.randint(0, 2, (probes, *x.shape), generator=generator).to(x) * 2 - 1) / probes**0.5


def test_change_of_variables_with_random_probes_is_unbiased_in_200_seeds():
    field, generator = pair_field(2, 1), seeded(4)
    x, condition = field.sample(SEEDS * PAIRS, generator)
    estimate = change_of_variables(field, x, condition, steps=8, directions=signs(1, x, generator))
    assert_unbiased(estimate.pointwise, field.mutual_information)
    noise = estimate.pointwise - field.pointwise(x, condition)
    assert float(noise.std()) > 1e-3 and abs(float(noise.mean())) < 4 * float(noise.std()) / len(noise) ** 0.5


# Exact ---------------------------------------------------------------------------------------------------------------


def test_identity_4_change_of_variables_is_the_pointwise_information(field):
    x, condition = field.sample(20, seeded(5))
    estimate = change_of_variables(field, x, condition, steps=96)
    torch.testing.assert_close(estimate.pointwise, field.pointwise(x, condition), rtol=0, atol=1e-6)


def test_change_of_variables_is_of_fourth_order():
    field = pair_field()
    x, condition = field.sample(20, seeded(6))
    truth = field.pointwise(x, condition)
    coarse, fine = (
        (change_of_variables(field, x, condition, steps=steps).pointwise - truth).abs().max() for steps in (16, 32)
    )
    assert 10 < float(coarse / fine) < 24


def test_residual_form_is_the_mean_of_squared_and_re_noising(field):
    x, condition = field.sample(50, seeded(7))
    forms = monte_carlo_forms(field, x, condition, times=StratifiedTimes.uniform(3), generator=seeded(8))
    expected = (forms.squared.pointwise + forms.re_noising.pointwise) / 2
    torch.testing.assert_close(forms.residual.pointwise, expected)


def test_forms_follow_their_definitions():
    field = label_field()
    x, condition = field.sample(4, seeded(11))
    times = StratifiedTimes.uniform(1)
    forms = monte_carlo_forms(field, x, condition, times=times, generator=seeded(12))
    generator = seeded(12)
    t, weights = (part[:, 0] for part in times.draw(4, generator))
    eps = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    x_t, v, w = (1 - t)[:, None] * eps + t[:, None] * x, x - eps, weights * t / (1 - t)
    u_c, u_m = field(x_t, t, condition), field(x_t, t)
    torch.testing.assert_close(forms.squared.pointwise, w * (u_c - u_m).square().sum(1))
    torch.testing.assert_close(forms.inner_product.pointwise, w * (u_c * (u_c - u_m)).sum(1))
    losses = (v - u_m).square().sum(1) - (v - u_c).square().sum(1)
    torch.testing.assert_close(forms.re_noising.pointwise, w * losses)


@pytest.mark.parametrize("form", FORMS)
def test_independent_pairs_give_zero_exactly(form):
    field = GaussianPairField(torch.eye(5), 3)
    x, y = field.sample(20, seeded(13))
    forms = monte_carlo_forms(field, x, y, times=StratifiedTimes.uniform(5), generator=seeded(14))
    assert torch.equal(getattr(forms, form).pointwise, torch.zeros(20, dtype=torch.float64))
    assert torch.equal(change_of_variables(field, x, y, steps=3).pointwise, torch.zeros(20, dtype=torch.float64))


# Thrift, shapes and sharing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("both", [False, True])
def test_evaluations_are_those_made(both):
    field = CountingField(label_field(), both)
    x, condition = label_field().sample(10, seeded(15))
    options = {"times": StratifiedTimes.uniform(3), "noises": 4}
    forms = monte_carlo_forms(field, x, condition, generator=seeded(16), **options)
    assert forms.squared.evaluations == forms.residual.evaluations == field.count == 2 * 10 * 3 * 4
    field.count = 0
    estimate = change_of_variables(field, x, condition, steps=5)
    assert field.count == 2 * 10 * 5 * 4
    assert estimate.evaluations == field.count * (1 + 2)  # two vector-Jacobian products in two dimensions


def test_shared_noise_scores_equal_candidates_of_a_prompt_equally():
    field = label_field()
    x, condition = torch.ones(6, 2, dtype=torch.float64), torch.full((6,), 2)
    options = {"times": StratifiedTimes.uniform(3), "noises": 2}
    shared = re_noising(field, x, condition, generator=seeded(17), share=3, **options).pointwise.reshape(2, 3)
    torch.testing.assert_close(shared, shared[:, :1].expand(2, 3))
    assert abs(float(shared[0, 0] - shared[1, 0])) > 0.01
    apart = re_noising(field, x, condition, generator=seeded(17), **options).pointwise
    assert len(apart.unique()) == 6


def test_images_and_single_precision():
    field = pair_field(4, 2)

    def image_field(x_t, t, condition=None):
        return field(x_t.flatten(1), t, condition).reshape(x_t.shape)

    x, condition = field.sample(30, seeded(20))
    images, times = x.float().reshape(30, 1, 2, 2), StratifiedTimes.uniform(4, 0.0, 0.99)
    flat = monte_carlo_forms(field, x.float(), condition.float(), times=times, generator=seeded(21))
    shaped = monte_carlo_forms(image_field, images, condition.float(), times=times, generator=seeded(21))
    assert isinstance(shaped, MonteCarloForms)
    for form in FORMS:
        torch.testing.assert_close(getattr(shaped, form).pointwise, getattr(flat, form).pointwise, rtol=1e-4, atol=1e-4)
    traced = change_of_variables(image_field, images, condition.float(), steps=32)
    torch.testing.assert_close(traced.pointwise.double(), field.pointwise(x, condition), rtol=1e-3, atol=1e-3)


def test_network_fields_work_and_leave_no_graph():
    layer = torch.nn.Linear(3, 2)

    def network(x_t, t, condition=None):
        y = torch.zeros(len(x_t)) if condition is None else condition[:, 0]
        return layer(torch.cat([x_t, (t * y)[:, None]], 1))

    x, condition = torch.randn(8, 2, generator=seeded(22)), torch.randn(8, 1, generator=seeded(23))
    forms = monte_carlo_forms(network, x, condition, times=StratifiedTimes.uniform(2, 0.0, 0.99), generator=seeded(24))
    traced = change_of_variables(network, x, condition, steps=4, directions=signs(2, x, seeded(25)))
    assert not forms.residual.pointwise.requires_grad and not traced.pointwise.requires_grad
    assert bool(torch.isfinite(forms.residual.pointwise).all() and torch.isfinite(traced.pointwise).all())


def test_truncation_leaves_out_what_lies_beyond():
    field = pair_field()
    x, condition = field.sample(20_000, seeded(26))
    times = StratifiedTimes.uniform(8, 0.0, 0.4)
    estimate = monte_carlo_forms(field, x, condition, times=times, generator=seeded(27)).squared
    expected = float(field.kl_divergence(torch.tensor([0.4], dtype=torch.float64)))
    assert expected < 0.8 * field.mutual_information
    assert abs(estimate.value - expected) < 4 * estimate.standard_error


# Faults --------------------------------------------------------------------------------------------------------------

X, Y = torch.zeros(4, 1), torch.zeros(4, 1)
FIELD = GaussianPairField(torch.eye(2), 1)


def forms_of(x, y, **options):
    return monte_carlo_forms(FIELD, x, y, times=StratifiedTimes.uniform(1), generator=seeded(0), **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: forms_of(X, Y, noises=0), "noises is 0"),
        (lambda: forms_of(X, Y, share=3), "groups of 3"),
        (lambda: forms_of(X, Y[:3]), "one condition per row"),
        (lambda: forms_of(X, None), "one condition per row"),
        (lambda: forms_of(X[:, 0], Y), r"\(n, d\) tensor"),
        (lambda: forms_of(X.long(), Y), "floating"),
        (lambda: forms_of(X[:1], Y[:1]), "at least two point-wise values"),
        (lambda: change_of_variables(FIELD, X, Y, steps=0), "steps is 0"),
    ],
)
def test_faults_are_named_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as fault:
        call()
    assert "\n" not in str(fault.value)


def test_the_anchored_residual_form_is_linear_in_the_field():
    """Errors that scatter evenly about the truth leave its mean alone; they raise the squared form."""
    exact = GaussianPairField.from_correlations([0.8, 0.3])
    x, y = exact.sample(200, torch.Generator().manual_seed(0))
    scatter = torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def with_error(sign):
        def field(x_t, t, condition=None):
            error = torch.tanh(x_t @ scatter[0]) + (0 if condition is None else torch.sin(condition @ scatter[1]))
            return exact(x_t, t, condition) + sign * (1 - t)[:, None] * error

        return monte_carlo_forms(
            field, x, y, times=StratifiedTimes.uniform(8), generator=torch.Generator().manual_seed(2), anchor=exact
        )

    above, below, at = with_error(1), with_error(-1), with_error(0)
    middle = (above.residual.pointwise + below.residual.pointwise) / 2
    torch.testing.assert_close(middle, at.residual.pointwise)
    assert (above.squared.value + below.squared.value) / 2 > at.squared.value + 0.05
