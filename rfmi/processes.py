"""The processes that `accelerate launch` started, on processors as on accelerators."""

from __future__ import annotations

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def process_state() -> PartialState:
    """Accelerate's view of the processes of this run. By itself it takes processes on processors for one each alone,
    unless it is told that they have no accelerator."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available())
