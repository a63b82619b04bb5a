"""What a family of pipelines must say of itself, and nothing else is known of it.

Diffusers' rectified flows run from noise at sigma = 1 to data at sigma = 0, x_t = (1 - sigma) x + sigma eps, and
predict v = E[eps - x | x_t, prompt]. In the convention of `rfmi.fields`, sigma = 1 - t and v = -u.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Self

import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift
from torch import Tensor, nn


@dataclass(frozen=True)
class Conditioning:
    """What the transformer is told of n prompts.

    tensors: (n, *) by the names of its arguments.
    """

    tensors: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its first floating tensor."""
        return next(tensor.dtype for tensor in self.tensors.values() if tensor.is_floating_point())

    def rows(self, index: Tensor) -> Self:
        """The rows `index` (m,), in that order, as often as they are named."""
        return Conditioning({name: tensor[index.to(tensor.device)] for name, tensor in self.tensors.items()})

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """On `device`, floating tensors as `dtype`; None leaves either as it is."""
        dtypes = {name: dtype if tensor.is_floating_point() else None for name, tensor in self.tensors.items()}
        return Conditioning({name: tensor.to(device, dtypes[name]) for name, tensor in self.tensors.items()})

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, in order."""
        return cls({name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors})


def computing_dtype(module: nn.Module) -> torch.dtype:
    """The dtype that a network computes in: its own, or, where it is quantised, its first tensor's that is not."""
    dtypes = (each.dtype for each in (module, *module.parameters(), *module.buffers()))
    return next((each for each in dtypes if each.is_floating_point and each.itemsize > 1), torch.float32)


def scheduler_times(pipeline: DiffusionPipeline, steps: int, shape: tuple[int, int, int]) -> Tensor:
    """t = 1 - sigma (steps + 1,), float64, as the pipeline's call sets its scheduler for latents (C, h, w)."""
    scheduler, patch = deepcopy(pipeline.scheduler), pipeline.transformer.config.patch_size
    config, options = scheduler.config, {}
    if config.get("use_dynamic_shifting"):
        length = (shape[1] // patch) * (shape[2] // patch)
        options["mu"] = calculate_shift(
            length, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
        )
    scheduler.set_timesteps(steps, **options)
    return 1 - scheduler.sigmas.double().cpu()


@dataclass(frozen=True)
class Family:
    """A family of pipelines that differ in their weights alone.

    pipeline_class: instances are of the family.
    encode_prompts: of a pipeline, a list of prompts and, where there is a `usual_length`, max_sequence_length: one row
        a prompt, by the pipeline's own `encode_prompt`.
    velocity: of transformer, x_t (B, C, h, w), sigma (B,) in [0, 1] as float32 and conditioning: v as predicted. A
        transformer that takes packed latents has them packed and unpacked here.
    usual_length: of a pipeline, the max_sequence_length of its own call, or None where its prompts have no such length.
    times: of a pipeline, a number of steps and a latent's shape (C, h, w), the grid that its own call draws on.
    lora_targets: the attention projections, by the ends of their names.
    """

    pipeline_class: type[DiffusionPipeline]
    encode_prompts: Callable[..., Conditioning]
    velocity: Callable[[nn.Module, Tensor, Tensor, Conditioning], Tensor]
    usual_length: Callable[[DiffusionPipeline], int] | None = None
    times: Callable[[DiffusionPipeline, int, tuple[int, int, int]], Tensor] = scheduler_times
    lora_targets: tuple[str, ...] = (
        "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
    )  # fmt: skip
