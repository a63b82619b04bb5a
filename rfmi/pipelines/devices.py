"""Where a network computes, and in which dtype."""

import torch
from torch import nn


def check_device(device: torch.device | str) -> None:
    """Raises ValueError, saying what is there, for a device that is not."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        kind = torch.accelerator.current_accelerator()
        there = ["cpu", *(f"{kind}:{i}" for i in range(torch.accelerator.device_count()))]
        raise ValueError(f"device is {str(device)!r}, which is not here; there is {', '.join(there)}") from error


def computing_dtype(module: nn.Module) -> torch.dtype:
    """The dtype that a network computes in: its own, or, where it is quantised, its first tensor's that is not."""
    dtypes = (each.dtype for each in (module, *module.parameters(), *module.buffers()))
    return next((each for each in dtypes if each.is_floating_point and each.itemsize > 1), torch.float32)
