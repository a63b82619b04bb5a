"""The shipped pipeline and CLIP as the notebooks' units of work use them: loaded once a process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline
from diffusers.utils import logging
from transformers import CLIPModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from lab.worlds.shapes.clip import load_clip
from lab.worlds.shapes.shipped import CHECKSUMS, base_clip, base_pipeline
from rfmi.pipelines import PipelineField
from lab.worlds.shapes import prompts
from lab.study.cache import Cache, code_version, digest

BATCH = 32  # images at once; few sizes throughout, since a compiled transformer is compiled for each
SIZES = 32  # most sizes that it is compiled for, beyond which it would run uncompiled: pruning has a few


@cache
def loaded_pipeline(
    device: str = "cpu", compiled: bool = False, precision: str = "float32"
) -> StableDiffusion3Pipeline:
    """The shipped pipeline. precision: of its transformer, "bfloat16" being about twice as fast on recent processors;
    latents, encoders and autoencoder stay float32. compiled: needs a C++ compiler, takes a minute the first time, and
    draws faster.
    """
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # a LoRA of the transformer alone is no news
    transformers_logging.disable_progress_bar()
    pipeline = StableDiffusion3Pipeline.from_pretrained(base_pipeline()).to(device)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.transformer.to(getattr(torch, precision))
    if compiled:
        torch._dynamo.config.recompile_limit = SIZES
        pipeline.transformer.compile(dynamic=False)
    return pipeline


@cache
def _vessel(device: str, compiled: bool, precision: str) -> StableDiffusion3Pipeline:
    """A second one of `loaded_pipeline`, whose weights come and go, so that it is compiled once for all of them."""
    return loaded_pipeline.__wrapped__(device, compiled, precision)


def pipeline_with(
    loras: Sequence[Path],
    weight: float = 1.0,
    device: str = "cpu",
    compiled: bool = False,
    precision: str = "float32",
) -> StableDiffusion3Pipeline:
    """The shipped pipeline with `weight` times the mean of what some LoRAs add merged into its weights; as it is
    shipped where there are none. A DoRA has no such mean: one alone, at weight 1. It lasts until the next call."""
    pipeline, source = _vessel(device, compiled, precision), StableDiffusion3Pipeline.from_pretrained(base_pipeline())
    for lora in loras:
        source.load_lora_weights(lora)
        source.fuse_lora(lora_scale=weight / len(loras))
        source.unload_lora_weights()
    pipeline.transformer.load_state_dict(source.transformer.state_dict())
    return pipeline


@cache
def loaded_clip() -> tuple[CLIPModel, CLIPTokenizer]:
    """The shipped CLIP and its tokenizer."""
    return load_clip(base_clip())


@cache
def validation_field(
    category: str, device: str = "cpu", compiled: bool = False, precision: str = "float32"
) -> PipelineField:
    """The shipped pipeline's field over all validation prompts of a category, which are each other's neighbours."""
    return PipelineField(
        loaded_pipeline(device, compiled, precision), prompts(category, "val"), micro_batch=2 * BATCH
    )


def cache_for(*modules: str) -> Cache:
    """A cache of units whose key names these modules, what they draw and judge with, and the shipped weights."""
    weights = digest([(folder / CHECKSUMS).read_text(encoding="utf-8") for folder in (base_pipeline(), base_clip())])
    common = ("lab.worlds.shapes", "rfmi.pipelines", "rfmi.sampling", "lab.study.shipped")
    return Cache(code_version=f"{code_version(*common, *modules)} {weights[:16]}")


def spread(texts: Sequence[str], n: int) -> list[str]:
    """`n` texts spread evenly over a sorted list, all where `n` is larger."""
    n = min(n, len(texts))
    return [texts[i * len(texts) // n] for i in range(n)]
