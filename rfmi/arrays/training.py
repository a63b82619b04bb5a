"""Conditional flow matching for all folds at once, as a generator: the caller loops.

The loss is the flow-matching loss under the weight of the estimators, the integral of t/(1-t) E ||v - u||^2, where
v = x - eps: what a field loses here on held-out pairs is what its re-noising estimate of the mutual information loses.
A share of the draws trains the null branch. The weights that come out are an exponential moving average of the
iterates.
"""

import copy
import math
from collections.abc import Iterator

import torch

from rfmi.arrays.gaussian_base import GaussianBase
from rfmi.arrays.network import ResidualNetwork, network_inputs

STEPS_PREPARED_AT_ONCE = 20
LATEST = 1 - 1e-5
WEIGHT_DECAY, AVERAGE, WARM_UP = 1e-4, 0.99, 50


def train(
    network: ResidualNetwork,
    base: GaussianBase,
    x: torch.Tensor,
    y: torch.Tensor,
    rows: torch.Tensor,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    null_share: float,
    generator: torch.Generator,
) -> Iterator[ResidualNetwork]:
    """Yields the averaged network after every step (one object, updated in place).

    network: trained in place, one a fold
    base: what the network adds to
    x, y: (folds, n, d) and (folds, n, d_y), the pairs in each fold's coordinates
    rows: (folds, m) the rows a fold may see
    steps, batch_size: how long, and draws per step and fold
    learning_rate: at its highest, after a warm-up
    null_share: share of draws that train the null branch
    generator: of the draws
    """
    averaged = copy.deepcopy(network).requires_grad_(False)
    weights, means = list(network.parameters()), list(averaged.parameters())
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY, fused=True)
    for start in range(0, steps, STEPS_PREPARED_AT_ONCE):
        shape = (min(STEPS_PREPARED_AT_ONCE, steps - start), len(rows), batch_size)
        prepared = _prepare(base, x, y, rows, shape, null_share, generator)
        for step, (target, gain, features, time) in enumerate(zip(*prepared, strict=True), start):
            rate = min(1, (step + 1) / WARM_UP) * (0.51 + 0.49 * math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * rate
            loss = (target - gain * network(features, time)).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(means, weights, 1 - min(AVERAGE, (step + 1) / (step + 10)))
            yield averaged


@torch.no_grad()
def _prepare(base, x, y, rows, shape, null_share, generator):
    """Weighted targets and gains, features and time features of some steps, each `shape` (steps, folds, batch, *)."""
    steps, folds, batch_size = shape
    fold, device = torch.arange(folds)[:, None], x.device
    chosen = rows[fold, torch.randint(rows.shape[1], shape, generator=generator)].to(device)
    drawn = base.times(batch_size).draw(steps * folds, generator)
    t, weight = (part.float().reshape(*shape, 1).to(device) for part in drawn)
    t = t.clamp(max=LATEST)
    conditional = (torch.rand(*shape, 1, generator=generator) >= null_share).float().to(device)
    data, condition = x[fold.to(device), chosen], y[fold.to(device), chosen]
    eps = torch.randn(data.shape, generator=generator).to(device)
    velocity, gain, features, time = network_inputs(base, (1 - t) * eps + t * data, t, condition, conditional)
    scale = (weight * t / (1 - t)).sqrt()
    return scale * (data - eps - velocity), scale * gain, features, time
