"""A low-rank adapter in a transformer, by peft, and the transformer as it was when it is taken out again."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor, nn

from rfmi.finetuning.settings import FinetuningSettings
from rfmi.pipelines import family_of

ADAPTER = "default"
PREFIX = "transformer."


def adapted_layers(pipeline: DiffusionPipeline, targets: Sequence[str] | None) -> list[str]:
    """The targets asked for, or those of the family's that the transformer has.

    Raises ValueError for one that no linear layer's name ends with, and for a transformer with an adapter in it.
    """
    transformer = pipeline.transformer
    if getattr(transformer, "peft_config", None):
        advice = "take it out with pipeline.unload_lora_weights(), or fuse it first"
        raise ValueError(f"the pipeline has a LoRA loaded already; {advice}")
    names = [f".{name}" for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    asked = family_of(pipeline).lora_targets if targets is None else targets
    found = [target for target in asked if any(name.endswith(f".{target}") for name in names)]
    missing = [target for target in asked if target not in found]
    if not found or (targets is not None and missing):
        name, names = type(transformer).__name__, ", ".join(missing)
        raise ValueError(f"no linear layer of {name} is called {names}; name layers that are there, or leave targets")
    return found


@contextmanager
def adapter_in(
    transformer: nn.Module, settings: FinetuningSettings, layers: list[str]
) -> Iterator[dict[str, nn.Parameter]]:
    """A new adapter, which changes nothing yet: its parameters by name, float32, the only ones that require gradients.
    Gradient checkpointing is on where the settings ask for it or it was on before. On leaving, and on any error, the
    transformer is as it was."""
    before = [(parameter, parameter.requires_grad) for parameter in transformer.parameters()]
    modes = [(module, module.training) for module in transformer.modules()]
    checkpointing = settings.gradient_checkpointing and not transformer.is_gradient_checkpointing
    kind = {"r": settings.rank, "lora_alpha": settings.alpha or settings.rank, "use_dora": settings.dora}
    config = LoraConfig(**kind, target_modules=layers, init_lora_weights="gaussian")
    try:
        transformer.requires_grad_(False)
        transformer.eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            transformer.add_adapter(config, ADAPTER)
        cast_training_params(transformer, dtype=torch.float32)
        transformer.eval()
        if checkpointing:
            transformer.enable_gradient_checkpointing()
        yield {name: value for name, value in transformer.named_parameters() if value.requires_grad}
    finally:
        transformer.unload_lora()
        if checkpointing:
            transformer.disable_gradient_checkpointing()
        for parameter, required in before:
            parameter.requires_grad_(required)
        for module, mode in modes:
            module.training = mode


def write_lora(pipeline: DiffusionPipeline, values: Mapping[str, Tensor], path: Path) -> None:
    """Write the adapter, with these values of its parameters, as `pipeline.load_lora_weights` reads it."""
    config = pipeline.transformer.peft_config[ADAPTER]
    options = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    layers = get_peft_model_state_dict(pipeline.transformer, state_dict=dict(values), adapter_name=ADAPTER)
    parts = {"transformer_lora_layers": layers, "transformer_lora_adapter_metadata": options}
    pipeline.save_lora_weights(path.parent, weight_name=path.name, **parts)


def load_lora(pipeline: DiffusionPipeline, folder: str | Path) -> None:
    """Give the adapter in the transformer the values of the one in a folder.

    Raises ValueError for another architecture, rank, alpha or targets, and for a file that is damaged.
    """
    transformer = pipeline.transformer
    try:
        found = pipeline.lora_state_dict(folder, return_lora_metadata=True)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"the LoRA in {folder} is damaged ({error}); train it again, or give another") from error
    layers = {name.removeprefix(PREFIX): value for name, value in found[0].items()}
    expected = get_peft_model_state_dict(transformer, adapter_name=ADAPTER)
    alpha = (found[-1] or {}).get(f"{PREFIX}lora_alpha")
    alike = {name: value.shape for name, value in layers.items()} == {n: v.shape for n, v in expected.items()}
    if not alike or alpha not in (None, transformer.peft_config[ADAPTER].lora_alpha):
        what = "architecture, rank, alpha or targets"
        raise ValueError(f"the LoRA in {folder} is of another {what}; ask for what it was made with")
    set_peft_model_state_dict(transformer, layers, adapter_name=ADAPTER)
