"""The processes that `accelerate launch` started, on processors as on accelerators."""

from __future__ import annotations

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def process_state() -> PartialState:
    """Accelerate's view of the processes of this run. By itself it takes processes on processors for one each alone,
    unless it is told that they have no accelerator."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())


def own_device(device: torch.device | str | None) -> torch.device | str | None:
    """The device asked for; where none is and several processes run, this one's; None leaves a pipeline where it is."""
    state = process_state()
    return state.device if device is None and state.num_processes > 1 else device
