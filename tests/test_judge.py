"""The judge: truth among known objects by hand, objects from pixels against the scenes that drew them, and junk."""

from collections import Counter
from dataclasses import replace
from itertools import product
from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lab.worlds.shapes import judge, prompts
from lab.worlds.shapes.detection import detect
from lab.worlds.shapes.grammar import change_one_atom
from lab.worlds.shapes.phrases import parse
from lab.worlds.shapes.rendering import BRIGHT, DARK_TONE, GROUND, SIDE, Scene, SceneObject, render
from lab.worlds.shapes.sampling import draw_scenes
from lab.worlds.shapes.truth import holds, verdict
from lab.worlds.shapes.words import CATEGORIES, COLORS, SHAPES, SIZES, TEXTURES

RED_CIRCLE = SceneObject("circle", "red", "solid", "large", 16, 32)
BLUE_SQUARE = SceneObject("square", "blue", "solid", "small", 48, 36)
ROWS, COLUMNS = np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5, indexing="ij")
DISK = np.hypot(COLUMNS - 32, ROWS - 32) < 11.4


def scenes_of(category, n, seed):
    return draw_scenes(prompts(category)[:n], 1, f"{category} val {seed}")


def drawn(*things):
    return render([Scene(things, "")])


def found_in(picture):
    (detection,) = detect(picture if picture.ndim == 4 else picture[None])
    return detection


def words(things):
    return Counter((thing.color, thing.texture, thing.size, thing.shape) for thing in things)


def masked(mask, color=BRIGHT["red"], tone=1.0):
    """A picture of one color, (1, 3, 64, 64), where the mask is true; its edges are hard. `tone`: a number or a map."""
    picture = np.where(mask, np.array(color)[:, None, None] * tone, np.array(GROUND)[:, None, None])
    return torch.from_numpy(picture).float()[None]


