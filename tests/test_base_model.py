"""The base model's making: its trainer resumes exactly, its parts agree with diffusers', bad input is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file

from lab.making.autoencoder import make_autoencoder
from lab.making.flow import draw_noise_levels, encoded, make_transformer, velocity_error
from lab.making.pipeline import assembled
from lab.making.recipe import SMOKE, Schedule
from lab.making.text_encoders import make_text_encoder
from lab.making.tokenizers import make_tokenizer
from lab.making.workshop import Workshop
from lab.worlds.shapes.shipped import check_folder, write_checksums
from rfmi.training import CHECKPOINT, StepRandomness


def read_losses(folder):
    return load_file(folder / CHECKPOINT)["losses"].tolist()


def small_parts():
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    encoders = [make_text_encoder(tokenizer, layers=2, activation=name).eval() for name in ("quick_gelu", "gelu")]
    transformer = make_transformer(layers=2, heads=2)
    for parameter in transformer.parameters():  # the modulations start at zero, where nothing would be compared
        torch.nn.init.normal_(parameter, std=0.1)
    return encoders, transformer.eval()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    encoders, transformer = small_parts()
    folder = tmp_path_factory.mktemp("pipeline")
    autoencoder = make_autoencoder((8, 8, 8, 8))
    autoencoder.register_to_config(shift_factor=0.1, scaling_factor=1.5)
    assembled(autoencoder, encoders, transformer).save_pretrained(folder)
    return StableDiffusion3Pipeline.from_pretrained(folder)


@pytest.mark.parametrize("padding", [1, 7, 256])
@torch.no_grad()
def test_one_weighted_row_is_as_good_as_many_rows_of_zeros(padding):
    _, transformer = small_parts()
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(3, 6, 8, 8, generator=generator) for _ in range(2))
    embeddings, pooled = torch.randn(3, 16, 256, generator=generator), torch.randn(3, 128, generator=generator)
    sigma = torch.tensor([0.2, 0.5, 0.9])
    wide = sigma[:, None, None, None]
    by_diffusers = transformer(
        hidden_states=(1 - wide) * x + wide * noise,
        encoder_hidden_states=torch.cat([embeddings, torch.zeros(3, padding, 256)], dim=1),
        pooled_projections=pooled,
        timestep=1000 * sigma,
    ).sample
    one_row = torch.cat([embeddings, torch.zeros(3, 1, 256)], dim=1)
    found = velocity_error(transformer, x, noise, sigma, one_row, pooled, torch.full((3,), padding))
    torch.testing.assert_close(found, (by_diffusers - (noise - x)).square().mean((1, 2, 3)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_prompts_are_encoded_as_the_pipeline_encodes_them(pipeline):
    texts = ["a red circle", "", "two blue squares and one small dotted cross"]
    expected, _, expected_pooled, _ = pipeline.encode_prompt(
        texts, None, None, do_classifier_free_guidance=False, max_sequence_length=1
    )
    embeddings, pooled = encoded(pipeline, texts)
    torch.testing.assert_close(embeddings[:3], expected.half())
    torch.testing.assert_close(pooled[:3], expected_pooled.half())
    assert embeddings.shape == (4, 17, 256) and not embeddings[:, -1].any()  # T5's row
    torch.testing.assert_close(embeddings[3], embeddings[1])  # of the empty prompt, which comes last


def test_the_default_call_and_the_short_one_work(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    for options in ({}, {"max_sequence_length": 1}):
        image = pipeline("a red circle", num_inference_steps=2, **options).images[0]
        assert image.size == (64, 64)


def test_noise_levels_are_stratified_and_logit_normal():
    levels = draw_noise_levels(10_000, torch.Generator().manual_seed(0))
    logits = torch.logit(levels.double())
    assert logits.mean() == pytest.approx(0.4, abs=0.01) and logits.std() == pytest.approx(1.1, abs=0.01)
    assert torch.equal(levels, draw_noise_levels(10_000, torch.Generator().manual_seed(0)))


class Stopped(Exception):
    """In place of a signal that ends the process."""


def miniature(folder, steps, stop_at=None, **changes):
    """A line fitted by gradient descent; returns its parameters, or None where it is left at the step `stop_at`."""
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 1)
    schedule = Schedule(**{"steps": steps, "batch": 8, "learning_rate": 0.05, "warmup": 3} | changes)
    optimizer = torch.optim.AdamW(module.parameters(), lr=schedule.learning_rate)

    def loss_of(randomness, batch):
        checkpoint = folder / "line" / CHECKPOINT
        if stop_at is not None and checkpoint.exists() and len(read_losses(checkpoint.parent)) == stop_at:
            raise Stopped
        x = torch.randn(batch, 3, generator=randomness.generator)
        return (module(x) - x.sum(1, keepdim=True)).square().mean()

    try:
        Workshop(SMOKE, folder, checkpoint_seconds=0.0).train("line", module, schedule, loss_of, [optimizer])
    except Stopped:
        return None
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_a_resumed_training_ends_with_the_same_weights(tmp_path):
    undisturbed = miniature(tmp_path / "a", 40)
    for stop_at in (1, 17, 39):
        assert miniature(tmp_path / "b", 40, stop_at=stop_at) is None
    assert torch.equal(miniature(tmp_path / "b", 40), undisturbed)
    losses = read_losses(tmp_path / "a" / "line")
    assert losses == read_losses(tmp_path / "b" / "line")
    assert torch.equal(miniature(tmp_path / "b", 40), undisturbed)  # a finished one is only read
    assert losses[-1] < 0.2 * losses[0]


def test_a_checkpoint_of_another_schedule_is_refused(tmp_path):
    miniature(tmp_path, 4)
    with pytest.raises(ValueError, match="another batch"):
        miniature(tmp_path, 4, batch=16)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    miniature(tmp_path, 4)
    other, schedule = torch.nn.Linear(5, 1), Schedule(steps=4, batch=8, learning_rate=0.05, warmup=3)
    with pytest.raises(ValueError, match="another network"):
        Workshop(SMOKE, tmp_path).train("line", other, schedule, lambda *_: None, [])


def test_a_loss_that_is_no_number_ends_the_training_and_keeps_the_checkpoint(tmp_path):
    module = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    losses = iter([1.0, float("nan")])
    shop, schedule = Workshop(SMOKE, tmp_path, checkpoint_seconds=-1.0), Schedule(steps=5, batch=1, learning_rate=0.1)
    with pytest.raises(FloatingPointError, match="no number at step 1"):
        shop.train("nothing", module, schedule, lambda *_: module.weight.sum() * 0 + next(losses), [optimizer])
    assert read_losses(tmp_path / "nothing") == [1.0]


def test_the_batch_of_a_step_depends_on_seed_and_step_alone():
    first, again, other = StepRandomness(0, 5), StepRandomness(0, 5), StepRandomness(0, 6)
    assert first.random.random() == again.random.random() != other.random.random()
    assert first.generator.initial_seed() == again.generator.initial_seed() != other.generator.initial_seed()


def train_command(work, output):
    words = ["train-base", "--profile", "smoke", "--work", work, "--output", output, "--checkpoint-seconds", "0.5"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "lab", *map(str, words)], env=environment, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_killed_base_training_ends_with_the_same_weights_as_an_undisturbed_one(tmp_path):
    assert train_command(tmp_path / "a", tmp_path / "a_out").wait() == 0
    for stage in ("autoencoder", "flow"):
        process = train_command(tmp_path / "b", tmp_path / "b_out")
        deadline = time.monotonic() + 300
        while not (tmp_path / "b" / stage / CHECKPOINT).exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert train_command(tmp_path / "b", tmp_path / "b_out").wait() == 0
    for part in ("transformer", "vae"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        one, other = load_file(tmp_path / "a_out" / name), load_file(tmp_path / "b_out" / name)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert len(read_losses(tmp_path / "b" / "flow")) == 60
    pipeline = StableDiffusion3Pipeline.from_pretrained(check_folder(tmp_path / "b_out"))
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline("a red circle", num_inference_steps=2, output_type="pt").images
    assert images.shape == (1, 3, 64, 64) and torch.isfinite(images).all()


def test_a_missing_or_damaged_weight_file_is_named(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "weights.safetensors").write_bytes(b"weights")
    with pytest.raises(FileNotFoundError, match="checksums"):
        check_folder(tmp_path)
    write_checksums(tmp_path)
    assert check_folder(tmp_path) == tmp_path
    check_folder.cache_clear()
    (tmp_path / "part" / "weights.safetensors").write_bytes(b"weigh")
    with pytest.raises(ValueError, match="not the file that was shipped"):
        check_folder(tmp_path)
    (tmp_path / "part" / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="is missing"):
        check_folder(tmp_path)
    assert json.loads((tmp_path / "checksums.json").read_text()).keys() == {"part/weights.safetensors"}
