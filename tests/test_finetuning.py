"""Fine-tuning: losses and steps against plain computations, a LoRA that diffusers loads, and nothing lost or left."""

import errno
import json
import math
import os
import signal
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
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch.func import functional_call
from torch.nn import functional

from lab.worlds.shapes.shipped import base_pipeline
from rfmi import files, runs
from rfmi.fields import interpolate
from rfmi.finetuning import FULL_SIZE, PAPER, FinetuningSettings, finetune, folder, loop, read_finetuned
from rfmi.finetuning.adapter import adapter_in
from rfmi.finetuning.loop import batch_loss
from rfmi.finetuning.pairs import draw_batch, noise_levels, training_pairs
from rfmi.pipelines import Conditioning, PipelineField, family_of, identity_of
from rfmi.selection import Selection, select

SHAPE = (2, 4, 4)
WEIGHTS = "pytorch_lora_weights.safetensors"
QUICK = FinetuningSettings(
    steps=6, batch=4, learning_rate=2e-2, warmup=2, rank=2, averaging=0.5, checkpoint_steps=2, validation_every=2,
    weighting="top",
)  # fmt: skip
ADVANTAGE = replace(QUICK, weighting="advantage")
SCORES = [3.0, 1.0, 2.0, 2.5, 0.0, 5.0]  # of three prompts' two images


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def random_weights(transformer, seed=0, deviation=0.2):
    generator = seeded(seed)
    for parameter in transformer.parameters():
        parameter.data = deviation * torch.randn(parameter.shape, generator=generator)
    return transformer


def autoencoder():
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=2, scaling_factor=1.5, **blocks)


def make_pipeline(heads=2, deviation=0.2, seed=0, **changes):
    """A Stable Diffusion 3 of two layers without text encoders: a selection brings its own conditioning."""
    transformer = SD3Transformer2DModel(
        sample_size=4, in_channels=2, out_channels=2, num_layers=2, attention_head_dim=8, num_attention_heads=heads,
        joint_attention_dim=16, caption_projection_dim=8 * heads, pooled_projection_dim=8, pos_embed_max_size=4,
        **changes,
    )  # fmt: skip
    encoders = dict.fromkeys(("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2"))
    return StableDiffusion3Pipeline(
        transformer=random_weights(transformer, seed, deviation).eval(), vae=autoencoder(), tokenizer_3=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), **encoders,
    )  # fmt: skip


@pytest.fixture
def pipeline():
    return make_pipeline()


