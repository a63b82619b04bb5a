"""Evaluation: the pipeline's own images judged, kept, judged again, resumed unit by unit, and compared prompt by
prompt.
"""

import json
import math
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

import rfmi
import rfmi.evaluation as module
from lab.worlds.shapes import judge
from lab.worlds.shapes.shipped import base_pipeline
from rfmi.evaluation import Evaluation, by_image, compare, evaluate, judge_folder
from rfmi.image_folder import read_images, rounded
from rfmi.pipelines import PipelineField
from rfmi.runs import open_folder

PROMPTS = {"color": ["a red circle", "a blue square"], "shape": ["a green cross"]}
SMALL = {"images_per_prompt": 2, "steps": 3, "keep_images": False}
KEPT = SMALL | {"keep_images": True}
FILES = [f"{name}_{seed:05d}.png" for name in ("color_00000", "color_00001", "shape_00000") for seed in (42, 43)]


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
    looked = [(2, ["a red circle"] * 2, "color"), (2, ["a green cross"] * 2, "shape")]
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
        if name == "one row a prompt":
            return table[: len(set(prompts))]
        if name == "too few of many":
            return table if len(table) == 2 else table[1:]
        if name == "nan of many":
            return table if len(table) == 2 else table.assign(score=math.nan)
        if name == "a set of many":
            return table if len(table) == 2 else table.assign(more=[{1} for _ in images])
        if name == "a tensor":
            return torch.zeros(len(images), 2)
        if name == "a dict":
            return {"aligned": [True] * len(images), "score": [1.0] * len(images)}
        if name == "a column twice":
            return pd.concat([table, table[["score"]]], axis=1)
        if name == "an unknown verdict":
            return table.assign(aligned=pd.array([None] * len(images), dtype="boolean"))
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
        ("a list", ValueError, "answered 2 images with a list; it must give a table"),
        ("a tensor", ValueError, "with a Tensor; it must give a table"),
        ("a dict", ValueError, "with a dict; it must give a table"),
        ("too few", ValueError, "answered 2 images with 1 rows"),
        ("one row a prompt", ValueError, "answered 2 images with 1 rows"),
        ("a column twice", ValueError, "names a column twice"),
        ("an unknown verdict", ValueError, "that is no number"),
        ("without a score", ValueError, "table lacks score; it has aligned, atoms, group"),
        ("without both", ValueError, "lacks aligned and score"),
        ("a score that is nan", ValueError, "that is no number"),
        ("a verdict that is nan", ValueError, "that is no number"),
        ("not what json holds", TypeError, "column 'more' .*got set"),
    ],
)
def test_a_judge_that_does_not_fit_is_refused_before_anything_is_drawn(
    pipeline, tmp_path, monkeypatch, name, error, words
):
    monkeypatch.setattr(module, "sample", None)
    with pytest.raises(error, match=words) as raised:
        evaluate(pipeline, PROMPTS, fault(name), output=tmp_path / "new", **SMALL)
    assert "\n" not in str(raised.value) and not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["too few of many", "nan of many", "a set of many"])
def test_a_judge_that_fails_on_what_was_drawn_leaves_a_folder_that_goes_on(pipeline, found, tmp_path, name):
    with pytest.raises((ValueError, TypeError), match="the judge"):
        evaluate(pipeline, PROMPTS, fault(name), output=tmp_path, features=means, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]
    again = evaluate(pipeline, PROMPTS, judge, output=tmp_path, features=means, **SMALL)
    pd.testing.assert_frame_equal(again.images, found.images)


