"""T2I-CompBench as a world: each formula's worked examples, each published fault by the switch, prompts as they are
read, files that are no benchmark, and all eight categories on models of random weights.
"""

import importlib.util
import os
from pathlib import Path

import pandas as pd
import pytest
import torch
from vision_models import build_all, write_prompts

from lab.paths import repository_root
from lab.worlds import compbench, load_world, vision
from lab.worlds.compbench import files, language
from lab.worlds.compbench.files import CATEGORIES
from lab.worlds.compbench.formulas import attribute_score, deep_position, flat_position, numeracy_score, pair_score
from lab.worlds.compbench.language import DEEP, FLAT, phrases, things_and_numbers, two_things
from lab.worlds.vision import Detection

BENCHMARK = Path(os.environ.get("T2I_COMPBENCH", repository_root().parent / "shared" / "t2i_compbench"))
needs_spacy = pytest.mark.skipif(
    not any(importlib.util.find_spec(name) for name in language.MODELS), reason="spaCy's English model is an extra"
)
needs_benchmark = pytest.mark.skipif(not BENCHMARK.is_dir(), reason="the benchmark's prompt files are not here")
HERE, THERE = (0, 0, 10, 10), (100, 0, 110, 10)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compbench")
    return write_prompts(folder / "prompts") | build_all(folder)


@pytest.fixture
def world(places, monkeypatch):
    for variable, place in places.items():
        monkeypatch.setenv(variable, place)
    return load_world("compbench")


# Formulas


def test_attributes_multiply():
    assert attribute_score([0.5, 0.5, 0.8]) == pytest.approx(0.2) and attribute_score([]) == 1


@pytest.mark.parametrize(
    ("relation", "one", "other", "expected"),
    [
        ("left", HERE, THERE, 1),
        ("right", HERE, THERE, 0),
        ("right", THERE, HERE, 1),
        ("top", HERE, THERE, 0),
        ("top", HERE, (0, 100, 10, 110), 1),
        ("bottom", (0, 100, 10, 110), HERE, 1),
        ("left", HERE, (50, 60, 60, 70), 0),  # further down than across
        ("left", (0, 0, 100, 100), (50, 0, 150, 100), 0.3),  # 0.1 / (1 / 3)
        ("left", (0, 0, 100, 100), (80, 0, 180, 100), 0.9),  # 0.1 / (20 / 180)
        ("left", (0, 0, 100, 100), (85, 0, 185, 100), 1),  # an IoU of 15 / 185
        ("left", HERE, HERE, 0),
        ("near", HERE, THERE, 1),
        ("near", HERE, (300, 200, 310, 210), 0.5),  # 150 / 300
    ],
)
def test_places_in_the_plane(relation, one, other, expected):
    for published in (False, True):
        assert flat_position(relation, one, other, 512, published) == pytest.approx(expected)


def test_published_near_is_true_on_one_line_and_counts_pixels():
    far = (300, 0, 310, 10)
    assert flat_position("near", HERE, far, 512) == 0.5 and flat_position("near", HERE, far, 512, True) == 1
    assert flat_position("near", HERE, (300, 200, 310, 210), 1024) == 1
    assert flat_position("near", HERE, (300, 200, 310, 210), 1024, True) == 0.5


TO_THE_RIGHT = torch.arange(20.0).repeat(10, 1)  # (height, width) = (10, 20), nearer from left to right


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((8, 0, 16, 10), (4, 0, 12, 10), 2 / 3),  # an IoU of 1 / 3
        ((6, 0, 16, 10), (4, 0, 14, 10), 1),  # of 2 / 3
        ((12, 0, 16, 10), (4, 0, 8, 10), 0),  # nearer, and apart
        ((4, 0, 12, 10), (8, 0, 16, 10), 0),  # farther
        ((4, 0, 12, 10), (4, 0, 12, 10), 0),  # as near
    ],
)
def test_places_in_depth(one, other, expected):
    assert deep_position("front", one, other, TO_THE_RIGHT) == pytest.approx(expected)
    assert deep_position("behind", other, one, TO_THE_RIGHT) == pytest.approx(expected)


