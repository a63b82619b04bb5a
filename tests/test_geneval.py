"""GenEval's rules have exact examples, files of both forms are read or refused by the line, and the world answers as
the rules do on what a detector and a model that answers questions say.
"""

import copy
import json
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch

from lab.study.code import code_version
from lab.worlds import geneval, load_world
from lab.worlds.geneval import SECOND, TASKS, changed, color_of, exchanged
from lab.worlds.geneval.entries import COLORS, FILES, entries
from lab.worlds.geneval.rules import as_yes_or_no, faults, kept, relations, soft_tifa

LANTERN, LADDER = {"class": "lantern", "count": 1}, {"class": "ladder", "count": 1}
ENTRIES = [
    {"tag": "single_object", "include": [LANTERN], "prompt": "one lantern"},
    {"tag": "two_object", "include": [LANTERN, LADDER], "prompt": "a lantern and a ladder"},
    {
        "tag": "counting",
        "include": [LADDER | {"count": 2}],
        "exclude": [LADDER | {"count": 3}],
        "prompt": "two ladders",
    },
    {"tag": "colors", "include": [LANTERN | {"color": "red"}], "prompt": "a red lantern"},
    {
        "tag": "position",
        "include": [LADDER, LANTERN | {"position": ["left of", 0]}],
        "prompt": "a lantern left of a ladder",
    },
    {
        "tag": "color_attr",
        "include": [LANTERN | {"color": "red"}, LADDER | {"color": "orange"}],
        "prompt": "a red lantern and an orange ladder",
    },
]
ATOMS = {
    "prompt": "two glass lanterns under no ladder",
    "atom_count": 3,
    "vqa_list": [
        ["How many lanterns are in the image?", "two"],
        ["Are the lanterns glass?", "Yes"],
        ["Is there a ladder in the image?", "No"],
        ["What is the ground?", "sand"],
    ],
    "skills": ["count", "attribute", "object", "attribute"],
}
BY_TAG = {entry["tag"]: entry for entry in ENTRIES}


@dataclass(frozen=True)
class Detection:
    name: str
    score: float
    box: tuple[float, float, float, float]


def at(left, top=0, name="lantern", score=0.95):
    """A detection of ten pixels by ten."""
    return Detection(name, score, (left, top, left + 10, top + 10))


@pytest.fixture
def named(tmp_path, monkeypatch):
    """A function that writes entries, or lines, into a file of their own and names it for a split."""

    def write(lines, split="locked"):
        path = tmp_path / f"{split}.jsonl"
        path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
        monkeypatch.setenv(FILES[split], str(path))
        return path

    for variable in FILES.values():
        monkeypatch.delenv(variable, raising=False)
    return write


@pytest.fixture
def vision(monkeypatch):
    """Eyes that see what `seen` says for each image, and that are sure of what `sure` says of each question or text."""
    fake = ModuleType("lab.worlds.vision")
    fake.seen, fake.sure, fake.asked = [], {}, []

    def answer(images, texts):
        assert len(images) == len(texts)
        fake.asked += texts
        return torch.tensor([fake.sure.get(text, 0.0) for text in texts])

    def detect(images, names, threshold):
        assert len(images) == len(names) == len(fake.seen)
        pairs = zip(fake.seen, names, strict=True)
        return [[each for each in seen if each.name in wanted and each.score >= threshold] for seen, wanted in pairs]

    fake.yes_probability = fake.clip_cosine = answer
    fake.named = {f"RFMI_VISION_{model}": model for model in ("VQA", "DETECTOR", "CLIP")}.get
    fake.detect, fake.clip_features = detect, lambda images: images.flatten(1)
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.delenv("RFMI_GENEVAL_THRESHOLDS", raising=False)
    return fake


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (-30, 0, {"left of"}),  # 28 of 30
        (30, 0, {"right of"}),
        (0, -30, {"above"}),
        (0, 30, {"below"}),
        (-30, -30, {"left of", "above"}),  # 28 of 42.4 on both axes
        (30, -10, {"right of"}),  # 8 of 31.6 is not enough
        (5, 0, {"right of"}),  # 3 of 5
        (4, 0, set()),  # 2 of 4 is not above one half
        (2, 0, set()),  # a tenth of both widths
        (0, 0, set()),
    ],
)
def test_a_position_is_what_centres_are_apart_beyond_a_tenth_of_both_sizes(x, y, expected):
    a, b = (50 + x, 50 + y, 60 + x, 60 + y), (50, 50, 60, 60)
    assert relations(a, b) == expected
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    assert relations(b, a) == {opposite[relation] for relation in expected}


