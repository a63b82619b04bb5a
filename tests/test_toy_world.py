"""Notebooks 04 to 06 on a model and a world of one's own: free text, another autoencoder, a real T5, no true images."""

import os
import subprocess
import sys
from textwrap import dedent

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from papermill import PapermillExecutionError, execute_notebook
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

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


def clip_tokenizer():
    """Bytes, inside and at the end of a word: every text has tokens."""
    tokens = [chr(byte) for byte in range(33, 127)]
    tokens += [f"{token}</w>" for token in tokens]
    vocabulary = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def clip_encoder(tokenizer):
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, projection_dim=16, num_hidden_layers=2,
        num_attention_heads=2, **ids,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a small Stable Diffusion 3 of random weights, with 16 latent channels and all three encoders."""
    torch.manual_seed(0)
    tokenizer, specials = clip_tokenizer(), [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    letters = [(chr(byte), -3.0) for byte in range(33, 127)]
    t5_tokenizer = T5TokenizerFast(vocab=[*specials, ("\u2581", -2.0), *letters], extra_ids=0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    pipeline = StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=32,
            pos_embed_max_size=12,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKL(
            block_out_channels=(8, 8), norm_num_groups=4, latent_channels=16, layers_per_block=1, **blocks,
            shift_factor=0.06, scaling_factor=1.5,
        ),
        text_encoder=clip_encoder(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=clip_encoder(tokenizer),
        tokenizer_2=tokenizer,
        text_encoder_3=T5EncoderModel(
            T5Config(vocab_size=len(t5_tokenizer), d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        ),
        tokenizer_3=t5_tokenizer,
    )  # fmt: skip
    for parameter in pipeline.transformer.parameters():  # so large that prompts matter
        torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("model")
    pipeline.save_pretrained(folder)
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
    "name, wrong, message",
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