def test_published_depth_is_read_with_its_axes_exchanged():
    one, other = (6, 0, 16, 10), (4, 0, 14, 10)
    square = torch.arange(20.0).repeat(20, 1)
    assert deep_position("front", one, other, square) == 1 and deep_position("front", one, other, square, True) == 0
    assert deep_position("front", one, other, square.T, True) == 1
    assert deep_position("front", (12, 0, 20, 10), (11, 0, 19, 10), TO_THE_RIGHT, True) == 0  # outside of the map
    assert deep_position("front", (12, 0, 20, 10), (11, 0, 19, 10), TO_THE_RIGHT) == 1
    assert deep_position("front", (19.5, 0, 20, 10), (19.2, 0, 20, 10), TO_THE_RIGHT) == 0  # less than a pixel


def test_published_overlap_of_a_half_is_neither_above_nor_below():
    one, other, flat = (8, 0, 20, 10), (4, 0, 16, 10), torch.arange(20.0).repeat(20, 1).T + torch.arange(20.0)
    assert vision.box_iou(one, other) == 0.5
    assert deep_position("front", one, other, flat) == 1 and deep_position("front", one, other, flat, True) == 0


def detection(name, score, box=HERE):
    return Detection(name, score, box)


def test_pairs_are_scored_by_the_detector_and_their_place():
    cow, kite = detection("cow", 0.8), detection("kite", 0.6, THERE)
    for published in (False, True):
        assert pair_score([cow], [kite], lambda *_: 1.0, published) == pytest.approx(0.85)
        assert pair_score([cow], [kite], lambda *_: 0.4, published) == pytest.approx(0.55)
        assert pair_score([cow], [], lambda *_: 1.0, published) == pytest.approx(0.2)
        assert pair_score([], [kite], lambda *_: 1.0, published) == pytest.approx(0.15)
        assert pair_score([], [], lambda *_: 1.0, published) == 0


def test_published_pairs_are_of_first_detections():
    def left(one, other):
        return flat_position("left", one, other, 512)

    cows = [detection("cow", 0.9, (200, 0, 210, 10)), detection("cow", 0.5)]
    kites = [detection("kite", 0.7, THERE)]
    assert pair_score(cows, kites, left) == pytest.approx(0.25 * 1.2 + 0.5)
    assert pair_score(cows, kites, left, published=True) == pytest.approx(0.25 * 1.6)
    assert pair_score(cows, cows, left) == pytest.approx(0.25 * 1.4 + 0.5)  # "a cow on the left of a cow"
    assert pair_score(cows, cows, left, published=True) == pytest.approx(0.25 * 1.8)
    assert pair_score(cows[:1], cows[:1], left) == pytest.approx(0.25 * 0.9)


def test_numbers_count_half_for_being_there():
    asked = [("cow", 2), ("kite", 1)]
    assert numeracy_score(asked, {"cow": 2, "kite": 1}) == 1
    assert numeracy_score(asked, {"cow": 2, "kite": 3}) == 0.75
    assert numeracy_score(asked, {"cow": 1, "kite": 0}) == 0.25
    assert numeracy_score(asked, {"cow": 0, "kite": 0}) == numeracy_score([], {}) == 0


# Prompts as they are read


@needs_spacy
def test_noun_phrases_are_what_is_asked_about():
    assert phrases("a teal kettle and a maroon wagon") == ("a teal kettle", "a maroon wagon")
    assert phrases("The teal kettle was on top of the wooden anvil.") == ("The teal kettle", "the wooden anvil")
    many = "teal red blue green grey black white dark old".split()
    assert len(phrases(", ".join(f"a {word} lantern" for word in many))) == 8


@needs_spacy
def test_published_prompts_without_a_noun_phrase_are_always_right():
    assert phrases("running quickly.") == ("running quickly",) and phrases("running quickly.", published=True) == ()


@needs_spacy
@pytest.mark.parametrize(
    ("prompt", "known", "expected"),
    [
        ("a kettle on the left of a lantern", FLAT, ("kettle", "left", "lantern")),
        ("a traffic light on side of a coffee mug", FLAT, ("traffic light", "near", "coffee mug")),
        ("The teal kettle was on top of the wooden anvil.", FLAT, ("kettle", "top", "anvil")),
        ("a girl on the top of a barrel", FLAT, ("girl", "top", "barrel")),
        ("a wagon hidden by a ladder", DEEP, ("wagon", "behind", "ladder")),
        ("a boy in front of a man", DEEP, ("boy", "front", "man")),
        ("a kettle and a lantern", FLAT, None),
        ("a nearby kettle with a lantern", FLAT, None),
    ],
)
def test_two_things_and_their_relation(prompt, known, expected):
    assert two_things(prompt, known) == expected