def test_large_objects_must_be_further_apart():
    assert relations((0, 0, 100, 10), (40, 0, 140, 10)) == set()  # 40 - 20 of 40
    assert relations((0, 0, 100, 10), (42, 0, 142, 10)) == {"left of"}


def test_detections_count_above_the_threshold_surest_first_and_sixteen_at_most():
    seen = [at(0, score=0.3), at(1, score=0.31), at(2, score=0.9), at(3, name="ladder", score=0.5)]
    assert kept(seen, 0.3) == {"lantern": [seen[2], seen[1]], "ladder": [seen[3]]}
    assert kept(seen, 0.9) == {} == kept([], 0.3)
    many = [at(0, score=0.4 + i / 100) for i in range(20)]
    assert kept(many, 0.3)["lantern"] == many[:3:-1]


LEFT, RIGHT = at(0), at(40, name="ladder")


@pytest.mark.parametrize(
    ("tag", "seen", "colors", "expected"),
    [
        ("single_object", [LEFT], {}, []),
        ("single_object", [LEFT, at(20), RIGHT], {}, []),  # more is right as well
        ("single_object", [RIGHT], {}, ["lantern: 0, not 1"]),
        ("two_object", [LEFT, RIGHT], {}, []),
        ("two_object", [], {}, ["lantern: 0, not 1", "ladder: 0, not 1"]),
        ("counting", [RIGHT, at(0, name="ladder")], {}, []),
        ("counting", [RIGHT], {}, ["ladder: 1, not 2"]),
        ("counting", [RIGHT] * 3, {}, ["ladder: 3, not below 3"]),
        ("colors", [LEFT], {LEFT: "red"}, []),
        ("colors", [LEFT], {LEFT: "pink"}, ["lantern: pink, not red"]),
        ("colors", [LEFT, at(20, score=0.5)], {LEFT: "red"}, []),  # the color of the surest alone is asked
        ("position", [LEFT, RIGHT], {}, []),
        ("position", [at(80), RIGHT], {}, ["lantern: not left of ladder"]),
        ("position", [LEFT], {}, ["ladder: 0, not 1", "lantern: not left of ladder"]),
        ("position", [at(80), RIGHT, at(0, score=0.5)], {}, ["lantern: not left of ladder"]),  # of the surest, too
        ("color_attr", [LEFT, RIGHT], {LEFT: "red", RIGHT: "orange"}, []),
        ("color_attr", [LEFT, RIGHT], {LEFT: "red", RIGHT: "red"}, ["ladder: red, not orange"]),
    ],
)
def test_each_task_has_its_rule(tag, seen, colors, expected):
    assert faults(BY_TAG[tag], kept(seen, 0.3), colors.__getitem__) == expected


def test_all_of_several_objects_must_have_the_color_and_the_place():
    lanterns, ladders = LANTERN | {"count": 2, "color": "red"}, LADDER | {"count": 2, "position": ["right of", 0]}
    entry = {"include": [lanterns, ladders]}
    seen = [at(0), at(20), at(40, name="ladder"), at(60, name="ladder")]
    assert faults(entry, kept(seen, 0.3), lambda _: "red") == []
    among = [*seen[:3], at(10, name="ladder")]
    assert faults(entry, kept(among, 0.3), lambda _: "red") == ["ladder: not right of lantern"]
    colors = {seen[0]: "red", seen[1]: "blue"}
    wrong = ["lantern: blue, not red", "ladder: not right of lantern"]  # there is nothing to stand right of
    assert faults(entry, kept(seen, 0.3), colors.__getitem__) == wrong


