"""The one interface: a velocity field u(x_t, t, condition or null).

Time runs from noise to data: t in [0, 1], x_t = (1 - t) eps + t x with eps ~ N(0, I) and x ~ data.

    u(x_t, t | y) = E[x - eps | x_t, y]        conditional velocity
    u(x_t, t)     = E[x - eps | x_t]           unconditional velocity (the null condition)
    Delta         = u(. | y) - u(.)
    score         grad log p_t(x_t) = (t u - x_t) / (1 - t)
    denoiser      E[x | x_t] = x_t + (1 - t) u
    guidance      u_g = u(.) + g Delta

Stable Diffusion 3 writes sigma = 1 - t and predicts v = eps - x = -u. A closed form, a small network and a
text-to-image pipeline are all velocity fields; whatever stands above this interface knows no more of them than this.
"""

from typing import Protocol

import torch


class VelocityField(Protocol):
    """Anything called as `field(x_t, t, condition)`.

    A field may also offer `both(x_t, t, condition)`, returning the conditional and the unconditional velocity from one
    batched forward pass; `both_branches` uses it where it is there.
    """

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """The velocity, with the shape of x_t.

        x_t: (B, *) noisy sample
        t: (B,) times in [0, 1]
        condition: (B, d_y) rows or (B,) labels, None for the null condition
        """
        ...


def expand_time(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """t (B,) with the dtype of x (B, *), and trailing axes of length 1, so that the two broadcast."""
    if t.ndim != 1 or x.ndim < 2 or len(t) != len(x):
        raise ValueError(f"t is {tuple(t.shape)} and x {tuple(x.shape)}; give t (B,), one time per row of x (B, d, *)")
    return t.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def interpolate(x: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """x_t = (1 - t) eps + t x, with x and eps (B, *) and t (B,), or one time () for all."""
    time = t if t.ndim == 0 else expand_time(t, x)
    return (1 - time) * eps + time * x


def both_branches(
    field: VelocityField, x_t: torch.Tensor, t: torch.Tensor, condition: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(u(x_t, t | condition), u(x_t, t)), each (B, *). Raises ValueError where the condition is None."""
    if condition is None:
        raise ValueError("condition is None, which is the null branch itself; give one condition per row of x_t")
    if hasattr(field, "both"):
        return field.both(x_t, t, condition)
    return field(x_t, t, condition), field(x_t, t, None)


def guided(u_conditional: torch.Tensor, u_unconditional: torch.Tensor, scale: float) -> torch.Tensor:
    """Classifier-free guidance, u(.) + scale (u(.|y) - u(.)): the conditional field for 1, the null for 0."""
    if scale == 1:
        return u_conditional
    return u_unconditional + scale * (u_conditional - u_unconditional)
