"""The scores by name: which quantity, at which noise levels, held against what.

Exact weights are Gauss-Legendre's times t/(1-t), so that the sum is an integral over t in nats. Over a band of noise
levels sigma = 1 - t they are t/(1-t) times the levels' distance: the part of that integral which lies in the band.
Even weights look at a few levels alike: no nats, but the network's errors at low noise, which t/(1-t) multiplies most,
do not drown what it knows at high noise.

The default ranks by information plus likelihood, i(x; y) + log p(x|y) up to a constant, over the middle of the path:
information alone prefers an image that its prompt makes likely and hardly anything else does, which a blemish helps;
likelihood alone prefers a plain image. It was fixed on training prompts of the small world; notebook 04 measures it on
others.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rfmi.times import gauss_legendre

DEFAULT_METHOD = "information_and_likelihood"
PATH_METHODS = ("path", "guided_path", "squared_path")
Form = Callable[[Tensor, Tensor, list[Tensor]], Tensor]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _error(v: Tensor, u: Tensor) -> Tensor:
    return _dot(v - u, v - u)


FORMS: dict[str, Form] = {  # f(x_t) (n,) from v, u(x_t|y) and the velocities held against, each (n, *)
    "re_noising": lambda v, u_c, others: torch.stack([_error(v, u) for u in others]).mean(0) - _error(v, u_c),
    "squared": lambda v, u_c, others: _error(u_c, others[0]),
    "inner_product": lambda v, u_c, others: _dot(u_c, u_c - others[0]),
    "residual": lambda v, u_c, others: _dot(u_c - others[0], v - others[0]),
    "conditional_loss": lambda v, u_c, others: -_error(v, u_c),
    "information_and_likelihood": lambda v, u_c, others: _error(v, others[0]) - 2 * _error(v, u_c),
}


def check_noises(noises: int) -> None:
    """Raises ValueError for a number of noises that makes no pairs and is not one."""
    if noises < 1 or (noises > 1 and noises % 2):
        raise ValueError(f"noises is {noises}; they come in pairs: take one, or an even number")


@dataclass(frozen=True)
class Method:
    """A score that needs no trajectory.

    form: one of `FORMS`, whose formulas are in `rfmi.scoring.re_noising`.
    sigmas: noise levels, or empty for the exact integral by `nodes` nodes.
    noises: draws of eps at each, one or an even number, since they come in pairs of opposite sign; from four on scores
        have a standard error.
    against: "null" (the null branch), "prompts" (others, for re_noising only) or "nothing" (for conditional_loss only).
    weights: of the levels, "even", or "exact" for evenly spaced ones.
    Raises ValueError for anything else, and for exact weights of fewer than two levels.
    """

    form: str
    sigmas: tuple[float, ...] = ()
    nodes: int = 10
    noises: int = 4
    against: str = "null"
    weights: str = "even"

    def __post_init__(self) -> None:
        if self.weights not in ("even", "exact") or (self.weights == "exact" and len(self.sigmas) == 1):
            asked = f"weights are {self.weights!r} at {len(self.sigmas)} levels"
            raise ValueError(f"{asked}; take 'even', or 'exact' at two or more")
        if self.form not in FORMS:
            raise ValueError(f"there is no form {self.form!r}; there are {', '.join(FORMS)}")
        fitting = {"re_noising": ("null", "prompts"), "conditional_loss": ("null", "nothing")}.get(self.form, ("null",))
        if self.against not in fitting:
            asked = f"{self.form} is held against {self.against!r}"
            raise ValueError(f"{asked}; it can be held against {' or '.join(fitting)}")
        if not all(0 < sigma <= 1 for sigma in self.sigmas) or self.nodes < 1:
            asked = f"sigmas are {self.sigmas} with {self.nodes} nodes"
            raise ValueError(f"{asked}; take noise levels above 0 and up to 1, or 1 node or more")
        check_noises(self.noises)

    def times_and_weights(self) -> tuple[Tensor, Tensor]:
        """t (levels,) in float64, and the weight of each."""
        if not self.sigmas:
            t, weights = gauss_legendre(self.nodes)
            return t, weights * t / (1 - t)
        t = 1 - torch.tensor(self.sigmas, dtype=torch.float64)
        if self.weights == "exact":
            return t, t / (1 - t) * (t.max() - t.min()) / (len(t) - 1)
        return t, torch.full_like(t, 1 / len(t))

    def held_against(self, others: Tensor | None) -> Tensor | str | None:
        """What `re_noising_draws` is to hold the prompt against: `others`, which are labels, where it asks for them."""
        return {"null": "null", "prompts": others, "nothing": None}[self.against]

    @property
    def evaluations(self) -> int:
        """Network evaluations a sample, one other prompt taken for each sample where prompts are held against."""
        levels = len(self.sigmas) or self.nodes
        return levels * self.noises * (1 if self.against == "nothing" else 2)


HIGH_NOISE = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
MIDDLE = (0.3, 0.4, 0.5, 0.6, 0.7)
EVEN = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)

METHODS = {
    "re_noising": Method("re_noising"),
    "squared": Method("squared"),
    "inner_product": Method("inner_product"),
    "residual": Method("residual"),
    "re_noising_even": Method("re_noising", EVEN),
    "re_noising_high_noise": Method("re_noising", HIGH_NOISE),
    "re_noising_middle": Method("re_noising", MIDDLE, noises=16, weights="exact"),
    "conditional_loss": Method("conditional_loss", EVEN, against="nothing"),
    "conditional_loss_middle": Method("conditional_loss", MIDDLE, noises=16, weights="exact", against="nothing"),
    "information_and_likelihood": Method("information_and_likelihood", MIDDLE, noises=16, weights="exact"),
    "against_prompts": Method("re_noising", HIGH_NOISE, against="prompts"),
}


def method_named(name: str | Method) -> Method:
    """The method of a name, or the one given. Raises ValueError, naming all, for another."""
    if isinstance(name, Method):
        return name
    if name in PATH_METHODS:
        raise ValueError(f"{name!r} scores a trajectory and no finished image; `rfmi.select` has it, or take another")
    if name not in METHODS:
        raise ValueError(f"there is no score {name!r}; there are {', '.join([*METHODS, *PATH_METHODS])}")
    return METHODS[name]
