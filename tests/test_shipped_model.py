"""The shipped pipeline and CLIP: diffusers and transformers load them alone, and they do what their card says."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from lab.worlds.shapes.shipped import base_pipeline
from lab.worlds.shapes.judging import judge
import rfmi
from lab.worlds.shapes.clip import clip_score, load_clip
from lab.worlds.shapes.shipped import base_clip
from lab.worlds.shapes.knowledge import changed_pairs, knowledge
from rfmi.pipelines import PipelineField
from lab.worlds.shapes import CATEGORIES, parse, prompts, render, sample_scenes
from rfmi.scoring.re_noising import STREAM
from lab.study.base_model_experiments import drawn, reconstructed
from lab.study.shipped import loaded_pipeline


@pytest.fixture(scope="module")
def pipeline():
    return StableDiffusion3Pipeline.from_pretrained(base_pipeline())


def test_the_folders_are_small_and_hold_no_pickles():
    files = [path for path in base_pipeline().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40e6
    for path in [*files, *base_clip().rglob("*")]:
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


def test_images_of_the_study_are_the_pipelines_own(pipeline):
    texts = ["a red circle", "two blue squares"]
    found = drawn(PipelineField(pipeline, texts), texts, [0, 1], 4.0, 3)
    torch.testing.assert_close(found, own_call(pipeline, texts, padding=1, steps=3), rtol=1e-3, atol=1e-3)


def test_the_default_call_draws_as_well_as_the_short_one(pipeline):
    texts = [text for category in ("color", "texture", "shape", "numeracy") for text in prompts(category, "train")[:6]]
    shares = [
        judge(own_call(pipeline, texts, padding=padding, steps=14), texts).score.mean() for padding in (1, 256)
    ]
    assert min(shares) > 0.4 and abs(shares[0] - shares[1]) < 0.25


def test_half_precision_of_the_transformer_draws_the_same_images(pipeline):
    texts = prompts("spatial", "train")[:8]
    exact, rounded = (
        drawn(PipelineField(each, texts), texts, list(range(8)), 2.0, 14)
        for each in (pipeline, loaded_pipeline(precision="bfloat16"))
    )
    assert (exact - rounded).abs().mean() < 0.02


@pytest.mark.parametrize("text", ["a red dragon", "", "a red circle" + ", a red circle" * 8])
def test_what_it_never_learned_is_refused(pipeline, text):
    with pytest.raises(ValueError, match="does not know|is empty|would be cut"):
        PipelineField(pipeline, [text])


@torch.no_grad()
def test_a_margin_is_the_difference_of_two_flow_matching_losses(pipeline):
    found = knowledge(pipeline, n=2, seed=5, noises=1, levels=(0.7,), categories=["color"])
    field = PipelineField(pipeline, [*found.prompt, *found.changed])
    x = field.encode(torch.stack([picture for *_, picture in changed_pairs("color", 2, 5)]))
    noise = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(STREAM + 5))
    x_t, t = 0.7 * noise + 0.3 * x, torch.full((2,), 0.3)
    losses = [
        (field(x_t, t, torch.tensor(labels)) - (x - noise)).square().mean((1, 2, 3)) for labels in ([0, 1], [2, 3])
    ]
    torch.testing.assert_close(
        torch.tensor(found["margin_0.7"].to_numpy()).float(), losses[1] - losses[0], rtol=1e-3, atol=1e-5
    )
    assert found.knows.tolist() == (losses[1] > losses[0]).tolist()


def test_latents_are_scaled_to_unit_variance(pipeline):
    scenes = [scene for category in CATEGORIES for scene in sample_scenes(category, 8, 0)]
    latents = PipelineField(pipeline, ["a red circle"]).encode(render(scenes))
    assert abs(latents.mean()) < 0.1 and latents.std() == pytest.approx(1, abs=0.1)


def test_the_autoencoder_keeps_what_the_judge_reads(pipeline):
    scenes = [scene for category in CATEGORIES for scene in sample_scenes(category, 8, 1)]
    pictures = render(scenes)
    after = reconstructed(PipelineField(pipeline, ["a red circle"]), pictures)
    assert (after - pictures).abs().mean() < 0.01
    atoms = [held for row in judge(after, [scene.prompt for scene in scenes]).atoms for held in row.values()]
    assert sum(atoms) / len(atoms) >= 0.97


def test_it_knows_its_world(pipeline):
    found = knowledge(pipeline, n=8, seed=1, noises=1)
    assert found.knows.mean() > 0.7


def test_changed_pairs_are_of_validation_prompts_and_repeat():
    once, again = changed_pairs("spatial", 5, 0), changed_pairs("spatial", 5, 0)
    for (text, changed, picture), (_, _, other) in zip(once, again, strict=True):
        assert text in prompts("spatial", "val") and parse(changed).relation != parse(text).relation
        assert torch.equal(picture, other)


def test_the_clip_tells_prompts_apart():
    pairs = [pair for category in ("shape", "numeracy", "complex") for pair in changed_pairs(category, 16, 0)]
    clip, tokenizer = load_clip(base_clip())
    pictures = torch.stack([picture for *_, picture in pairs])
    true, changed = (clip_score(clip, tokenizer, pictures, [pair[i] for pair in pairs]) for i in (0, 1))
    assert (true > changed).float().mean() > 0.75


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