def selection(prompts=3, keep=1, seed=1, scores=None):
    n, generator, same = prompts * keep, seeded(seed), seeded(0)
    table = pd.DataFrame(
        {
            "prompt_id": [i // keep for i in range(n)],
            "prompt": [f"prompt {i // keep}" for i in range(n)],
            "seed": list(range(n)),
            "score": [float(-i) for i in range(n)] if scores is None else scores,
            "rank": [float(i % keep) for i in range(n)],
        }
    )
    latents = torch.randn(n, *SHAPE, generator=generator)
    conditioning = Conditioning(
        {
            "encoder_hidden_states": torch.randn(prompts + 1, 5, 16, generator=same),
            "pooled_projections": torch.randn(prompts + 1, 8, generator=same),
        }
    )
    return Selection(Path("nowhere"), table, latents, torch.tensor(table.prompt_id), conditioning)


def advantages(chosen, settings, by="score"):
    return training_pairs(chosen, settings, by).advantages


@torch.no_grad()
def predictions(transformer, selected):
    """v at fixed inputs, for every image of a selection."""
    n = len(selected.latents)
    x_t, sigma = torch.randn(n, *SHAPE, generator=seeded(9)), torch.linspace(0.2, 0.8, n)
    tensors = selected.conditioning.rows(selected.prompt_id).tensors
    return transformer(hidden_states=x_t, timestep=1000 * sigma, **tensors, return_dict=False)[0]


def tensors_of(folder, name=WEIGHTS):
    return load_file(folder / name)


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def velocity_of(pipeline, conditioning):
    return lambda x_t, sigma, rows: family_of(pipeline).velocity(
        pipeline.transformer, x_t, sigma, conditioning.rows(rows)
    )


@pytest.fixture
def looks(pipeline, monkeypatch):
    """A function: from now on held-out images are looked at by another one, called without arguments."""

    def look_by(function):
        monkeypatch.setattr(loop, "_held_out_value", lambda *_: function())

    return look_by


# Losses


def test_the_loss_is_the_formula_computed_image_by_image(pipeline):
    pairs = training_pairs(selection(), QUICK, "score")
    batch, expected = draw_batch(pairs, QUICK, 0), 0.0
    velocity = velocity_of(pipeline, pairs.conditioning)
    for i in range(4):
        x, eps, sigma = batch.x[i], batch.noise[i], batch.sigma[i]
        v = velocity(((1 - sigma) * x + sigma * eps)[None], sigma[None], batch.rows[i : i + 1])[0]
        expected += sum((v - (eps - x)).flatten() ** 2) / 32 / 4
    torch.testing.assert_close(batch_loss(velocity, velocity, batch), expected)


def test_the_advantage_loss_is_least_at_the_base_model_moved_by_the_advantage(pipeline):
    """Its minimum over all v is v0 + a (eps - x - v0), image by image, and there it is 0; turned round it is not."""
    pairs = training_pairs(selection(keep=2, scores=SCORES), ADVANTAGE, "score")
    batch, base = draw_batch(pairs, ADVANTAGE, 0), velocity_of(pipeline, pairs.conditioning)
    advantage = batch.advantages[:, None, None, None]

    def moved(sign):
        def velocity(x_t, sigma, rows):
            v = base(x_t, sigma, rows)
            return v + sign * advantage * (batch.noise - batch.x - v)

        return velocity

    v = base(interpolate(batch.noise, batch.x, batch.sigma), batch.sigma, batch.rows)
    squares = (batch.advantages.square() * (batch.noise - batch.x - v).square().mean((1, 2, 3))).mean()
    for sign in (1, 0, -1):
        expected = (sign - 1) ** 2 * squares
        torch.testing.assert_close(batch_loss(moved(sign), base, batch), expected, rtol=1e-5, atol=1e-8)


def test_the_advantage_loss_has_the_gradient_of_diffusion_nft(pipeline):
    """arXiv 2509.16117, its beta 1: r ||v - target||^2 + (1 - r) ||2 v0 - v - target||^2 with r = (1 + a) / 2."""
    pairs = training_pairs(selection(keep=2, scores=SCORES), ADVANTAGE, "score")
    batch, base = draw_batch(pairs, ADVANTAGE, 1), velocity_of(pipeline, pairs.conditioning)
    scale = torch.tensor(0.7, requires_grad=True)
    loss = batch_loss(lambda *inputs: scale * base(*inputs), base, batch)
    v0 = base(interpolate(batch.noise, batch.x, batch.sigma), batch.sigma, batch.rows)
    target, r = batch.noise - batch.x, (1 + batch.advantages) / 2
    positive, negative = ((v - target).square().mean((1, 2, 3)) for v in (scale * v0, 2 * v0 - scale * v0))
    published = (r * positive + (1 - r) * negative).mean()
    found, expected = (torch.autograd.grad(value, scale)[0] for value in (loss, published))
    torch.testing.assert_close(found, expected)


# Pairs and batches


def test_every_pair_is_seen_equally_often_in_a_new_order():
    pairs = training_pairs(selection(prompts=5), QUICK, "score")
    seen = torch.cat([draw_batch(pairs, QUICK, step).rows for step in range(5)])  # 20 draws of 5 pairs
    epochs = seen.reshape(4, 5)
    assert epochs.sort(1).values.tolist() == [[0, 1, 2, 3, 4]] * 4
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1


def test_a_batch_depends_on_seed_and_step_alone():
    pairs = training_pairs(selection(), QUICK, "score")
    first, again = draw_batch(pairs, QUICK, 3), draw_batch(pairs, QUICK, 3)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (draw_batch(pairs, QUICK, 4), draw_batch(pairs, replace(QUICK, seed=1), 3)):
        assert not torch.equal(first.noise, other.noise) and not torch.equal(first.sigma, other.sigma)


def test_noise_levels_are_logit_normal_and_stratified():
    logits = torch.logit(noise_levels(4000, 0.3, 1.2, seeded(0)).double())
    uniform = torch.special.ndtr((logits - 0.3) / 1.2).sort().values
    assert (uniform - (torch.arange(4000) + 0.5) / 4000).abs().max() < 1 / 4000


def test_all_images_are_alike_where_the_best_were_selected():
    assert advantages(selection(prompts=2, keep=2), QUICK) is None
    assert advantages(selection(prompts=2, keep=2, scores=[math.nan] * 4), QUICK) is None


def test_advantages_are_scores_around_their_prompts_mean():
    chosen = selection(prompts=2, keep=2, scores=[3.0, 1.0, 2.0, 0.5])
    settings = replace(ADVANTAGE, temperature=0.5, largest_deviation=10.0)
    scale = 0.5 * math.sqrt((2 * 1.0 + 2 * 0.75**2) / 4)
    expected = torch.tensor([1.0, -1.0, 0.75, -0.75]) / scale
    torch.testing.assert_close(advantages(chosen, settings), expected)
    with pytest.raises(ValueError, match="different scores"):
        advantages(selection(prompts=4), settings)


def test_an_advantage_is_cut_at_the_largest_deviation_and_centred_again():
    chosen = selection(prompts=2, keep=3, scores=[1.0, 0.0, -10.0, 1.0, 0.0, -1.0])
    settings = replace(ADVANTAGE, temperature=0.5, largest_deviation=0.5)
    around = np.array([4.0, 3.0, -7.0, 1.0, 0.0, -1.0])
    cut = np.clip(around / np.sqrt((around**2).mean()), -0.5, 0.5).reshape(2, 3)
    expected = (cut - cut.mean(1, keepdims=True)) / 0.5
    np.testing.assert_allclose(advantages(chosen, settings), expected.ravel(), rtol=1e-6)


def test_an_image_fails_far_below_the_upper_quartile_of_its_prompt_and_all_others_are_equal():
    scores = np.array([[9.0, 8.0, 7.0, 1.0], [0.0, -1.0, -2.0, -3.0]])  # upper quartiles 8.25 and -0.75
    settings = replace(QUICK, weighting="verdict", temperature=0.5, largest_deviation=10.0)
    deviation = np.sqrt(((scores - scores.mean(1, keepdims=True)) ** 2).mean())
    for failing, fails in ((0.6, [3, 7]), (0.4, [2, 3, 6, 7]), (2.4, [3])):
        passes = np.isin(np.arange(8), fails, invert=True).reshape(2, 4) * 1.0
        below = np.array([[8.25], [-0.75]]) - scores
        np.testing.assert_array_equal(passes == 0, below > failing * deviation)
        around = passes - passes.mean(1, keepdims=True)
        expected = around / np.sqrt((around**2).mean()) / 0.5
        chosen = selection(prompts=2, keep=4, scores=scores.ravel().tolist())
        weights = advantages(chosen, replace(settings, failing=failing))
        np.testing.assert_allclose(weights, expected.ravel(), rtol=1e-5, atol=1e-6)


def test_where_no_image_fails_there_is_nothing_to_learn(pipeline, tmp_path):
    settings = replace(QUICK, weighting="verdict", failing=9.0)
    with pytest.raises(ValueError, match="no image is 9 deviations below .* keep more candidates"):
        finetune(pipeline, selection(keep=2, scores=SCORES), output=tmp_path / "one", settings=settings)
    passing_alone = [3.0, 1.0, 5.0, 5.0, 3.0, 1.0]  # of the second prompt, which is held out
    settings = replace(settings, failing=0.3)
    with pytest.raises(ValueError, match="different scores"):
        finetune(
            pipeline, selection(keep=2, scores=passing_alone), output=tmp_path / "one", settings=settings, hold_out=2
        )
    assert not (tmp_path / "one").exists()


def test_advantages_are_made_of_the_column_asked_for():
    chosen = selection(keep=2, scores=SCORES)
    ranked = chosen.with_column("judge", [1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    expected = advantages(replace(chosen, candidates=chosen.candidates.assign(score=ranked.kept.judge)), ADVANTAGE)
    assert torch.equal(advantages(ranked, ADVANTAGE, "judge"), expected)
    assert torch.equal(expected.sign(), torch.tensor([1.0, -1, -1, 1, 0, 0]))
    with pytest.raises(ValueError, match="no column 'typo'; it has score, judge"):
        advantages(ranked, ADVANTAGE, "typo")
    with pytest.raises(ValueError, match="the column 'judge' .* no number"):
        advantages(chosen.with_column("judge", [1.0, math.nan, 0, 1, 0, 0]), ADVANTAGE, "judge")


def gap_between(pipeline, chosen, folder):
    """By how much the loss of the image of every prompt with the larger column `good` fell below that of the other."""
    pairs = training_pairs(chosen, replace(QUICK, batch=len(chosen.latents)), "good")
    base, gaps = velocity_of(deepcopy(pipeline), pairs.conditioning), []
    pipeline.load_lora_weights(folder)
    tuned = velocity_of(pipeline, pairs.conditioning)
    for step in range(20):
        batch = draw_batch(pairs, replace(QUICK, batch=len(chosen.latents), seed=99), step)
        x_t = interpolate(batch.noise, batch.x, batch.sigma)
        with torch.no_grad():
            fell = [
                (velocity(x_t, batch.sigma, batch.rows) - (batch.noise - batch.x)).square().mean((1, 2, 3))
                for velocity in (base, tuned)
            ]
        good = torch.tensor([chosen.kept.good.iloc[i] for i in order(pairs, batch)]) > 0
        fall = fell[0] - fell[1]
        gaps.append(fall[good].mean() - fall[~good].mean())
    pipeline.unload_lora_weights()
    return torch.stack(gaps).mean().item()


def order(pairs, batch):
    """Which image each row of a batch is."""
    return [int((pairs.latents == x).flatten(1).all(1).nonzero()) for x in batch.x]


@pytest.mark.parametrize("weighting", ["advantage", "verdict"])
def test_what_the_column_calls_good_is_learned_and_turned_round_the_opposite(tmp_path, weighting):
    pipeline, layers = make_pipeline(heads=8, deviation=0.06), ("to_v", "to_out.0", "net.2", "linear", "proj_out")
    settings = replace(
        QUICK, steps=40, batch=12, rank=8, targets=layers, weighting=weighting, failing=0.5, temperature=1.0
    )
    chosen = selection(keep=2).with_column("good", [1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    chosen = chosen.with_column("turned", [0.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    gaps = {}
    for by in ("good", "turned"):
        done = finetune(pipeline, chosen, output=tmp_path / by, by=by, settings=settings)
        gaps[by] = gap_between(pipeline, chosen, done.folder)
    assert gaps["good"] > 0.05 and gaps["turned"] < -0.05, gaps


# Steps


def plain_training(pipeline, selected, settings, parameters):
    """The same steps by merged weights, W + (alpha/rank) B A, and AdamW as it is written down."""
    transformer, pairs = deepcopy(pipeline.transformer), training_pairs(selected, settings, "score")
    family, base = family_of(pipeline), dict(transformer.named_parameters())
    scale = (settings.alpha or settings.rank) / settings.rank
    found = {name: value.clone() for name, value in parameters.items()}
    moments = {name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in found.items()}

    def merged(low_rank):
        weights = dict(base)
        for name in low_rank:
            if ".lora_A." in name:
                layer = name.split(".lora_A.")[0]
                product = low_rank[name.replace("lora_A", "lora_B")] @ low_rank[name]
                weights[f"{layer}.weight"] = base[f"{layer}.weight"] + scale * product
        return lambda **inputs: functional_call(transformer, weights, kwargs=inputs)

    for step in range(settings.steps):
        low_rank = {name: value.clone().requires_grad_() for name, value in found.items()}
        network, batch = merged(low_rank), draw_batch(pairs, settings, step)
        sigma = batch.sigma[:, None, None, None]
        x_t, target = (1 - sigma) * batch.x + sigma * batch.noise, batch.noise - batch.x
        v = family.velocity(network, x_t, batch.sigma, pairs.conditioning.rows(batch.rows))
        gradients = torch.autograd.grad(functional.mse_loss(v, target), list(low_rank.values()))
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        rate = settings.learning_rate * min(1, (step + 1) / settings.warmup)
        for (name, value), gradient in zip(found.items(), gradients, strict=True):
            gradient = gradient * min(1, settings.largest_gradient_norm / (norm + 1e-6))
            first = 0.9 * moments[name][0] + 0.1 * gradient
            second = 0.999 * moments[name][1] + 0.001 * gradient**2
            moments[name] = first, second
            direction = first / (1 - 0.9 ** (step + 1)) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
            found[name] = value * (1 - rate * settings.weight_decay) - rate * direction
    return found


def test_steps_are_those_of_a_plain_computation(pipeline, tmp_path):
    settings = replace(QUICK, steps=3, averaging=0.0, alpha=3, weight_decay=0.1, largest_gradient_norm=0.05)
    with adapter_in(pipeline.transformer, settings, ["to_q", "to_out.0"]) as parameters:
        initial = {name: value.detach().clone() for name, value in parameters.items()}
    expected = plain_training(pipeline, selection(), settings, initial)
    finetune(pipeline, selection(), output=tmp_path, settings=replace(settings, targets=("to_q", "to_out.0")))
    found = tensors_of(tmp_path, "checkpoint.safetensors")
    assert len(expected) == 8
    for name, value in expected.items():
        assert (value - initial[name]).abs().max() > 1e-3
        torch.testing.assert_close(found[f"weights.{name}"], value, rtol=1e-3, atol=2e-5)


def test_two_parts_of_a_batch_are_one_batch_twice_as_large(pipeline, tmp_path):
    whole = finetune(pipeline, selection(), output=tmp_path / "a", settings=replace(QUICK, batch=8))
    parts = replace(QUICK, gradient_accumulation=2)
    halves = finetune(pipeline, selection(), output=tmp_path / "b", settings=parts)
    torch.testing.assert_close(torch.tensor(whole.losses), torch.tensor(halves.losses), rtol=1e-4, atol=1e-5)
    a, b = tensors_of(whole.folder), tensors_of(halves.folder)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-2, atol=1e-4)


def test_four_images_can_be_learned_by_heart(tmp_path):
    pipeline, layers = make_pipeline(heads=8, deviation=0.06), ("to_v", "to_out.0", "net.2", "linear", "proj_out")
    settings = replace(QUICK, steps=80, batch=16, rank=8, targets=layers, noise_level=(1.0, 0.5))
    losses = torch.tensor(finetune(pipeline, selection(prompts=4), output=tmp_path, settings=settings).losses)
    assert losses[-10:].mean() < 0.5 * losses[:10].mean()


@pytest.mark.parametrize("precision", ["base in bfloat16", "computed in bfloat16"])
def test_the_adapter_is_float32_in_half_precision(pipeline, tmp_path, precision):
    settings = QUICK
    if precision == "base in bfloat16":
        pipeline.to(torch.bfloat16)
    else:
        settings = replace(QUICK, mixed_precision="bf16")
    exact = finetune(pipeline, selection(), output=tmp_path / "exact", settings=replace(settings, dora=True))
    assert {value.dtype for value in tensors_of(tmp_path / "exact").values()} == {torch.float32}
    assert pipeline.transformer.dtype == (torch.bfloat16 if settings is QUICK else torch.float32)
    assert all(math.isfinite(loss) for loss in exact.losses)


def test_precision_is_each_calls_own(pipeline, tmp_path):
    settings = replace(QUICK, steps=1)
    first = finetune(pipeline, selection(), output=tmp_path / "a", settings=settings)
    half = finetune(pipeline, selection(), output=tmp_path / "b", settings=replace(settings, mixed_precision="bf16"))
    again = finetune(pipeline, selection(), output=tmp_path / "c", settings=settings)
    assert first.losses == again.losses and first.losses != half.losses
    assert half.losses[0] == pytest.approx(first.losses[0], rel=0.05)


# Memory

OUT_OF_MEMORY = RuntimeError("CUDA out of memory. Tried to allocate")


def limit_memory(pipeline, rows, failing=OUT_OF_MEMORY):
    """From now on no more than `rows` fit where gradients are needed; the sizes of what went through are listed."""
    forward, sizes = pipeline.transformer.forward, []

    def limited(hidden_states, **others):
        if torch.is_grad_enabled() and len(hidden_states) > rows:
            raise failing
        sizes.append(len(hidden_states))
        return forward(hidden_states=hidden_states, **others)

    pipeline.transformer.forward = limited
    return sizes


@pytest.mark.parametrize(
    ("batch", "parts", "rows", "sizes"), [(8, 1, 5, {4}), (5, 1, 3, {2, 1}), (4, 2, 1, {1}), (6, 1, 6, {6})]
)
def test_where_memory_runs_out_fewer_images_at_once_give_the_same_weights(
    pipeline, tmp_path, batch, parts, rows, sizes
):
    settings = replace(QUICK, batch=batch, gradient_accumulation=parts, learning_rate=1e-3)
    whole = finetune(pipeline, selection(), output=tmp_path / "whole", settings=settings)
    seen = limit_memory(pipeline, rows)
    split = finetune(pipeline, selection(), output=tmp_path / "split", settings=settings)
    assert set(seen[1:]) == sizes, "but for the first, which is to see whether they fit"
    assert len(seen) - 1 == settings.steps * parts * -(-batch // max(sizes)), "nothing is tried again"
    assert split.settings == settings
    torch.testing.assert_close(torch.tensor(split.losses), torch.tensor(whole.losses), rtol=1e-6, atol=1e-7)
    for name, value in tensors_of(whole.folder, "checkpoint.safetensors").items():
        found = tensors_of(split.folder, "checkpoint.safetensors")[name]
        if name.startswith(("weights", "average")):
            torch.testing.assert_close(found, value, rtol=0, atol=1e-6)
        if rows >= batch:
            assert torch.equal(found, value)


def test_memory_that_runs_out_half_way_back_leaves_no_half_of_a_gradient(pipeline, tmp_path):
    settings = replace(QUICK, learning_rate=1e-3)
    whole = finetune(pipeline, selection(), output=tmp_path / "whole", settings=settings)
    calls = []

    def run_out(*_):
        calls.append(0)
        if len(calls) == 2:
            raise RuntimeError("CUDA out of memory")

    handle = pipeline.transformer.transformer_blocks[1].attn.to_q.register_full_backward_hook(run_out)
    split = finetune(pipeline, selection(), output=tmp_path / "split", settings=settings)
    handle.remove()
    assert len(calls) == 1 + 1 + 2 * 5
    a, b = (tensors_of(each.folder) for each in (whole, split))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_a_device_too_small_for_one_image_is_said_and_other_errors_are_their_own(pipeline, tmp_path):
    limit_memory(pipeline, 0)
    with pytest.raises(MemoryError, match="single image; take gradient_checkpointing") as raised:
        finetune(pipeline, selection(), output=tmp_path / "a", settings=QUICK)
    assert "\n" not in str(raised.value)
    limit_memory(pipeline, 0, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        finetune(pipeline, selection(), output=tmp_path / "a", settings=QUICK)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_gradient_checkpointing_changes_no_number_and_is_put_back(pipeline, tmp_path, precision):
    settings = replace(ADVANTAGE, mixed_precision=precision, steps=3)
    chosen, transformer, calls = selection(keep=2, scores=SCORES), pipeline.transformer, []
    plain = finetune(pipeline, chosen, output=tmp_path / "plain", settings=settings)
    settings = replace(settings, gradient_checkpointing=True)
    enable = type(transformer).enable_gradient_checkpointing
    transformer.enable_gradient_checkpointing = lambda: (calls.append(0), enable(transformer))
    less = finetune(pipeline, chosen, output=tmp_path / "less", settings=settings)
    assert calls == [0] and not transformer.is_gradient_checkpointing
    assert less.losses == plain.losses
    assert_equal(tensors_of(less.folder), tensors_of(plain.folder))
    enable(transformer)
    finetune(pipeline, chosen, output=tmp_path / "on before", settings=settings)
    assert calls == [0] and transformer.is_gradient_checkpointing
    assert_equal(tensors_of(tmp_path / "on before"), tensors_of(plain.folder))


def test_a_training_goes_on_with_another_split_of_the_same_step(pipeline, tmp_path):
    one = replace(QUICK, batch=16, learning_rate=1e-3, checkpoint_steps=1)
    other = replace(one, batch=4, gradient_accumulation=4, gradient_checkpointing=True)
    whole = finetune(pipeline, selection(), output=tmp_path / "whole", settings=one)
    finetune(pipeline, selection(), output=tmp_path / "split", settings=replace(one, steps=4))
    split = finetune(pipeline, selection(), output=tmp_path / "split", settings=other)
    assert split.settings == other
    a, b = (tensors_of(each.folder) for each in (whole, split))
    torch.testing.assert_close(a, b, rtol=0, atol=2e-6)
    assert finetune(pipeline, selection(), output=tmp_path / "split", settings=one) == split, "it is finished"
    (tmp_path / "split" / "training.json").unlink()
    assert finetune(pipeline, selection(), output=tmp_path / "split", settings=one).losses == split.losses
    with pytest.raises(ValueError, match="another images_a_step"):
        finetune(pipeline, selection(), output=tmp_path / "split", settings=replace(other, batch=8))


# What comes out


@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
def test_the_folder_loads_as_the_trained_model(pipeline, tmp_path, dora, looks):
    chosen, seen = selection(), []

    def look():
        seen.append(predictions(pipeline.transformer, chosen))
        return float(len(seen))

    looks(look)
    done = finetune(pipeline, chosen, output=tmp_path, settings=replace(QUICK, dora=dora, alpha=5), hold_out=3)
    torch.testing.assert_close(seen[0], predictions(pipeline.transformer, chosen), rtol=1e-4, atol=1e-5)
    pipeline.load_lora_weights(done.folder)
    torch.testing.assert_close(predictions(pipeline.transformer, chosen), seen[-1], rtol=1e-4, atol=1e-5)
    assert (seen[-1] - seen[0]).abs().max() > 0.01


def test_the_best_validation_is_what_is_saved(pipeline, tmp_path, looks):
    chosen, seen, values = selection(), [], iter([9.0, 1.0, 5.0, 2.0])

    def look():
        seen.append(predictions(pipeline.transformer, chosen))
        return next(values)

    looks(look)
    done = finetune(pipeline, chosen, output=tmp_path, settings=QUICK, hold_out=3)
    assert done.validation == ((0, 9.0), (2, 1.0), (4, 5.0), (6, 2.0)) and done.chosen_step == 4
    pipeline.load_lora_weights(tmp_path)
    torch.testing.assert_close(predictions(pipeline.transformer, chosen), seen[2], rtol=1e-4, atol=1e-5)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "after step 4" in card and "against -9 before" in card


@pytest.mark.parametrize("loss", ["flow-matching", "advantage", "verdict"])
def test_the_validation_is_the_loss_of_the_held_out_images_with_its_sign_turned(pipeline, tmp_path, loss):
    changes = {"advantage": {"weighting": "advantage"}, "verdict": {"weighting": "verdict", "failing": 0.3}}
    settings = replace(QUICK, **changes.get(loss, {}))
    chosen = selection(prompts=6, keep=2, scores=[*SCORES, 1.0, 4.0, 2.0, 0.0, 7.0, 3.0])
    done = finetune(pipeline, chosen, output=tmp_path, settings=settings, hold_out=3)
    held_out = training_pairs(chosen.of_prompts([2, 5]), settings, "score")
    assert len(held_out.latents) == 4
    batch = draw_batch(held_out, replace(settings, batch=4, seed=7), 0)
    base = velocity_of(deepcopy(pipeline), held_out.conditioning)
    pipeline.load_lora_weights(tmp_path)
    for step, tuned in ((0, base), (done.chosen_step, velocity_of(pipeline, held_out.conditioning))):
        with torch.no_grad():
            expected = -batch_loss(tuned, base, batch).item()
        assert dict(done.validation)[step] == pytest.approx(expected, rel=1e-3)
    assert dict(done.validation)[done.chosen_step] != dict(done.validation)[0]
    assert [step for step, _ in done.validation] == [0, 2, 4, 6]
    card = " ".join((tmp_path / "README.md").read_text(encoding="utf-8").split())
    assert f" {'advantage' if settings.signed else loss} loss, AdamW" in card


def test_held_out_images_are_looked_at_in_batches(pipeline, tmp_path):
    chosen = selection(prompts=6, keep=2)
    values = [
        finetune(
            pipeline, chosen, output=tmp_path / str(batch), settings=replace(QUICK, batch=batch, steps=1), hold_out=2
        ).validation[0][1]
        for batch in (4, 6, 12)
    ]
    assert values == pytest.approx([values[0]] * 3, rel=1e-5)


@pytest.mark.parametrize(
    ("prompts", "hold_out", "held_out"),
    [(6, 3, [2, 5]), (6, 2, [1, 3, 5]), (6, 6, [5]), (6, 7, []), (6, None, []), (3, 16, [])],
)
def test_one_prompt_in_so_many_is_held_out(pipeline, tmp_path, prompts, hold_out, held_out):
    done = finetune(
        pipeline, selection(prompts=prompts), output=tmp_path, settings=replace(QUICK, steps=1), hold_out=hold_out
    )
    record = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))
    assert record["prompts"] == prompts - len(held_out)
    assert bool(done.validation) == bool(held_out) and (record["held_out"] is not None) == bool(held_out)
    if held_out:
        expected = training_pairs(selection(prompts=prompts).of_prompts(held_out), QUICK, "score")
        assert record["held_out"] == expected.digest()


@pytest.mark.parametrize("hold_out", [0, 1, 1.5, -3, True])
def test_a_share_to_hold_out_that_makes_no_sense_is_refused(pipeline, tmp_path, hold_out):
    with pytest.raises(ValueError, match="one prompt in two or more, or None"):
        finetune(pipeline, selection(), output=tmp_path / "a", settings=QUICK, hold_out=hold_out)
    assert not (tmp_path / "a").exists()


def test_a_prompt_without_images_is_not_held_out(pipeline, tmp_path):
    chosen = selection(prompts=6).of_prompts([0, 1, 3])
    done = finetune(pipeline, chosen, output=tmp_path, settings=replace(QUICK, steps=1), hold_out=3)
    assert done.validation == ()
    assert json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))["images"] == 3


@pytest.mark.parametrize("dora", [False, True])
def test_a_second_round_goes_on_from_the_first_and_loads_alone(pipeline, tmp_path, looks, dora):
    kind = replace(QUICK, dora=dora)
    first = finetune(pipeline, selection(), output=tmp_path / "1", settings=kind)
    seen = []

    def look():
        seen.append(predictions(pipeline.transformer, selection()))
        return float(len(seen))

    looks(look)
    again = finetune(pipeline, selection(seed=3), output=tmp_path / "2", settings=kind, start=first.folder, hold_out=3)
    for where, expected in ((first.folder, seen[0]), (again.folder, seen[-1])):
        pipeline.load_lora_weights(where)
        torch.testing.assert_close(predictions(pipeline.transformer, selection()), expected, rtol=1e-4, atol=1e-5)
        pipeline.unload_lora_weights()
    for other in (replace(QUICK, rank=3, alpha=2), replace(QUICK, alpha=7), replace(QUICK, targets=("to_q",))):
        with pytest.raises(ValueError, match="of another architecture, rank, alpha or targets"):
            finetune(pipeline, selection(), output=tmp_path / "3", settings=other, start=first.folder)
    with pytest.raises(ValueError, match="another start"):
        finetune(pipeline, selection(), output=first.folder, settings=kind, start=first.folder)
    with pytest.raises(FileNotFoundError, match="to start from"):
        finetune(pipeline, selection(), output=tmp_path / "3", settings=QUICK, start=tmp_path)


def test_a_second_round_is_held_against_the_model_that_it_starts_from(pipeline, tmp_path):
    chosen = selection(keep=2, scores=SCORES)
    first = finetune(pipeline, chosen, output=tmp_path / "1", settings=ADVANTAGE)
    again = finetune(pipeline, chosen, output=tmp_path / "2", settings=ADVANTAGE, start=first.folder, hold_out=3)
    pairs = training_pairs(chosen.of_prompts([0, 1]), ADVANTAGE, "score")
    pipeline.load_lora_weights(first.folder)
    started = velocity_of(pipeline, pairs.conditioning)
    with torch.no_grad():
        expected = batch_loss(started, started, draw_batch(pairs, ADVANTAGE, 0)).item()
    assert again.losses[0] == pytest.approx(expected, rel=1e-3)


def test_the_record_holds_settings_losses_and_versions(pipeline, tmp_path):
    settings = replace(QUICK, targets=("to_q", "to_k"), mixed_precision="bf16")
    done = finetune(pipeline, selection(), output=tmp_path, settings=settings)
    assert done == read_finetuned(tmp_path) and done.settings == settings and len(done.losses) == 6
    record = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))
    assert {"torch", "diffusers", "peft", "accelerate"} <= record["versions"].keys()
    assert record["images"] == record["prompts"] == 3 and record["layers"] == ["to_q", "to_k"]
    with pytest.raises(FileNotFoundError, match="no finished fine-tuning"):
        read_finetuned(tmp_path / "elsewhere")


def test_an_auraflow_is_tuned_as_well(tmp_path):
    transformer = AuraFlowTransformer2DModel(
        sample_size=4, in_channels=2, out_channels=2, num_mmdit_layers=1, num_single_dit_layers=1,
        attention_head_dim=8, num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16,
        pos_embed_max_size=16,
    )  # fmt: skip
    pipeline = AuraFlowPipeline(
        tokenizer=None, text_encoder=None, vae=autoencoder(), transformer=random_weights(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip
    chosen = selection()
    chosen = replace(
        chosen,
        conditioning=Conditioning({"encoder_hidden_states": chosen.conditioning.tensors["encoder_hidden_states"]}),
    )
    done = finetune(pipeline, chosen, output=tmp_path, settings=QUICK)
    pipeline.load_lora_weights(done.folder)
    assert pipeline.get_active_adapters()


@pytest.mark.slow
def test_the_shipped_pipeline_learns_from_its_own_selection(tmp_path):
    pipeline = StableDiffusion3Pipeline.from_pretrained(base_pipeline())
    texts = ["a red circle", "two blue squares"]
    chosen = select(pipeline, texts, output=tmp_path / "selection", candidates=2, keep=1, steps=3, guidance=1.0)
    done = finetune(pipeline, chosen.folder, output=tmp_path / "lora", settings=replace(QUICK, steps=2, batch=2))
    field = PipelineField(pipeline, texts)
    noise, labels = field.noise([0, 1]), torch.arange(2)
    before = field(noise, torch.full((2,), 0.3), labels)
    pipeline.load_lora_weights(done.folder)
    assert not torch.equal(field(noise, torch.full((2,), 0.3), labels), before)
    card = (done.folder / "README.md").read_text(encoding="utf-8")
    assert "base_model: base_model\n" in card and "2 images" in card


# What stays as it was


class Interruption(Exception):
    pass


def traces(transformer):
    return (
        {name: value.clone() for name, value in transformer.state_dict().items()},
        {name: value.requires_grad for name, value in transformer.named_parameters()},
        {name: (type(module), module.training) for name, module in transformer.named_modules()},
        bool(getattr(transformer, "peft_config", None)),
    )


@pytest.mark.parametrize("fault", [None, Interruption(), KeyboardInterrupt(), "targets"], ids=str)
def test_the_pipeline_is_left_as_it_was(pipeline, tmp_path, fault, looks):
    pipeline.transformer.train()
    pipeline.transformer.proj_out.requires_grad_(False)
    weights, *before = traces(pipeline.transformer)

    def look():
        if isinstance(fault, BaseException) and (tmp_path / "checkpoint.safetensors").exists():
            raise fault
        return 0.0

    looks(look)
    if fault is None:
        finetune(pipeline, selection(), output=tmp_path, settings=QUICK, hold_out=3)
    elif fault == "targets":
        with pytest.raises(ValueError, match="nowhere"):
            finetune(pipeline, selection(), output=tmp_path, settings=replace(QUICK, targets=("nowhere",)))
    else:
        with pytest.raises(type(fault)):
            finetune(pipeline, selection(), output=tmp_path, settings=QUICK, hold_out=3)
    after, *rest = traces(pipeline.transformer)
    assert_equal(after, weights)
    assert rest == before


def test_random_numbers_of_the_caller_are_not_touched(pipeline, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    finetune(pipeline, selection(), output=tmp_path, settings=replace(QUICK, steps=1))
    assert torch.equal(torch.rand(1), expected)


# Going on


@pytest.mark.parametrize("step", [1, 2, 3, 6])
def test_killed_at_any_step_it_ends_with_the_same_weights(pipeline, tmp_path, step, start_child):
    chosen, settings = selection(keep=2, scores=SCORES), replace(ADVANTAGE, validation_every=1)
    whole = finetune(pipeline, chosen, output=tmp_path / "whole", settings=settings, hold_out=3)
    calls, value = [], loop._held_out_value

    def mortal(*arguments):
        calls.append(0)
        if len(calls) == step + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return value(*arguments)

    def dies():
        loop._held_out_value = mortal
        finetune(pipeline, chosen, output=tmp_path / "killed", settings=settings, hold_out=3)

    child = start_child(dies)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "killed" / WEIGHTS).exists()
    assert (tmp_path / "killed" / "checkpoint.safetensors").exists() == (step > 2)
    again = finetune(pipeline, chosen, output=tmp_path / "killed", settings=settings, hold_out=3)
    assert replace(again, folder=whole.folder) == whole
    for name in (WEIGHTS, "checkpoint.safetensors"):
        assert_equal(tensors_of(again.folder, name), tensors_of(whole.folder, name))
    assert (again.folder / "training.json").read_bytes() == (whole.folder / "training.json").read_bytes()


@pytest.mark.slow
def test_two_processes_train_as_one(pipeline, tmp_path, in_two_processes):
    chosen, settings = selection(keep=2, scores=SCORES), replace(ADVANTAGE, gradient_accumulation=2, dora=True, steps=4)
    alone = finetune(pipeline, chosen, output=tmp_path / "alone", settings=settings, hold_out=3)

    def work():
        if os.environ["RANK"] == "1":
            limit_memory(pipeline, 1)
        finetune(pipeline, chosen, output=tmp_path / "two", settings=settings, hold_out=3)

    in_two_processes(work)
    together = read_finetuned(tmp_path / "two")
    torch.testing.assert_close(torch.tensor(together.losses), torch.tensor(alone.losses), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(together.validation, alone.validation, rtol=1e-2, atol=1e-4)
    torch.testing.assert_close(tensors_of(together.folder), tensors_of(alone.folder), rtol=1e-2, atol=1e-3)


def test_a_finished_run_is_only_read_and_may_be_made_longer(pipeline, tmp_path, monkeypatch):
    short = finetune(pipeline, selection(), output=tmp_path / "a", settings=QUICK)
    longer = finetune(pipeline, selection(), output=tmp_path / "a", settings=replace(QUICK, steps=8))
    whole = finetune(pipeline, selection(), output=tmp_path / "b", settings=replace(QUICK, steps=8))
    assert longer.losses == whole.losses and longer.losses[:6] == short.losses
    assert_equal(tensors_of(longer.folder), tensors_of(whole.folder))
    monkeypatch.setattr(loop, "train", None)
    assert finetune(pipeline, selection(), output=tmp_path / "a", settings=replace(QUICK, steps=8)) == longer
    (tmp_path / "b" / "checkpoint.safetensors").unlink()
    assert finetune(pipeline, selection(), output=tmp_path / "b", settings=replace(QUICK, steps=8)) == whole


def test_a_finished_run_is_taken_for_no_other_one(pipeline, tmp_path):
    def tune(steps, hold_out=3, by="score"):
        settings, chosen = replace(QUICK, steps=steps, validation_every=3), selection().with_column("judge", [1, 2, 3])
        return finetune(pipeline, chosen, output=tmp_path / "a", by=by, settings=settings, hold_out=hold_out)

    done = tune(6)
    assert tune(6) == done
    with pytest.raises(ValueError, match="6 steps and 4 are asked for"):
        tune(4)
    with pytest.raises(ValueError, match="another held_out, images"):
        tune(6, hold_out=None)
    with pytest.raises(ValueError, match="another by;"):
        tune(6, by="judge")
    assert [step for step, _ in tune(7).validation] == [0, 3, 6, 7]
    with pytest.raises(ValueError, match="validated at its last step 7"):
        tune(9)


def test_a_longer_run_killed_while_it_writes_is_not_taken_for_the_shorter(pipeline, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    finetune(pipeline, selection(), output=tmp_path, settings=QUICK)
    monkeypatch.setattr(folder, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune(pipeline, selection(), output=tmp_path, settings=replace(QUICK, steps=8))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="8 steps and 6 are asked for"):
        finetune(pipeline, selection(), output=tmp_path, settings=QUICK)
    assert len(finetune(pipeline, selection(), output=tmp_path, settings=replace(QUICK, steps=8)).losses) == 8


# Bad input


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rank", 0), ("alpha", 0), ("batch", 0), ("batch", 2.5), ("steps", 0), ("gradient_accumulation", 0),
        ("learning_rate", 0.0), ("learning_rate", math.nan), ("largest_gradient_norm", 0.0), ("warmup", -1),
        ("weight_decay", math.nan), ("noise_level", (0.0, 0.0)), ("averaging", 1.0), ("weighting", "best"),
        ("mixed_precision", "fp8"), ("temperature", 0.0), ("failing", 0.0), ("largest_deviation", 0.0),
        ("targets", "to_q"), ("targets", ()), ("validation_every", 0), ("checkpoint_steps", 0),
        ("checkpoint_seconds", -1.0), ("seed", -1), ("seed", None), ("seed", True), ("steps", True), ("steps", None),
        ("learning_rate", "1e-3"), ("warmup", None), ("averaging", "0.9"), ("noise_level", "ab"),
        ("noise_level", (math.nan, 1.0)), ("dora", 1), ("gradient_checkpointing", "yes"),
    ],
)  # fmt: skip
def test_a_setting_that_makes_no_sense_is_refused(name, value):
    with pytest.raises(ValueError, match=name) as raised:
        replace(QUICK, **{name: value})
    assert "\n" not in str(raised.value)


def faulty(name):
    chosen = selection()
    if name == "no images":
        return replace(chosen, latents=chosen.latents[:0], prompt_id=chosen.prompt_id[:0])
    if name == "no numbers":
        return replace(chosen, latents=chosen.latents / 0)
    if name == "other channels":
        return replace(chosen, latents=torch.randn(3, 3, 4, 4))
    if name == "odd size":
        return replace(chosen, latents=torch.randn(3, 2, 5, 5))
    if name == "too large":
        return replace(chosen, latents=torch.randn(3, 2, 64, 64))
    if name == "unknown prompts":
        return replace(chosen, prompt_id=torch.tensor([0, 1, 3]))
    return replace(chosen, conditioning=Conditioning({"encoder_hidden_states": torch.randn(4, 5, 12)}))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no images", "holds no images"), ("no numbers", "not finite"), ("other channels", "does not fit"),
        ("odd size", "does not fit"), ("too large", "does not fit"), ("unknown prompts", "names prompt 3"),
        ("other conditioning", "does not fit"),
    ],
)  # fmt: skip
def test_a_selection_that_does_not_fit_is_refused_before_anything_starts(pipeline, tmp_path, name, words):
    with pytest.raises(ValueError, match=words):
        finetune(pipeline, faulty(name), output=tmp_path / "out", settings=QUICK)
    assert not (tmp_path / "out").exists()


def test_a_pipeline_or_folder_that_holds_another_lora_is_refused(pipeline, tmp_path):
    done = finetune(pipeline, selection(), output=tmp_path / "a", settings=QUICK)
    for settings, chosen, words in (
        (replace(QUICK, rank=3), selection(), "another rank"),
        (replace(QUICK, seed=1, batch=2), selection(), "another images_a_step, seed"),
        (QUICK, selection(seed=8), "another pairs"),
    ):
        with pytest.raises(ValueError, match=words):
            finetune(pipeline, chosen, output=done.folder, settings=settings)
        (done.folder / "training.json").rename(tmp_path / "aside")
        with pytest.raises(ValueError, match=words):
            finetune(pipeline, chosen, output=done.folder, settings=settings)
        (tmp_path / "aside").rename(done.folder / "training.json")
    pipeline.load_lora_weights(done.folder)
    with pytest.raises(ValueError, match="unload_lora_weights"):
        finetune(pipeline, selection(), output=tmp_path / "b", settings=QUICK)
    pipeline.unload_lora_weights()
    random_weights(pipeline.transformer, seed=1)
    with pytest.raises(ValueError, match="another weights"):
        finetune(pipeline, selection(), output=done.folder, settings=QUICK)
    (tmp_path / "foreign").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign" / WEIGHTS)
    with pytest.raises(ValueError, match="not trained here"):
        finetune(pipeline, selection(), output=tmp_path / "foreign", settings=QUICK)


def test_a_folder_of_a_selection_or_an_evaluation_is_refused(pipeline, tmp_path):
    runs.open_folder(tmp_path, {"steps": 3})
    with pytest.raises(ValueError, match="holds a selection or an evaluation"):
        finetune(pipeline, selection(), output=tmp_path, settings=QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]
    (tmp_path / "settings.json").rename(tmp_path / "units")
    with pytest.raises(ValueError, match="holds a selection or an evaluation"):
        finetune(pipeline, selection(), output=tmp_path, settings=QUICK)


@pytest.mark.parametrize("started", [WEIGHTS, "checkpoint.safetensors"])
def test_a_selection_into_a_fine_tunings_folder_is_refused(pipeline, tmp_path, started):
    finetune(pipeline, selection(), output=tmp_path, settings=QUICK)
    for path in list(tmp_path.iterdir()):
        if path.name != started:
            path.unlink()
    with pytest.raises(ValueError, match="holds something else"):
        runs.open_folder(tmp_path, {"steps": 3})
    assert [path.name for path in tmp_path.iterdir()] == [started]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"settings": "verdict"}, "settings is 'verdict'; give a FinetuningSettings"),
        ({"settings": {"steps": 3, "note": 99 * "x"}}, "settings is {'steps': 3.*give a FinetuningSettings"),
        ({"settings": replace(QUICK, steps=1), "by": "typo"}, "no column 'typo'; it has score"),
        ({"by": ["score"]}, "by is .* name a column"),
        ({"hold_out": 2.0}, "one prompt in two or more"),
        ({"device": "nowhere"}, "device is 'nowhere', which is not here"),
        ({"device": "cuda:99"}, "device is 'cuda:99', which is not here"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense_are_refused_in_a_sentence(pipeline, tmp_path, options, words):
    with pytest.raises(ValueError, match=words) as raised:
        finetune(pipeline, selection(keep=2, scores=SCORES), output=tmp_path / "a", **options)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 200
    assert not (tmp_path / "a").exists()


# Another model's selection


def drawn_by(pipeline, **options):
    """A selection, as far as its folder would say, that a pipeline drew."""
    return replace(selection(**options), origin=identity_of(pipeline))


@pytest.mark.parametrize("drawn", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("trained", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_selection_may_be_drawn_in_another_dtype(tmp_path, drawn, trained):
    changes = {"qk_norm": "rms_norm"}
    chosen = drawn_by(make_pipeline(**changes).to(drawn))
    finetune(make_pipeline(**changes).to(trained), chosen, output=tmp_path, settings=replace(QUICK, steps=1, batch=1))


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"deviation": 0.21}, {"qk_norm": "rms_norm"}, {"dual_attention_layers": (0,)}],
    ids=str,
)
def test_a_selection_that_another_model_drew_is_refused(pipeline, tmp_path, other):
    """Also where all shapes fit: a pipeline like Stable Diffusion 3.5 Large on the images of one like Medium."""
    with pytest.raises(ValueError, match="drawn by another model.* select with this pipeline"):
        finetune(pipeline, drawn_by(make_pipeline(**other)), output=tmp_path / "a", settings=QUICK)
    assert not (tmp_path / "a").exists()


