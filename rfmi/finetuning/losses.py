"""The two losses of a fine-tuning, in diffusers' sign: v = eps - x, x_sigma = (1 - sigma) x + sigma eps.

With v the tuned model's prediction, v0 that of the model which training starts from (the base model, or in a second
round the first one's) and a the image's advantage:

    flow matching    mean over images and elements of (v - (eps - x))^2
    advantage        mean over images and elements of (v - v0 - a (eps - x - v0))^2

The advantage's loss learns from all images of a prompt, those below its mean with the sign turned. Its minimum is v0 +
E[a (eps - x - v0) | x_sigma, y]: the base model moved towards images above the mean and away from those below. Since a
prompt's advantages add up to 0, what all of the model's own images share, blemishes included, is not learned; flow
matching on the best images learns it. It is DiffusionNFT's loss (arXiv 2509.16117) at beta = 1, r = (1 + a) / 2, up to
a constant, with advantages of any size.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from rfmi.fields import interpolate
from rfmi.finetuning.pairs import Batch

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]


def flow_losses(v: Tensor, batch: Batch) -> Tensor:
    """(B,) of the tuned model's v (B, C, h, w)."""
    return (v - (batch.noise - batch.x)).square().mean((1, 2, 3))


def advantage_losses(v: Tensor, v_base: Tensor, batch: Batch) -> Tensor:
    """(B,) of the tuned and the base model's v (B, C, h, w)."""
    advantage = batch.advantages[:, None, None, None]
    return (v - v_base - advantage * (batch.noise - batch.x - v_base)).square().mean((1, 2, 3))


def batch_loss(tuned: Velocity, base: Velocity, batch: Batch) -> Tensor:
    """The loss of a batch, from one forward pass of the tuned model and at most one of the base model.

    tuned, base: v (B, C, h, w), float32, of x_sigma, sigma (B,) and rows of the conditioning (B,).
    """
    x_sigma = interpolate(batch.noise, batch.x, batch.sigma)  # (1 - sigma) x + sigma eps
    v = tuned(x_sigma, batch.sigma, batch.rows)
    if batch.advantages is None:
        return flow_losses(v, batch).mean()
    with torch.no_grad():
        v_base = base(x_sigma, batch.sigma, batch.rows)
    return advantage_losses(v, v_base, batch).mean()
