"""One fold's fitted velocity field, as the estimators see it: Gaussian base plus network, or the base alone."""

import torch

from rfmi.arrays.gaussian_base import GaussianBase
from rfmi.arrays.network import ResidualNetwork, network_inputs


class FittedField:
    """A `VelocityField` in one fold's canonical coordinates; without a network, the Gaussian base alone."""

    def __init__(self, base: GaussianBase, network: ResidualNetwork | None, fold: int):
        self.base = base.one(fold)
        self.network = None if network is None else network.one(fold)
        self.condition_dimension = 1 if network is None else network.condition_dimension

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """u (B, d) at x_t (B, d), t (B,), given y (B, d_y) or None for the null condition."""
        if condition is None:
            return self.both(x_t, t, x_t.new_zeros(len(x_t), self.condition_dimension))[1]
        return self.both(x_t, t, condition)[0]

    @torch.no_grad()
    def both(self, x_t: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The conditional and the unconditional velocity, each (B, d), from one forward."""
        flag = torch.cat([torch.ones_like(t), torch.zeros_like(t)])[None, :, None]
        twice = [torch.cat([part, part])[None] for part in (x_t, t[:, None], condition)]
        velocity, gain, features, time = network_inputs(self.base, *twice, flag)
        if self.network is not None:
            velocity = velocity + gain * self.network(features, time)
        return velocity[0].chunk(2)
