"""The scores by name: which quantity, at which noise levels, held against what.

Exact weights are Gauss-Legendre's times t/(1-t), so that the sum is an integral over t in nats. Even weights look at a
few noise levels sigma = 1 - t alike: no nats, but the network's errors at low noise, which t/(1-t) multiplies most, do
not drown what it knows at high noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rfmi.times import gauss_legendre

DEFAULT_METHOD = "re_noising_high_noise"
PATH_METHODS = ("path", "guided_path", "squared_path")


@dataclass(frozen=True)
class Method:
    """A score that needs no trajectory.

    form: a quantity of `rfmi.scoring.re_noising`; sigmas: the noise levels looked at alike, or empty for the exact
    integral by `nodes` nodes; noises: draws of eps at each; against: "null" (the null branch), "prompts" (other
    prompts) or "nothing".
    """

    form: str
    sigmas: tuple[float, ...] = ()
    nodes: int = 10
    noises: int = 2
    against: str = "null"

    def times_and_weights(self) -> tuple[Tensor, Tensor]:
        """t (levels,) in float64, and the weight of each."""
        if not self.sigmas:
            t, weights = gauss_legendre(self.nodes)
            return t, weights * t / (1 - t)
        t = 1 - torch.tensor(self.sigmas, dtype=torch.float64)
        return t, torch.full_like(t, 1 / len(t))

    @property
    def evaluations(self) -> int:
        """Network evaluations a sample, one other prompt taken for each sample where prompts are held against."""
        levels = len(self.sigmas) or self.nodes
        return levels * self.noises * (1 if self.against == "nothing" else 2)


HIGH_NOISE = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
EVEN = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)

METHODS = {
    "re_noising": Method("re_noising"),
    "squared": Method("squared"),
    "inner_product": Method("inner_product"),
    "residual": Method("residual"),
    "re_noising_even": Method("re_noising", EVEN),
    "re_noising_high_noise": Method("re_noising", HIGH_NOISE, noises=3),
    "conditional_loss": Method("conditional_loss", EVEN, against="nothing"),
    "conditional_loss_high_noise": Method("conditional_loss", HIGH_NOISE, noises=3, against="nothing"),
    "against_prompts": Method("re_noising", HIGH_NOISE, noises=3, against="prompts"),
}


def method_named(name: str) -> Method:
    """The method of a name. Raises ValueError, naming all, for another; path scores need a trajectory."""
    if name in PATH_METHODS:
        raise ValueError(f"{name!r} scores a trajectory and no finished image; `rfmi.select` has it, or take another")
    if name not in METHODS:
        raise ValueError(f"there is no score {name!r}; there are {', '.join([*METHODS, *PATH_METHODS])}")
    return METHODS[name]