def test_a_mended_judge_of_the_same_identity_goes_on_where_the_former_failed(pipeline, found, tmp_path):
    def broken(images, prompts, category):
        calls.append(1)
        return judge(images, prompts, category)[int(len(calls) > 3) :]

    def mended(images, prompts, category):
        return judge(images, prompts, category)

    calls, broken.identity, mended.identity = [], "pixels, 1", "pixels, 1"
    with pytest.raises(ValueError, match="answered 2 images with 1 rows"):
        evaluate(pipeline, PROMPTS, broken, output=tmp_path, features=means, **SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["color_00000.safetensors", "settings.json"]
    again = evaluate(pipeline, PROMPTS, mended, output=tmp_path, features=means, **SMALL)
    pd.testing.assert_frame_equal(again.images, found.images)


@pytest.mark.parametrize("features", [lambda images: images[:0, 0, 0], lambda images: images.flatten()])
def test_features_that_do_not_fit_are_refused_before_anything_is_drawn(pipeline, tmp_path, features):
    with pytest.raises(ValueError, match="features .* one row an image"):
        evaluate(pipeline, PROMPTS, judge, output=tmp_path / "new", features=features, **SMALL)
    assert not (tmp_path / "new").exists()


def test_features_that_are_no_numbers_are_refused_before_they_are_kept(pipeline, tmp_path):
    with pytest.raises(ValueError, match="features of an image are no numbers"):
        evaluate(pipeline, PROMPTS, judge, output=tmp_path, features=lambda images: 0 / means(0 * images), **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


# One judge's numbers are never another's


def constant(images, prompts, category, value=0.0):
    return pd.DataFrame({"aligned": [value > 0.5] * len(images), "score": value})


def hidden(images, prompts, category, value=0.0):
    """Its value shows in images that are neither grey nor noise alone."""
    plain = images.flatten(1).std(1)
    return pd.DataFrame({"aligned": True, "score": [value if 0.01 < each < 0.2 else 1.0 for each in plain.tolist()]})


class Threshold:
    def __init__(self, value):
        self.value, self.network = value, None

    def __call__(self, images, prompts, category):
        self.network = torch.nn.Identity()  # loaded at the first call
        return hidden(images, prompts, category, self.value)

    def method(self, images, prompts, category):
        return hidden(images, prompts, category, self.value)


def closed_over(value):
    return lambda images, prompts, category: hidden(images, prompts, category, value)


def declared(identity, value):
    def own(images, prompts, category):
        return constant(images, prompts, category, value)

    own.identity = identity
    return own


def network(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 2)).requires_grad_(False)


ONE = {"color": ["a red circle"]}
TINY = {"images_per_prompt": 1, "steps": 1, "keep_images": False}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (partial(constant, value=0.0), partial(constant, value=1.0)),
        (partial(hidden, value=0.0), partial(hidden, value=0.25)),
        (partial(Threshold(0.0).method), partial(Threshold(0.25).method)),
        (Threshold(0.0), Threshold(0.25)),
        (Threshold(0.0).method, Threshold(0.25).method),
        (closed_over(0.0), closed_over(0.25)),
        (lambda i, p, c: hidden(i, p, c, 0.0), lambda i, p, c: hidden(i, p, c, 0.25)),
        (declared("a", 0.0), declared("b", 0.0)),
        (declared("a", 0.0), partial(declared("a", 0.0))),
    ],
    ids=["partial", "hidden", "partial method", "instance", "method", "closure", "lambda", "declared", "undeclared"],
)
def test_another_judge_is_refused_and_the_same_one_goes_on(pipeline, tmp_path, first, second):
    there = evaluate(pipeline, ONE, first, output=tmp_path, **TINY).images
    pd.testing.assert_frame_equal(evaluate(pipeline, ONE, first, output=tmp_path, **TINY).images, there)
    with pytest.raises(ValueError, match="another judge; choose another folder"):
        evaluate(pipeline, ONE, second, output=tmp_path, **TINY)


def test_judges_that_look_alike_are_told_apart_by_what_they_answer(pipeline, tmp_path):
    values = [0.0]

    def own(images, prompts, category):
        return constant(images, prompts, category, values[0])

    evaluate(pipeline, ONE, own, output=tmp_path, **TINY)
    values[0] = 1.0
    with pytest.raises(ValueError, match="another judge"):
        evaluate(pipeline, ONE, own, output=tmp_path, **TINY)


def test_a_declared_identity_alone_tells_judges_apart(pipeline, tmp_path):
    evaluate(pipeline, ONE, declared("a", 0.0), output=tmp_path, **TINY)
    assert evaluate(pipeline, ONE, declared("a", 1.0), output=tmp_path, **TINY).images.score.tolist() == [0.0]


def test_answers_that_differ_by_rounding_alone_are_the_same_judges(pipeline, tmp_path):
    noise = [0.0]

    def own(images, prompts, category):
        return constant(images, prompts, category, 0.3331).assign(more=[{"exact": noise[0]}] * len(images))

    evaluate(pipeline, ONE, own, output=tmp_path, **TINY)
    noise[0] = -1e-8
    assert evaluate(pipeline, ONE, own, output=tmp_path, **TINY).images.score.tolist() == [0.3331]


def test_another_feature_network_is_refused(pipeline, tmp_path):
    there = evaluate(pipeline, ONE, judge, output=tmp_path, features=network(0), **TINY)
    again = evaluate(pipeline, ONE, judge, output=tmp_path, features=network(0), **TINY)
    assert torch.equal(again.features, there.features)
    for other in (network(1), None, means):
        with pytest.raises(ValueError, match="another features"):
            evaluate(pipeline, ONE, judge, output=tmp_path, features=other, **TINY)


