"""Pipelines as velocity fields: sampling is the pipeline's own call, batches change nothing, bad input is refused."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import T5Config, T5EncoderModel, T5TokenizerFast, UMT5Config, UMT5EncoderModel

from lab.oracles.change_of_variables import change_of_variables
from lab.making.text_encoders import make_text_encoder
from lab.making.tokenizers import make_tokenizer
from lab.worlds.shapes.rendering import render
from lab.worlds.shapes.sampling import draw_scenes
from lab.worlds.shapes.shipped import base_pipeline
from lab.worlds.shapes.words import COLORS, SHAPES, SIZES
from rfmi.pipelines import Conditioning, PipelineField, auraflow, family_of
from rfmi.pipelines.families import FAMILIES
from rfmi.pipelines.stable_diffusion_3 import encode_prompts
from lab.oracles.experiments import time_grid
from rfmi.sampling import path_scores, sample

PROMPTS = ["a red circle", "two blue squares"]
SEEDS = [3, 4]
STEPS = 4
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def autoencoder(**options):
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, layers_per_block=1, **blocks, **options
    )


def t5_tokenizer():
    words = ["a", "red", "blue", "circle", "squares", "two"]
    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5TokenizerFast(vocab=[*specials, *((f"\u2581{word}", -2.0) for word in words)], extra_ids=0)


def small_t5(config_class, model_class, tokenizer, width):
    return model_class(
        config_class(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )


def ready(pipeline):
    """Weights large enough that the prompts matter, and silence."""
    for parameter in pipeline.transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_stable_diffusion_3():
    torch.manual_seed(0)
    tokenizer, tokenizer_3 = make_tokenizer(), t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=256, caption_projection_dim=16, pooled_projection_dim=128, pos_embed_max_size=12,
    )  # fmt: skip
    return ready(
        StableDiffusion3Pipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=autoencoder(shift_factor=0.06, scaling_factor=1.5),
            text_encoder=make_text_encoder(tokenizer, layers=2, activation="quick_gelu"),
            tokenizer=tokenizer,
            text_encoder_2=make_text_encoder(tokenizer, layers=2, activation="gelu"),
            tokenizer_2=tokenizer,
            text_encoder_3=small_t5(T5Config, T5EncoderModel, tokenizer_3, 256),
            tokenizer_3=tokenizer_3,
        )
    )


def make_auraflow():
    torch.manual_seed(0)
    tokenizer = t5_tokenizer()
    transformer = AuraFlowTransformer2DModel(
        sample_size=8, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=32, caption_projection_dim=16, pos_embed_max_size=64,
    )  # fmt: skip
    return ready(
        AuraFlowPipeline(
            tokenizer=tokenizer,
            text_encoder=small_t5(UMT5Config, UMT5EncoderModel, tokenizer, 32),
            vae=autoencoder(scaling_factor=0.13),
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
        )
    )


@pytest.fixture(scope="module")
def small():
    return make_stable_diffusion_3()


@pytest.fixture(scope="module")
def shipped():
    pipeline = StableDiffusion3Pipeline.from_pretrained(base_pipeline())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def pipelines(small, shipped):
    """The pipelines by name, each with what its own call has to be told."""
    silent = StableDiffusion3Pipeline(**{**shipped.components, "text_encoder_3": deepcopy(shipped.text_encoder_3)})
    silent.text_encoder_3.config.short_padding = 1
    silent.set_progress_bar_config(disable=True)
    long = StableDiffusion3Pipeline(**{**shipped.components, "text_encoder_3": deepcopy(shipped.text_encoder_3)})
    long.text_encoder_3.config.short_padding = None
    long.set_progress_bar_config(disable=True)
    return {
        "stable diffusion 3": (small, {}),
        "auraflow": (make_auraflow(), {"height": 16, "width": 16}),
        "shipped": (long, {}),
        "shipped, short padding": (silent, {"prompt_3": "", "max_sequence_length": 1}),
    }


@pytest.fixture(scope="module")
def field(small):
    return PipelineField(small, PROMPTS)


def draws(field, n, seed=0):
    """x_t (n, C, h, w), t and labels (n,)."""
    x_t, t = torch.randn(n, *field.shape, generator=seeded(seed)), torch.rand(n, generator=seeded(seed + 1))
    return x_t, t, torch.arange(n) % len(field.prompts)


def called(pipeline, output_type, **options):
    generators = [seeded(seed) for seed in SEEDS]
    options = {"num_inference_steps": STEPS, "output_type": output_type} | options
    return pipeline(PROMPTS, generator=generators, **options).images


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("name", ["stable diffusion 3", "auraflow", "shipped", "shipped, short padding"])
def test_sampling_is_the_pipelines_own_call(pipelines, name, guidance):
    pipeline, options = pipelines[name]
    field = PipelineField(pipeline, PROMPTS)
    labels = torch.tensor([0, 1])
    latents = sample(field, field.noise(SEEDS), labels, times=field.times(STEPS), guidance=guidance)
    torch.testing.assert_close(latents, called(pipeline, "latent", guidance_scale=guidance, **options), **CLOSE)
    torch.testing.assert_close(
        field.decode(latents), called(pipeline, "pt", guidance_scale=guidance, **options), **CLOSE
    )
    assert field.evaluations == STEPS * 2 * (1 if guidance == 1 else 2)


@torch.no_grad()
def test_the_official_guided_score_is_its_formula_on_random_weights(small, field):
    """v, guided by 7.5, and the mean of t/(1-t) v . (v - v_null) over 0.05 < sigma < 1, from the transformer itself."""
    x_0, rows = field.noise(SEEDS), field.conditioning.tensors
    scored = path_scores(field, x_0, torch.arange(2), times=field.times(9), guidance=7.5)
    small.scheduler.set_timesteps(9)
    sigmas, x_t, terms = small.scheduler.sigmas, x_0, []

    def velocity(where, sigma):
        return small.transformer(
            hidden_states=x_t, timestep=1000 * sigma.expand(2), return_dict=False,
            **{name: value[where] for name, value in rows.items()},
        )[0]  # fmt: skip

    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        v_null = velocity([-1, -1], sigma)
        v = v_null + 7.5 * (velocity([0, 1], sigma) - v_null)
        if 0.05 < sigma < 1:
            terms.append((1 - sigma) / sigma * (v * (v - v_null)).flatten(1).sum(1))
        x_t = x_t + (following - sigma) * v
    assert 1 < len(terms) < 9
    torch.testing.assert_close(scored.guided_path, torch.stack(terms).double().mean(0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scored.samples, x_t, rtol=1e-3, atol=1e-3)


def test_sampling_is_the_pipelines_own_call_with_a_negative_prompt_another_size_and_a_shift_by_size(small):
    pipeline = StableDiffusion3Pipeline(**small.components)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_image_seq_len=8)
    pipeline.set_progress_bar_config(disable=True)
    options = {"negative_prompt": "two circles", "height": 16, "width": 24}
    field = PipelineField(pipeline, PROMPTS, **options)
    latents = sample(field, field.noise(SEEDS), torch.tensor([0, 1]), times=field.times(STEPS), guidance=3.0)
    options["negative_prompt"] = ["two circles"] * 2
    torch.testing.assert_close(latents, called(pipeline, "latent", guidance_scale=3.0, **options), **CLOSE)


@pytest.mark.parametrize("name", ["stable diffusion 3", "auraflow", "shipped, short padding"])
def test_the_prompt_the_null_and_the_sign_are_told_apart(pipelines, name):
    field = PipelineField(pipelines[name][0], PROMPTS)
    x_t, t, labels = draws(field, 2)
    u, null = field.both(x_t, t, labels)
    other = field(x_t, t, 1 - labels)
    assert all((a - b).abs().mean() > 1e-3 * u.abs().mean() for a, b in ((u, null), (u, other), (u, -u)))


def test_one_forward_pass_gives_what_one_for_each_branch_gives(field):
    x_t, t, labels = draws(field, 5)
    before = field.evaluations
    together = field.velocities(x_t, t, [labels, 1 - labels, None])
    assert field.evaluations - before == 15
    apart = [field(x_t, t, labels), field(x_t, t, 1 - labels), field(x_t, t)]
    both = field.both(x_t, t, labels)
    for found, expected in zip([*together, *both], [*apart, apart[0], apart[2]], strict=True):
        torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("micro_batch", [1, 3, 100])
def test_batches_and_micro_batches_change_nothing(small, field, micro_batch):
    x_t, t, labels = draws(field, 4)
    expected = field.both(x_t, t, labels)
    split = PipelineField(small, PROMPTS, micro_batch=micro_batch)
    row_by_row = [field.both(x_t[i : i + 1], t[i : i + 1], labels[i : i + 1]) for i in range(4)]
    for found in (split.both(x_t, t, labels), [torch.cat(parts) for parts in zip(*row_by_row, strict=True)]):
        torch.testing.assert_close(tuple(found), expected, **CLOSE)
    assert split.evaluations == 8


def limit_memory(monkeypatch, transformer, most_rows, error):
    """Let the transformer fail above `most_rows`; returns the rows of every attempt."""
    forward, attempts = transformer.forward, []

    def limited(*arguments, **options):
        attempts.append(len(options["timestep"]))
        if attempts[-1] > most_rows:
            raise error
        return forward(*arguments, **options)

    monkeypatch.setattr(transformer, "forward", limited)
    return attempts


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
    ],
)
def test_when_memory_runs_out_the_micro_batch_is_halved_and_stays_so(small, field, monkeypatch, error):
    x_t, t, labels = draws(field, 5)
    expected = field.both(x_t, t, labels)
    limited = PipelineField(small, PROMPTS)
    attempts = limit_memory(monkeypatch, small.transformer, 3, error)
    for tried in ([10, 5, 2, 2, 2, 2, 2], [2] * 5):
        torch.testing.assert_close(limited.both(x_t, t, labels), expected, **CLOSE)
        assert attempts == tried
        attempts.clear()
    assert limited.evaluations == 20


def test_other_errors_and_a_single_row_that_does_not_fit_are_reported(small, field, monkeypatch):
    limit_memory(monkeypatch, small.transformer, 0, torch.OutOfMemoryError("out of memory"))
    with pytest.raises(MemoryError, match="a single row"):
        PipelineField(small, PROMPTS)(*draws(field, 3))
    limit_memory(monkeypatch, small.transformer, 0, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot"):
        field(*draws(field, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noise_is_what_the_pipeline_draws(dtype):
    pipeline = make_stable_diffusion_3().to(dtype)
    found = PipelineField(pipeline, PROMPTS, height=16, width=24).noise([7, 8, 7])
    expected = pipeline.prepare_latents(2, 4, 16, 24, dtype, torch.device("cpu"), [seeded(7), seeded(8)])
    assert found.dtype == torch.float32 and found.shape == (3, 4, 8, 12)
    assert torch.equal(found[:2], expected.float()) and torch.equal(found[2], found[0])


def test_times_are_the_schedulers_and_leave_it_as_it_is(field, small):
    before = small.scheduler.timesteps
    found = field.times(28)
    assert found.dtype == torch.float64 and small.scheduler.timesteps is before
    torch.testing.assert_close(found, time_grid(28, shift=3.0), rtol=0, atol=1e-6)
    pipeline = StableDiffusion3Pipeline(**{**small.components, "scheduler": FlowMatchHeunDiscreteScheduler()})
    with pytest.raises(ValueError, match="does not fall"):
        PipelineField(pipeline, PROMPTS).times(4)


def test_images_are_encoded_and_decoded_in_any_batch(shipped):
    field = PipelineField(shipped, PROMPTS)
    images = render(draw_scenes(PROMPTS, 9, "0"))
    latents = field.encode(images)
    config = shipped.vae.config
    with torch.no_grad():
        means = shipped.vae.encode(2 * images - 1).latent_dist.mean
    torch.testing.assert_close(latents, (means - config.shift_factor) * config.scaling_factor, **CLOSE)
    after = field.decode(latents)
    assert after.dtype == torch.float32 and after.shape == images.shape and (after - images).abs().mean() < 0.01
    torch.testing.assert_close(field.decode(latents[16:]), after[16:], **CLOSE)


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (torch.zeros(1, 3, 16, 24), "shape"),
        (torch.zeros(3, 16, 16), "shape"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "uint8"),
        (torch.full((1, 3, 16, 16), 255.0), r"\[0, 1\]"),
        (torch.full((1, 3, 16, 16), float("nan")), "no numbers"),
    ],
)
def test_images_of_another_size_or_range_are_refused(field, images, reason):
    with pytest.raises(ValueError, match=reason):
        field.encode(images)


def test_latents_that_are_no_numbers_or_have_another_shape_are_refused(field):
    with pytest.raises(ValueError, match="no numbers"):
        field.decode(torch.full((1, *field.shape), float("nan")))
    with pytest.raises(ValueError, match=r"give \(n, 4, 8, 8\)"):
        field.decode(torch.zeros(1, 4, 8, 9))


def count_prompts(monkeypatch, pipeline):
    encode, seen = pipeline.encode_prompt, []

    def counted(prompts, *arguments, **options):
        seen.extend(prompts)
        return encode(prompts, *arguments, **options)

    monkeypatch.setattr(pipeline, "encode_prompt", counted)
    return seen


def test_every_prompt_is_encoded_once(small, field, monkeypatch):
    seen = count_prompts(monkeypatch, small)
    listed = [*PROMPTS, PROMPTS[0]]
    repeated = PipelineField(small, listed)
    assert seen == [*PROMPTS, ""] and len(repeated.conditioning) == 4
    x_t, t, _ = draws(field, 4)
    found = repeated(x_t, t, torch.tensor([2, 1, 1, 0]))
    torch.testing.assert_close(found, field(x_t, t, torch.tensor([0, 1, 1, 0])), **CLOSE)
    torch.testing.assert_close(repeated(x_t, t), field(x_t, t), **CLOSE)


def test_many_prompts_are_encoded_in_batches(small, monkeypatch):
    prompts = [f"a {size} {color} {shape}" for shape in SHAPES for color in COLORS for size in SIZES][:49]
    seen = count_prompts(monkeypatch, small)
    found = PipelineField(small, prompts).conditioning
    assert seen == [*prompts, ""] and len(found) == 50
    alone = encode_prompts(small, [prompts[40]]).tensors
    for name, rows in found.tensors.items():
        torch.testing.assert_close(rows[40], alone[name][0], **CLOSE)


def test_without_a_third_encoder_its_rows_are_zeros(small):
    pipeline = StableDiffusion3Pipeline(**{**small.components, "text_encoder_3": None, "tokenizer_3": None})
    embeddings = encode_prompts(pipeline, PROMPTS).tensors["encoder_hidden_states"]
    assert embeddings.shape == (2, 16 + 256, 256) and not embeddings[:, 16:].any() and embeddings[:, :16].any()


def test_conditioning_keeps_its_rows_and_its_masks():
    conditioning = Conditioning({"states": torch.arange(6.0).reshape(3, 2), "mask": torch.tensor([[1], [0], [1]])})
    assert len(conditioning) == 3 and conditioning.dtype == torch.float32
    rows = Conditioning.cat([conditioning, conditioning]).rows(torch.tensor([5, 0, 0])).to("cpu", torch.bfloat16)
    assert rows.tensors["states"].tolist() == [[4, 5], [0, 1], [0, 1]] and rows.dtype == torch.bfloat16
    assert rows.tensors["mask"].dtype == torch.int64


def rounding_time(family):
    """AuraFlow's call hands sigma to the transformer in the dtype of the latents."""
    return replace(family, velocity=lambda model, x_t, sigma, rest: family.velocity(model, x_t, sigma.to(x_t), rest))


