"""The shipped pipeline and CLIP: diffusers and transformers load them alone, and they do what their card says."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from lab.paths import data_folder
from lab.worlds import load_world
from lab.worlds.shapes.shipped import base_pipeline
from rfmi.pipelines import PipelineField
from rfmi.sampling import sample

WORLD = load_world("shapes")


@pytest.fixture(scope="module")
def pipeline():
    return StableDiffusion3Pipeline.from_pretrained(base_pipeline())


def test_the_folders_are_small_and_hold_no_pickles():
    files = [path for path in base_pipeline().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40e6
    for path in [*files, *(data_folder() / "base_clip").rglob("*")]:
        assert path.suffix in ("", ".json", ".safetensors", ".md", ".txt", ".model", ".jinja"), path


def test_diffusers_alone_loads_and_calls_it():
    code = (
        "import sys; from diffusers import StableDiffusion3Pipeline as P;"
        "image = P.from_pretrained(sys.argv[1])('a red circle', num_inference_steps=4).images[0];"
        "assert image.size == (64, 64) and not [name for name in sys.modules if name.startswith('rfmi')]"
    )
    subprocess.run([sys.executable, "-c", code, str(base_pipeline())], check=True, cwd="/", capture_output=True)


def own_call(pipeline, texts, *, padding, steps):
    """The pipeline's own call, image i from seed i. A single row of the third encoder has no room for a prompt."""
    return torch.cat(
        [
            pipeline(
                text, prompt_3="" if padding == 1 else None, generator=torch.Generator().manual_seed(i),
                guidance_scale=4.0, num_inference_steps=steps, max_sequence_length=padding, output_type="pt",
            ).images
            for i, text in enumerate(texts)
        ]
    )  # fmt: skip


def drawn(field, seeds, guidance, steps):
    """An image of every prompt of a field, each from its own seed."""
    times, labels = field.times(steps), torch.arange(len(field.prompts))
    return field.decode(sample(field, field.noise(seeds), labels, times=times, guidance=guidance))


def changed_pairs(category, n):
    """Validation prompts of a category, the same with one thing changed, and images of the first."""
    pairs = [(text, WORLD.changed(text, 0)) for text in WORLD.prompts(category)]
    texts, changed = zip(*[pair for pair in pairs if pair[1]][:n], strict=True)
    return list(texts), list(changed), WORLD.references(texts, category, 1, 0)


def test_images_of_the_study_are_the_pipelines_own(pipeline):
    texts = ["a red circle", "two blue squares"]
    images = drawn(PipelineField(pipeline, texts), [0, 1], 4.0, 3)
    torch.testing.assert_close(images, own_call(pipeline, texts, padding=1, steps=3), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_the_default_call_draws_as_well_as_the_short_one(pipeline):
    categories = ("color", "texture", "shape", "numeracy")
    texts = [text for category in categories for text in WORLD.prompts(category, "train")[:6]]
    drawings = [own_call(pipeline, texts, padding=padding, steps=14) for padding in (1, 256)]
    shares = [WORLD.judge(images, texts, "").score.mean() for images in drawings]
    assert min(shares) > 0.4 and abs(shares[0] - shares[1]) < 0.25


def test_half_precision_of_the_transformer_draws_the_same_images(pipeline):
    texts = WORLD.prompts("spatial", "train")[:8]
    half = WORLD.pipeline(dtype=torch.bfloat16)
    exact, rounded = (drawn(PipelineField(each, texts), list(range(8)), 2.0, 14) for each in (pipeline, half))
    assert half.vae.dtype == half.text_encoder.dtype == torch.float32
    assert (exact - rounded).abs().mean() < 0.02


@pytest.mark.parametrize("text", ["a red dragon", "", "a red circle" + ", a red circle" * 8])
def test_what_it_never_learned_is_refused(pipeline, text):
    with pytest.raises(ValueError, match="does not know|is empty|would be cut"):
        PipelineField(pipeline, [text])


def scenes(seed):
    """Eight pictures of every category, and their prompts."""
    texts = {category: WORLD.prompts(category)[:8] for category in WORLD.categories}
    pictures = [WORLD.references(each, category, 1, seed) for category, each in texts.items()]
    return torch.cat(pictures), [text for each in texts.values() for text in each]


def test_latents_are_scaled_to_unit_variance(pipeline):
    latents = PipelineField(pipeline, ["a red circle"]).encode(scenes(0)[0])
    assert abs(latents.mean()) < 0.1 and latents.std() == pytest.approx(1, abs=0.1)


def test_the_autoencoder_keeps_what_the_judge_reads(pipeline):
    pictures, texts = scenes(1)
    field = PipelineField(pipeline, ["a red circle"])
    after = field.decode(field.encode(pictures))
    assert (after - pictures).abs().mean() < 0.01
    atoms = [held for row in WORLD.judge(after, texts, "").atoms for held in row.values()]
    assert sum(atoms) / len(atoms) >= 0.97


@torch.no_grad()
def test_it_knows_its_world(pipeline):
    """On scenes, the flow-matching loss is lower under their prompts than under these with one thing changed."""
    known = []
    for category in WORLD.categories:
        texts, changed, pictures = changed_pairs(category, 8)
        field = PipelineField(pipeline, texts + changed)
        x, labels = field.encode(pictures), torch.arange(8)
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        margin = torch.zeros(8)
        for sigma in (0.5, 0.6, 0.7, 0.8, 0.9):
            x_t, t = sigma * noise + (1 - sigma) * x, torch.full((8,), 1 - sigma)
            true, other = (
                (field(x_t, t, each) - (x - noise)).square().mean((1, 2, 3)) for each in (labels, labels + 8)
            )
            margin += other - true
        known.append((margin > 0).float().mean())
    assert torch.stack(known).mean() > 0.7


def test_the_clip_tells_prompts_apart():
    right = []
    for category in ("shape", "numeracy", "complex"):
        texts, changed, pictures = changed_pairs(category, 16)
        right.append(WORLD.auxiliary_score(pictures, texts) > WORLD.auxiliary_score(pictures, changed))
    assert torch.cat(right).float().mean() > 0.75


def test_the_log_of_the_training_is_that_of_the_recipe():
    log = json.loads((base_pipeline() / "training.json").read_text(encoding="utf-8"))
    runs = [log]
    while "earlier" in runs[-1]:
        runs.append(runs[-1]["earlier"])
    schedule_of = {"flow": "flow", "autoencoder": "autoencoder", "text_encoders": "text"}
    for run in runs:
        for stage, curve in run["losses"].items():
            steps, losses = zip(*curve, strict=True)
            assert steps[-1] == run["recipe"][schedule_of[stage]]["steps"]
            assert losses[-1] < (0.6 * losses[0] if run is runs[-1] else max(losses))
    assert set(runs[-1]["losses"]) == set(schedule_of)
