"""The network: what is left of the velocity field after its Gaussian part, for all folds at once.

    u(x_t, t | y) = u_base(x_t, t | y) + gain(t) r(x_t, t, y),     u(x_t, t) = u_base(x_t, t) + gain(t) r(x_t, t, null)

One network r serves both branches: the null branch sees zeros in place of y and a flag. gain(t) vanishes at t = 1, so
the boundary condition at clean data holds by construction, and r is zero before training, so the field starts as the
Gaussian one. The folds' networks are independent; their weights are stacked so that one matrix product advances all of
them. `FittedField` is one fold's field as the estimators see it.

Training is conditional flow matching under the weight of the estimators, the integral of t/(1-t) E ||v - u||^2, where
v = x - eps: what a field loses here on held-out pairs is what its re-noising estimate of the mutual information loses.
A share of the draws trains the null branch. The weights that come out are an exponential moving average of the
iterates.
"""

import copy
import math
from collections.abc import Iterator
from typing import Self

import torch
from torch import nn
from torch.nn import functional

from rfmi.arrays.gaussian_base import GaussianBase

TIME_FEATURES, WIDTH, BLOCKS = 8, 64, 3
DRAWS_A_STEP, NULL_SHARE = 1024, 0.3
LEARNING_RATE, WEIGHT_DECAY, AVERAGE, WARM_UP = 5e-3, 1e-4, 0.99, 50
STEPS_PREPARED_AT_ONCE = 20
LATEST = 1 - 1e-5
WAVES, MOST_WAVING = 6, 2  # per coordinate, and in how many coordinates at most