def test_a_second_rounds_selection_is_of_the_model_with_the_first_rounds_lora(pipeline, tmp_path):
    quick = replace(QUICK, steps=1, learning_rate=0.5)
    first = finetune(pipeline, drawn_by(pipeline), output=tmp_path / "1", settings=quick)
    pipeline.load_lora_weights(first.folder)
    chosen = drawn_by(pipeline)
    pipeline.unload_lora_weights()
    with pytest.raises(ValueError, match="or give the LoRA that drew it as `start`"):
        finetune(pipeline, chosen, output=tmp_path / "2", settings=quick)
    assert finetune(pipeline, chosen, output=tmp_path / "2", settings=quick, start=first.folder).losses


# Damaged files


@pytest.mark.parametrize("name", ["training.json", WEIGHTS, "README.md", "checkpoint.safetensors"])
def test_a_damaged_file_is_named_and_written_anew_once_it_is_removed(pipeline, tmp_path, name, damage):
    done, path = finetune(pipeline, selection(), output=tmp_path, settings=QUICK, hold_out=3), tmp_path / name
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    assert len(before) == 4
    damage(path)
    for call in (finetune, read_finetuned) if name != "checkpoint.safetensors" else (finetune,):
        arguments = (pipeline, selection()) if call is finetune else (tmp_path,)
        options = {"output": tmp_path, "settings": QUICK, "hold_out": 3} if call is finetune else {}
        with pytest.raises(ValueError, match=rf"{name} is damaged .* remove it and call") as raised:
            call(*arguments, **options)
        assert "\n" not in str(raised.value)
    path.unlink()
    assert finetune(pipeline, selection(), output=tmp_path, settings=QUICK, hold_out=3) == done
    for kept in ("training.json", "README.md"):
        assert (tmp_path / kept).read_bytes() == before[kept]
    assert_equal(tensors_of(tmp_path), load(before[WEIGHTS]))


