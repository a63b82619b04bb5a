"""Notebooks 04 to 06 on a model and a world of one's own: free text, another autoencoder, a real T5, no true images."""

import os
import subprocess
import sys
from textwrap import dedent

import pytest
from papermill import PapermillExecutionError, execute_notebook
from small_pipelines import save_stable_diffusion_3_5

from lab.paths import data_folder, notebooks_folder

WORLD = """
import hashlib
import pandas as pd

name, categories = "toy", ("weather", "mood")
TEXTS = {"weather": ("rain over the harbour", "a snowstorm, seen from indoors", "fog"),
         "mood": ("somebody's happiest afternoon", "Quiet!", "two old friends, laughing")}

def prompts(category, split):
    return [text + (" at dusk" if split == "val" else "") for text in TEXTS[category]]

def judge(images, prompts, category):
    light = [image.double().mean().item() for image in (images * 255).round()]
    return pd.DataFrame({"aligned": [int(1000 * value) % 2 == 1 for value in light], "score": light})

def changed(prompt, seed):
    return None

def features(images):
    return images[:, :, ::4, ::4].flatten(1)

def references(prompts, category, n, seed):
    return None

def auxiliary_score(images, prompts):
    return None

def pipeline(device="cpu", dtype=None):
    return None
"""
SMALL = {"workers": 1, "output": ""}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_stable_diffusion_3_5(folder)
    return str(folder)


@pytest.fixture
def world(tmp_path):
    path = tmp_path / "toy.py"
    path.write_text(dedent(WORLD))
    return str(path)


def execute(name, target, **parameters):
    """Run a notebook at its smallest size with some parameters; returns it as executed."""
    return execute_notebook(
        notebooks_folder() / f"{name}.ipynb", target / f"{name}.ipynb", SMALL | parameters, kernel_name="python3",
        cwd=notebooks_folder(), progress_bar=False, log_output=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["04_which_score_ranks", "05_fine_tuning", "06_evaluation"])
def test_a_notebook_measures_a_model_in_a_world_of_ones_own(name, model, world, tmp_path):
    source, target = notebooks_folder() / f"{name}.ipynb", tmp_path / "done.ipynb"
    command = [sys.executable, "-m", "papermill", str(source), str(target)]
    command += ["-k", "python3", "--cwd", str(notebooks_folder()), "-p", "model", model, "-p", "world", world]
    command += ["-p", "workers", "1", "-p", "output", str(tmp_path / "report")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = tmp_path / "report"
    assert list((report / "figures").glob("*.png")) and list((report / "results").glob("*.json"))


CLOSED = ({"world": "toy", "model": "shipped"}, "does not know the word .* its vocabulary is closed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("04_which_score_ranks", {"world": "shape"}, "there is no world 'shape'; did you mean 'shapes'"),
        ("05_fine_tuning", {"world": "nowhere/at_all.py"}, "there is no world in .*at_all.py; give the path"),
        ("06_evaluation", {"world": "toy"}, "the world toy has no model of its own; name one"),
        ("04_which_score_ranks", {"world": "toy", "model": "empty"}, "model_index.json"),
        *((name, *CLOSED) for name in ("04_which_score_ranks", "05_fine_tuning", "06_evaluation")),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_drawn(name, wrong, message, world, cache, tmp_path):
    (tmp_path / "empty").mkdir()
    places = {"toy": world, "empty": str(tmp_path / "empty"), "shipped": str(data_folder() / "base_model")}
    with pytest.raises(PapermillExecutionError, match=message):
        execute(name, tmp_path, **{key: places.get(value, value) for key, value in wrong.items()})
    assert not [*cache.rglob("*.safetensors"), *cache.rglob("*.png")]
