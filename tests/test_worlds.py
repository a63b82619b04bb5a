"""A world is a module: the small one answers as its parts do, one in a file is as good, wrong answers are named."""

import copy
import subprocess
import sys
from pathlib import Path
from random import Random
from textwrap import dedent

import joblib
import pytest
import torch

from lab.worlds import load_world
from lab.worlds.shapes.grammar import change_one_atom, frequency
from lab.worlds.shapes.phrases import parse
from lab.worlds.shapes.rendering import render
from lab.worlds.shapes.sampling import draw_scene

SHAPES = load_world("shapes")
OWN = """
import pandas as pd
import torch

name, categories = "own", ("only",)

def prompts(category, split):
    return ["bright", "dark"]

def judge(images, prompts, category):
    light = images.mean((1, 2, 3))
    right = [(value > 0.5) == (text == "bright") for value, text in zip(light.tolist(), prompts)]
    return pd.DataFrame({"aligned": right, "score": light.double().numpy(), "light": light.tolist()})

def changed(prompt, seed):
    return {"bright": "dark", "dark": "bright"}[prompt]

def features(images):
    return images.flatten(1)

def references(prompts, category, n, seed):
    return None

def auxiliary_score(images, prompts):
    return None

def pipeline(device="cpu", dtype=torch.float32):
    return None
"""
IMAGES = torch.stack([torch.ones(3, 4, 4), torch.zeros(3, 4, 4)])


@pytest.fixture
def own(tmp_path):
    """A function that writes a world of one's own, with some of its text replaced, and returns its path."""

    def write(old="", new=""):
        path = tmp_path / "own.py"
        path.write_text(OWN.replace(old, new) if old else OWN)
        return str(path)

    return write


def test_the_small_world_answers_as_its_parts_do():
    category = "color"
    texts = SHAPES.prompts(category)[:3]
    stream = Random("color 5")
    scenes = [draw_scene(parse(text), stream) for text in texts for _ in range(2)]
    images = SHAPES.references(texts, category, 2, 5)
    assert torch.equal(images, render(scenes)) and not torch.equal(images, SHAPES.references(texts, category, 2, 6))
    assert torch.equal(images, SHAPES.references(texts, "", 2, "color 5"))
    each = [text for text in texts for _ in range(2)]
    judged = SHAPES.judge(images, each, category)
    assert judged.aligned.all() and (judged.score == 1).all() and judged.columns.tolist() == [
        "aligned", "score", "atoms", "group", "frequency"
    ]  # fmt: skip
    assert judged.frequency.tolist() == [frequency(parse(text)) for text in each]
    assert judged.group.tolist() == ["a rare pair" if often < 1 else "common pairs" for often in judged.frequency]
    assert SHAPES.features(images).shape == (6, 64) and SHAPES.auxiliary_score(images, each).abs().max() <= 1


def test_changed_prompts_are_one_atom_away_and_repeat():
    for category in SHAPES.categories:
        for text in SHAPES.prompts(category)[:20]:
            changed = SHAPES.changed(text, 0)
            assert changed == SHAPES.changed(text, "0") != text
            if changed is not None:
                assert changed in {str(change_one_atom(parse(text), Random(i))) for i in range(200)}
                image = SHAPES.references([text], category, 1, 0)
                assert not SHAPES.judge(image, [changed], category).aligned[0]


def test_no_group_is_empty_on_validation_prompts():
    judged = SHAPES.judge(torch.zeros(120, 3, 64, 64), SHAPES.prompts("complex"), "complex")
    assert set(judged.group) == {"a rare pair", "common pairs"}


def test_a_world_is_the_same_by_any_of_its_names_and_travels_by_it():
    again = load_world("lab.worlds.shapes")
    assert again == SHAPES and hash(again) == hash(SHAPES) and copy.deepcopy(SHAPES) is SHAPES
    assert SHAPES.name == "shapes" and "lab.worlds.shapes" in SHAPES.sources
    assert {f"data/{model}/checksums.json" for model in ("base_model", "base_clip")} < {*SHAPES.sources}


def test_a_world_in_a_file_answers(own):
    here = load_world(own())
    assert (here.name, here.categories, here.prompts("only")) == ("own", ("only",), ("bright", "dark"))
    assert here.judge(IMAGES, ["bright", "bright"], "only").aligned.tolist() == [True, False]
    assert here.features(IMAGES).shape == (2, 48) and here.pipeline() is None
    assert here.references(["bright"], "only", 1, 0) is None and here.auxiliary_score(IMAGES, ["a", "b"]) is None
    assert load_world(own()) is here and all(name in sys.modules for name in here.sources)