@pytest.mark.parametrize("make", [make_stable_diffusion_3, make_auraflow])
def test_a_bfloat16_pipeline_takes_and_gives_float32(make):
    exact, field = PipelineField(make(), PROMPTS), PipelineField(make().to(torch.bfloat16), PROMPTS, device="cpu")
    x_t, t, labels = draws(field, 3)
    assert [u.dtype for u in field.both(x_t, t, labels)] == [torch.float32] * 2
    assert field(x_t.double(), t.double()).dtype == torch.float64

    def drawn(any_field):
        times, labels = field.times(STEPS), torch.tensor([0, 1])
        return sample(any_field, field.noise(SEEDS), labels, times=times, guidance=4.0)

    latents, images = drawn(field), field.decode(drawn(field))
    assert (latents - drawn(exact)).norm() < 0.05 * latents.norm()
    assert latents.dtype == images.dtype == field.encode(images).dtype == torch.float32
    by_diffusers = called(field.pipeline, "latent", guidance_scale=4.0, height=16, width=16)
    if make is make_auraflow:
        field.family = rounding_time(field.family)
    assert by_diffusers.dtype == torch.bfloat16
    assert (drawn(field) - by_diffusers).norm() < 0.05 * latents.norm()


def test_velocities_can_be_differentiated(field):
    x_t, t, labels = draws(field, 2)
    x_t.requires_grad_()
    field(x_t, t, labels).square().sum().backward()
    assert x_t.grad.abs().sum() > 0
    estimate = change_of_variables(field, x_t.detach(), labels, steps=1, directions=torch.ones_like(x_t)[None])
    assert estimate.pointwise.isfinite().all()


