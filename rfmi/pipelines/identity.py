"""What tells one pipeline from another, so that a folder never holds the results of two.

A pipeline is its components: weights and configuration of its networks, the scheduler's configuration, the tokenizers'
vocabularies and rules. Each comes down to a short hash of its own, so that a refusal can name the one that changed. How
a network is run (compiled, offloaded, on which device, in how many rows at once) does not count; its dtype does.
"""

import json
from typing import Any

import torch
from accelerate.utils import align_module_device
from diffusers import DiffusionPipeline
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from rfmi.files import short_hash
from rfmi.pipelines.twins import sketch_of

COMPILED = "_orig_mod."  # in names of what torch.compile has wrapped
SET_BY_CALLS = ("truncation", "padding")  # of a tokenizer's rules: what its last call was asked for


def identity_of(pipeline: DiffusionPipeline) -> dict[str, str | None]:
    """A short hash of every component by its name, None for one that is left out.

    pipeline: its transformer's hash comes with a sketch, which twins in other dtypes share.
    """
    identity = {"pipeline": type(pipeline).__name__} | {
        name: None if component is None else short_hash(_facts(component))
        for name, component in sorted(pipeline.components.items())
    }
    return identity | {"transformer": f"{identity['transformer']} {sketch_of(pipeline.transformer)}"}


@torch.no_grad()
def fingerprint(module: nn.Module) -> str:
    """A short hash of a network's weights, by dtype and sum of bits of each, and of how its adapters are switched.

    module: on any device, compiled, offloaded or quantised. Sums of bits are exact: every device finds the same.
    """
    sums = {}
    for path, part in getattr(module, "_orig_mod", module).named_modules():
        with align_module_device(part):
            for name, value in (part._parameters | part._buffers).items():
                if value is not None and name not in part._non_persistent_buffers_set:
                    sums[f"{path}.{name}".replace(COMPILED, "")] = _sums(value)
        if isinstance(part, BaseTunerLayer):
            switched = [part.disable_adapters, part.active_adapters, part.scaling]
            sums[f"{path}.adapters".replace(COMPILED, "")] = [str(switched)]
    return short_hash(sums)


def _facts(component: Any) -> Any:
    """What a component does depends on, as JSON can hold it."""
    config = getattr(component, "config", None)
    facts = {"class": type(getattr(component, "_orig_mod", component)).__name__}
    if isinstance(component, nn.Module):
        facts["weights"] = fingerprint(component)
    if hasattr(component, "set_shift"):
        facts["shift"] = component.shift  # which may be set beside the configuration
    if hasattr(component, "get_vocab"):
        backend = getattr(component, "backend_tokenizer", None)
        rules = component.get_vocab() if backend is None else json.loads(backend.to_str())
        facts["rules"] = {name: rule for name, rule in rules.items() if name not in SET_BY_CALLS}
        facts["texts"] = [component.model_max_length, component.special_tokens_map, component.padding_side]
    if config is not None:
        values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
        facts["config"] = {name: value for name, value in values.items() if not _is_of_the_file(name)}
    return facts


def _is_of_the_file(name: str) -> bool:
    """Whether an entry of a configuration says where it was read or by what, and nothing of what it does."""
    return name.startswith("_") or name in ("transformers_version", "torch_dtype", "dtype", "architectures")


def _sums(value: Tensor) -> list[str]:
    """Dtype and sum of the bits of a tensor; of a quantised one, of each tensor that it is made of."""
    if is_traceable_wrapper_subclass(value):
        names, _ = value.__tensor_flatten__()
        return [each for name in names for each in _sums(getattr(value, name))]
    bits = value.flatten().view(getattr(torch, f"int{8 * value.element_size()}"))
    return [f"{value.dtype} {bits.sum(dtype=torch.int64)}"]