SCRIPT = """
import sys
from functools import partial
import pandas as pd
from lab.worlds import load_world
from rfmi import evaluate

class Judge:
    names, odd = frozenset("abcdefgh"), {"x": 1}

    def __init__(self, value):
        self.value, self.kinds, self.of = value, {"left", "right", "near"}, object()

    def __call__(self, images, prompts, category, limit=0.5):
        known = category in {"color", "shape", "texture"}
        return pd.DataFrame({"aligned": [known and self.value > limit] * len(images), "score": self.value})

def counted(judge):
    calls = []
    return lambda *images: (calls.append(1), judge(*images))[1]

pipeline = load_world("shapes").pipeline()
judges = [Judge(0.25), partial(Judge(0.25), limit=0.2), counted(Judge(0.25)), load_world("shapes").judge]
for i, judge in enumerate(judges):
    evaluate(pipeline, {"color": ["a red circle"]}, judge, output=f"{sys.argv[1]}/{i}", images_per_prompt=1, steps=1)
"""


@pytest.mark.slow
def test_the_same_judge_is_known_after_a_restart(tmp_path):
    for hash_seed in "12":
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-2000:]


# The images


@pytest.fixture(scope="module")
def kept(pipeline, tmp_path_factory):
    return evaluate(pipeline, PROMPTS, judge, output=tmp_path_factory.mktemp("kept"), features=means, **KEPT)


@pytest.fixture
def copy(kept, tmp_path):
    """A copy of the folder with images, to be damaged."""
    folder = tmp_path / "copy"
    for path in kept.folder.rglob("*.*"):
        (folder / path.relative_to(kept.folder)).parent.mkdir(parents=True, exist_ok=True)
        (folder / path.relative_to(kept.folder)).write_bytes(path.read_bytes())
    return folder


def test_the_images_are_kept_and_judged_as_they_are_kept(pipeline, kept):
    texts, seeds = kept.images.prompt.tolist(), kept.images.seed.tolist()
    own = pipeline(
        texts, prompt_3=[""] * 6, generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        guidance_scale=4.0, num_inference_steps=3, max_sequence_length=1, output_type="pt",
    ).images  # fmt: skip
    images = read_images(kept.files)
    assert [path.name for path in kept.files] == FILES
    assert (images - own).abs().max() < 0.5 / 255 + 1e-3
    assert torch.equal(kept.features, means(images))
    pd.testing.assert_frame_equal(judge(images, texts), kept.images.drop(columns=["category", "prompt", "seed"]))


def test_without_images_the_pixels_are_judged_as_they_were_decoded(pipeline, found):
    field = PipelineField(pipeline, PROMPTS["color"], micro_batch=64)
    rows = torch.tensor([0, 0, 1, 1])
    noise, times = field.noise([42, 43, 42, 43]), field.times(3)
    images = field.decode(module.sample(field, noise, rows, times=times, guidance=4.0, batch=32))
    assert torch.equal(found.features[:4], means(images)) and not torch.equal(images, rounded(images))
    assert found.files == [] and not (found.folder / "images").exists()