@pytest.mark.parametrize("name", ["stable diffusion 3", "auraflow"])
def test_every_lora_target_is_a_linear_map_of_the_transformer(pipelines, name):
    transformer = pipelines[name][0].transformer
    for target in family_of(pipelines[name][0]).lora_targets:
        found = [module for path, module in transformer.named_modules() if path.endswith(f".{target}")]
        assert found and all(isinstance(module, torch.nn.Linear) for module in found)


def test_a_second_family_takes_under_forty_lines():
    assert len(Path(auraflow.__file__).read_text(encoding="utf-8").splitlines()) < 40
    assert [family.pipeline_class for family in FAMILIES] == [StableDiffusion3Pipeline, AuraFlowPipeline]


def flux(guidance_embeds):
    transformer = FluxTransformer2DModel(
        num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=8,
        pooled_projection_dim=8, axes_dims_rope=(4, 4, 8), guidance_embeds=guidance_embeds,
    )  # fmt: skip
    parts = dict.fromkeys(["vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"])
    return FluxPipeline(scheduler=FlowMatchEulerDiscreteScheduler(), transformer=transformer, **parts)


def test_a_pipeline_that_predicts_noise_is_refused(small):
    unet = UNet2DConditionModel(
        block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1, cross_attention_dim=8, attention_head_dim=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, sample_size=8,
    )  # fmt: skip
    parts = dict.fromkeys(["vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor"])
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    pipeline = StableDiffusionPipeline(unet=unet, scheduler=scheduler, requires_safety_checker=False, **parts)
    with pytest.raises(ValueError, match="StableDiffusionPipeline has a UNet, which predicts noise"):
        family_of(pipeline)
    for scheduler in (DDIMScheduler(), DPMSolverMultistepScheduler()):
        pipeline = StableDiffusion3Pipeline(**small.components)
        pipeline.scheduler = scheduler
        with pytest.raises(ValueError, match=f"{type(scheduler).__name__}, which is made for predictions of noise"):
            PipelineField(pipeline, PROMPTS)
    pipeline.scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    assert family_of(pipeline).pipeline_class is StableDiffusion3Pipeline


