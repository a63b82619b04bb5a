"""Scores without a trajectory, against closed forms and the estimators, and as functions of image, prompt and seed."""

from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image

from lab.oracles.closed_form import GaussianMixtureField
from lab.worlds.shapes.shipped import base_pipeline
from rfmi.estimators import monte_carlo_forms
from rfmi.pipelines import PipelineField
from rfmi.scoring import METHODS, PATH_METHODS, Method, method_named, re_noising_scores, score
from rfmi.scoring.re_noising import STREAM, nearest_prompts, paired_noise, re_noising_errors
from rfmi.times import StratifiedTimes


class Mixture:
    """A closed-form field with labels, as a PipelineField is called; `evaluations` counts its rows."""

    def __init__(self):
        means = torch.tensor([[1.5, 0.0], [-1.0, 1.0], [0.0, -1.5]], dtype=torch.float64)
        spread = torch.eye(2, dtype=torch.float64).expand(3, 2, 2) * torch.tensor([0.3, 0.5, 0.4])[:, None, None]
        self.field, self.evaluations = GaussianMixtureField(means, spread), 0

    def velocities(self, x_t, t, branches):
        self.evaluations += len(x_t) * len(branches)
        return [self.field(x_t, t, labels) for labels in branches]


@pytest.fixture
def mixture():
    return Mixture()