def test_the_folder_is_an_imagefolder(kept):
    lines = [json.loads(line) for line in (kept.folder / "images" / "metadata.jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in lines] == FILES
    assert [line["text"] for line in lines] == kept.images.prompt.tolist()
    assert [line["prompt_id"] for line in lines] == [0, 0, 1, 1, 0, 0]
    for name in ("category", "seed", "aligned", "atoms", "group"):
        assert [line[name] for line in lines] == kept.images[name].tolist()
    assert np.allclose([line["score"] for line in lines], kept.images.score, atol=1e-12)
    assert sorted(path.name for path in (kept.folder / "images").iterdir()) == sorted([*FILES, "metadata.jsonl"])


def test_what_a_judge_cannot_say_is_null_in_the_metadata(pipeline, tmp_path):
    def own(images, prompts, category):
        return constant(images, prompts, category).assign(text="said", more=math.nan, words='gr\u00fcn / "x"')

    evaluation = evaluate(pipeline, ONE, own, output=tmp_path, **TINY | {"keep_images": True})
    line = json.loads((tmp_path / "images" / "metadata.jsonl").read_text(encoding="utf-8"))
    assert line["more"] is None and line["words"] == 'gr\u00fcn / "x"' and line["text"] == "a red circle"
    assert evaluation.images.text.tolist() == ["said"]


def test_a_killed_call_with_images_goes_on(pipeline, kept, tmp_path, monkeypatch):
    original = module.write_unit

    def dies(path, *rest):
        if path.name.startswith("shape"):
            raise KeyboardInterrupt
        original(path, *rest)

    monkeypatch.setattr(module, "write_unit", dies)
    with pytest.raises(KeyboardInterrupt):
        evaluate(pipeline, PROMPTS, judge, output=tmp_path, features=means, **KEPT)
    monkeypatch.undo()
    (tmp_path / "images" / FILES[-1]).write_bytes(b"what an earlier call left")
    again = evaluate(pipeline, PROMPTS, judge, output=tmp_path, features=means, **KEPT)
    pd.testing.assert_frame_equal(again.images, kept.images)
    assert [path.read_bytes() for path in again.files] == [path.read_bytes() for path in kept.files]


def test_one_prompt_may_stand_in_two_categories(pipeline, tmp_path):
    prompts = {"color": ["a red circle"], "shape": ["a green cross", "a red circle"]}
    evaluation = evaluate(pipeline, prompts, judge, output=tmp_path, features=means, **KEPT)
    assert len({path.name for path in evaluation.files}) == 6
    assert torch.equal(evaluation.features[:2], evaluation.features[4:])
    assert list(evaluation.by_prompt().index) == [(name, text) for name, texts in prompts.items() for text in texts]


def test_an_evaluation_shows_itself_in_a_line(kept):
    assert repr(kept) == "Evaluation of 6 images of 3 prompts"


# Judged again


def test_the_same_judge_says_the_same_of_the_images_alone(kept, tmp_path):
    again = rfmi.judge_folder(kept.folder, judge, output=tmp_path, features=means)
    pd.testing.assert_frame_equal(again.images, kept.images)
    assert torch.equal(again.features, kept.features)
    assert again.files == kept.files and again.folder == tmp_path
    few = judge_folder(kept.folder, judge, output=tmp_path / "few", features=means, batch=1)
    pd.testing.assert_frame_equal(few.images, kept.images)


def test_another_judge_says_what_it_says_and_needs_a_folder_of_its_own(kept, tmp_path):
    again = judge_folder(kept.folder, partial(constant, value=0.75), output=tmp_path / "a")
    assert again.images.score.tolist() == [0.75] * 6 and again.features is None
    assert compare(kept, again).value["mean"] == pytest.approx(1 - kept.by_category().mean())
    with pytest.raises(ValueError, match="another judge"):
        judge_folder(kept.folder, judge, output=tmp_path / "a")
    with pytest.raises(ValueError, match="another .*choose another folder"):
        judge_folder(kept.folder, judge, output=kept.folder)
    with pytest.raises(ValueError, match="answered 2 images with 1 rows"):
        judge_folder(kept.folder, fault("too few"), output=tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_judging_again_goes_on_where_it_was_killed(kept, tmp_path):
    def dies(images, prompts, category):
        calls.append(len(images))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return judge(images, prompts, category)

    calls, dies.identity = [], "pixels"
    with pytest.raises(KeyboardInterrupt):
        judge_folder(kept.folder, dies, output=tmp_path)
    again = judge_folder(kept.folder, dies, output=tmp_path)
    pd.testing.assert_frame_equal(again.images, kept.images)
    judge_folder(kept.folder, dies, output=tmp_path)
    assert calls == [2, 2, 4, 2] + [2, 2, 2] + [2, 2]  # two of the probe each time


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "a byte", "another"])
def test_images_that_are_not_as_they_were_written_are_refused_before_anything_is_judged(
    pipeline, kept, copy, tmp_path, damage
):
    path = copy / "images" / FILES[4]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    contents = {"empty": b"", "cut": path.read_bytes()[:-20], "a byte": content}
    contents["another"] = (copy / "images" / FILES[5]).read_bytes()
    path.unlink() if damage == "missing" else path.write_bytes(contents[damage])

    words = f"{FILES[4]} .*remove shape_00000.safetensors .*evaluate` again"
    with pytest.raises(ValueError, match=words) as raised:
        judge_folder(copy, None, output=tmp_path / "new")
    assert "\n" not in str(raised.value) and not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match=words):
        evaluate(pipeline, PROMPTS, judge, output=copy, features=means, **KEPT)
    (copy / "shape_00000.safetensors").unlink()
    evaluate(pipeline, PROMPTS, judge, output=copy, features=means, **KEPT)
    again = judge_folder(copy, judge, output=tmp_path / "new", features=means)
    pd.testing.assert_frame_equal(again.images, kept.images)


