"""As many rows at once as memory holds."""

from collections.abc import Callable
from typing import Any

from accelerate.utils.memory import clear_device_cache

COMPLAINTS = ("out of memory", "can't allocate memory", "not enough memory")  # of accelerators, Linux and Windows


class MicroBatches:
    """Calls a function on parts of n rows: at most `size` at once, None for all; halved for good where memory
    runs out."""

    def __init__(self, size: int | None) -> None:
        if size is not None and size < 1:
            raise ValueError(f"a micro-batch of {size} rows was asked for; give at least 1, or None for all at once")
        self.size = size

    def __call__(self, function: Callable[[slice], Any], n: int) -> list:
        """function(part) for consecutive slices of range(n), in order; MemoryError where one row does not fit."""
        parts, start = [], 0
        while start < n:
            part = slice(start, min(n, start + (self.size or n)))
            try:
                parts.append(function(part))
                start = part.stop
                continue
            except RuntimeError as error:
                if not any(complaint in str(error) for complaint in COMPLAINTS):
                    raise
                if part.stop - start == 1:
                    advice = "take smaller images, a smaller dtype or a larger device"
                    raise MemoryError(f"memory runs out at a single row; {advice}") from error
            self.size = (part.stop - start) // 2  # outside of the handler, which holds on to what did not fit
            clear_device_cache(garbage_collection=True)
        return parts
