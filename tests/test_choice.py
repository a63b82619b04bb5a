"""A score proposed without a judge: from known errors, and from a pipeline that is killed on the way."""

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from lab.worlds.shapes.shipped import base_pipeline
from rfmi.pipelines import PipelineField
from rfmi.sampling import sample
from rfmi.scoring import choice, choose_score
from rfmi.scoring.choice import LEVELS, choice_of, failing_of

TEXTS = ["a red circle", "two blue squares", "a green cross above a red circle"]
SMALL = {"guidance": 2.0, "steps": 4, "images": 2, "noises": 2}
PROMPTS, IMAGES, NOISES = 30, 8, 4


@pytest.fixture(scope="module")
def pipeline():
    return StableDiffusion3Pipeline.from_pretrained(base_pipeline())


def errors_of(signal):
    """Errors (prompts, branches, images, levels, noises) in which failures differ by `signal` alone."""
    generator = torch.Generator().manual_seed(0)
    errors = torch.randn(PROMPTS, 3, 2 * IMAGES, len(LEVELS), NOISES, generator=generator, dtype=torch.float64) + 10
    for (branch, level), more in signal.items():
        errors[:, branch, IMAGES:, LEVELS.index(level)] += more
    return errors


@pytest.mark.parametrize(
    ("branch", "more", "level", "forms"),
    [
        (0, 3.0, 0.8, {"likelihood"}),
        (1, -3.0, 0.6, {"information", "information_and_likelihood"}),
        (2, 3.0, 0.4, {"guided_likelihood"}),
    ],
)
def test_what_tells_failures_is_proposed(branch, more, level, forms):
    found = choice_of(errors_of({(branch, level): more}), NOISES, seed=0)
    top = found.table.loc[found.table.value.idxmax()]
    assert top.form in forms and top.lowest <= level <= top.highest
    assert found.method.sigmas[0] == top.lowest and found.method.sigmas[-1] == top.highest
    assert top.low > 0.6 and found.table.value.min() < 0.6


def test_where_nothing_tells_failures_every_area_is_one_half():
    found = choice_of(errors_of({}), NOISES, seed=0)
    assert found.table.value.between(0.4, 0.6).all() and (found.table.n == PROMPTS).all()


def test_the_threshold_parts_own_images_from_failures_best():
    own = torch.tensor([[0.0, 1.0, 2.0, 3.0], [10.0, 11.0, 12.0, 13.0]], dtype=torch.float64)
    failures = torch.tensor([[-4.0, -3.0], [7.0, 6.0]], dtype=torch.float64)
    failing = failing_of(torch.cat([own, failures], 1), own=4)
    deviation, quartile = 1.25**0.5, 2.25
    assert (quartile - 0.0) / deviation <= failing < (quartile + 3.0) / deviation


def test_failures_are_begun_as_another_prompt_and_finished_as_their_own(pipeline):
    field = PipelineField(pipeline, TEXTS)
    noise, labels, times = field.noise(range(2)), torch.tensor([0, 0]), field.times(6)
    begun = torch.tensor([1, 2])
    early, late = (choice._changed(field, noise, begun, labels, times, 1.0, level) for level in (0.999, 0.001))
    whole = {name: sample(field, noise, rows, times=times) for name, rows in (("own", labels), ("begun", begun))}
    assert (early - whole["own"]).norm() < (early - whole["begun"]).norm()
    assert (late - whole["begun"]).norm() < (late - whole["own"]).norm()


def test_a_killed_choice_goes_on_and_a_finished_one_is_read(pipeline, tmp_path, monkeypatch):
    whole = choose_score(pipeline, TEXTS, output=tmp_path / "a", **SMALL)
    drawn, real = [], choice.re_noising_errors

    def killed(*arguments, **options):
        if len(drawn) == 1:
            raise KeyboardInterrupt
        drawn.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(choice, "re_noising_errors", killed)
    with pytest.raises(KeyboardInterrupt):
        choose_score(pipeline, TEXTS, output=tmp_path / "b", **SMALL)
    monkeypatch.undo()
    again = choose_score(pipeline, TEXTS, output=tmp_path / "b", **SMALL)
    assert again.table.equals(whole.table) and again.method == whole.method and again.failing == whole.failing
    monkeypatch.setattr(choice, "re_noising_errors", None)
    assert choose_score(pipeline, TEXTS, output=tmp_path / "b", **SMALL).method == whole.method
    with pytest.raises(ValueError, match="another guidance"):
        choose_score(pipeline, TEXTS, output=tmp_path / "b", **SMALL | {"guidance": 3.0})


def test_of_two_prompts_each_ones_failures_are_begun_as_the_other(pipeline, tmp_path):
    found = choose_score(pipeline, TEXTS[:2], output=tmp_path, **SMALL)
    assert (found.table.n == 2).all() and found.table.value.between(0, 1).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": 1}, "images is 1; give a whole number of 2 or more"),
        ({"images": 2.5}, "images is 2.5"),
        ({"steps": 2}, "steps is 2"),
        ({"prompts": [*TEXTS, TEXTS[0]]}, "listed 2 times"),
        ({"changed_at": 1.0}, "between 0 and 1"),
        ({"guidance": -1.0}, "guidance is -1"),
        ({"noises": 3}, "come in pairs"),
        ({"prompts": TEXTS[:1]}, "have no 1 others"),
    ],
)
def test_bad_input_is_refused_before_anything_is_drawn(pipeline, tmp_path, change, words):
    arguments = {"prompts": TEXTS} | SMALL | change
    with pytest.raises(ValueError, match=words):
        choose_score(pipeline, arguments.pop("prompts"), output=tmp_path / "a", **arguments)
    assert not (tmp_path / "a").exists()
