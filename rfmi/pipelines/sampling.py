"""Images from a field: Euler's rule from x_0 ~ N(0, I) at t = 0 to t = 1, along the guided velocity, as diffusers' own
calls do; or any part of that way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rfmi.fields import VelocityField
from rfmi.sampling import sampling_steps


@torch.no_grad()
def sample(
    field: VelocityField,
    noise: Tensor,
    labels: Tensor,
    *,
    times: Tensor,
    guidance: float = 1.0,
    batch: int | None = None,
) -> Tensor:
    """Latents (n, C, h, w) at the last of `times`.

    noise: x_t (n, C, h, w) at the first of `times`, which is x_0 at 0; labels: (n,) prompts; times: increasing grid
    (S + 1,), as `PipelineField.times` gives it, or a part of that;
    guidance: 1 for none, at n evaluations a step in place of 2 n; batch: most images at once, None for all. Raises
    ValueError for labels that are None, which is no prompt, and for a grid that does not rise.
    """
    if labels is None:
        raise ValueError("labels are None, the null prompt; give the number of a prompt for every image")
    field = _WithoutNull(field) if guidance == 1 else field
    parts = []
    for rows in torch.arange(len(noise)).split(batch or len(noise)):
        for step in sampling_steps(field, noise[rows], labels[rows], times=times, guidance=guidance):
            latents = step.following
        parts.append(latents)
    return torch.cat(parts)


class _WithoutNull:
    """A field whose null branch is not asked for, since guidance 1 multiplies it by 0."""

    def __init__(self, field: VelocityField) -> None:
        self.field = field

    def both(self, x_t: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        u = self.field(x_t, t, labels)
        return u, u
