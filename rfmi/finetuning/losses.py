"""The losses of a fine-tuning, in diffusers' sign: v = eps - x, x_sigma = (1 - sigma) x + sigma eps.

With e(v) = mean over elements of (v - (eps - x))^2, v the tuned model's prediction, v0 that of the model which training
starts from (the base model, or in a second round the first one's), weights w:

    flow matching    mean of w e(v)
    preference       mean of -w log sigmoid(-beta/2 [(e(v) - e(v0)) of the chosen - (e(v) - e(v0)) of the rejected])
    advantage        mean over pairs and elements of (v - v0 - a (eps - x - v0))^2, a the advantage in place of w
    null branch      mean over pairs and elements of (v(x_sigma, null) - v0(x_sigma, null))^2

The preference loss is Diffusion-DPO (arXiv 2311.12908) with the flow's errors in place of the noise's: both images of
a pair have the same noise at the same level. Where tuned and base model agree it is log 2.

The advantage's loss learns from all images of a prompt, those below its mean with the sign turned. Its minimum is v0 +
E[a (eps - x - v0) | x_sigma, y]: the base model moved towards images above the mean and away from those below. Since a
prompt's advantages add up to 0, what all of the model's own images share, blemishes included, is not learned; flow
matching with weights 1 + a learns it. It is DiffusionNFT's loss (arXiv 2509.16117) at beta = 1, r = (1 + a) / 2, up to
a constant, with advantages of any size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from rfmi.finetuning.pairs import Batch
from rfmi.finetuning.settings import FinetuningSettings

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]


def noised(x: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """x_sigma (B, C, h, w) of x and noise (B, C, h, w) and sigma (B,)."""
    sigma = sigma[:, None, None, None]
    return (1 - sigma) * x + sigma * noise


def flow_errors(v: Tensor, x: Tensor, noise: Tensor) -> Tensor:
    """e(v) (B,)."""
    return (v - (noise - x)).square().mean((1, 2, 3))


def preference_losses(chosen: tuple[Tensor, Tensor], rejected: tuple[Tensor, Tensor], beta: float) -> Tensor:
    """(B,) of (e(v), e(v0)), each (B,), of the chosen and of the rejected images."""
    gain = (chosen[0] - chosen[1]) - (rejected[0] - rejected[1])
    return -functional.logsigmoid(-0.5 * beta * gain)


def advantage_losses(v: Tensor, v_base: Tensor, batch: Batch) -> Tensor:
    """(B,) of the tuned and the base model's v (B, C, h, w), the batch's weights being advantages."""
    advantage = batch.weights[:, None, None, None]
    return (v - v_base - advantage * (batch.noise - batch.x - v_base)).square().mean((1, 2, 3))


def batch_loss(tuned: Velocity, base: Velocity, batch: Batch, settings: FinetuningSettings, null_row: int) -> Tensor:
    """The loss of a batch, from one forward pass of the tuned model and at most one of the base model.

    tuned, base: v (B, C, h, w), float32, of x_sigma, sigma (B,) and rows of the conditioning (B,). null_row: the null
    prompt's.
    """
    x_t = noised(batch.x, batch.noise, batch.sigma)
    asked = [(x_t, batch.rows)]
    if batch.rejected is not None:
        asked.append((noised(batch.rejected, batch.noise, batch.sigma), batch.rows))
    if settings.hold_null > 0:
        asked.append((x_t, torch.full_like(batch.rows, null_row)))
    v = _ask(tuned, asked, batch.sigma)
    of_base = asked[1:] if settings.loss == "flow-matching" else asked
    with torch.no_grad():
        v_base = _ask(base, of_base, batch.sigma) if of_base else []
    if settings.loss == "advantage":
        loss = advantage_losses(v[0], v_base[0], batch).mean()
    elif settings.loss == "flow-matching":
        loss = (batch.weights * flow_errors(v[0], batch.x, batch.noise)).mean()
    else:
        chosen, other = (
            tuple(flow_errors(of[i], x, batch.noise) for of in (v, v_base))
            for i, x in enumerate((batch.x, batch.rejected))
        )
        loss = (batch.weights * preference_losses(chosen, other, settings.beta)).mean()
    if settings.hold_null > 0:
        loss = loss + settings.hold_null * (v[-1] - v_base[-1]).square().mean()
    return loss


def _ask(velocity: Velocity, asked: list[tuple[Tensor, Tensor]], sigma: Tensor) -> tuple[Tensor, ...]:
    """v at every (x_sigma, rows), from one forward pass."""
    x_t, rows = (torch.cat(parts) for parts in zip(*asked, strict=True))
    return velocity(x_t, sigma.repeat(len(asked)), rows).chunk(len(asked))