@pytest.fixture
def pairs(mixture):
    return mixture.field.sample(40, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def pipeline():
    return StableDiffusion3Pipeline.from_pretrained(base_pipeline())


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_exact_re_noising_is_the_point_wise_information(mixture, pairs):
    x, labels = pairs
    found = re_noising_scores(mixture, x, labels, Method(nodes=16, noises=200), seed=0)
    truth = mixture.field.pointwise(x, labels)
    assert torch.corrcoef(torch.stack([found.values, truth]))[0, 1] > 0.99
    assert ((found.values - truth).abs() < 5 * found.standard_errors + 0.02).all()
    assert found.evaluations == 40 * 16 * 200 * 2


def test_exact_re_noising_has_the_mean_of_the_estimators(mixture):
    x, labels = mixture.field.sample(2000, torch.Generator().manual_seed(1))
    found = re_noising_scores(mixture, x, labels, Method(nodes=12, noises=32), seed=0, batch=2000)
    times = StratifiedTimes.uniform(12)
    forms = monte_carlo_forms(
        mixture.field, x, labels, times=times, generator=torch.Generator().manual_seed(2), noises=8
    )
    expected = forms.re_noising
    assert float(found.values.mean()) == pytest.approx(expected.value, abs=6 * expected.standard_error + 0.03)


def test_the_conditional_loss_with_exact_weights_is_the_likelihood_up_to_a_constant(mixture, pairs):
    x, labels = pairs
    method = Method(null=False, likelihood=1.0, nodes=24, noises=100)
    found = re_noising_scores(mixture, x, labels, method, seed=0).values
    spread = torch.tensor([0.3, 0.5, 0.4], dtype=torch.float64)[labels]
    means = torch.tensor([[1.5, 0.0], [-1.0, 1.0], [0.0, -1.5]], dtype=torch.float64)[labels]
    truth = -(x - means).square().sum(1) / (2 * spread) - spread.log()
    difference = found - truth
    assert torch.corrcoef(torch.stack([found, truth]))[0, 1] > 0.97
    assert difference.std() < 0.25 * truth.std()


def test_information_and_likelihood_is_their_sum(mixture, pairs):
    x, labels = pairs
    levels = (0.3, 0.5, 0.7)
    both, information, likelihood, twice = (
        re_noising_scores(mixture, x, labels, Method(null, 0, weight, levels, noises=4, weights="exact"), seed=1)
        for null, weight in ((True, 1.0), (True, 0.0), (False, 1.0), (False, 2.0))
    )
    torch.testing.assert_close(twice.values, 2 * likelihood.values)
    torch.testing.assert_close(both.values, information.values + likelihood.values)
    assert both.evaluations == information.evaluations == 2 * likelihood.evaluations


def test_a_guided_likelihood_is_that_of_the_field_which_draws_with_guidance(mixture, pairs):
    x, labels = pairs
    levels, scale = (0.5, 0.8), 1.7
    method = Method(null=False, likelihood=2.0, sigmas=levels, noises=2, guidance=scale)
    found = re_noising_scores(mixture, x, labels, method, seed=3)
    noise = torch.randn(2, 2, generator=torch.Generator().manual_seed(STREAM + 3)).double()
    expected = torch.zeros(40, dtype=torch.float64)
    for j, sigma in enumerate(levels):
        for eps in (noise[j], -noise[j]):
            x_t, t = (1 - sigma) * x + sigma * eps, torch.full((40,), 1 - sigma, dtype=torch.float64)
            null = mixture.field(x_t, t, None)
            u = null + scale * (mixture.field(x_t, t, labels) - null)
            expected -= 2.0 * (x - eps - u).square().sum(1) / 4
    torch.testing.assert_close(found.values, expected)
    assert found.evaluations == method.evaluations * 40 == 40 * 2 * 2 * 2
    both = replace(method, null=True)
    information = replace(method, null=True, likelihood=0.0, guidance=1.0)
    sum_of_both = re_noising_scores(mixture, x, labels, information, seed=3).values + expected
    torch.testing.assert_close(re_noising_scores(mixture, x, labels, both, seed=3).values, sum_of_both)


@pytest.mark.parametrize(
    "options", [{"guidance": 0.0}, {"guidance": 2.0, "likelihood": 0.0}, {"guidance": float("nan")}]
)
def test_a_guidance_without_a_likelihood_is_refused(options):
    with pytest.raises(ValueError, match="take a guidance above 0, and a likelihood above 0"):
        Method(**{"likelihood": 1.0} | options)


def test_exact_weights_of_a_band_are_the_integral_over_it():
    t, weights = Method(sigmas=tuple(0.3 + 0.002 * k for k in range(201)), weights="exact").times_and_weights()
    expected = torch.log(torch.tensor(0.7 / 0.3)) - 0.4  # of (1 - sigma) / sigma from 0.3 to 0.7
    assert float(weights.sum()) == pytest.approx(float(expected), rel=0.01)
    torch.testing.assert_close(weights, t / (1 - t) * 0.002)
    with pytest.raises(ValueError, match="at two or more"):
        Method(sigmas=(0.5,), weights="exact")
    with pytest.raises(ValueError, match="'odd'"):
        Method(sigmas=(0.5, 0.6), weights="odd")


def test_even_weights_are_a_mean_over_noise_levels(mixture, pairs):
    x, labels = pairs
    levels = (0.9, 0.6)
    method = Method(null=False, likelihood=1.0, sigmas=levels, noises=2)
    found = re_noising_scores(mixture, x, labels, method, seed=3)
    noise = torch.randn(2, 2, generator=torch.Generator().manual_seed(STREAM + 3)).double()
    expected = torch.zeros(40, dtype=torch.float64)
    for j, sigma in enumerate(levels):
        for eps in (noise[j], -noise[j]):
            t = torch.full((40,), 1 - sigma, dtype=torch.float64)
            u = mixture.field((1 - sigma) * x + sigma * eps, t, labels)
            expected -= (x - eps - u).square().sum(1) / 4
    torch.testing.assert_close(found.values, expected)


def test_against_prompts_is_against_the_mean_of_their_likelihoods(mixture, pairs):
    x, labels = pairs
    others = torch.stack([(labels + 1) % 3, (labels + 2) % 3], 1)
    method = Method(null=False, prompts=2, sigmas=(0.8,), noises=2)
    found = re_noising_scores(mixture, x, labels, method, seed=0, others=others)
    alone = Method(null=False, likelihood=1.0, sigmas=(0.8,), noises=2)
    own, *rest = (re_noising_scores(mixture, x, each, alone, seed=0).values for each in (labels, *others.unbind(1)))
    torch.testing.assert_close(found.values, own - (torch.stack(rest).exp().mean(0)).log())
    assert found.evaluations == 40 * 2 * 3
    for wrong in (None, others[:, :1]):
        with pytest.raises(ValueError, match="against 2 others and [01] were given"):
            re_noising_scores(mixture, x, labels, method, seed=0, others=wrong)


def test_against_all_other_labels_is_the_logarithm_of_the_odds(mixture, pairs):
    x, labels = pairs
    others = torch.stack([(labels + 1) % 3, (labels + 2) % 3], 1)
    method = Method(null=False, prompts=2, nodes=24, noises=200)
    found = re_noising_scores(mixture, x, labels, method, seed=0, others=others).values
    spread = torch.tensor([0.3, 0.5, 0.4], dtype=torch.float64)
    means = torch.tensor([[1.5, 0.0], [-1.0, 1.0], [0.0, -1.5]], dtype=torch.float64)
    logs = -(x[:, None] - means).square().sum(2) / (2 * spread) - spread.log()
    own = logs.gather(1, labels[:, None])[:, 0]
    truth = own - torch.logsumexp(logs.gather(1, others), 1) + torch.log(torch.tensor(2.0))
    assert torch.corrcoef(torch.stack([found, truth]))[0, 1] > 0.99


def test_a_score_does_not_depend_on_what_is_scored_beside_it(mixture, pairs):
    x, labels = pairs
    method = METHODS["re_noising"]
    together = re_noising_scores(mixture, x, labels, method, seed=5, batch=7)
    alone = re_noising_scores(mixture, x[11:12], labels[11:12], method, seed=5)
    torch.testing.assert_close(together.values[11:12], alone.values)
    assert not torch.allclose(together.values, re_noising_scores(mixture, x, labels, method, seed=6).values, rtol=1e-3)


def test_standard_errors_are_those_of_the_noise(mixture, pairs):
    x, labels = pairs[0][:1], pairs[1][:1]
    method = Method(sigmas=(0.5, 0.8), noises=16)
    found = [re_noising_scores(mixture, x, labels, method, seed=seed) for seed in range(150)]
    spread = torch.cat([each.values for each in found]).std()
    assert torch.cat([each.standard_errors for each in found]).mean() == pytest.approx(float(spread), rel=0.2)
    for noises in (1, 2):
        few = re_noising_scores(mixture, x, labels, Method(sigmas=(0.5,), noises=noises), seed=0)
        assert bool(few.standard_errors.isnan().all()) and bool(few.values.isfinite().all())


def test_noises_come_in_pairs_which_lowers_the_variance(mixture, pairs):
    x, labels = pairs
    options = {"times": torch.tensor([0.3, 0.5]).double(), "noises": 2}
    errors = [re_noising_errors(mixture, x, [labels, None], seed=seed, **options) for seed in range(100)]
    draws = [(null - own).mean(1) for own, null in errors]
    drawn = torch.stack(draws)  # (seeds, n, 2)
    of_pairs, of_independent = drawn.mean(2).var(0).mean(), drawn[..., 0].var(0).mean() / 2
    assert of_pairs < 0.8 * of_independent


def test_the_first_of_many_noises_are_those_of_few():
    many, few = (paired_noise(3, n, (2, 2), torch.Generator().manual_seed(4)) for n in (6, 2))
    torch.testing.assert_close(many[:, :2], few)
    torch.testing.assert_close(many[:, ::2], -many[:, 1::2])
    assert paired_noise(3, 1, (2, 2), torch.Generator().manual_seed(4)).equal(few[:, :1])


def test_an_image_is_not_scored_by_the_noise_it_was_drawn_from(pipeline):
    asked = []

    class Spy(PipelineField):
        def velocities(self, x, t, branches):
            asked.append(x[0])
            return super().velocities(x, t, branches)

    field = Spy(pipeline, ["a red circle"])
    started = field.noise([7])
    method = Method(sigmas=(0.5, 0.8), noises=2)
    re_noising_scores(field, torch.zeros_like(started), torch.tensor([0]), method, seed=7)
    alike = [abs(torch.cosine_similarity(x.flatten(), started[0].flatten(), dim=0)) for x in asked]
    assert len(asked) == 4 and max(alike) < 0.3


@pytest.mark.parametrize("noises", [0, 3])
def test_a_number_of_noises_that_makes_no_pairs_is_refused(noises):
    with pytest.raises(ValueError, match=f"noises is {noises}; they come in pairs"):
        Method(sigmas=(0.5,), noises=noises)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"null": False}, "against nothing"),
        ({"prompts": -1}, "of 0 or more"),
        ({"prompts": 1.5}, "of 0 or more"),
        ({"likelihood": -1.0}, "of 0 or more"),
        ({"likelihood": float("nan")}, "of 0 or more"),
        ({"sigmas": (0.0, 0.5)}, "above 0"),
        ({"nodes": 0}, "1 node"),
    ],
)
def test_a_method_that_makes_no_sense_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        Method(**change)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_named_method_has_a_standard_error(name, mixture, pairs):
    x, labels = pairs
    others = torch.stack([labels + 1, labels + 2], 1) % 3 if METHODS[name].prompts else None
    found = re_noising_scores(mixture, x, labels, METHODS[name], seed=0, others=others)
    assert bool((found.standard_errors > 0).all())


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_costs_what_it_says(name, mixture, pairs):
    x, labels = pairs
    method = METHODS[name]
    others = torch.stack([labels + 1, labels + 2], 1) % 3 if method.prompts else None
    found = re_noising_scores(mixture, x, labels, method, seed=0, others=others)
    assert found.evaluations == len(x) * method.evaluations
    assert bool(found.values.isfinite().all())


