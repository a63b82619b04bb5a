"""What tells one pipeline from another, so that a folder never holds the results of two.

A pipeline is its components: weights and configuration of its networks, the scheduler's configuration, the tokenizers'
vocabularies. Each comes down to a short hash of its own, so that a refusal can name the one that changed. How a network
is run (compiled, offloaded, in how many rows at once) does not count; its dtype does.
"""

import hashlib
import json
from typing import Any

import torch
from accelerate.utils import align_module_device
from diffusers import DiffusionPipeline
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from rfmi.pipelines.twins import sketch_of

COMPILED = "_orig_mod."  # in names of what torch.compile has wrapped


def identity_of(pipeline: DiffusionPipeline) -> dict[str, str | None]:
    """A short hash of every component by its name, None for one that is left out; the transformer's with its sketch."""
    identity = {"pipeline": type(pipeline).__name__} | {
        name: None if component is None else _hashed(_facts(component))
        for name, component in sorted(pipeline.components.items())
    }
    return identity | {"transformer": f"{identity['transformer']} {sketch_of(pipeline.transformer)}"}


@torch.no_grad()
def fingerprint(module: nn.Module) -> str:
    """A short hash of a network's weights, by the sum of each tensor, and of how its adapters are switched.

    module: on any device, compiled, offloaded or quantised.
    """
    sums = {}
    for path, part in module.named_modules():
        with align_module_device(part):
            held = part._parameters | {k: v for k, v in part._buffers.items() if k not in part._non_persistent_buffers_set}
            for name, value in held.items():
                if value is not None:
                    sums[f"{path}.{name}".replace(COMPILED, "")] = _sums(value)
        if isinstance(part, BaseTunerLayer):
            sums[f"{path} adapters"] = [str([part.disable_adapters, part.active_adapters, part.scaling])]
    return _hashed(sums)


def _facts(component: Any) -> Any:
    """What a component does depends on, as JSON can hold it."""
    config = getattr(component, "config", None)
    facts = {"class": type(component).__name__}
    if isinstance(component, nn.Module):
        facts |= {"class": type(getattr(component, "_orig_mod", component)).__name__}
        facts |= {"weights": fingerprint(component), "dtype": str(getattr(component, "dtype", None))}
    if hasattr(component, "get_vocab"):
        facts |= {"vocabulary": component.get_vocab(), "longest": component.model_max_length}
    if config is not None:
        values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
        facts["config"] = {name: value for name, value in values.items() if not _is_of_the_file(name)}
    return facts


def _is_of_the_file(name: str) -> bool:
    """Whether an entry of a configuration says where it was read or by what, and nothing of what it does."""
    return name.startswith("_") or name in ("transformers_version", "torch_dtype", "dtype", "architectures")


def _sums(value: Tensor) -> list[str]:
    """The sum of a tensor; of a quantised one, of each tensor that it is made of."""
    if is_traceable_wrapper_subclass(value):
        names, _ = value.__tensor_flatten__()
        return [each for name in names for each in _sums(getattr(value, name))]
    return [f"{value.double().sum().item():.9g}"]


def _hashed(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
