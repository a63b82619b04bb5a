"""Pipelines as velocity fields: sampling is the pipeline's own call, batches change nothing, bad input is refused."""

from __future__ import annotations

import warnings
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKL,
    ConfigMixin,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    ModelMixin,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from diffusers.configuration_utils import register_to_config
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from transformers import T5Config, T5EncoderModel, T5TokenizerFast, UMT5Config, UMT5EncoderModel

from lab.making.text_encoders import make_text_encoder
from lab.making.tokenizers import make_tokenizer
from lab.oracles.change_of_variables import change_of_variables
from lab.oracles.experiments import time_grid
from lab.worlds.shapes.rendering import render
from lab.worlds.shapes.sampling import draw_scenes
from lab.worlds.shapes.shipped import base_pipeline
from lab.worlds.shapes.words import COLORS, SHAPES, SIZES
from rfmi.finetuning import finetune
from rfmi.pipelines import (
    Conditioning,
    Family,
    PipelineField,
    auraflow,
    families,
    family_of,
    fingerprint,
    prompt_list,
    register,
)
from rfmi.pipelines.families import FAMILIES
from rfmi.pipelines.images import as_tensor
from rfmi.pipelines.stable_diffusion_3 import encode_prompts
from rfmi.sampling import path_scores, sample
from rfmi.scoring import Method, choose_score, score
from rfmi.selection import select

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


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("name", ["stable diffusion 3", "auraflow", "shipped"])
def test_sampling_is_the_pipelines_own_call_with_all_of_its_options(pipelines, name, guidance):
    pipeline, _ = pipelines[name]
    side = pipeline.transformer.config.sample_size * pipeline.vae_scale_factor
    options = {"negative_prompt": "two circles", "height": side, "width": side // 2, "max_sequence_length": 5}
    field = PipelineField(pipeline, PROMPTS, **options)
    assert field.sizes == {"height": side, "width": side // 2, "max_sequence_length": 5}
    latents = sample(field, field.noise(SEEDS), torch.tensor([0, 1]), times=field.times(STEPS), guidance=guidance)
    options["negative_prompt"] = ["two circles"] * 2
    expected = called(pipeline, "latent", guidance_scale=guidance, **options)
    limit = 1e-5 if name == "auraflow" else 1e-6  # whose call rounds the time once more
    assert (latents - expected).abs().max() <= limit * expected.abs().max()
    longer = PipelineField(pipeline, PROMPTS, **options | {"negative_prompt": "", "max_sequence_length": 7})
    rows = [each.conditioning.tensors["encoder_hidden_states"].shape[1] for each in (field, longer)]
    assert rows[1] - rows[0] == 2


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


def test_images_in_any_form_are_the_same():
    drawn = torch.randint(0, 256, (2, 3, 8, 12), generator=seeded(0), dtype=torch.uint8)
    array, floats = drawn.permute(0, 2, 3, 1).numpy(), drawn / 255
    pictures = [Image.fromarray(each) for each in array]
    forms = [floats, floats.double(), floats.permute(0, 2, 3, 1).numpy(), array, pictures, tuple(pictures)]
    forms += [array[:, ::-1][:, ::-1], [each.convert("RGBA") for each in pictures]]
    for each in forms:
        tensor = as_tensor(each)
        assert tensor.dtype == torch.float32 and tensor.shape == floats.shape
        torch.testing.assert_close(tensor, floats, rtol=0, atol=1e-7)
    for output_type in ("pil", "np", "pt"):
        shown = VaeImageProcessor().postprocess(2 * floats - 1, output_type=output_type)
        torch.testing.assert_close(as_tensor(shown), floats, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (torch.zeros(1, 3, 16, 24), "images have 16 by 24 pixels; give 16 by 16"),
        (torch.zeros(3, 16, 16), r"images\[None\] where it is a single one"),
        (np.zeros((16, 16, 3)), r"images\[None\] where it is a single one"),
        (Image.new("RGB", (16, 16)), "put it into a list"),
        ([Image.new("RGB", (16, 16)), Image.new("RGB", (8, 8))], "2 sizes"),
        ([], "list of nothing"),
        ([torch.zeros(3, 16, 16)], "list of Tensor"),
        ("image.png", "images is str"),
        (np.zeros((1, 3, 16, 16)), r"array \(n, height, width, 3\)"),
        (torch.zeros(0, 3, 16, 16), "shape"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "uint8"),
        (torch.full((1, 3, 16, 16), 255.0), r"\[0, 1\]"),
        (torch.full((1, 3, 16, 16), float("nan")), "no numbers"),
    ],
)
def test_images_of_another_form_size_or_range_are_refused(field, images, reason):
    with pytest.raises(ValueError, match=reason) as raised:
        field.encode(images)
    assert "\n" not in str(raised.value)


def test_an_autoencoder_that_overflows_is_named(small):
    pipeline = StableDiffusion3Pipeline(**{**small.components, "vae": deepcopy(small.vae)})
    with torch.no_grad():
        pipeline.vae.encoder.conv_in.weight.fill_(1e38)
    with pytest.raises(FloatingPointError, match="autoencoder overflows in torch.float32"):
        score(pipeline, torch.full((1, 3, 16, 16), 0.7), PROMPTS[:1], method=Method(noises=2))


def test_a_transformer_that_overflows_is_named(small):
    pipeline = StableDiffusion3Pipeline(**{**small.components, "transformer": deepcopy(small.transformer)})
    with torch.no_grad():
        pipeline.transformer.proj_out.weight.fill_(3e38)
    with pytest.raises(FloatingPointError, match="transformer overflows"):
        score(pipeline, torch.full((1, 3, 16, 16), 0.7), PROMPTS[:1], method=Method(noises=2))


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
    alone = encode_prompts(small, [prompts[40]], 256).tensors
    for name, rows in found.tensors.items():
        torch.testing.assert_close(rows[40], alone[name][0], **CLOSE)


def test_without_a_third_encoder_its_rows_are_zeros(small):
    pipeline = StableDiffusion3Pipeline(**{**small.components, "text_encoder_3": None, "tokenizer_3": None})
    embeddings = encode_prompts(pipeline, PROMPTS, 256).tensors["encoder_hidden_states"]
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
        ({"color": PROMPTS}, {}, "prompts is a dict"),
        (None, {}, "prompts is None"),
        (pd.DataFrame({"prompt": PROMPTS}), {}, "prompts is a DataFrame"),
        ([*PROMPTS, 7], {}, "a prompt is 7"),
        (pd.Series([*PROMPTS, None]), {}, "no text"),
        ([*PROMPTS, " "], {}, "is empty"),
        (PROMPTS, {"negative_prompt": None}, "negative_prompt is None"),
        (PROMPTS, {"height": 17}, "17 by 16 pixels"),
        (PROMPTS, {"height": 16.0}, "16.0 by 16 pixels"),
        (PROMPTS, {"width": 0}, "16 by 0 pixels"),
        (PROMPTS, {"width": -16}, "16 by -16 pixels"),
        (PROMPTS, {"micro_batch": 0}, "at least 1"),
        (PROMPTS, {"max_sequence_length": 0}, "max_sequence_length is 0"),
        (PROMPTS, {"max_sequence_length": 2.5}, "max_sequence_length is 2.5"),
        (PROMPTS, {"max_sequence_length": 513}, "up to 512"),
        (PROMPTS, {"device": "cuda"}, "is not here; there is cpu"),
        (PROMPTS, {"device": "gpu"}, "'gpu', which is not here"),
    ],
)
def test_prompts_and_sizes_that_cannot_be_are_refused(small, prompts, options, reason):
    if options.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("it is here")
    with pytest.raises(ValueError, match=reason):
        PipelineField(small, prompts, **options)