def test_score_of_a_pipeline_is_that_of_its_field(pipeline, images):
    texts = ["a red circle", "two blue squares", "a red circle"]
    found = score(pipeline, images, texts, method="re_noising_high_noise", seed=4)
    field = PipelineField(pipeline, texts)
    expected = re_noising_scores(field, field.encode(images), torch.arange(3), METHODS["re_noising_high_noise"], seed=4)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-4, atol=1e-3)
    assert found.evaluations == expected.evaluations


def test_images_may_be_what_the_pipeline_gives(pipeline, images):
    texts, method = ["a red circle", "two blue squares", "a red circle"], Method(sigmas=(0.5,), noises=2)
    bytes_ = (255 * images).round().to(torch.uint8)
    array = bytes_.permute(0, 2, 3, 1).numpy()
    forms = (array, [Image.fromarray(each) for each in array], array.astype(float) / 255, bytes_ / 255)
    found = [score(pipeline, each, iter(texts), method=method).values for each in forms]
    for values in found[1:]:
        torch.testing.assert_close(values, found[0], rtol=1e-4, atol=1e-3)


def test_a_negative_prompt_and_a_length_reach_the_score(pipeline, images):
    texts, method = ["a red circle"] * 3, Method(sigmas=(0.5,), noises=2)
    options = {"negative_prompt": "two blue squares", "max_sequence_length": 4}
    field = PipelineField(pipeline, texts[:1], **options)
    expected = re_noising_scores(field, field.encode(images), torch.tensor([0, 0, 0]), method, seed=0)
    found = score(pipeline, images, texts, method=method, **options)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-4, atol=1e-3)
    assert (found.values - score(pipeline, images, texts, method=method).values).abs().min() > 1e-3


