"""Pipelines as the notebooks' units of work use them: loaded once a process, with what LoRAs add merged into them.

The mean of k LoRAs at weight w adds w / k times what each of them adds to the transformer's weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging
from transformers.utils import logging as transformers_logging

from lab.paths import cache_folder
from lab.study.code import code_version, digest
from lab.study.units import check_kind
from rfmi.pipelines import identity_of

SIZES = 32  # most sizes that a transformer is compiled for, beyond which it would run uncompiled: pruning has a few
BASICS = ("rfmi.fields", "rfmi.times", "rfmi.sampling", "rfmi.training")
DRAWING = (*BASICS, "rfmi.pipelines", "rfmi.scoring", "rfmi.selection", "rfmi.finetuning", "rfmi.evaluation")


def loaded(
    model: str, world: Any, device: str, precision: str, left_out: Mapping[str, None] | None = None
) -> DiffusionPipeline:
    """A pipeline of one's own, in silence. Raises ValueError where neither a model is named nor the world has one.

    left_out: components of a named model that are not loaded
    """
    for library in (logging, transformers_logging):
        library.disable_progress_bar()
    logging.set_verbosity_error()  # a LoRA of the transformer alone is no news
    dtype = getattr(torch, precision)
    if model:
        one = DiffusionPipeline.from_pretrained(model, dtype=dtype, **(left_out or {})).to(device)
    else:
        one = world.pipeline(device=device)
    if one is None:
        raise ValueError(f"the world {world.name} has no model of its own; name one with -p model FOLDER")
    one.set_progress_bar_config(disable=True)
    one.transformer.to(dtype)
    return one


@cache
def kept(model: str, world: Any, device: str, precision: str, compiled: bool) -> DiffusionPipeline:
    """A process's own pipeline, as it is."""
    pipeline = loaded(model, world, device, precision)
    if compiled:
        _compile(pipeline)
    return pipeline


@cache
def vessel(model: str, world: Any, device: str, precision: str, compiled: bool) -> DiffusionPipeline:
    """One whose transformer's weights come and go, compiled once for all of them; all else is `kept`'s."""
    plain = kept(model, world, device, precision, compiled)
    own = transformer_alone(model, world, precision).transformer.to(plain.transformer.device)
    pipeline = type(plain)(**plain.components | {"transformer": own})
    pipeline.set_progress_bar_config(disable=True)
    if compiled:
        _compile(pipeline)
    return pipeline


def transformer_alone(model: str, world: Any, precision: str) -> DiffusionPipeline:
    """A pipeline on the CPU that holds a transformer and a scheduler, and nothing else of a named model."""
    entries = DiffusionPipeline.load_config(model) if model else {}
    parts = {name for name, entry in entries.items() if isinstance(entry, list)}
    return loaded(model, world, "cpu", precision, dict.fromkeys(parts - {"transformer", "scheduler"}))


def _compile(pipeline: DiffusionPipeline) -> None:
    torch._dynamo.config.recompile_limit = SIZES
    pipeline.transformer.compile(dynamic=False)


def pipeline(
    model: str,
    world: Any,
    *,
    device: str = "cpu",
    precision: str = "float32",
    compiled: bool = False,
    loras: Sequence[str | Path] = (),
    weight: float = 1.0,
) -> DiffusionPipeline:
    """A pipeline, loaded once a process.

    model: "" for the world's own, a folder or a name on the hub
    precision: of the transformer; "bfloat16" is about twice as fast on recent processors
    compiled: faster drawing after a minute of compilation, which needs a C++ compiler
    loras: folders whose mean, times `weight`, is merged into the transformer, in float32; a DoRA has none: it alone,
        at weight 1

    With LoRAs it lasts until the next call with others.
    """
    if not loras:
        return kept(model, world, device, precision, compiled)
    if not 0 < weight < float("inf"):
        raise ValueError(f"the weight of the LoRAs is {weight}; give a number above 0")
    source = transformer_alone(model, world, "float32")
    for lora in loras:
        source.load_lora_weights(lora)
        source.fuse_lora(lora_scale=weight / len(loras))
        source.unload_lora_weights()
    merged = vessel(model, world, device, precision, compiled)
    merged.transformer.load_state_dict(source.transformer.state_dict())
    return merged


def weights_of(model: str, world: Any, **how: Any) -> str:
    """What the weights, configuration and scheduler of a pipeline come down to; arguments as of `pipeline`."""
    return digest(identity_of(pipeline(model, world, **how)))[:16]


def spread(texts: Sequence[str], n: int) -> list[str]:
    """`n` texts spread evenly over a sorted list, all where `n` is larger."""
    n = min(n, len(texts))
    return [texts[i * len(texts) // n] for i in range(n)]


def work_folder(kind: str, settings: Mapping[str, Any]) -> Path:
    """The folder of the cache for what resumes by itself (`rfmi.select`, `finetune`, `evaluate`).

    kind: a plain name; settings: all that the work depends on, plain values
    """
    return cache_folder() / check_kind(kind) / digest([dict(settings), code_version(*DRAWING)])[:24]