def test_a_color_is_the_best_mean_over_three_phrases_on_the_crop(vision):
    vision.sure = {"a photo of a red lantern": 0.9, "a photo of a blue lantern": 0.5, "a photo of a blue object": 0.6}
    assert color_of(torch.rand(3, 30, 40), (1, 2, 11, 12), "lantern") == "blue"
    assert len(vision.asked) == 30 and "a photo of a pink-colored lantern" in vision.asked
    image, crops = torch.rand(3, 30, 40), []
    vision.clip_cosine = lambda images, texts: crops.append(images[0]) or torch.eye(30)[3]
    boxes = [(1.4, 2.6, 11, 12), (-5, -5, 100, 100), (40, 30, 40, 30)]  # beyond the image; without a pixel
    assert [color_of(image, box, "lantern") for box in boxes] == [COLORS[3]] * 3
    expected = [image[:, 3:12, 1:11], image, image[:, 29:, 39:]]
    assert all(torch.equal(crop, right) for crop, right in zip(crops, expected, strict=True))


def test_questions_become_such_that_yes_or_no_answers_them():
    asked = [as_yes_or_no(*pair) for pair in ATOMS["vqa_list"]]
    assert asked == [
        ("Are there exactly two lanterns in the image?", True),
        ("Are the lanterns glass?", True),
        ("Is there a ladder in the image?", False),
        ("What is the ground? Is it sand?", True),
    ]


def test_soft_tifa_is_both_means():
    assert soft_tifa([0.25, 1.0]) == (0.625, 0.5) and soft_tifa([0.0, 1.0]) == (0.5, 0.0)
    assert soft_tifa([0.3]) == (0.3, 0.3)


def test_the_world_has_the_categories_of_its_files(named):
    assert load_world("geneval").categories == (*TASKS, SECOND)
    named(["", *ENTRIES[3:5], ENTRIES[3], "  "])
    here = load_world("geneval")
    assert here.categories == ("colors", "position") and here.prompts("colors", "locked") == ("a red lantern",)
    assert here.pipeline() is None and copy.deepcopy(here) is here
    named([ATOMS, ENTRIES[0]], "val")
    assert here.categories == ("single_object", "colors", "position", SECOND)
    assert here.prompts(SECOND) == (ATOMS["prompt"],) and here.prompts("colors", "locked") == ("a red lantern",)


def test_results_depend_on_the_files(named):
    here, path = load_world("geneval"), named(ENTRIES[:1])
    assert str(path) in here.sources and {"lab.worlds.geneval", "lab.worlds.vision"} < {*here.sources}
    first = code_version(*here.sources[2:])
    assert here.categories == ("single_object",)
    named(ENTRIES[:2])
    assert code_version(*here.sources[2:]) != first and here.categories == ("single_object", "two_object")


def test_the_world_judges_as_the_rules_do(named, vision):
    named([*ENTRIES, ATOMS])
    here = load_world("geneval")
    vision.sure = {"a photo of a red object": 1.0}
    vision.seen = [[LEFT, RIGHT]] * 6
    judged = here.judge(torch.rand(6, 3, 60, 60), [entry["prompt"] for entry in ENTRIES], "")
    assert judged.aligned.tolist() == [True, True, False, True, True, False]
    assert judged.score.tolist() == judged.aligned.astype(float).tolist()
    assert judged.reason[2] == "ladder: 1, not 2" and judged.reason[5] == "ladder: red, not orange"
    assert judged.found[1] == {"lantern": 1, "ladder": 1}


def test_doubtful_objects_do_not_count_in_counting_alone(named, vision):
    named(ENTRIES)
    vision.seen = [[at(0, name="ladder"), at(40, name="ladder", score=0.9)], [at(0, score=0.31)]]
    judged = load_world("geneval").judge(torch.rand(2, 3, 60, 60), ["two ladders", "one lantern"], "counting")
    assert judged.aligned.tolist() == [False, True] and judged.found[0] == {"ladder": 1}


def test_thresholds_are_the_users_to_choose(named, vision, monkeypatch):
    named(ENTRIES)
    monkeypatch.setenv("RFMI_GENEVAL_THRESHOLDS", "0.35 0.2")
    vision.seen = [[at(0, name="ladder"), at(40, name="ladder", score=0.25)], [at(0, score=0.31)]]
    judged = load_world("geneval").judge(torch.rand(2, 3, 60, 60), ["two ladders", "one lantern"], "counting")
    assert judged.aligned.tolist() == [True, False] and geneval.identity()["thresholds"] == (0.35, 0.2)
    monkeypatch.setenv("RFMI_GENEVAL_THRESHOLDS", "")
    assert geneval.identity() == {
        "RFMI_VISION_VQA": "VQA",
        "RFMI_VISION_DETECTOR": "DETECTOR",
        "RFMI_VISION_CLIP": "CLIP",
        "thresholds": (0.3, 0.9),
    }
    for wrong in ("0.3", "0.3, high", "0.1 0.2 0.3"):
        monkeypatch.setenv("RFMI_GENEVAL_THRESHOLDS", wrong)
        with pytest.raises(ValueError, match="give two numbers"):
            geneval.thresholds()


