"""Evaluation: the pipeline's own images judged, resumed unit by unit, and compared prompt by prompt."""

import math
import os

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

import rfmi.evaluation as module
from lab.worlds.shapes import judge
from lab.worlds.shapes.shipped import base_pipeline
from rfmi.evaluation import Evaluation, by_image, compare, evaluate
from rfmi.runs import open_folder

PROMPTS = {"color": ["a red circle", "a blue square"], "shape": ["a green cross"]}
SMALL = {"images_per_prompt": 2, "steps": 3}


@pytest.fixture(scope="module")
def pipeline():
    return StableDiffusion3Pipeline.from_pretrained(base_pipeline())


def means(images):
    return images.flatten(1).mean(1, keepdim=True)


@pytest.fixture(scope="module")
def found(pipeline, tmp_path_factory):
    return evaluate(pipeline, PROMPTS, judge, output=tmp_path_factory.mktemp("whole"), features=means, **SMALL)


def test_the_images_are_the_pipelines_own_of_the_benchmarks_seeds(pipeline, found):
    assert found.images.seed.tolist() == [42, 43] * 3
    texts, seeds = found.images.prompt.tolist(), found.images.seed.tolist()
    images = pipeline(
        texts, prompt_3=[""] * 6, generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        guidance_scale=4.0, num_inference_steps=3, max_sequence_length=1, output_type="pt",
    ).images  # fmt: skip
    assert torch.allclose(found.features, means(images), atol=1e-3)
    assert found.images.aligned.tolist() == judge(images, texts).aligned.tolist()
    assert np.allclose(judge(images, texts).score, found.images.score, atol=1e-6)