def test_a_folder_of_before_checksums_is_refused(pipeline, tmp_path):
    finetune(pipeline, selection(), output=tmp_path, settings=QUICK)
    record = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))
    (tmp_path / "training.json").write_text(json.dumps({name: record[name] for name in record if name != "sha256"}))
    with pytest.raises(ValueError, match="training.json is damaged"):
        finetune(pipeline, selection(), output=tmp_path, settings=QUICK)


def test_a_damaged_lora_is_nothing_to_start_from(pipeline, tmp_path):
    first = finetune(pipeline, selection(), output=tmp_path / "1", settings=QUICK)
    (first.folder / WEIGHTS).write_bytes((first.folder / WEIGHTS).read_bytes()[:-9])
    for words in (f"{WEIGHTS} is damaged", "the LoRA in .* is damaged"):
        with pytest.raises(ValueError, match=words):
            finetune(pipeline, selection(seed=3), output=tmp_path / "2", settings=QUICK, start=first.folder)
        (first.folder / "training.json").unlink(missing_ok=True)


@pytest.mark.parametrize("at", ["checkpoint", "lora"])
def test_what_a_killed_process_wrote_in_part_is_removed(pipeline, tmp_path, monkeypatch, at, start_child):
    def dies():
        if at == "lora":
            folder.write_lora = lambda *arguments: (arguments[-1].write_bytes(b"half"), os.kill(os.getpid(), 9))
        else:
            files.save_file = lambda _, path, __: (path.write_bytes(b"half"), os.kill(os.getpid(), 9))
        finetune(pipeline, selection(), output=tmp_path, settings=QUICK)

    assert os.waitstatus_to_exitcode(os.waitpid(start_child(dies), 0)[1]) == -signal.SIGKILL
    assert len(list(tmp_path.glob("*.tmp"))) == 1
    finetune(pipeline, selection(), output=tmp_path, settings=QUICK)
    whole = {"training.json", WEIGHTS, "README.md", "checkpoint.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == whole


def test_fewer_steps_than_a_checkpoint_has_are_refused(pipeline, tmp_path):
    finetune(pipeline, selection(), output=tmp_path, settings=QUICK)
    (tmp_path / "training.json").unlink()
    with pytest.raises(ValueError, match="trained for 6 steps and 3 are asked for"):
        finetune(pipeline, selection(), output=tmp_path, settings=replace(QUICK, steps=3))


def test_a_damaged_checkpoint_is_refused(pipeline, tmp_path):
    finetune(pipeline, selection(), output=tmp_path, settings=QUICK)
    (tmp_path / "training.json").unlink()
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is damaged"):
        finetune(pipeline, selection(), output=tmp_path, settings=QUICK)


def test_float16_on_a_processor_and_what_is_no_number_are_refused(pipeline, tmp_path, looks):
    with pytest.raises(ValueError, match="fp16"):
        finetune(pipeline, selection(), output=tmp_path / "a", settings=replace(QUICK, mixed_precision="fp16"))
    with pytest.raises(FloatingPointError, match="loss is no number"):
        finetune(pipeline, selection(), output=tmp_path / "c", settings=replace(QUICK, learning_rate=1e30))
    looks(lambda: math.nan)
    with pytest.raises(FloatingPointError, match="validation is no number"):
        finetune(pipeline, selection(), output=tmp_path / "b", settings=QUICK, hold_out=3)


def test_images_without_a_score_are_no_advantage(pipeline, tmp_path):
    chosen = selection(scores=[1.0, math.nan, 2.0])
    with pytest.raises(ValueError, match="holds what is no number"):
        finetune(pipeline, chosen, output=tmp_path / "a", settings=ADVANTAGE)
    assert len(finetune(pipeline, chosen, output=tmp_path / "b", settings=QUICK).losses) == 6


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "x"), SafetensorError("No space left on device")], ids=repr)
def test_a_full_disk_is_said_and_the_last_checkpoint_stays(pipeline, tmp_path, monkeypatch, error):
    written, write = [], files.save_file

    def full(tensors, path, metadata):
        if len(written) == 2:
            path.write_bytes(b"half")
            raise error
        written.append(path)
        write(tensors, path, metadata)

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(OSError, match="is full; make room and call again") as raised:
        finetune(pipeline, selection(), output=tmp_path / "a", settings=QUICK)
    assert raised.value.errno == errno.ENOSPC
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["checkpoint.safetensors"]
    assert len(tensors_of(tmp_path / "a", "checkpoint.safetensors")["losses"]) == 4
    monkeypatch.undo()
    again, whole = (finetune(pipeline, selection(), output=tmp_path / name, settings=QUICK) for name in "ab")
    assert_equal(tensors_of(again.folder), tensors_of(whole.folder))


