"""The CLIP of the world: its loss by transformers' own logits, its negatives by the exact judge, its folder by
transformers alone.
"""

import json
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter1d
from torch.nn import functional
from transformers import AutoProcessor, CLIPModel

from lab.making import clip as module, text_encoders
from lab.making.autoencoder import training_scenes
from lab.making.clip import blurred_and_noised, changed_prompt, clip_loss, make_clip, save_clip, train_clip
from lab.making.prompt_files import reported_prompts
from lab.making.recipe import SMOKE, Schedule
from lab.making.tokenizers import make_tokenizer
from lab.making.workshop import Workshop
from lab.worlds.shapes.clip import clip_score, image_features, load_clip
from lab.worlds.shapes.phrases import parse
from lab.worlds.shapes.rendering import render
from lab.worlds.shapes.truth import verdict
from lab.worlds.shapes.words import RARE, RELATIONS_OF
from rfmi.training import StepRandomness

TOKENIZER = make_tokenizer()


@pytest.fixture
def clip():
    return make_clip(TOKENIZER).eval()


@pytest.fixture
def small(monkeypatch):
    for name, value in {"WIDTH": 16, "HEADS": 2}.items():
        monkeypatch.setattr(text_encoders, name, value)
    for name in ("IMAGE_LAYERS", "TEXT_LAYERS"):
        monkeypatch.setattr(module, name, 1)


def scenes_of(n, step=0):
    return training_scenes(n, StepRandomness(0, step))


def test_a_changed_prompt_does_not_hold_and_may_be_shown():
    """By the exact judge: what the loss calls wrong is wrong."""
    found = [(scene, changed_prompt(parse(scene.prompt), Random(i))) for i, scene in enumerate(scenes_of(400))]
    kept = [(scene, parse(text)) for scene, text in found if text is not None]
    assert len(kept) > 0.85 * len(found)
    for scene, changed in kept:
        overlaps = [(0, 1)] if parse(scene.prompt).relation in RELATIONS_OF["3d_spatial"] else []
        assert verdict(parse(scene.prompt), scene.objects, overlaps).aligned
        assert not verdict(changed, scene.objects, overlaps).aligned, (scene, changed)
        assert not changed.pairs & RARE.keys() and str(changed) not in reported_prompts()


def test_the_loss_by_transformers_own_logits(clip):
    n, randomness = 6, StepRandomness(0, 0)
    scenes = training_scenes(n, randomness)
    texts = [scene.prompt for scene in scenes]
    changed = [changed_prompt(parse(text), randomness.random) for text in texts]
    pictures = blurred_and_noised(render(scenes), randomness.generator)
    tokens = TOKENIZER(texts + [text for text in changed if text], padding="max_length", return_tensors="pt")
    with torch.no_grad():
        logits = clip(**tokens, pixel_values=2 * pictures - 1).logits_per_image
        right = torch.arange(n)
        expected = (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T[:n], right)) / 2
        assert logits.shape[1] > n
        assert clip_loss(clip, TOKENIZER, StepRandomness(0, 0), n).item() == pytest.approx(expected.item(), rel=1e-5)
        assert clip_loss(clip, TOKENIZER, StepRandomness(0, 1), n).item() != pytest.approx(expected.item(), rel=1e-5)