def test_prompts_may_come_in_any_collection():
    table = pd.DataFrame({"prompt": PROMPTS}, index=[5, 9])
    collections = [tuple(PROMPTS), (each for each in PROMPTS), dict.fromkeys(PROMPTS).keys(), table["prompt"]]
    for prompts in [*collections, np.array(PROMPTS), table["prompt"].to_numpy()]:
        listed = prompt_list(prompts, once=True)
        assert listed == PROMPTS and all(type(each) is str for each in listed)


def test_messages_do_not_repeat_a_long_prompt(small):
    long = "a red circle, " * 100 + "a blue square"
    with pytest.raises(ValueError, match="listed 2 times") as raised:
        prompt_list([long, long], once=True)
    assert len(str(raised.value)) < 150
    with pytest.raises(ValueError, match="has 0 negatives") as raised:
        score(small, torch.zeros(1, 3, 16, 16), [long], method=Method(null=False, prompts=1), negatives={})
    assert len(str(raised.value)) < 150


def test_prompts_that_are_cut_alike_are_refused_by_their_ends(small):
    pipeline = StableDiffusion3Pipeline(**{**small.components, "tokenizer_3": None, "text_encoder_3": None})
    open_ = deepcopy(small.tokenizer)
    open_.init_kwargs = {**open_.init_kwargs, "closed_vocabulary": False}
    pipeline.tokenizer = pipeline.tokenizer_2 = open_
    long = ["a red circle, " * 9 + end for end in ("a blue square", "a green cross")]
    with pytest.raises(ValueError, match="a blue square.* a green cross") as raised:
        PipelineField(pipeline, [*PROMPTS, *long])
    assert len(str(raised.value)) < 300 and PROMPTS[1] not in str(raised.value)
    with pytest.raises(ValueError, match="the prompts 'a red circle' and 'A red circle'"):
        PipelineField(pipeline, [*PROMPTS, "A red circle"])
    with_t5 = StableDiffusion3Pipeline(**{**small.components, "tokenizer": open_, "tokenizer_2": open_})
    assert len(PipelineField(with_t5, [*PROMPTS, *long]).conditioning) == 5, "T5 reads what CLIP does not"