def test_a_finished_unit_is_not_drawn_again(pipeline, found, tmp_path, monkeypatch):
    calls, original = [], module.sample

    def dies_at_the_second(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(module, "sample", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        evaluate(pipeline, PROMPTS, judge, output=tmp_path, features=means, **SMALL)
    again = evaluate(pipeline, PROMPTS, judge, output=tmp_path, features=means, **SMALL)
    assert len(calls) == 3
    assert again.features.shape == (6, 1)
    pd.testing.assert_frame_equal(again.images, found.images)


def test_units_of_few_images_add_up_to_the_whole(pipeline, found, tmp_path):
    again = evaluate(pipeline, PROMPTS, judge, output=tmp_path, features=means, batch=2, **SMALL)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "color_00000.safetensors", "color_00001.safetensors", "shape_00000.safetensors",
    ]  # fmt: skip
    pd.testing.assert_frame_equal(again.images, found.images, atol=1e-4)
    torch.testing.assert_close(again.features, found.features, rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("started", ["by accelerate", "plainly"])
def test_two_processes_evaluate_as_one(pipeline, found, tmp_path, started, start_child, in_two_processes):
    def work():
        evaluate(pipeline, PROMPTS, judge, output=tmp_path, features=means, **SMALL)

    if started == "by accelerate":
        in_two_processes(work)
    else:
        children = [start_child(work) for _ in range(2)]
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert len(list(tmp_path.glob("*.safetensors"))) == 2 and not list(tmp_path.glob("*.claim"))
    again = evaluate(pipeline, PROMPTS, judge, output=tmp_path, features=means, **SMALL)
    pd.testing.assert_frame_equal(again.images, found.images)
    assert torch.equal(again.features, found.features)


# The judge


def test_whatever_the_judge_says_is_kept(pipeline, tmp_path):
    calls = []

    def own(images, prompts, category):
        calls.append((len(images), prompts, category))
        bright = images.flatten(1).mean(1) > 0.5
        table = pd.DataFrame({"aligned": bright, "score": 0.5}, index=range(7, 7 + len(images)))
        table["atoms"] = [{"color": True, "count": 2} for _ in images]
        table["words"], table["list"], table["nothing"] = prompts, [[1, "a"]] * len(images), math.nan
        return table

    for _ in range(2):
        table = evaluate(pipeline, PROMPTS, own, output=tmp_path, **SMALL).images
        first = ["category", "prompt", "seed", "aligned", "score"]
        assert table.columns.tolist() == [*first, "atoms", "words", "list", "nothing"]
        assert table.atoms.tolist() == [{"color": True, "count": 2}] * 6 and table["list"].tolist() == [[1, "a"]] * 6
        assert table.words.tolist() == table.prompt.tolist() and table.nothing.isna().all()
        assert table.aligned.dtype == bool and table.index.tolist() == list(range(6))
    drawn = [(4, ["a red circle"] * 2 + ["a blue square"] * 2, "color"), (2, ["a green cross"] * 2, "shape")]
    looked = [(1, ["a red circle"], "color"), (1, ["a green cross"], "shape")]
    assert calls == [*looked, *drawn, *looked]


def test_a_means_column_is_any_of_the_judge(found):
    table = found.images.assign(group=["a", "b"] * 3, sure=[1.0, 0, 1, 1, 0, 0])
    evaluation = Evaluation(table, None)
    assert evaluation.by_prompt("sure").tolist() == [0.5, 1, 0]
    assert evaluation.by_category("sure").to_dict() == {"color": 0.75, "shape": 0}
    more = Evaluation(table.assign(sure=1.0), None)
    assert compare(evaluation, more, column="sure").value.to_dict() == {"color": 0.25, "shape": 1, "mean": 0.625}


def fault(name):
    def judge_with_a_fault(images, prompts, category):
        table = judge(images, prompts, category)
        if name == "a list":
            return table.score.tolist()
        if name == "too few":
            return table[1:]
        if name == "too few of many":
            return table if len(table) == 1 else table[1:]
        if name == "without a score":
            return table.drop(columns="score")
        if name == "without both":
            return table[["atoms"]]
        if name == "not what json holds":
            return table.assign(more=[{1, 2} for _ in images])
        return table.assign(**{"score" if "score" in name else "aligned": math.nan})

    return judge_with_a_fault


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("a list", ValueError, "answered 1 images with a list; it must give a table"),
        ("too few", ValueError, "answered 1 images with 0 rows"),
        ("without a score", ValueError, "table lacks score; it has aligned, atoms, group"),
        ("without both", ValueError, "lacks aligned and score"),
        ("a score that is nan", ValueError, "that is no number"),
        ("a verdict that is nan", ValueError, "that is no number"),
        ("not what json holds", TypeError, "got set"),
    ],
)
def test_a_judge_that_does_not_fit_is_refused_before_anything_is_drawn(
    pipeline, tmp_path, monkeypatch, name, error, words
):
    monkeypatch.setattr(module, "sample", None)
    with pytest.raises(error, match=words) as raised:
        evaluate(pipeline, PROMPTS, fault(name), output=tmp_path / "new", **SMALL)
    assert "\n" not in str(raised.value) and not (tmp_path / "new").exists()


def test_a_judge_that_fails_on_what_was_drawn_leaves_a_folder_that_goes_on(pipeline, found, tmp_path):
    few = fault("too few of many")
    few.__qualname__ = judge.__qualname__
    with pytest.raises(ValueError, match="answered 4 images with 3 rows"):
        evaluate(pipeline, PROMPTS, few, output=tmp_path, features=means, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]
    again = evaluate(pipeline, PROMPTS, judge, output=tmp_path, features=means, **SMALL)
    pd.testing.assert_frame_equal(again.images, found.images)


@pytest.mark.parametrize("features", [lambda images: images[:0, 0, 0], lambda images: images.flatten()])
def test_features_that_do_not_fit_are_refused_before_anything_is_drawn(pipeline, tmp_path, features):
    with pytest.raises(ValueError, match="features .* one row an image"):
        evaluate(pipeline, PROMPTS, judge, output=tmp_path / "new", features=features, **SMALL)
    assert not (tmp_path / "new").exists()


# Comparisons