def test_a_pipeline_without_a_null_branch_or_of_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="FluxPipeline has its guidance distilled"):
        family_of(flux(guidance_embeds=True))
    with pytest.raises(ValueError, match="known, which are StableDiffusion3Pipeline and AuraFlowPipeline"):
        family_of(flux(guidance_embeds=False))


@pytest.mark.parametrize(
    ("prompts", "options", "reason"),
    [
        ([], {}, "at least one prompt"),
        ("a red circle", {}, "give a list"),
        (PROMPTS, {"height": 17}, "17 by 16 pixels"),
        (PROMPTS, {"width": 0}, "16 by 0 pixels"),
        (PROMPTS, {"micro_batch": 0}, "at least 1"),
    ],
)
def test_prompts_and_sizes_that_cannot_be_are_refused(small, prompts, options, reason):
    with pytest.raises(ValueError, match=reason):
        PipelineField(small, prompts, **options)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (torch.tensor([0, 2, 1]), "run from 0 to 2, but the 2 prompts"),
        (torch.tensor([0, -1, 1]), "run from -1"),
        (torch.tensor([0, 1]), "give 3 integers"),
        (torch.tensor([0.0, 1.0, 1.0]), "float32"),
        (torch.tensor([True, False, True]), "bool"),
    ],
)
def test_labels_without_a_prompt_are_refused(field, labels, reason):
    x_t, t, _ = draws(field, 3)
    with pytest.raises(ValueError, match=reason):
        field(x_t, t, labels)


def test_points_of_another_shape_are_refused(field):
    x_t, t, labels = draws(field, 3)
    for bad_x, bad_t in ((x_t[:, :, :4], t), (x_t, t[:2]), (x_t[:0], t[:0])):
        with pytest.raises(ValueError, match=r"give x_t \(B, 4, 8, 8\)"):
            field(bad_x, bad_t, labels)
    with pytest.raises(ValueError, match="None"):
        sample(field, x_t, None, times=field.times(2), guidance=2.0)
    with pytest.raises(ValueError, match="increasing grid"):
        sample(field, x_t, labels, times=field.times(2).flip(0))