def test_a_folder_that_cannot_be_judged_is_refused(found, copy, tmp_path):
    for folder in (found.folder, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="no evaluation with images; run"):
            judge_folder(folder, judge, output=tmp_path / "new")
    with pytest.raises(ValueError, match="batch is 0"):
        judge_folder(copy, judge, output=tmp_path / "new", batch=0)
    (copy / "shape_00000.safetensors").unlink()
    with pytest.raises(ValueError, match="not finished: shape_00000.safetensors .*goes on"):
        judge_folder(copy, judge, output=tmp_path / "new")
    (copy / "settings.json").write_text("{")
    with pytest.raises(ValueError, match="settings.json is damaged"):
        judge_folder(copy, judge, output=tmp_path / "new")
    assert not (tmp_path / "new").exists()


# How images are drawn


def test_images_are_drawn_in_the_size_and_against_the_prompt_that_are_asked_for(pipeline, tmp_path):
    options = {"height": 32, "width": 48, "negative_prompt": "a blue square"}
    arguments = TINY | options | {"steps": 3, "keep_images": True}
    drawn = evaluate(pipeline, ONE, constant, output=tmp_path, **arguments)
    own = pipeline(
        "a red circle", prompt_3="", negative_prompt_3="", generator=torch.Generator().manual_seed(42),
        guidance_scale=4.0, num_inference_steps=3, max_sequence_length=1, output_type="pt", **options,
    ).images  # fmt: skip
    assert (read_images(drawn.files) - own).abs().max() < 0.5 / 255 + 1e-3
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert {name: settings[name] for name in options} == options and settings["max_sequence_length"] == 1
    for other in ({"height": None}, {"width": 32}, {"negative_prompt": ""}, {"max_sequence_length": 9}):
        with pytest.raises(ValueError, match=f"another {next(iter(other))}"):
            evaluate(pipeline, ONE, constant, output=tmp_path, **arguments | other)


def test_a_size_is_kept_as_it_came_out(found):
    settings = json.loads((found.folder / "settings.json").read_text())
    assert (settings["height"], settings["width"]) == (64, 64)


def test_the_length_of_texts_reaches_the_field(pipeline, tmp_path, monkeypatch):
    told = []

    def field(*arguments, **options):
        told.append(options["max_sequence_length"])
        return PipelineField(*arguments, **options)

    monkeypatch.setattr(module, "PipelineField", field)
    evaluate(pipeline, ONE, constant, output=tmp_path / "own", **TINY)
    evaluate(pipeline, ONE, constant, output=tmp_path / "long", max_sequence_length=77, **TINY)
    assert told == [1, 77]  # the shipped T5 adds nothing, and a row is enough
    assert json.loads((tmp_path / "long" / "settings.json").read_text())["max_sequence_length"] == 77


def test_a_finished_call_encodes_no_prompt(pipeline, found, monkeypatch):
    monkeypatch.setattr(module, "PipelineField", None)
    again = evaluate(pipeline, PROMPTS, judge, output=found.folder, features=means, **SMALL)
    pd.testing.assert_frame_equal(again.images, found.images)


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
        ({"prompts": PROMPTS | {"texture": []}}, "at least one prompt"),
        ({"prompts": {"color": ["a red circle"] * 2}}, "listed 2 times"),
        ({"images_per_prompt": 0}, "images_per_prompt is 0"),
        ({"prompts": {"color": "a red circle"}}, "lists by category"),
        ({"prompts": ["a red circle"]}, "lists by category"),
        ({"prompts": {"color/red": ["a red circle"]}}, "names files"),
        ({"prompts": {"color " * 99: ["a red circle"]}}, "names files"),
        ({"prompts": {3: ["a red circle"]} | {"": ["a red circle"]}}, "names files"),
        ({"prompts": {"color": [3]}}, "no text"),
        ({"height": 50}, "50 by 64 pixels"),
        ({"width": 0}, "64 by 0 pixels"),
        ({"prompts": {"color": ["a photo of a cat"]}}, "does not know the word"),
        ({"guidance": -1.0}, "guidance is -1"),
        ({"guidance": math.nan}, "guidance is nan"),
    ],
)
def test_bad_input_is_refused_before_anything_is_drawn(pipeline, tmp_path, change, words):
    arguments = {"prompts": PROMPTS} | SMALL | change
    with pytest.raises(ValueError, match=words):
        evaluate(pipeline, arguments.pop("prompts"), constant, output=tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_a_message_does_not_repeat_what_is_long(pipeline, tmp_path):
    long = "a red circle " * 300
    for prompts in ({long: ["a red circle"]}, {"color": [long, long]}, {"color": [long]}):
        with pytest.raises(ValueError, match="a red circle") as raised:
            evaluate(pipeline, prompts, constant, output=tmp_path / "new", **SMALL)
        assert len(str(raised.value)) < 300


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