def test_atoms_are_asked_of_their_own_image_and_averaged(named, vision):
    named([ATOMS, ENTRIES[0]])
    vision.sure = {"Are there exactly two lanterns in the image?": 0.75, "Are the lanterns glass?": 0.75}
    vision.sure |= {"Is there a ladder in the image?": 0.25, "What is the ground? Is it sand?": 0.75}
    vision.seen = [[]]
    texts = [ATOMS["prompt"], "one lantern", ATOMS["prompt"]]
    judged = load_world("geneval").judge(torch.rand(3, 3, 8, 8), texts, SECOND)
    assert judged.aligned.tolist() == [True, False, True] and judged.group[0] == "3 atoms"
    assert judged.score.tolist() == [0.75, 0.0, 0.75] and judged.soft_tifa_gm[0] == pytest.approx(0.75)
    assert judged.atoms[0]["object: Is there a ladder in the image?"] == 0.75
    vision.sure["What is the ground? Is it sand?"] = 0.5
    again = load_world("geneval").judge(torch.rand(1, 3, 8, 8), texts[:1], SECOND)
    assert not again.aligned[0] and again.score[0] == 0.6875 and again.soft_tifa_gm[0] < 0.6875


def test_fields_that_may_be_missing(named, vision):
    named([{key: ATOMS[key] for key in ("prompt", "vqa_list")}])
    judged = load_world("geneval").judge(torch.rand(1, 3, 8, 8), [ATOMS["prompt"]], SECOND)
    assert judged.group[0] == "4 atoms" and "atom: Are the lanterns glass?" in judged.atoms[0]


def test_no_images_are_judged_to_no_rows(named, vision):
    named(ENTRIES)
    assert len(load_world("geneval").judge(torch.zeros(0, 3, 8, 8), [], "colors")) == 0


def test_the_second_models_are_those_of_vision(named, vision):
    named(ENTRIES)
    here, images = load_world("geneval"), torch.rand(2, 3, 4, 4)
    vision.sure = {"one lantern": 0.5}
    assert here.auxiliary_score(images, ["one lantern", "a red lantern"]).tolist() == [0.5, 0]
    assert torch.equal(here.features(images), images.flatten(1))
    assert here.references(["one lantern"], "single_object", 2, 0) is None


def test_what_is_exchanged_asks_for_something_else(named):
    named([*ENTRIES, ATOMS])
    assert changed("a lantern left of a ladder", 0) == "a ladder left of a lantern"
    assert changed("a red lantern and an orange ladder", "seed") == "an orange lantern and a red ladder"
    others = ["one lantern", "a lantern and a ladder", "two ladders", "a red lantern", ATOMS["prompt"]]
    assert [changed(text, 0) for text in others] == [None] * 5


@pytest.mark.parametrize(
    ("text", "pair", "expected"),
    [
        ("an oil lamp below a lamp", ("lamp", "oil lamp"), "a lamp below an oil lamp"),
        ("the lamp, an urn", ("urn", "lamp"), "the urn, a lamp"),
        ("a purple orange and an orange cup", ("orange", "purple"), None),
        ("a lampshade and an urn", ("lamp", "urn"), None),
    ],
)
def test_phrases_are_exchanged_with_their_articles(text, pair, expected):
    assert exchanged(text, *pair) == expected


