"""Evaluation: the pipeline's own images judged, resumed unit by unit, and compared prompt by prompt."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from lab.worlds.shapes.shipped import base_pipeline
from lab.worlds.shapes.judging import judge
import rfmi
from rfmi.evaluation import Evaluation, compare, evaluate, share_of_the_way
from rfmi.evaluation import evaluating as module

PROMPTS = {"color": ["a red circle", "a blue square"], "shape": ["a green cross"]}
SMALL = {"images_per_prompt": 2, "steps": 3}


@pytest.fixture(scope="module")
def pipeline():
    return StableDiffusion3Pipeline.from_pretrained(base_pipeline())


def means(images):
    return images.flatten(1).mean(1, keepdim=True)


@pytest.fixture(scope="module")
def found(pipeline, tmp_path_factory):
    return evaluate(pipeline, PROMPTS, output=tmp_path_factory.mktemp("whole"), features=means, **SMALL)


def test_the_images_are_the_pipelines_own_of_the_benchmarks_seeds(pipeline, found):
    assert found.images.seed.tolist() == [42, 43] * 3
    texts, seeds = found.images.prompt.tolist(), found.images.seed.tolist()
    images = pipeline(
        texts, prompt_3=[""] * 6, generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        guidance_scale=4.0, num_inference_steps=3, max_sequence_length=1, output_type="pt",
    ).images  # fmt: skip
    assert torch.allclose(found.features, means(images), atol=1e-3)
    assert np.allclose(judge(images, texts).score, found.images.score, atol=1e-6)


def test_a_finished_unit_is_not_drawn_again(pipeline, found, tmp_path, monkeypatch):
    calls, original = [], module._drawn

    def dies_at_the_second(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(module, "_drawn", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        evaluate(pipeline, PROMPTS, output=tmp_path, features=means, **SMALL)
    again = evaluate(pipeline, PROMPTS, output=tmp_path, features=means, **SMALL)
    assert len(calls) == 3
    assert again.features.shape == (6, 1)
    pd.testing.assert_frame_equal(again.images, found.images)


def test_units_of_few_images_add_up_to_the_whole(pipeline, found, tmp_path):
    again = evaluate(pipeline, PROMPTS, output=tmp_path, features=means, batch=2, **SMALL)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "color_00000.safetensors", "color_00001.safetensors", "shape_00000.safetensors",
    ]  # fmt: skip
    pd.testing.assert_frame_equal(again.images, found.images, atol=1e-4)
    torch.testing.assert_close(again.features, found.features, rtol=0, atol=1e-3)


def test_two_processes_evaluate_as_one(pipeline, found, tmp_path, in_two_processes):
    in_two_processes(lambda: evaluate(pipeline, PROMPTS, output=tmp_path, features=means, **SMALL))
    again = evaluate(pipeline, PROMPTS, output=tmp_path, features=means, **SMALL)
    pd.testing.assert_frame_equal(again.images, found.images)


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


def test_categories_weigh_alike_whatever_their_number_of_prompts(found):
    by_category = found.by_category("score")
    assert list(by_category.index) == list(PROMPTS)
    assert by_category["color"] == pytest.approx(found.images.score[:4].mean())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompts": {}}, "at least one prompt"),
        ({"prompts": {"color": []}}, "at least one prompt"),
        ({"prompts": {"color": ["a red circle"] * 2}}, "more than once"),
        ({"images_per_prompt": 0}, "at least one image"),
        ({"prompts": {"color": "a red circle"}}, "lists by category"),
        ({"prompts": ["a red circle"]}, "lists by category"),
        ({"prompts": {"color/red": ["a red circle"]}}, "names a file"),
        ({"prompts": {"color": ["a photo of a cat"]}}, "cat"),
    ],
)
def test_bad_input_is_refused_before_anything_is_drawn(pipeline, tmp_path, change, words):
    arguments = {"prompts": PROMPTS} | SMALL | change
    with pytest.raises(ValueError, match=words):
        evaluate(pipeline, arguments.pop("prompts"), output=tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_evaluations_of_other_prompts_are_not_compared(found):
    other = Evaluation(found.images.assign(seed=0), None)
    with pytest.raises(ValueError, match="other prompts or seeds"):
        compare(found, other)


def test_another_evaluation_is_not_mixed_in(pipeline, tmp_path):
    evaluate(pipeline, {"shape": ["a green cross"]}, output=tmp_path, **SMALL)
    with pytest.raises(ValueError, match="another guidance"):
        evaluate(pipeline, {"shape": ["a green cross"]}, output=tmp_path, guidance=1.0, **SMALL)
    with pytest.raises(ValueError, match="another judge"):
        evaluate(pipeline, {"shape": ["a green cross"]}, output=tmp_path, judge=lambda *_: None, **SMALL)


def test_a_share_of_no_way_is_no_number():
    """Where the goal is no way above the start there is nothing to go a share of, and no interval."""
    start = pd.Series([0.0, 1.0, 0.0, 1.0], pd.MultiIndex.from_product([["a"], range(4)], names=["category", "prompt"]))
    for goal in (start, start - 1):
        found = share_of_the_way(start, start + 0.5, goal, seed=0)
        assert all(math.isnan(found[name]) for name in ("value", "low", "high"))
    scattered = share_of_the_way(start, start, start + [3, -2, 3, -3], seed=0)
    assert scattered["value"] == 0 and math.isnan(scattered["low"])
    assert share_of_the_way(start, start + 0.5, start + 1, seed=0) == {"value": 0.5, "low": 0.5, "high": 0.5}