@pytest.mark.parametrize("pipeline", ["stabilityai/a-model", None, 3, torch.nn.Linear(1, 1)])
def test_what_is_no_pipeline_is_refused_everywhere(pipeline, tmp_path):
    images = torch.zeros(2, 3, 16, 16)
    for call in (
        lambda: PipelineField(pipeline, PROMPTS),
        lambda: score(pipeline, images, PROMPTS),
        lambda: select(pipeline, PROMPTS, output=tmp_path / "a"),
        lambda: choose_score(pipeline, PROMPTS, output=tmp_path / "b"),
        lambda: finetune(pipeline, tmp_path, output=tmp_path / "c"),
    ):
        with pytest.raises(ValueError, match="pipeline is .*from_pretrained"):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"guidance": -3}, "guidance is -3"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"guidance": "4"}, "guidance is '4'; give a number"),
        ({"guidance": None}, "guidance is None"),
        ({"seed": -5}, "seed is -5; give a whole number"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"seed": None}, "seed is None"),
        ({"seed": True}, "seed is True"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"steps": 1}, "steps is 1"),
        ({"height": 17}, "17 by 16 pixels"),
        ({"max_sequence_length": -1}, "max_sequence_length is -1"),
        ({"negative_prompt": None}, "negative_prompt is None"),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_anything_is_drawn(small, tmp_path, change, words):
    for function in (select, choose_score):
        with pytest.raises(ValueError, match=words):
            function(small, PROMPTS, output=tmp_path / "new", **change)
    assert not (tmp_path / "new").exists()


def test_numpy_numbers_and_a_large_guidance_are_taken(small, tmp_path):
    numbers = {"candidates": np.int64(2), "seed": np.int64(3), "steps": np.int32(3), "guidance": np.float32(1e6)}
    options = {"height": np.int64(16), "max_sequence_length": np.int64(5), "keep": np.int64(1)}
    found = select(small, pd.Series(PROMPTS[:1], index=[4]), output=tmp_path, method="path", **numbers, **options)
    assert found.candidates.seed.tolist() == [3, 4] and len(found.latents) == 1
    same = {"candidates": 2, "seed": 3, "steps": 3, "guidance": 1e6, "keep": 1, "max_sequence_length": 5}
    assert len(select(small, PROMPTS[:1], output=tmp_path, method="path", **same).latents) == 1


def test_a_finished_folder_is_read_without_encoding_a_prompt(small, tmp_path, monkeypatch):
    method = Method(null=False, prompts=1, sigmas=(0.5,), noises=1)
    negatives = {text: ["two circles"] for text in PROMPTS}
    options = {"candidates": 1, "steps": 3, "guidance": 1.0, "output": tmp_path / "a", "method": method}
    choice = {"guidance": 1.0, "steps": 3, "images": 2, "noises": 1, "output": tmp_path / "b"}
    selected = select(small, PROMPTS, negatives=negatives, **options)
    chosen = choose_score(small, PROMPTS, **choice)
    seen = count_prompts(monkeypatch, small)
    again = select(small, PROMPTS, negatives=negatives, **options)
    assert torch.equal(again.latents, selected.latents)
    assert choose_score(small, PROMPTS, **choice).table.equals(chosen.table)
    for call in (
        lambda: select(small, PROMPTS, negatives={text: ["a circle"] for text in PROMPTS}, **options),
        lambda: choose_score(small, PROMPTS, **choice | {"guidance": 2.0}),
    ):
        with pytest.raises(ValueError, match="another (negatives|guidance)"):
            call()
    assert seen == []


# Networks that are quantised or compiled