def test_a_disk_that_fills_up_at_the_end_loses_no_step(pipeline, tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(folder, "write_lora", full)
    with pytest.raises(OSError, match="is full"):
        finetune(pipeline, selection(), output=tmp_path, settings=QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    monkeypatch.undo()
    monkeypatch.setattr(loop, "draw_batch", None)
    assert len(finetune(pipeline, selection(), output=tmp_path, settings=QUICK).losses) == 6


def test_the_settings_of_the_paper_are_what_was_published():
    assert (PAPER.rank, PAPER.alpha, PAPER.steps, PAPER.batch, PAPER.warmup) == (32, 32, 2000, 240, 400)
    assert (PAPER.learning_rate, PAPER.weight_decay, PAPER.largest_gradient_norm) == (5e-6, 1e-4, 5e-3)
    assert (PAPER.noise_level, PAPER.targets, PAPER.weighting) == ((0.0, 1.0), None, "top")
    assert [PAPER.rate(step) for step in (0, 199, 399, 1999)] == pytest.approx([1 / 400, 0.5, 1, 1])
    assert FinetuningSettings().weighting == "advantage"


def test_the_settings_of_full_size_are_our_recipe():
    memory = {"batch": 64, "gradient_accumulation": 1, "gradient_checkpointing": False, "mixed_precision": "no"}
    assert replace(FULL_SIZE, **memory, rank=16, alpha=None) == FinetuningSettings()
    assert FULL_SIZE.images_a_step == 64 and FULL_SIZE.gradient_checkpointing and FULL_SIZE.mixed_precision == "bf16"


def test_a_launch_that_starts_one_process_for_several_is_warned_of(monkeypatch):
    """`accelerate launch --cpu --num_processes 2` leaves these behind, and nothing that says how many."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    runs.process_state()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.warns(UserWarning, match="started one.* torchrun"):
        runs.process_state()