def made_up(gain):
    random = np.random.default_rng(0)
    rows = [
        {"category": c, "prompt": f"{c} {p}", "seed": s, "aligned": float(random.random() < 0.4 + gain), "score": 0.5}
        for c in ("color", "shape") for p in range(100) for s in range(10)
    ]  # fmt: skip
    return Evaluation(pd.DataFrame(rows), None)


def test_a_comparison_finds_the_gain_within_its_interval():
    table = compare(made_up(0.0), made_up(0.1), seed=1)
    assert table.low["mean"] < 0.1 < table.high["mean"] and table.low["mean"] > 0
    assert table.n.tolist() == [100, 100, 200]
    assert table.value["mean"] == pytest.approx((table.value["color"] + table.value["shape"]) / 2)


def test_a_pipeline_against_itself_gains_nothing(found):
    table = compare(found, found)
    assert (table[["value", "low", "high"]] == 0).all(axis=None)


def test_the_mean_of_several_trainings_is_taken_image_by_image():
    base, others = made_up(0.0), [made_up(0.1), made_up(0.3)]
    table = compare(base, others, seed=1)
    apart = [compare(base, other, seed=1).value["mean"] for other in others]
    assert table.value["mean"] == pytest.approx(sum(apart) / 2)
    assert by_image(others).shape == (200, 10)
    assert by_image(others).loc["color", "color 3"].tolist() == [
        sum(other.images.aligned[30 + k] for other in others) / 2 for k in range(10)
    ]


def test_categories_weigh_alike_whatever_their_number_of_prompts(found):
    by_category = found.by_category("score")
    assert list(by_category.index) == list(PROMPTS)
    assert by_category["color"] == pytest.approx(found.images.score[:4].mean())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompts": {}}, "at least one prompt"),
        ({"prompts": PROMPTS | {"texture": []}}, "at least one prompt for each"),
        ({"prompts": {"color": ["a red circle"] * 2}}, "more than once"),
        ({"images_per_prompt": 0}, "at least one image"),
        ({"prompts": {"color": "a red circle"}}, "lists by category"),
        ({"prompts": ["a red circle"]}, "lists by category"),
        ({"prompts": {"color/red": ["a red circle"]}}, "names a file"),
        ({"prompts": {"color": ["a photo of a cat"]}}, "does not know the word"),
        ({"guidance": -1.0}, "guidance is -1"),
        ({"guidance": math.nan}, "guidance is nan"),
    ],
)
def test_bad_input_is_refused_before_anything_is_drawn(pipeline, tmp_path, change, words):
    arguments = {"prompts": PROMPTS} | SMALL | change
    with pytest.raises(ValueError, match=words):
        evaluate(pipeline, arguments.pop("prompts"), judge, output=tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_evaluations_of_other_prompts_are_not_compared(found):
    other = Evaluation(found.images.assign(seed=0), None)
    with pytest.raises(ValueError, match="other prompts or seeds"):
        compare(found, other)


def test_another_evaluation_is_not_mixed_in(pipeline, tmp_path):
    prompts = {"shape": ["a green cross"]}
    evaluate(pipeline, prompts, judge, output=tmp_path, **SMALL)
    with pytest.raises(ValueError, match="another guidance"):
        evaluate(pipeline, prompts, judge, output=tmp_path, guidance=1.0, **SMALL)
    with pytest.raises(ValueError, match="another judge"):
        evaluate(pipeline, prompts, lambda *images: judge(*images), output=tmp_path, **SMALL)
    with pytest.raises(ValueError, match="another features"):
        evaluate(pipeline, prompts, judge, output=tmp_path, features=means, **SMALL)


@pytest.mark.parametrize("name", ["training.json", "pytorch_lora_weights.safetensors"])
def test_a_folder_of_something_else_is_refused(pipeline, tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match="holds something else"):
        evaluate(pipeline, PROMPTS, judge, output=tmp_path, **SMALL)
    other = tmp_path / "selection"
    open_folder(other, {"candidates": 3})
    with pytest.raises(ValueError, match="another .*choose another folder"):
        evaluate(pipeline, PROMPTS, judge, output=other, **SMALL)
