"""Whether two transformers are the same up to the rounding of their weights, as those of one model in two dtypes."""

import math

import torch
from accelerate.utils import align_module_device
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from rfmi.files import short_hash

SUMS = 8
ROUNDING = 0.005  # of the norm: rounding to bfloat16 moves a sum by 0.001, other weights by 1


@torch.no_grad()
def sketch_of(transformer: nn.Module) -> str:
    """A hash of its configuration, the logarithm of the norm of all matrices, and sums over every eighth of them in
    units of that norm. transformer: on any device, compiled or offloaded."""
    network = getattr(transformer, "_orig_mod", transformer)
    config = {name: value for name, value in network.config.items() if not name.startswith("_")}
    sums, squares, n = [0.0] * SUMS, 0.0, 0
    for part in network.modules():
        with align_module_device(part):
            for value in part._parameters.values():
                if value is not None and value.ndim > 1 and not is_traceable_wrapper_subclass(value):
                    exact = value.double()
                    sums[n % SUMS] += exact.sum().item()
                    squares += exact.norm().item() ** 2
                    n += 1
    norm = math.sqrt(squares) or 1.0
    numbers = [math.log(norm), *(total / norm for total in sums)]
    rounded = [str(round(number, 5) + 0.0) for number in numbers]
    return " ".join([short_hash([type(network).__name__, config]), *rounded])


def are_twins(one: str, other: str) -> bool:
    """Whether two sketches are of one configuration, and of weights that differ by no more than rounding."""
    (config, *numbers), (other_config, *others) = one.split(), other.split()
    close = (abs(float(a) - float(b)) <= ROUNDING for a, b in zip(numbers, others, strict=True))
    return config == other_config and all(close)