@needs_spacy
def test_published_relations_lose_on_top_of_and_the_names_of_people():
    prompt = "The teal kettle was on top of the wooden anvil."
    assert two_things(prompt, FLAT, published=True, within=True)[1] == "nothing"
    assert flat_position("top", HERE, (0, 100, 10, 110), 512) == 1
    assert flat_position("nothing", HERE, (0, 100, 10, 110), 512, published=True) == 0
    assert two_things("a boy in front of a man", DEEP, published=True) == ("person", "front", "person")
    assert two_things("a nearby kettle with a lantern", FLAT, published=True) == ("kettle", "near", "lantern")
    assert two_things("a lantern near a coffee mug", FLAT, published=True) == ("lantern", "near", "mug")


@needs_spacy
@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("two kettles and three wagons", (("kettle", 2), ("wagon", 3))),
        ("a trumpet, four vases and one traffic light", (("trumpet", 1), ("vase", 4), ("traffic light", 1))),
        ("five people gathered for a feast", (("person", 5),)),
        ("three small wagons rolled down the hill", (("wagon", 3),)),
        ("the wagons stood on a hill", ()),
    ],
)
def test_things_and_their_numbers(prompt, expected):
    assert things_and_numbers(prompt) == expected


@needs_spacy
def test_actions_are_verbs_without_adjectives():
    assert language.has_action("The teal kettle rolled towards the dull anvil.")
    assert not language.has_action("The kettle was on the anvil.")
    assert language.without_adjectives("The old kettle rolled off the dull anvil") == "The kettle rolled off the anvil"


@needs_spacy
@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a teal kettle and a maroon wagon", {"a maroon kettle and a teal wagon"}),
        ("a kettle on the left of a lantern", {"a lantern on the left of a kettle"}),
        ("a kettle on the left of an anvil", {"an anvil on the left of a kettle"}),
        ("a ivory kettle and a red wagon", {"a red kettle and a ivory wagon"}),
        ("two kettles and three wagons", {"three kettles and two wagons"}),
        ("a traffic light in front of a bus", {"a bus in front of a traffic light"}),
        ("a glass jar and a metallic spoon", {"a metallic jar and a glass spoon"}),
        ("an old clock and a red traffic light", {"a red clock and an old traffic light"}),
        (
            "The old kettle leaned on the blue ladder.",
            {"The blue kettle leaned on the old ladder.", "The blue ladder leaned on the old kettle."},
        ),
        ("a kettle and a wagon", {None}),
        ("a kettle, a wagon and a barrel", {None}),
        ("a kettle next to a wagon", {None}),
        ("a teal kettle and a teal wagon", {None}),
        ("a teal kettle and a maroon kettle", {None}),
        ("fog", {None}),
    ],
)
def test_a_prompt_is_changed_by_its_own_phrases(prompt, expected, world):
    assert {world.changed(prompt, seed) for seed in range(12)} == expected
    assert world.changed(prompt, 3) == world.changed(prompt, "3")