def degraded(pictures):
    """Blurred (0.7 pixels), moved by half a pixel both ways, and with noise (0.02): about what an autoencoder does."""
    kernel = torch.exp(-(torch.arange(-3.0, 4.0) ** 2) / (2 * 0.7**2))
    kernel = (kernel / kernel.sum()).repeat(3, 1, 1, 1)
    x = F.pad(pictures, (3, 3, 3, 3), mode="replicate")
    x = F.conv2d(F.conv2d(x, kernel, groups=3), kernel.transpose(2, 3), groups=3)
    x = F.avg_pool2d(F.pad(x, (1, 0, 1, 0), mode="replicate"), 2, 1)
    return (x + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


def changed(**attributes):
    return replace(RED_CIRCLE, **attributes), BLUE_SQUARE


@pytest.mark.parametrize(
    ("text", "things", "failed", "score"),
    [
        # attributes: the product over the phrases of the share of their atoms
        ("a red circle and a blue square", changed(), 0, 1),
        ("a red circle and a blue square", changed(color="blue"), 1, 1 / 2),
        ("a red square and a blue circle", changed(), 2, 1 / 4),
        ("a red circle and a blue square", [RED_CIRCLE], 2, 0),
        ("a circle and a large square", changed(), 1, 1 / 2),
        ("a striped circle and a solid square", changed(), 1, 1 / 2),
        ("a striped circle and a solid square", changed(texture="striped"), 0, 1),
        # relations: 0.25 (s1 + s2) + 0.5 relation, zero below 0.5
        ("a red circle left of a blue square", changed(), 0, 1),
        ("a red circle right of a blue square", changed(), 1, 1 / 2),
        ("a red circle above a blue square", changed(), 1, 1 / 2),
        ("a red circle above a blue square", changed(x=46, y=12), 0, 1),
        ("a green circle left of a blue square", changed(), 1, 7 / 8),
        ("a green circle right of a blue square", changed(), 2, 0),
        ("a red circle left of a blue square", [BLUE_SQUARE], 3, 0),
        ("a red circle bigger than a blue square", changed(), 0, 1),
        ("a red circle smaller than a blue square", changed(), 1, 1 / 2),
        ("a large circle of a different color than a small square", changed(), 0, 1),
        ("a large circle of the same color as a small square", changed(), 1, 1 / 2),
        # counts: the mean over the phrases of 0.5 present + 0.5 exact
        ("two red circles", [RED_CIRCLE] * 2, 0, 1),
        ("two red circles", [RED_CIRCLE] * 3, 1, 1 / 2),
        ("two red circles and one blue square", [*[RED_CIRCLE] * 2, BLUE_SQUARE], 0, 1),
        ("two red circles and one blue square", changed(), 1, 3 / 4),
        ("two red circles and one blue square", [BLUE_SQUARE], 3, 1 / 2),
        # complex: the mean of those that apply
        ("a large red circle left of a small blue square", changed(), 0, 1),
        ("a large red circle right of a small blue square", changed(), 1, 3 / 4),
        ("a small red circle and a small blue square", changed(), 1, 2 / 3),
        ("two large red circles and one small blue square", changed(), 1, 3 / 4),
    ],
)
def test_truth_among_known_objects_by_hand(text, things, failed, score):
    held = verdict(parse(text), things)
    assert list(held.atoms.values()).count(False) == failed and held.score == pytest.approx(score)
    assert held.aligned == (failed == 0)


def test_truth_of_depth_by_hand():
    things = (BLUE_SQUARE, RED_CIRCLE)
    for text, overlaps, score in [
        ("a red circle in front of a blue square", [(0, 1)], 1),
        ("a red circle behind a blue square", [(0, 1)], 1 / 2),
        ("a red circle in front of a blue square", [], 1 / 2),
        ("a blue square behind a red circle", [(0, 1)], 1),
    ]:
        assert verdict(parse(text), things, overlaps).score == score


def test_every_object_is_found_at_any_place():
    random = Random(0)
    things = [
        SceneObject(shape, color, texture, size, random.randint(13, 51), random.randint(13, 51))
        for shape, color, texture, size in product(SHAPES, COLORS, TEXTURES, SIZES)
    ]
    for thing, detection in zip(things, detect(render([Scene((thing,), "") for thing in things])), strict=True):
        (found,) = detection.objects
        assert words([found]) == words([thing]) and (found.x, found.y) == (thing.x, thing.y)


@pytest.mark.parametrize("category", CATEGORIES)
def test_rendered_scenes_are_judged_as_they_were_drawn(category):
    scenes = scenes_of(category, 30, 11)
    pictures = render(scenes)
    judged = judge(pictures, [scene.prompt for scene in scenes])
    held = [value for atoms in judged.atoms for value in atoms.values()]
    assert sum(held) >= 0.99 * len(held)
    exact = [words(seen.objects) == words(scene.objects) for seen, scene in zip(detect(pictures), scenes, strict=True)]
    assert sum(exact) >= 29

    random = Random(0)
    others = [change_one_atom(parse(scene.prompt), random) for scene in scenes]
    others = [(i, str(other)) for i, other in enumerate(others) if other and other.category == category]
    caught = ~judge(pictures[[i for i, _ in others]], [text for _, text in others]).aligned
    assert caught.sum() >= len(others) - 1 >= 15


def test_blur_noise_and_half_a_pixel_change_little():
    scenes = [scene for category in CATEGORIES for scene in scenes_of(category, 30, 12)]
    judged = judge(degraded(render(scenes)), [scene.prompt for scene in scenes])
    held = [value for atoms in judged.atoms for value in atoms.values()]
    assert sum(held) >= 0.98 * len(held)


def test_the_one_in_front_is_the_one_that_is_whole():
    circle, square = replace(RED_CIRCLE, x=28), replace(BLUE_SQUARE, x=40, y=32, size="large")
    for things in ((circle, square), (square, circle)):
        detection = found_in(drawn(*things))
        assert [thing.shape for thing in detection.objects] == [thing.shape for thing in things]
        assert detection.overlaps == ((0, 1),)
    apart = found_in(drawn(circle, replace(square, x=52)))
    assert len(apart.objects) == 2 and apart.overlaps == ()


def test_three_layers():
    red = SceneObject("square", "red", "solid", "large", 24, 24)
    blue = SceneObject("circle", "blue", "striped", "large", 38, 26)
    green = SceneObject("triangle", "green", "solid", "small", 30, 38)
    detection = found_in(drawn(red, blue, green))
    assert words(detection.objects) == words([red, blue, green])
    order = [thing.color for thing in detection.objects]
    seen = {(order[i], order[j]) for i, j in detection.overlaps}
    assert ("red", "blue") in seen and ("blue", "green") in seen and ("green", "blue") not in seen


def test_neighbors_of_one_color_are_two():
    square = SceneObject("square", "red", "solid", "small", 20, 32)
    for gap in (-1, 0, 1, 2):
        cross = SceneObject("cross", "red", "solid", "small", 36 + gap, 32)
        assert words(found_in(drawn(square, cross)).objects) == words([square, cross])


def test_an_occluder_nearby_does_not_turn_one_object_into_another():
    things = (
        SceneObject("square", "blue", "solid", "small", 8, 32),
        SceneObject("circle", "blue", "striped", "small", 36, 36),
        SceneObject("cross", "cyan", "solid", "small", 32, 56),
    )
    assert words(found_in(drawn(*things)).objects) == words(things)


def test_a_picture_is_judged_alone():
    scenes = scenes_of("complex", 70, 13)
    pictures = render(scenes)
    together = detect(pictures)
    assert together[-1] == found_in(pictures[-1]) and together[0] == found_in(pictures[0])


def test_neither_double_precision_nor_eight_bits_matter():
    scenes = scenes_of("color", 3, 14)
    pictures, texts = render(scenes), [scene.prompt for scene in scenes]
    expected = judge(pictures, texts)
    for images in (pictures.double(), (255 * pictures).round() / 255, pictures + 0.002):
        assert judge(images, texts).atoms.tolist() == expected.atoms.tolist()
    assert judge(pictures[:0], []).columns.tolist() == expected.columns.tolist()


@pytest.mark.parametrize(
    ("name", "picture"),
    [
        ("ground", masked(DISK & False)),
        ("one color", masked(DISK | True)),
        ("half a circle", masked(DISK & (COLUMNS < 32))),
        ("three quarters of a circle", masked(DISK & ((COLUMNS < 32) | (ROWS < 32)))),
        ("a ring", masked(DISK & (np.hypot(COLUMNS - 32, ROWS - 32) > 6))),
        ("a long ellipse", masked(np.hypot((COLUMNS - 32) / 1.6, ROWS - 32) < 9)),
        ("a bar", masked((abs(COLUMNS - 32) < 14) & (abs(ROWS - 32) < 5))),
        ("a triangle upside down", masked((ROWS >= 22) & (ROWS < 44) & (abs(COLUMNS - 32) <= 0.55 * (44 - ROWS)))),
        ("a very large circle", masked(np.hypot(COLUMNS - 32, ROWS - 32) < 18)),
        ("a circle of a size between", masked(np.hypot(COLUMNS - 32, ROWS - 32) < 9.7)),
        ("gray", masked(DISK, (0.5, 0.5, 0.5))),
        ("pink", masked(DISK, (1, 0.6, 0.7))),
    ],
)
def test_junk_is_no_object(name, picture):
    detection = found_in(picture)
    assert detection.objects == () and detection.overlaps == ()


@pytest.mark.parametrize(
    ("name", "color"),
    [
        ("orange", (1, 0.5, 0)),
        ("dark gray", (0.3, 0.3, 0.3)),
        ("brown", (0.5, 0.3, 0.1)),
        ("black", (0, 0, 0)),
        ("magenta", (1, 0, 1)),
    ],
)
def test_a_foreign_color_is_unclear(name, color):
    (found,) = found_in(masked(DISK, color)).objects
    assert (found.shape, found.size, found.color) == ("circle", "large", "unclear")
    (row,) = judge(masked(DISK, color), ["a red circle"]).atoms
    assert row == {"1 circle present": True, "1 circle red": False}


def test_two_colors_on_one_object_are_unclear_and_match_no_other():
    left, right = (np.hypot(COLUMNS - x, ROWS - 32) < 12 for x in (17, 46))
    cyan = (COLUMNS > 46) | ((COLUMNS > 17) & (COLUMNS < 32))
    green_ones, cyan_ones = (masked(left | right, BRIGHT[color]) for color in ("green", "cyan"))
    picture = torch.where(torch.from_numpy(cyan), cyan_ones, green_ones)
    objects = found_in(picture).objects
    assert [(thing.shape, thing.texture, thing.color) for thing in objects] == [("circle", "solid", "unclear")] * 2
    assert not holds("same_color", objects, 0, 1, ()) and not holds("different_color", objects, 0, 1, ())


def test_noise_holds_no_object():
    generator = torch.Generator().manual_seed(0)
    fine = torch.rand(8, 3, SIDE, SIDE, generator=generator)
    paints = torch.tensor([*BRIGHT.values(), GROUND])
    speckles = paints[torch.randint(0, 7, (8, SIDE, SIDE), generator=generator)].permute(0, 3, 1, 2)
    assert [detection.objects for detection in detect(torch.cat([fine, speckles]))] == [()] * 16


def test_a_cut_is_no_occlusion_and_an_occluder_must_be_an_object():
    circle = SceneObject("circle", "red", "solid", "large", 28, 32)
    hidden = drawn(circle, SceneObject("square", "blue", "solid", "large", 44, 32))
    assert words(found_in(hidden).objects)[("red", "solid", "large", "circle")] == 1
    covered = drawn(circle)
    covered[..., 20:44, 32:46] = torch.tensor(GROUND)[:, None, None]
    assert found_in(covered).objects == ()
    covered[..., 20:44, 32:34] = torch.tensor(BRIGHT["blue"])[:, None, None]
    assert found_in(covered).objects == ()


def test_leftovers_do_not_disturb_the_others():
    picture = drawn(RED_CIRCLE, BLUE_SQUARE)
    picture[..., 56:62, 4:14] = torch.tensor(BRIGHT["red"])[:, None, None]
    detection = found_in(picture)
    assert words(detection.objects) == words([RED_CIRCLE, BLUE_SQUARE])


def test_a_pattern_of_another_world_is_no_texture():
    upright = np.where(np.mod(COLUMNS, 6) < 3, DARK_TONE, 1.0)
    (found,) = found_in(masked(DISK, tone=upright)).objects
    assert (found.shape, found.color, found.texture) == ("circle", "red", "unclear")
    for tone in (0.9, 1.1):
        (found,) = found_in(masked(DISK, tone=tone).clamp(0, 1)).objects
        assert (found.shape, found.color, found.texture) == ("circle", "red", "solid")


@pytest.mark.parametrize(
    ("images", "texts", "message"),
    [
        (torch.zeros(1, 3, 32, 32), ["a circle"], r"shape \(1, 3, 32, 32\)"),
        (torch.zeros(3, 64, 64), ["a circle"], r"shape \(3, 64, 64\)"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), ["a circle"], "torch.uint8"),
        (2 * torch.ones(1, 3, 64, 64), ["a circle"], "reach from 2 to 2"),
        (-torch.ones(1, 3, 64, 64), ["a circle"], "reach from -1 to -1"),
        (torch.full((1, 3, 64, 64), float("nan")), ["a circle"], "no number"),
        ([Image.new("RGB", (64, 64))], ["a circle"], "are a list"),
        (np.zeros((1, 3, 64, 64)), ["a circle"], "are a ndarray"),
        (torch.zeros(2, 3, 64, 64), ["a circle"], "2 pictures and 1 prompts"),
        (torch.zeros(1, 3, 64, 64), "a circle", "one string"),
        (torch.zeros(1, 3, 64, 64), ["a pink circle"], "does not know the word 'pink'"),
        (torch.zeros(1, 3, 64, 64), [""], "the prompt is empty"),
    ],
)
def test_faults_are_named_in_one_sentence(images, texts, message):
    with pytest.raises(ValueError, match=message) as fault:
        judge(images, texts)
    assert "\n" not in str(fault.value)