class ResidualNetwork(nn.Module):
    """`folds` networks of bilinear blocks, products of two linear maps of the normalised state; all (folds, B, *)."""

    def __init__(self, folds: int, dimension: int, condition_dimension: int, generator: torch.Generator):
        super().__init__()
        features = 2 * (2 * dimension + condition_dimension) + 4 + sum(map(_waves_of, (dimension, condition_dimension)))

        def weight(inputs: int, outputs: int, scale: float = 1.0) -> nn.Parameter:
            return nn.Parameter(torch.randn(folds, inputs, outputs, generator=generator) * scale / math.sqrt(inputs))

        def bias(outputs: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(folds, 1, outputs))

        self.first, self.first_bias = weight(features, WIDTH), bias(WIDTH)
        self.time = weight(TIME_FEATURES, WIDTH + 2 * WIDTH * BLOCKS, 0.5)
        self.up = nn.ParameterList(weight(WIDTH, 2 * WIDTH) for _ in range(BLOCKS))
        self.up_bias = nn.ParameterList(bias(2 * WIDTH) for _ in range(BLOCKS))
        self.down = nn.ParameterList(weight(WIDTH, WIDTH, 0.5 / math.sqrt(BLOCKS)) for _ in range(BLOCKS))
        self.last = nn.Parameter(torch.zeros(folds, WIDTH, dimension))
        self.condition_dimension = condition_dimension

    def forward(self, features: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """r (folds, B, d) from `network_inputs`."""
        from_time = torch.bmm(time, self.time)
        hidden, *shifts = from_time.split([WIDTH] + [2 * WIDTH] * BLOCKS, dim=-1)
        hidden = torch.baddbmm(hidden + self.first_bias, features, self.first)
        for up, up_bias, down, shift in zip(self.up, self.up_bias, self.down, shifts, strict=True):
            left, right = torch.baddbmm(shift + up_bias, functional.layer_norm(hidden, (WIDTH,)), up).chunk(2, dim=-1)
            hidden = torch.baddbmm(hidden, left * right, down)
        return torch.bmm(functional.layer_norm(hidden, (WIDTH,)), self.last)

    def one(self, fold: int) -> Self:
        """A copy of this fold's network alone."""
        alone = copy.deepcopy(self)
        for parameter in alone.parameters():
            parameter.data = parameter.data[fold : fold + 1]
        return alone


def network_inputs(
    base: GaussianBase, x_t: torch.Tensor, t: torch.Tensor, y: torch.Tensor, conditional: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Base velocity and gain (folds, B, d), features (folds, B, F) and time features (folds, B, 8) of either branch.

    The features are x_t and the innovation x_t - t m at unit variance and y; each again times its mean square less one,
    which is where scale mixtures and norm-dependent maps show; these mean squares; the flag of the branch; and waves of
    x_t and y where they have one or two coordinates, which is where periods and edges show.
    """
    velocity, gain, innovation = base.branch(x_t, t, y, conditional)
    parts = [x_t / (t**2 + (1 - t) ** 2).sqrt(), innovation, y * conditional]
    squares = [part.square().mean(-1, keepdim=True) - 1 for part in parts]
    squares[2] = squares[2] * conditional
    products = [part * square for part, square in zip(parts, squares, strict=True)]
    features = torch.cat([*parts, *products, *squares, conditional, _waves(parts[0]), _waves(y) * conditional], -1)
    level = torch.logit(t, eps=1e-4)
    waves = [wave(level * frequency) for frequency in (0.5, 1.0, 2.0) for wave in (torch.sin, torch.cos)]
    return velocity, gain, features, torch.cat([t, level / 4, *waves], -1)


def _waves(part: torch.Tensor) -> torch.Tensor:
    """cos(pi k Phi(z)) of each coordinate z, orthogonal where z is standard normal; none of many coordinates."""
    angle = torch.pi * torch.special.ndtr(part[..., : _waves_of(part.shape[-1]) // WAVES])
    return torch.cat([torch.cos(k * angle) for k in range(2, 2 + WAVES)], -1)


def _waves_of(dimension: int) -> int:
    """How many waves there are of so many coordinates."""
    return WAVES * dimension if dimension <= MOST_WAVING else 0


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


def train(
    network: ResidualNetwork,
    base: GaussianBase,
    x: torch.Tensor,
    y: torch.Tensor,
    rows: torch.Tensor,
    *,
    steps: int,
    generator: torch.Generator,
) -> Iterator[ResidualNetwork]:
    """Yields the averaged network after every step (one object, updated in place).

    network: trained in place, one a fold
    base: what the network adds to
    x, y: (folds, n, d) and (folds, n, d_y), the pairs in each fold's coordinates
    rows: (folds, m) the rows a fold may see
    steps: how many; the learning rate falls over them
    generator: of the draws
    """
    averaged = copy.deepcopy(network).requires_grad_(False)
    weights, means = list(network.parameters()), list(averaged.parameters())
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY, fused=True)
    for start in range(0, steps, STEPS_PREPARED_AT_ONCE):
        shape = (min(STEPS_PREPARED_AT_ONCE, steps - start), len(rows), max(1, DRAWS_A_STEP // len(rows)))
        prepared = _prepare(base, x, y, rows, shape, generator)
        for step, (target, gain, features, time) in enumerate(zip(*prepared, strict=True), start):
            rate = min(1, (step + 1) / WARM_UP) * (0.51 + 0.49 * math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * rate
            loss = (target - gain * network(features, time)).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(means, weights, 1 - min(AVERAGE, (step + 1) / (step + 10)))
            yield averaged


@torch.no_grad()
def _prepare(base, x, y, rows, shape, generator):
    """Weighted targets and gains, features and time features of some steps, each `shape` (steps, folds, batch, *)."""
    steps, folds, batch_size = shape
    fold, device = torch.arange(folds)[:, None], x.device
    chosen = rows[fold, torch.randint(rows.shape[1], shape, generator=generator)].to(device)
    drawn = base.times(batch_size).draw(steps * folds, generator)
    t, weight = (part.float().reshape(*shape, 1).to(device) for part in drawn)
    t = t.clamp(max=LATEST)
    conditional = (torch.rand(*shape, 1, generator=generator) >= NULL_SHARE).float().to(device)
    data, condition = x[fold.to(device), chosen], y[fold.to(device), chosen]
    eps = torch.randn(data.shape, generator=generator).to(device)
    velocity, gain, features, time = network_inputs(base, (1 - t) * eps + t * data, t, condition, conditional)
    scale = (weight * t / (1 - t)).sqrt()
    return scale * (data - eps - velocity), scale * gain, features, time
