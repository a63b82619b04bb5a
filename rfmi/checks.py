"""What arguments must be, and how messages show what they are."""

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

MOST_SHOWN = 60  # letters of a value in a message


def shown(value: Any) -> str:
    """A value in a message, on one line: of a long one the beginning and the end, of anything but text and numbers its
    kind."""
    value = value.item() if isinstance(value, np.generic) else value
    text = repr(value) if value is None or isinstance(value, str | int | float) else f"a {type(value).__name__}"
    half = MOST_SHOWN // 2
    return text if len(text) <= MOST_SHOWN else f"{text[:half]} ... {text[-half:]}"


def whole_number(name: str, value: int, least: int, most: float = math.inf) -> int:
    """The value as a plain int; ValueError, by its name, for one that is no whole number or out of range."""
    whole = isinstance(value, Integral) and not isinstance(value, bool | np.timedelta64)
    if not whole or not least <= value <= most:
        wanted = f"of {least} or more" if most == math.inf else f"from {least} to {most}"
        raise ValueError(f"{name} is {shown(value)}; give a whole number {wanted}")
    return int(value)


def check_guidance(scale: float) -> None:
    """Raises ValueError for a guidance scale that is no finite number of 0 or more."""
    if not isinstance(scale, Real) or not 0 <= scale < math.inf:
        raise ValueError(f"guidance is {shown(scale)}; give a number of 0 or more, 1 for none")


def check_device(device: torch.device | str) -> torch.device:
    """The device, if this machine has it and numbers can be read from it; ValueError, saying what is there, if not."""
    try:
        there = torch.zeros(1, device=torch.device(device))
        there.item()
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        kind = torch.accelerator.current_accelerator()
        known = ["cpu", *(f"{kind}:{i}" for i in range(torch.accelerator.device_count()))]
        raise ValueError(f"device is {shown(str(device))}, which is not here; there is {', '.join(known)}") from error
    return there.device
