"""The small world: its grammar reads what it writes, scenes show their prompts, pictures are what the words say."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations
from math import sqrt
from random import Random
from statistics import mean

import pytest
import torch

from lab.making.prompt_files import draw_training_prompt, reported_prompts, write_prompt_files
from lab.worlds.shapes import prompts
from lab.worlds.shapes.grammar import change_one_atom, draw_prompt, frequency
from lab.worlds.shapes.phrases import Phrase, Prompt, parse, read_prompts
from lab.worlds.shapes.rendering import (
    BRIGHT,
    DARK_TONE,
    GROUND,
    RADIUS,
    SIDE,
    Scene,
    SceneObject,
    hidden_share,
    render,
    template,
)
from lab.worlds.shapes.sampling import draw_scene, draw_scenes
from lab.worlds.shapes.truth import holds, verdict
from lab.worlds.shapes.words import CATEGORIES, COLORS, RARE, SHAPES, SIZES, TEXTURES, WORDS


def overlaps_of(scene):
    return [(0, 1)] if parse(scene.prompt).relation in ("front", "behind") else []


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_prompt_reads_back_as_it_was_and_is_of_its_category(category):
    random = Random(0)
    for _ in range(200):
        prompt = draw_prompt(category, random, even=True)
        assert parse(str(prompt)) == prompt and prompt.category == category
        assert set(str(prompt).replace(",", " ,").split()) <= WORDS


def test_texts_are_those_of_the_grammar():
    circle, square = Phrase("circle", color="red"), Phrase("square", texture="striped", size="large", count=2)
    assert str(Prompt((circle,))) == "a red circle"
    assert str(Prompt((circle, square))) == "one red circle and two large striped squares"
    assert str(Prompt((circle, replace(square, count=1)), "left")) == "a red circle left of a large striped square"
    three = Prompt((circle, Phrase("cross"), Phrase("diamond")))
    assert str(three) == "a red circle, a cross and a diamond" and three.category == "complex"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("a red dragon", "'dragon'"),
        ("a red circle and " * 100 + "a red dragon", "'dragon'"),
        ("a red circle and " * 100 + "a cross", "more than a picture holds"),
        ("a circle red", "cannot read"),
        ("two circle", "cannot read"),
        ("a circles", "cannot read"),
        ("three circles and two squares", "more than a picture holds"),
        ("a circle, a square, a cross and a diamond", "more than a picture holds"),
    ],
)
def test_what_the_world_does_not_know_is_refused_in_one_sentence(text, message):
    with pytest.raises(ValueError, match=message) as raised:
        parse(text)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 350


def test_an_unknown_category_is_refused():
    with pytest.raises(ValueError, match="no such category"):
        draw_prompt("colour", Random(0))


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_committed_prompts(category, tmp_path):
    write_prompt_files(tmp_path)
    every = []
    for split, n in {"train": 240, "val": 120, "locked": 30}.items():
        texts = prompts(category, split)
        assert len(texts) == n and all(parse(text).category == category for text in texts)
        rare = sum(frequency(parse(text)) < 1 for text in texts)
        assert rare == (0 if category == "shape" else round(0.4 * n))
        assert read_prompts(tmp_path / f"{category}_{split}.txt") == texts
        every += texts
    assert len(set(every)) == len(every)


def test_training_names_rare_pairs_as_rarely_as_it_says_and_no_prompt_of_a_report():
    random, n = Random(1), 6000
    drawn = [draw_training_prompt("color", random) for _ in range(n)]
    assert not any(str(prompt) in reported_prompts() for prompt in drawn)
    named = Counter(pair for prompt in drawn for pair in prompt.pairs)
    common = [named[color, shape] / n for color in COLORS for shape in SHAPES if (color, shape) not in RARE]
    for pair in (("red", "triangle"), ("blue", "cross"), ("yellow", "diamond")):
        expected = n * RARE[pair] * mean(common)
        assert abs(named[pair] - expected) < 4 * sqrt(expected) + 0.1 * expected, (pair, named[pair], expected)


def test_the_frequency_of_a_prompt_is_that_of_its_rarest_pair():
    assert frequency(parse("a red circle and a blue square")) == 1
    assert frequency(parse("a yellow diamond and a red triangle")) == RARE["red", "triangle"]
    assert frequency(parse("a striped red square")) == RARE["striped", "square"]


def test_prompt_files_of_every_make_are_read(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes(b"\xef\xbb\xbfa red circle\r\n\r\na blue  square\r\na red circle")
    assert read_prompts(path) == ("a red circle", "a blue square")
    path.write_text("\n \n")
    with pytest.raises(ValueError, match="holds no prompt"):
        read_prompts(path)


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_scene_shows_its_prompt_and_nothing_else(category):
    for scene in draw_scenes(prompts(category), 1, f"{category} val 3"):
        prompt = parse(scene.prompt)
        assert len(scene.objects) == prompt.n_objects
        assert verdict(prompt, scene.objects, overlaps_of(scene)).aligned
        named = prompt.pairs
        shown = {(word, thing.shape) for thing in scene.objects for word in (thing.color, thing.texture)}
        assert not (shown & RARE.keys()) - named
        for thing in scene.objects:
            assert all(RADIUS[thing.size] - 1 <= c <= SIDE - RADIUS[thing.size] + 1 for c in (thing.x, thing.y))
        if not overlaps_of(scene):
            for a, b in combinations(scene.objects, 2):
                assert max(abs(a.x - b.x), abs(a.y - b.y)) >= RADIUS[a.size] + RADIUS[b.size]


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_changed_prompt_differs_in_one_atom_and_does_not_hold_in_the_scene(category):
    random, changes = Random(2), 0
    for text in prompts(category, "val"):
        prompt = parse(text)
        changed = change_one_atom(prompt, random)
        if changed is None:
            continue
        changes += 1
        assert changed != prompt and parse(str(changed)) == changed
        scene = draw_scene(prompt, random)
        assert not verdict(changed, scene.objects, overlaps_of(scene)).aligned
        if category in ("spatial", "3d_spatial", "non_spatial"):
            assert changed.phrases == prompt.phrases
        if category == "numeracy":
            differing = [abs(p.count - q.count) for p, q in zip(prompt.phrases, changed.phrases, strict=True)]
            assert sum(differing) == 1
    assert changes >= 90


def test_overlapping_objects_are_large_and_solid_on_a_coarse_lattice_unless_the_prompt_says_otherwise():
    for scene in draw_scenes(prompts("3d_spatial"), 1, "3d_spatial val 4"):
        behind, front = scene.objects
        assert {thing.size for thing in scene.objects} == {"large"} and behind.texture == front.texture == "solid"
        assert not any(place % 8 for thing in scene.objects for place in (thing.x, thing.y))
        kinds = [(thing.shape, thing.size) for thing in (front, behind)]
        assert 0.1 <= hidden_share(*kinds, front.x - behind.x, front.y - behind.y) <= 0.3
    asked = draw_scene(parse("a small striped red circle behind a blue square"), Random(0)).objects[0]
    assert (asked.size, asked.texture) == ("small", "striped")


def test_scenes_are_a_function_of_their_seed():
    one, again, other = (draw_scenes(prompts("complex")[:10], 3, seed) for seed in ("0", "0", "1"))
    assert one == again != other
    assert [scene.prompt for scene in one[:4]] == [prompts("complex")[i // 3] for i in range(4)]


def test_a_prompt_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="no scene of this world"):
        draw_scene(parse("a red circle in front of a red square"), Random(0))


def test_pictures_have_the_colors_the_words_say():
    for color in COLORS:
        picture = render([Scene((SceneObject("square", color, "solid", "large", 32, 32),), "")])[0]
        torch.testing.assert_close(picture[:, 32, 32], torch.tensor(BRIGHT[color]))
        torch.testing.assert_close(picture[:, 2, 2], torch.tensor(GROUND))
        assert picture.min() >= 0 and picture.max() <= 1


def test_the_pattern_of_a_texture_is_a_darker_tone_of_the_color():
    picture = render([Scene((SceneObject("circle", "red", "dotted", "large", 32, 32),), "")])[0]
    torch.testing.assert_close(picture[:, 32, 32], DARK_TONE * torch.tensor(BRIGHT["red"]), atol=0.02, rtol=0)


def test_silhouettes_have_the_areas_of_geometry():
    for size in SIZES:
        r = RADIUS[size]
        areas = {
            "circle": 3.14159 * (0.95 * r) ** 2,
            "square": (2 * 0.86 * r) ** 2,
            "triangle": 0.55 * (1.8 * r) ** 2,
            "cross": 2 * (2 * r) * (0.76 * r) - (0.76 * r) ** 2,
            "diamond": 2 * (1.08 * r) ** 2,
        }
        for shape in SHAPES:
            assert template(shape, size, "solid")[0].sum() == pytest.approx(areas[shape], rel=0.02)


def test_all_thirty_templates_differ_clearly():
    drawn = [
        render([Scene((SceneObject(shape, "blue", texture, size, 32, 32),), "")])[0]
        for shape in SHAPES for texture in TEXTURES for size in SIZES
    ]  # fmt: skip
    assert min((a - b).abs().sum() for a, b in combinations(drawn, 2)) > 15


def test_later_objects_hide_earlier_ones():
    behind, front = (SceneObject("square", color, "solid", "large", 32, 32) for color in ("red", "green"))
    picture = render([Scene((behind, front), "")])[0]
    torch.testing.assert_close(picture[:, 32, 32], torch.tensor(BRIGHT["green"]))


def test_the_hidden_share():
    assert hidden_share(("square", "large"), ("circle", "small"), 0, 0) == pytest.approx(1.0)
    assert hidden_share(("square", "large"), ("square", "large"), 30, 0) == 0
    half = hidden_share(("square", "large"), ("square", "large"), round(0.86 * 12), 0)
    assert half == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("relation", "expected"), [("left", True), ("right", False), ("above", False), ("below", False)]
)
def test_directions_follow_the_axis_on_which_centres_are_farther_apart(relation, expected):
    circle = SceneObject("circle", "red", "solid", "small", 10, 20)
    things = [circle, SceneObject("cross", "red", "solid", "large", 40, 30)]
    assert holds(relation, things, 0, 1, []) is expected
    assert holds("smaller", things, 0, 1, []) and holds("same_color", things, 0, 1, [])