def test_an_untrained_clip_is_at_chance_and_learns_a_batch_by_heart(clip):
    n = 8
    optimizer = torch.optim.AdamW(clip.parameters(), lr=1e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = clip_loss(clip, TOKENIZER, StepRandomness(0, 0), n)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(np.log(n) + np.log(2) / 2, abs=0.3)
    assert losses[-1] < 0.5 * losses[0]
    assert all(value.grad is not None for value in clip.parameters())


def test_blur_is_scipys_and_noise_has_its_size(monkeypatch):
    pictures = render(scenes_of(20))
    blur = torch.rand(2, 20, generator=torch.Generator().manual_seed(0))[0].numpy()
    monkeypatch.setattr(module, "LARGEST_NOISE", 0.0)
    found = blurred_and_noised(pictures, torch.Generator().manual_seed(0)).numpy()
    for i, picture in enumerate(pictures.numpy()):
        expected = picture
        for axis in (1, 2):
            expected = gaussian_filter1d(expected, 0.7 * blur[i], axis=axis, mode="nearest", radius=2)
        assert found[i] == pytest.approx(expected, abs=1e-5)
    monkeypatch.setattr(module, "LARGEST_NOISE", 0.03)
    monkeypatch.setattr(module, "LARGEST_BLUR", 0.0)
    noised = blurred_and_noised(torch.full((20, 3, 64, 64), 0.5), torch.Generator().manual_seed(0))
    sizes = 0.03 * torch.rand(2, 20, generator=torch.Generator().manual_seed(0))[1]
    assert noised.std((1, 2, 3)).numpy() == pytest.approx(sizes.numpy(), rel=0.05)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone(small):
    before = torch.get_rng_state()
    a, b, c = (make_clip(TOKENIZER, seed).visual_projection.weight for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(before, torch.get_rng_state())


def test_a_saved_clip_is_used_with_transformers_alone(clip, tmp_path):
    save_clip(clip, TOKENIZER, tmp_path)
    pictures = (255 * render(scenes_of(3))).round().byte()
    prompts = [scene.prompt for scene in scenes_of(3)]
    processor = AutoProcessor.from_pretrained(tmp_path, local_files_only=True)
    images = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in pictures]
    inputs = processor(text=prompts, images=images, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = CLIPModel.from_pretrained(tmp_path, local_files_only=True)(**inputs)
    loaded, tokenizer = load_clip(tmp_path)
    score = clip_score(loaded, tokenizer, pictures / 255, prompts)
    assert (found.image_embeds * found.text_embeds).sum(1).numpy() == pytest.approx(score.numpy(), abs=1e-5)
    assert torch.equal(score, clip_score(clip, TOKENIZER, pictures / 255, prompts)) and not loaded.training
    large = processor(images=Image.new("RGB", (200, 100)), return_tensors="pt").pixel_values
    assert large.shape == (1, 3, 64, 64) and large.unique().tolist() == [-1]


def test_scores_do_not_depend_on_the_batch(clip, monkeypatch):
    pictures, prompts = render(scenes_of(5)), ["a red circle", "two blue squares", "a cross", "a red circle", "a cross"]
    score = clip_score(clip, TOKENIZER, pictures, prompts)
    assert score.shape == (5,) and score.abs().max() <= 1
    one = clip_score(clip, TOKENIZER, pictures[3:4], prompts[3:4])
    assert one.item() == pytest.approx(score[3].item(), abs=1e-5)
    features = image_features(clip, pictures)
    assert features.shape == (5, 64) and features.dtype == torch.float32
    monkeypatch.setattr("lab.worlds.shapes.clip.BATCH", 2)
    assert clip_score(clip, TOKENIZER, pictures, prompts).numpy() == pytest.approx(score.numpy(), abs=1e-5)
    assert image_features(clip, pictures).numpy() == pytest.approx(features.numpy(), abs=1e-4)


def test_training_goes_on_where_it_stopped(small, tmp_path, monkeypatch):
    schedule = Schedule(steps=4, batch=4, learning_rate=1e-3, warmup=2)

    def trained(folder, stop=None):
        def loss_of(*arguments):
            steps.append(len(steps))
            if len(steps) == stop:
                raise KeyboardInterrupt
            return clip_loss(*arguments)

        steps, shop = [], Workshop(replace(SMOKE, clip=schedule), tmp_path / folder, checkpoint_seconds=0.0)
        monkeypatch.setattr(module, "clip_loss", loss_of)
        train_clip(shop, tmp_path / folder / "output")
        log = json.loads((tmp_path / folder / "output" / "training.json").read_text())
        return load_clip(tmp_path / folder / "output")[0].state_dict(), log["losses"], len(steps)

    whole, losses, _ = trained("whole")
    with pytest.raises(KeyboardInterrupt):
        trained("parts", stop=3)
    parts, losses_of_parts, steps = trained("parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert losses == losses_of_parts and steps == 2
    untrained = make_clip(TOKENIZER, schedule.seed).state_dict()
    assert not any(torch.equal(whole[name], untrained[name]) for name in whole if name.endswith("projection.weight"))


@pytest.mark.parametrize(
    ("images", "prompts", "message"),
    [
        (torch.zeros(2, 3, 32, 32), ["a cross"] * 2, r"shape \(2, 3, 32, 32\) and torch.float32; give floats"),
        (torch.zeros(3, 64, 64), ["a cross"] * 3, "give floats"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), ["a cross"], "torch.uint8; give floats"),
        (torch.full((1, 3, 64, 64), -0.5), ["a cross"], r"reach from -0.5 to -0.5.*in \[0, 1\]"),
        (torch.full((1, 3, 64, 64), float("nan")), ["a cross"], "hold what is no number"),
        (torch.zeros(2, 3, 64, 64), ["a cross"], "2 images and 1 prompts"),
        (torch.zeros(1, 3, 64, 64), ["a pink cross"], "does not know the word 'pink'"),
    ],
)
def test_faults_are_named_in_one_sentence(clip, images, prompts, message):
    with pytest.raises(ValueError, match=message) as fault:
        clip_score(clip, TOKENIZER, images, prompts)
    assert "\n" not in str(fault.value)


def test_a_folder_without_a_clip_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no CLIP .model.safetensors, config.json, tokenizer.json missing"):
        load_clip(tmp_path)
