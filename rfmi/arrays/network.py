"""The network: what is left of the velocity field after its Gaussian part, for all folds at once.

    u(x_t, t | y) = u_base(x_t, t | y) + gain(t) r(x_t, t, y),     u(x_t, t) = u_base(x_t, t) + gain(t) r(x_t, t, null)

One network r serves both branches: the null branch sees zeros in place of y and a flag. gain(t) vanishes at t = 1, so
the boundary condition at clean data holds by construction, and r is zero before training, so the field starts as the
Gaussian one. The folds' networks are independent; their weights are stacked so that one matrix product advances all of
them. `FittedField` is one fold's field as the estimators see it.
"""

import copy
import math
from typing import Self

import torch
from torch import nn
from torch.nn import functional

from rfmi.arrays.gaussian_base import GaussianBase

TIME_FEATURES = 8


class ResidualNetwork(nn.Module):
    """`folds` networks of bilinear blocks, products of two linear maps of the normalised state; all (folds, B, *)."""

    def __init__(
        self, folds: int, dimension: int, condition_dimension: int, width: int, blocks: int, generator: torch.Generator
    ):
        super().__init__()
        features = 2 * (2 * dimension + condition_dimension) + 4

        def weight(inputs: int, outputs: int, scale: float = 1.0) -> nn.Parameter:
            return nn.Parameter(torch.randn(folds, inputs, outputs, generator=generator) * scale / math.sqrt(inputs))

        def bias(outputs: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(folds, 1, outputs))

        self.first, self.first_bias = weight(features, width), bias(width)
        self.time = weight(TIME_FEATURES, width + 2 * width * blocks, 0.5)
        self.up = nn.ParameterList(weight(width, 2 * width) for _ in range(blocks))
        self.up_bias = nn.ParameterList(bias(2 * width) for _ in range(blocks))
        self.down = nn.ParameterList(weight(width, width, 0.5 / math.sqrt(blocks)) for _ in range(blocks))
        self.last = nn.Parameter(torch.zeros(folds, width, dimension))
        self.width, self.blocks, self.condition_dimension = width, blocks, condition_dimension

    def forward(self, features: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """r (folds, B, d) from `network_inputs`."""
        from_time = torch.bmm(time, self.time)
        hidden, *shifts = from_time.split([self.width] + [2 * self.width] * self.blocks, dim=-1)
        hidden = torch.baddbmm(hidden + self.first_bias, features, self.first)
        for up, up_bias, down, shift in zip(self.up, self.up_bias, self.down, shifts, strict=True):
            left, right = torch.baddbmm(shift + up_bias, self._normalised(hidden), up).chunk(2, dim=-1)
            hidden = torch.baddbmm(hidden, left * right, down)
        return torch.bmm(self._normalised(hidden), self.last)

    def one(self, fold: int) -> Self:
        """A copy of this fold's network alone."""
        alone = copy.deepcopy(self)
        for parameter in alone.parameters():
            parameter.data = parameter.data[fold : fold + 1]
        return alone

    def _normalised(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(hidden, (self.width,))


def network_inputs(
    base: GaussianBase, x_t: torch.Tensor, t: torch.Tensor, y: torch.Tensor, conditional: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Base velocity and gain (folds, B, d), features (folds, B, F) and time features (folds, B, 8) of either branch.

    The features are x_t and the innovation x_t - t m at unit variance and y; each again times its mean square less one,
    which is where scale mixtures and norm-dependent maps show; these mean squares; and the flag of the branch.
    """
    velocity, gain, innovation = base.branch(x_t, t, y, conditional)
    parts = [x_t / (t**2 + (1 - t) ** 2).sqrt(), innovation, y * conditional]
    squares = [part.square().mean(-1, keepdim=True) - 1 for part in parts]
    squares[2] = squares[2] * conditional
    products = [part * square for part, square in zip(parts, squares, strict=True)]
    features = torch.cat([*parts, *products, *squares, conditional], -1)
    level = torch.logit(t, eps=1e-4)
    waves = [wave(level * frequency) for frequency in (0.5, 1.0, 2.0) for wave in (torch.sin, torch.cos)]
    return velocity, gain, features, torch.cat([t, level / 4, *waves], -1)


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
