"""What tells one pipeline from another: folders refuse another component by its name, and only that."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from peft import LoraConfig
from torch import nn

from lab.worlds.shapes.shipped import base_pipeline
from rfmi.pipelines import fingerprint, identity_of
from rfmi.scoring import choose_score
from rfmi.selection import select, selecting

TEXTS = ["a red circle", "two blue squares"]
SMALL = {"method": "path", "candidates": 1, "steps": 3, "guidance": 2.0}
CHOICE = {"guidance": 1.0, "steps": 3, "images": 2, "noises": 1}


@pytest.fixture(scope="module")
def shipped():
    pipeline = StableDiffusion3Pipeline.from_pretrained(base_pipeline())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def pipeline(shipped):
    """A pipeline of its own copies of all components."""
    return with_parts(shipped, **{name: deepcopy(part) for name, part in shipped.components.items()})


@pytest.fixture(scope="module")
def selected(shipped, tmp_path_factory):
    return select(shipped, TEXTS, output=tmp_path_factory.mktemp("selection"), **SMALL).folder


@pytest.fixture(scope="module")
def chosen(shipped, tmp_path_factory):
    folder = tmp_path_factory.mktemp("choice")
    choose_score(shipped, TEXTS, output=folder, **CHOICE)
    return folder


def with_parts(pipeline, **parts):
    return StableDiffusion3Pipeline(**{**pipeline.components, **parts})


def shifted(pipeline):
    config = pipeline.scheduler.config
    return with_parts(pipeline, scheduler=FlowMatchEulerDiscreteScheduler.from_config(config, shift=config.shift + 1))


def shifted_beside_the_configuration(pipeline):
    pipeline.scheduler.set_shift(1.5)
    return pipeline


def another_autoencoder(pipeline):
    with torch.no_grad():
        next(pipeline.vae.parameters()).view(-1)[0] += 1e-3
    return pipeline


def another_scale(pipeline):
    pipeline.vae.register_to_config(scaling_factor=1.0)
    return pipeline


def another_dtype(pipeline):
    pipeline.text_encoder_2.to(torch.bfloat16)
    return pipeline


def another_word(pipeline):
    pipeline.tokenizer.add_tokens(["dragon"])
    return pipeline


def another_length(pipeline):
    pipeline.tokenizer_2.model_max_length = 15
    return pipeline


def other_rules(pipeline):
    backend = pipeline.tokenizer.backend_tokenizer
    backend.normalizer = None
    return pipeline


def a_lora(pipeline):
    pipeline.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    return pipeline


def another_default_size(pipeline):
    pipeline.transformer.register_to_config(sample_size=16)
    return with_parts(pipeline)


def another_size_of_the_pipeline(pipeline):
    pipeline.default_sample_size = 16
    return pipeline


def without_t5(pipeline):
    return with_parts(pipeline, text_encoder_3=None, tokenizer_3=None)


CHANGES = {
    shifted: "another scheduler;",
    shifted_beside_the_configuration: "another scheduler;",
    another_autoencoder: "another vae;",
    another_scale: "another vae;",
    another_dtype: "another text_encoder_2;",
    another_word: "another tokenizer;",
    another_length: "another tokenizer_2;",
    other_rules: "another tokenizer;",
    a_lora: "another transformer;",
    another_default_size: "another height, transformer, width;",
    another_size_of_the_pipeline: "another height, width;",
    without_t5: "another .*text_encoder_3, tokenizer_3;",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_another_component_is_refused_by_its_name(pipeline, selected, chosen, change):
    changed = change(pipeline)
    for again in (
        lambda: select(changed, TEXTS, output=selected, **SMALL),
        lambda: choose_score(changed, TEXTS, output=chosen, **CHOICE),
    ):
        with pytest.raises(ValueError, match=CHANGES[change]):
            again()


def test_half_a_selection_is_not_finished_by_another_pipeline(pipeline, tmp_path, monkeypatch):
    real, drawn = selecting.draw_candidates, []

    def killed(*arguments):
        if drawn:
            raise KeyboardInterrupt
        drawn.append(1)
        return real(*arguments)

    monkeypatch.setattr(selecting, "draw_candidates", killed)
    with pytest.raises(KeyboardInterrupt):
        select(pipeline, TEXTS, output=tmp_path, **SMALL)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="text_encoder_3"):
        select(without_t5(pipeline), TEXTS, output=tmp_path, **SMALL)
    assert len(select(pipeline, TEXTS, output=tmp_path, **SMALL).latents) == 2


def test_a_folder_says_which_sizes_were_drawn(selected, chosen):
    for folder in (selected, chosen):
        settings = json.loads((folder / "settings.json").read_text())
        assert {name: settings[name] for name in ("height", "width", "max_sequence_length")} == {
            "height": 64, "width": 64, "max_sequence_length": 1,
        }  # fmt: skip


def test_sizes_that_are_named_are_the_same_as_those_left_out(shipped, selected):
    named = {"height": 64, "width": 64, "max_sequence_length": 1}
    assert len(select(shipped, TEXTS, output=selected, **SMALL | named).latents) == 2
    with pytest.raises(ValueError, match="another height, max_sequence_length"):
        select(shipped, TEXTS, output=selected, **SMALL | {"height": 32, "max_sequence_length": 4})


# What does not count


def test_a_saved_pipeline_is_the_same(shipped, tmp_path):
    shipped("a red circle", num_inference_steps=1, max_sequence_length=1)
    shipped.save_pretrained(tmp_path)
    assert identity_of(StableDiffusion3Pipeline.from_pretrained(tmp_path)) == identity_of(shipped)


def test_how_a_network_is_run_does_not_count(pipeline):
    before = identity_of(pipeline)
    pipeline.transformer = torch.compile(pipeline.transformer)
    pipeline.text_encoder = torch.compile(pipeline.text_encoder)
    pipeline.vae.decoder = torch.compile(pipeline.vae.decoder)
    pipeline.vae.encoder.to(memory_format=torch.channels_last)
    pipeline.vae.enable_tiling()
    pipeline.to("cpu")
    assert identity_of(pipeline) == before


def test_offloaded_weights_are_the_same(pipeline):
    before = identity_of(pipeline)
    cpu_offload(pipeline.transformer, execution_device=torch.device("cpu"))
    cpu_offload(pipeline.text_encoder, execution_device=torch.device("cpu"))
    cpu_offload_with_hook(pipeline.vae, execution_device=torch.device("cpu"))
    assert {each.device.type for each in pipeline.transformer.parameters()} == {"meta"}
    assert identity_of(pipeline) == before
    assert {each.device.type for each in pipeline.transformer.parameters()} == {"meta"}


class Rooted(nn.Module):
    """A network whose own parameter lies at its root."""

    def __init__(self, n=5000, dtype=torch.float32):
        super().__init__()
        values = torch.randn(n, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter((values.sign()).to(dtype), requires_grad=False)
        self.values = nn.Parameter(values, requires_grad=False)
        self.register_buffer("place", torch.arange(3), persistent=False)


def test_weights_at_the_root_of_a_compiled_network_keep_their_names():
    assert fingerprint(torch.compile(Rooted())) == fingerprint(Rooted())


def test_one_bit_another_dtype_and_no_unsaved_buffer_count():
    network = Rooted()
    before = fingerprint(network)
    network.place += 1
    assert fingerprint(network) == before
    assert fingerprint(Rooted(dtype=torch.bfloat16)) != before, "all weights have the same values"
    network.values.view(torch.int32)[7] ^= 1
    assert fingerprint(network) != before


def test_adapters_count_by_how_they_are_switched(pipeline):
    seen = [fingerprint(a_lora(pipeline).transformer)]
    compiled = torch.compile(pipeline.transformer)
    assert fingerprint(compiled) == seen[0]
    pipeline.transformer.disable_adapters()
    seen.append(fingerprint(compiled))
    assert seen[0] != seen[1]