POSITION = {"tag": "position", "prompt": "a"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"tag": "colors", "prompt"', "line 2 of .*no JSON"),
        ("[1]", "line 2 of .*no prompt"),
        ({"tag": "colors", "prompt": " "}, "no prompt"),
        (BY_TAG["colors"] | {"prompt": "a", "tag": "color"}, "its tag is 'color'; give one of single_object"),
        ({"prompt": "a"}, "its tag is None.*or a vqa_list"),
        ({"tag": "colors", "prompt": "a"}, "includes no classes"),
        ({"tag": "colors", "prompt": "a", "include": []}, "includes no classes"),
        ({"tag": "colors", "prompt": "a", "include": [{"count": 1}]}, "names no class"),
        ({"tag": "counting", "prompt": "a", "include": [LANTERN], "exclude": [{"count": 1}]}, "names no class"),
        ({"tag": "counting", "prompt": "a", "include": [{"class": "lantern"}]}, "count of lantern is None"),
        ({"tag": "counting", "prompt": "a", "include": [LANTERN | {"count": 0}]}, "whole number from 1"),
        ({"tag": "colors", "prompt": "a", "include": [LANTERN | {"color": "cyan"}]}, "color of lantern is 'cyan'"),
        (POSITION | {"include": [LANTERN, LADDER | {"position": ["near", 0]}]}, "position of ladder is .'near', 0"),
        (POSITION | {"include": [LANTERN, LADDER | {"position": ["above", 1]}]}, "of a clause before it"),
        (POSITION | {"include": [LANTERN, LADDER | {"position": "above"}]}, "of a clause before it"),
        ({"prompt": "a", "vqa_list": []}, "its vqa_list is"),
        ({"prompt": "a", "vqa_list": [["Is it?", 1]]}, "give a list of .question, answer"),
        (ATOMS | {"skills": ["count"]}, "1 skills for 4 questions"),
        (BY_TAG["single_object"] | {"tag": "two_object"}, "in two categories, single_object and two_object"),
        (ATOMS | {"prompt": "one lantern"}, "in two categories, single_object and geneval2"),
        (BY_TAG["single_object"] | {"include": [LADDER]}, "with other demands"),
    ],
)
def test_a_line_in_neither_form_is_named(named, line, message):
    path = named([ENTRIES[0], line])
    with pytest.raises(ValueError, match=message) as fault:
        load_world("geneval").prompts("colors", "locked")
    assert "\n" not in str(fault.value) and len(str(fault.value).replace(str(path), "")) < 300


def test_a_file_that_is_missing_or_empty_is_named(named, monkeypatch, tmp_path):
    here = load_world("geneval")
    with pytest.raises(ValueError, match="set RFMI_GENEVAL to the path of GenEval's"):
        here.prompts("colors", "locked")
    monkeypatch.setenv("RFMI_GENEVAL_VAL", str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(FileNotFoundError, match="no file .*nowhere.jsonl; take .* set RFMI_GENEVAL_VAL"):
        load_world("geneval").prompts("colors")
    named([""], "val")
    with pytest.raises(ValueError, match="holds no entries"):
        here.prompts("colors")


def test_splits_that_are_not_there_are_named(named):
    named(ENTRIES[:2])
    here = load_world("geneval")
    with pytest.raises(ValueError, match="no file is named for the split 'train'; set RFMI_GENEVAL_TRAIN"):
        here.prompts("two_object", "train")
    named(ENTRIES[2:3], "train")
    with pytest.raises(ValueError, match="RFMI_GENEVAL_TRAIN has no prompts of two_object; it has those of counting"):
        here.prompts("two_object", "train")


def test_nothing_is_chosen_on_what_is_locked(named):
    named(ENTRIES[:2])
    named(ENTRIES[1:3], "val")
    with pytest.raises(ValueError, match="'a lantern and a ladder' is in the files of RFMI_GENEVAL_VAL and"):
        entries()


def test_unknown_prompts_and_counts_of_images_are_refused_before_a_model_is_asked(named):
    named(ENTRIES)
    here = load_world("geneval")
    with pytest.raises(ValueError, match="no file of GenEval has the prompt 'a blue ladder'") as fault:
        here.judge(torch.rand(2, 3, 8, 8), ["one lantern", "a blue ladder"], "colors")
    assert len(str(fault.value)) < 200
    for prompts in (["one lantern"], "ab"):
        with pytest.raises(ValueError, match="give one an image"):
            here.judge(torch.rand(2, 3, 8, 8), prompts, "colors")
    with pytest.raises(ValueError, match="no file of GenEval"):
        here.changed("a blue ladder", 0)