class Quantised(torch.Tensor):
    """int8 numbers and a scale behind a floating face, as torchao's; sums are not implemented, as there."""

    @staticmethod
    def __new__(cls, numbers, scale):
        return torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=scale.dtype)

    def __init__(self, numbers, scale):
        self.numbers, self.scale = numbers, scale

    def __tensor_flatten__(self):
        return ["numbers", "scale"], None

    @staticmethod
    def __tensor_unflatten__(inner, _context, _size, _stride):
        return Quantised(inner["numbers"], inner["scale"])

    @classmethod
    def __torch_dispatch__(cls, function, _types, arguments=(), options=None):
        if function in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            return Quantised(arguments[0].numbers, arguments[0].scale)
        if function in (torch.ops.aten.sum.default, torch.ops.aten.sum.dim_IntList):
            raise NotImplementedError("sum is not implemented for int8 tensors")
        plain = [each.numbers * each.scale if isinstance(each, cls) else each for each in arguments]
        return function(*plain, **(options or {}))


class BufferedLinear(torch.nn.Module):
    """Weights as an int8 parameter and a scale, as bitsandbytes keeps them."""

    def __init__(self, linear, storage):
        super().__init__()
        scale = linear.weight.detach().abs().max() / 127
        held = (linear.weight.detach() / scale).round().to(storage)
        self.weight = torch.nn.Parameter(held, requires_grad=False)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", linear.bias.detach())

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight.to(x) * self.scale, self.bias)


def quantised(transformer, how):
    """A copy of it whose feed-forwards and first layers are quantised."""
    copy = deepcopy(transformer)
    for name, module in list(copy.named_modules()):
        if isinstance(module, torch.nn.Linear) and module.bias is not None:
            if how == "subclass":
                scale = module.weight.detach().abs().max() / 127
                held = Quantised((module.weight.detach() / scale).round().to(torch.int8), scale)
                module.weight = torch.nn.Parameter(held, requires_grad=False)
            else:
                parent = copy.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], BufferedLinear(module, how))
    return copy


@pytest.mark.parametrize("how", ["subclass", torch.int8, torch.float8_e4m3fn], ids=str)
def test_a_quantised_transformer_computes_and_has_a_fingerprint(small, field, how):
    transformer = quantised(small.transformer, how)
    if how != "subclass":
        floating = [each for each in transformer.parameters() if each.is_floating_point() and each.dtype != how]
        for each in floating:
            each.requires_grad_(False)
    pipeline = StableDiffusion3Pipeline(**{**small.components, "transformer": transformer})
    x_t, t, labels = draws(field, 2)
    exact, rounded = field(x_t, t, labels), PipelineField(pipeline, PROMPTS)(x_t, t, labels)
    limit = 0.5 if how == torch.float8_e4m3fn else 0.1
    assert rounded.dtype == torch.float32 and 0 < (rounded - exact).norm() < limit * exact.norm()
    seen = {fingerprint(small.transformer), fingerprint(transformer), fingerprint(quantised(small.transformer, how))}
    assert len(seen) == 2
    with torch.no_grad():
        if how == "subclass":
            next(p for p in transformer.parameters() if isinstance(p, Quantised)).numbers[0, 0] ^= 1
        else:
            next(b for name, b in transformer.named_buffers() if name.endswith("scale")).mul_(2)
    assert fingerprint(transformer) not in seen