def test_a_world_in_a_file_works_in_another_process(own):
    calls = (joblib.delayed(load_world(own()).changed)(text, 0) for text in ("dark", "bright"))
    assert joblib.Parallel(n_jobs=2)(calls) == ["bright", "dark"]


def test_the_small_world_loads_without_a_word():
    code = """
        from lab.worlds import load_world
        here = load_world("shapes")
        image = here.references(here.prompts("color")[:1], "color", 1, 0)
        here.features(image), here.auxiliary_score(image, ["a red circle"]), here.pipeline()
    """
    run = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True)
    assert run.stdout == "" and run.stderr == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shape", "did you mean 'shapes'"),
        ("moon", "there are .*shapes"),
        ("lab.worlds.moon", "no world 'moon'"),
        ("no_such_package.moon", "no world 'no_such_package.moon'"),
        ("nowhere/moon.py", "no world in .*nowhere/moon.py"),
        ("json.tool", "lacks name, categories, prompts, judge, changed, features, references, auxiliary_score, pip"),
    ],
)
def test_a_world_that_is_not_there_is_named_in_one_sentence(name, message):
    with pytest.raises(ValueError, match=message) as fault:
        load_world(name)
    assert "\n" not in str(fault.value)


def test_all_that_a_world_lacks_is_named(own):
    path = Path(own("name, categories =", "_, categories ="))
    path.write_text(path.read_text().replace("def changed", "def other").replace("def pipeline", "def another"))
    with pytest.raises(ValueError, match="lacks name, changed, pipeline;"):
        load_world(str(path))


def test_the_faults_of_a_world_stay_its_own(own):
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        load_world(own("import torch", "import torch, no_such_package"))


@pytest.mark.parametrize(
    ("old", "new", "call", "message"),
    [
        ("return pd.DataFrame(", "return dict(", "judge", "answers with a dict"),
        ('"score": light.double().numpy()', '"score": None', "judge", "no finite score in row 0"),
        ('"score": light.double().numpy(),', "", "judge", "no column score"),
        ('"aligned": right, "score"', '"quality"', "judge", "no column aligned and no score"),
        ('"light": light.tolist()})', '"light": 0}).head(1)', "judge", "1 rows for 2 images"),
        ('"score": light.double().numpy()', '"score": [1, float("nan")]', "judge", "no finite score in row 1"),
        ('"aligned": right', '"aligned": [1, 0]', "judge", "a column aligned of int64"),
        ('"aligned": right', '"aligned": [True, None]', "judge", "a column aligned of object"),
        ("return images.flatten(1)", "return images", "features", r"shape \(2, 3, 4, 4\)"),
        ("return images.flatten(1)", "return images[:1].flatten(1)", "features", r"shape \(1, 48\)"),
        ("return images.flatten(1)", "return images.flatten(1) / 0", "features", "no number"),
        ("n, seed):\n    return None", "n, seed):\n    return torch.zeros(3, 3, 4, 4)", "references", r"give \(4, 3"),
        ("(images, prompts):\n    return None", "(images, prompts):\n    return [0.5]", "auxiliary_score", r"\(1,\)"),
        ('return ["bright", "dark"]', 'return "bright"', "prompts", "no list of texts"),
        ('return ["bright", "dark"]', "return []", "prompts", "no list of texts"),
    ],
)
def test_wrong_answers_are_named_in_one_sentence(own, old, new, call, message):
    here, texts = load_world(own(old, new)), ["bright", "dark"]
    calls = {
        "judge": lambda: here.judge(IMAGES, texts, "only"),
        "features": lambda: here.features(IMAGES),
        "references": lambda: here.references(texts, "only", 2, 0),
        "auxiliary_score": lambda: here.auxiliary_score(IMAGES, texts),
        "prompts": lambda: here.prompts("only"),
    }
    with pytest.raises(ValueError, match=message) as fault:
        calls[call]()
    assert "\n" not in str(fault.value) and "of the world own" in str(fault.value)


def test_another_category_or_split_is_refused(own):
    for category, split in (("colour", "val"), ("color", "test")):
        with pytest.raises(ValueError, match="a category is one of color.*a split one of train, val"):
            SHAPES.prompts(category, split)


def test_no_images_are_judged_to_no_rows():
    judged = SHAPES.judge(torch.zeros(0, 3, 64, 64), [], "color")
    assert len(judged) == 0 and judged.columns.tolist() == ["aligned", "score", "atoms", "group", "frequency"]