def test_a_missing_spacy_is_named_in_one_sentence(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(language, "import_module", absent)
    language._english.cache_clear()
    with pytest.raises(ImportError, match=r"pip install -e \.\[compbench\]") as fault:
        phrases("a prompt that nobody has read")
    language._english.cache_clear()
    assert "\n" not in str(fault.value)


# Files


def test_prompts_are_unique_in_order_and_split(world, tmp_path, monkeypatch):
    assert world.categories == CATEGORIES and world.pipeline() is None
    assert len(world.sources) == 2 + 16 and all(Path(path).is_file() for path in world.sources[2:])
    for category in CATEGORIES:
        splits = {split: world.prompts(category, split) for split in ("train", "val", "locked")}
        assert [len(texts) for texts in splits.values()] == [12, 2, 7]
        assert len({text for texts in splits.values() for text in texts}) == 21
    once = world.prompts("color", "train"), world.prompts("color", "locked")
    assert once[0][0] == "a teal kettle and a maroon lantern"
    for path in Path(os.environ["RFMI_COMPBENCH"]).iterdir():
        text = path.read_text("utf-8")
        (tmp_path / path.name).write_bytes((text + "\n \n" + text + "\r\n").encode("utf-8-sig"))
    monkeypatch.setenv("RFMI_COMPBENCH", str(tmp_path))
    assert (world.prompts("color", "train"), world.prompts("color", "locked")) == once


def test_the_hubs_tables_are_read_as_the_texts_are(world, tmp_path, monkeypatch):
    keys = [(category, split) for category in CATEGORIES for split in ("val", "locked")]
    expected = {key: world.prompts(*key) for key in keys}
    for path in Path(os.environ["RFMI_COMPBENCH"]).iterdir():
        table = tmp_path / path.stem / f"{path.stem.partition('_')[2]}-00000-of-00001.parquet"
        table.parent.mkdir()
        pd.DataFrame({"text": path.read_text("utf-8").split("\n")}).to_parquet(table)
    assert (tmp_path / "3d_spatial_val" / "spatial_val-00000-of-00001.parquet").is_file()
    monkeypatch.setenv("RFMI_COMPBENCH", str(tmp_path))
    assert {key: world.prompts(*key) for key in expected} == expected


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of prompts of its own, to spoil."""
    for variable, place in write_prompts(tmp_path / "prompts").items():
        monkeypatch.setenv(variable, place)
    return tmp_path / "prompts"


def test_a_mixed_split_is_refused_and_a_few_shared_prompts_are_left_out(folder):
    train, held = folder / "color_train.txt", folder / "color_val.txt"
    many = [f"a teal kettle and a wagon of {i} wheels" for i in range(40)]
    held.write_text("\n".join(many))
    train.write_text(train.read_text() + "\n" + many[0])
    assert many[0] not in {*compbench.prompts("color", "train"), *compbench.prompts("color", "val")}
    assert len(compbench.prompts("color", "locked")) == 40
    files._prompts.cache_clear(), files.splits.cache_clear()
    train.write_text("\n".join(many[:30]))
    with pytest.raises(ValueError, match="30 of the 40 validation prompts of color .* mixed split"):
        compbench.prompts("color")


def test_a_prompt_in_two_categories_is_refused(folder):
    path = folder / "texture_val.txt"
    path.write_text(path.read_text() + "\n" + (folder / "shape_train.txt").read_text().split("\n")[3])
    for category, other in (("shape", "texture"), ("texture", "shape")):
        with pytest.raises(ValueError, match=f"in two categories, {category} and {other}"):
            compbench.prompts(category)
    assert compbench.prompts("color")


def test_missing_files_are_named_with_where_to_get_them(folder, monkeypatch):
    (folder / "color_val.txt").unlink()
    with pytest.raises(ValueError, match="holds no color_val.txt; download .* set RFMI_COMPBENCH") as fault:
        compbench.prompts("color")
    assert "\n" not in str(fault.value) and compbench.prompts("shape")
    monkeypatch.delenv("RFMI_COMPBENCH")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=f"{files.HUB} cannot be read; download .* set RFMI_COMPBENCH") as fault:
        compbench.prompts("color")
    assert "\n" not in str(fault.value)


def test_a_spatial_prompt_without_a_relation_is_refused_before_anything_is_drawn(folder):
    path = folder / "spatial_train.txt"
    path.write_text("a kettle and a lantern\n" + path.read_text())
    with pytest.raises(ValueError, match="'a kettle and a lantern' names no relation; give one of on side of, next to"):
        compbench.prompts("spatial", "train")


# The judge


@needs_spacy
@pytest.mark.parametrize("published", [False, True])
def test_all_eight_categories_are_judged_on_models_of_random_weights(world, monkeypatch, published):
    monkeypatch.setenv("RFMI_COMPBENCH_PUBLISHED", str(int(published)))
    assert world.module.identity()["published"] is published
    for category in CATEGORIES:
        texts = world.prompts(category, "locked")
        images = torch.rand(len(texts), 3, 40, 40, generator=torch.Generator().manual_seed(1))
        judged = world.judge(images, texts, category)
        assert judged.columns.tolist() == ["aligned", "score", "parts"] and len(judged) == len(texts)
        assert judged.aligned.tolist() == (judged.score >= 0.5).tolist() and judged.score.between(-1, 1).all()
        assert world.judge(images[:1], texts[:1], category).score[0] == pytest.approx(judged.score[0], abs=1e-5)
        assert len(world.judge(images[:0], [], category)) == 0
        assert category == "non_spatial" or all(judged.parts)
    assert world.features(images).shape == (len(texts), 16)
    assert world.auxiliary_score(images, texts).shape == (len(texts),)
    assert world.references(texts, "color", 2, 0) is None


@needs_spacy
def test_the_judge_puts_the_parts_together(world, monkeypatch):
    boxes = {"kettle": HERE, "anvil": (0, 100, 10, 110), "wagon": THERE}
    said = {
        "detect": lambda _, names: [[detection(e, 0.8, boxes[e]) for e in each if e in boxes] for each in names],
        "yes_probability": lambda _, questions: torch.tensor([0.5 if "teal" in each else 0.8 for each in questions]),
        "clip_cosine": lambda _, texts: torch.full((len(texts),), 0.3),
    }
    for function, answer in said.items():
        monkeypatch.setattr(vision, function, answer)
    image = torch.zeros(1, 3, 512, 512)

    def score(prompt, category, **options):
        return compbench.judge(image, [prompt], category, **options).score[0]

    assert score("a teal kettle and a maroon wagon", "color") == pytest.approx(0.4)
    assert score("a kettle on the left of a wagon", "spatial") == pytest.approx(0.9)
    assert score("a kettle on the right of a wagon", "spatial") == 0  # 0.4 is less than a half
    assert score("two kettles and one wagon", "numeracy") == pytest.approx(0.75)
    assert score("A miller carries a barrel.", "non_spatial") == pytest.approx(0.3)
    on_top = "The teal kettle was on top of the wooden anvil."
    assert score(on_top, "complex") == pytest.approx((0.4 + 0.9) / 2)
    assert score(on_top, "complex", published=True) == pytest.approx(0.4 / 2)
    assert score("The teal kettle rolled towards the dull anvil.", "complex") == pytest.approx((0.4 + 0.3) / 2)
    near = "The teal kettle stood next to the dull wagon."
    assert compbench.judge(image, [near], "complex").parts[0] == pytest.approx(
        {"attributes": 0.4, "relation": 0.9, "action": 0.3}
    )


@pytest.mark.parametrize(
    ("texts", "category", "message"),
    [
        (["a kettle"], "color", "2 images and 1 prompts"),
        ("ab", "color", "2 images and 2 prompts"),
        (["a", "b"], "colour", "give one of color"),
    ],
)
def test_a_call_that_does_not_fit_is_refused(texts, category, message):
    with pytest.raises(ValueError, match=message):
        compbench.judge(torch.zeros(2, 3, 8, 8), texts, category)


# The benchmark's own files


@needs_benchmark
def test_the_benchmarks_files_are_read_whole(monkeypatch, tmp_path):
    monkeypatch.setenv("RFMI_COMPBENCH", str(BENCHMARK))
    unique = {category: len(files._prompts(str(BENCHMARK), category, "train")) for category in CATEGORIES}
    assert unique == dict.fromkeys(CATEGORIES, 700) | {"color": 679, "shape": 685, "texture": 695}
    texts = set()
    for category in CATEGORIES:
        splits = [compbench.prompts(category, split) for split in ("train", "val", "locked")]
        assert len(splits[2]) == 300
        assert len(splits[0]) + len(splits[1]) == unique[category] - 2 * (category == "spatial")
        assert len({text for split in splits for text in split}) == sum(map(len, splits))
        texts |= {text for split in splits for text in split}
    write_prompts(tmp_path / "own", 14, 7)
    assert not {line for path in (tmp_path / "own").iterdir() for line in path.read_text("utf-8").split("\n")} & texts


@needs_benchmark
@needs_spacy
def test_204_of_the_900_attribute_prompts_have_not_two_noun_phrases(monkeypatch):
    monkeypatch.setenv("RFMI_COMPBENCH", str(BENCHMARK))
    names = ("color", "shape", "texture")
    counts = [len(phrases(text)) for name in names for text in compbench.prompts(name, "locked")]
    assert len(counts) == 900 and sum(count != 2 for count in counts) == 204