def test_the_dtype_for_computing_is_not_that_of_quantised_weights(small):
    transformer = deepcopy(small.transformer).to(torch.bfloat16)
    first = next(name for name, _ in transformer.named_parameters())
    parent = transformer.get_submodule(first.rpartition(".")[0])
    held = torch.nn.Parameter(parent.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    parent.weight = held
    parent.forward = lambda x: torch.nn.functional.conv2d(x, held.to(x), parent.bias, parent.stride)
    pipeline = StableDiffusion3Pipeline(**{**small.components, "transformer": transformer})
    assert transformer.dtype == torch.float8_e4m3fn, "which diffusers reads first"
    field = PipelineField(pipeline, PROMPTS)
    assert field(*draws(field, 2)).isfinite().all()


def test_a_compiled_transformer_is_the_same(small, field, monkeypatch):
    compiled = torch.compile(small.transformer, backend="eager")
    pipeline = StableDiffusion3Pipeline(**{**small.components, "transformer": compiled})
    x_t, t, labels = draws(field, 2)
    found = PipelineField(pipeline, PROMPTS)(x_t, t, labels)
    torch.testing.assert_close(found, field(x_t, t, labels), **CLOSE)
    assert fingerprint(compiled) == fingerprint(small.transformer)


# A family of one's own


class OwnTransformer(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, sample_size=4, patch_size=1, in_channels=4):
        super().__init__()
        self.of_latents, self.of_words = torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.Linear(8, 4)

    def forward(self, latents, noise_level, words):
        told = self.of_words(words).mean(1)[:, :, None, None]
        return self.of_latents(latents) * (1 + told) - noise_level[:, None, None, None]


class OwnPipeline(DiffusionPipeline):
    """Latents, a bag of words, and a scheduler: all that a family is asked for."""

    def __init__(self, transformer, vae, scheduler):
        super().__init__()
        self.register_modules(transformer=transformer, vae=vae, scheduler=scheduler)
        self.vae_scale_factor, self.image_processor = 2, VaeImageProcessor(vae_scale_factor=2)

    def prepare_latents(self, n, channels, height, width, dtype, device, generators):
        shape = (n, channels, height // 2, width // 2)
        return randn_tensor(shape, generator=generators, device=device, dtype=dtype)


def own_prompts(pipeline, prompts):
    words = [torch.randn(1, 3, 8, generator=seeded(sum(map(ord, prompt)))) for prompt in prompts]
    return Conditioning({"words": torch.cat(words)})


def own_velocity(transformer, x_t, sigma, conditioning):
    return transformer(x_t, sigma, conditioning.tensors["words"])


def own_times(pipeline, steps, shape):
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** 2


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", list(FAMILIES))
    torch.manual_seed(0)
    vae = autoencoder(scaling_factor=0.5).eval()
    pipeline = OwnPipeline(OwnTransformer(), vae, FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match="OwnPipeline is of no family .* `rfmi.pipelines.register`"):
        family_of(pipeline)
    register(Family(OwnPipeline, own_prompts, own_velocity, times=own_times))
    return pipeline


def test_a_family_of_ones_own_draws_scores_and_selects(own, tmp_path):
    field = PipelineField(own, PROMPTS)
    assert field.sizes == {"height": 8, "width": 8, "max_sequence_length": None}
    assert field.times(4).tolist() == [0, 1 / 16, 1 / 4, 9 / 16, 1]
    x_t, t, labels = draws(field, 2)
    expected = -own.transformer(x_t, 1 - t, own_prompts(own, PROMPTS).tensors["words"])
    torch.testing.assert_close(field(x_t, t, labels), expected)
    method = Method(null=False, prompts=1, sigmas=(0.5, 0.8), noises=2)
    found = select(own, PROMPTS, output=tmp_path, candidates=2, keep=1, steps=3, guidance=2.0, method=method)
    assert found.images().shape == (2, 3, 8, 8)
    seeds = found.kept.seed.tolist()
    again = sample(field, field.noise(seeds), labels, times=field.times(3), guidance=2.0)
    torch.testing.assert_close(found.latents, again)
    scored = score(own, [Image.open(file) for file in found.files], PROMPTS, method=Method(noises=4))
    assert scored.values.isfinite().all() and len(scored.values) == 2
    with pytest.raises(ValueError, match="OwnPipeline have no max_sequence_length"):
        select(own, PROMPTS, output=tmp_path / "b", max_sequence_length=5)


def test_a_family_registered_last_is_asked_first(small, monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", list(FAMILIES))
    other = replace(family_of(small), times=own_times)
    register(other)
    assert family_of(small) is other and PipelineField(small, PROMPTS).times(2).tolist() == [0, 0.25, 1]


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
        DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_steps_that_are_not_eulers_are_warned_of(small, scheduler):
    field = PipelineField(StableDiffusion3Pipeline(**{**small.components, "scheduler": scheduler}), PROMPTS)
    with pytest.warns(UserWarning, match=f"{type(scheduler).__name__} steps otherwise .* own call"):
        times = field.times(4)
    assert len(times) == 5 and times[-1] == 1 and (times.diff() > 0).all()


def test_eulers_steps_are_not_warned_of(field):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(field.times(4)) == 5


# Memory


def test_embeddings_stay_on_the_cpu_and_each_row_moves_once(small, monkeypatch):
    field, moved = PipelineField(small, PROMPTS), []
    assert {rows.device.type for rows in field.conditioning.tensors.values()} == {"cpu"}
    real = Conditioning.to

    def counted(self, *where, **options):
        moved.append(len(self))
        return real(self, *where, **options)

    x_t, t, _ = draws(field, 6)
    expected = field.both(x_t, t, torch.tensor([0, 1, 0, 0, 0, 0]))
    monkeypatch.setattr(Conditioning, "to", counted)
    found = field.both(x_t, t, torch.tensor([0, 1, 0, 0, 0, 0]))
    assert moved == [3] and all(map(torch.equal, found, expected))


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (torch.tensor([0, 2, 1]), "run from 0 to 2; give 0 to 1"),
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