def test_negatives_are_what_a_prompt_is_held_against(pipeline, images):
    texts, method = ["a red circle", "two blue squares", "a red circle"], Method(null=False, prompts=2, noises=2)
    changed = {"a red circle": ["a red square", "a blue circle", "a cross"], "two blue squares": ["a cross"] * 2}
    found = score(pipeline, images, texts, method=method, negatives=changed)
    field = PipelineField(pipeline, ["a red circle", "two blue squares", "a red square", "a blue circle", "a cross"])
    options = {"seed": 0, "others": torch.tensor([[2, 3], [4, 4], [2, 3]])}
    expected = re_noising_scores(field, field.encode(images), torch.tensor([0, 1, 0]), method, **options)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="has 1 negatives and is to be held against 2"):
        score(pipeline, images, texts, method=method, negatives=changed | {"two blue squares": ["a cross"]})


def test_nearest_prompts_are_others_and_near(pipeline):
    texts = ["a red circle", "a red square", "three small green crosses", "a blue circle"]
    near = nearest_prompts(PipelineField(pipeline, texts), k=1)
    assert near.shape == (4, 1) and all(int(row) != i for i, row in enumerate(near))
    assert int(near[0]) in (1, 3) and int(near[1]) in (0, 3)
    with pytest.raises(ValueError, match="fewer|have no 2 others"):
        nearest_prompts(PipelineField(pipeline, texts[:2]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "best"}, "there is no score 'best'"),
        ({"method": PATH_METHODS[0]}, "scores a trajectory"),
        ({"prompts": ["a red circle"]}, "3 images and 1 prompts"),
        ({"prompts": "a red circle"}, "prompts is 'a red circle'; give a list"),
        ({"seed": -1}, "seed is -1"),
        ({"height": 32}, "images have 64 by 64 pixels; give 32 by 64"),
        ({"negatives": ["a cross"], "method": "against_prompts"}, "give a dictionary of lists"),
        ({"negatives": {"a red circle": "a cross"}, "method": "against_prompts"}, "prompts is 'a cross'; give a list"),
        ({"images": torch.full((3, 3, 64, 64), 2.0)}, r"outside \[0, 1\]"),
        ({"images": torch.zeros(3, 3, 60, 64)}, "multiples"),
    ],
)
def test_bad_input_is_named_in_one_sentence(pipeline, images, change, words):
    arguments = {"images": images, "prompts": ["a red circle"] * 3, "method": "re_noising"} | change
    with pytest.raises(ValueError, match=words):
        score(pipeline, arguments.pop("images"), arguments.pop("prompts"), **arguments)


def test_names_are_known():
    assert method_named("re_noising") is METHODS["re_noising"]
