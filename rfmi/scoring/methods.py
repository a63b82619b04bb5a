"""The scores by name: which quantity, at which noise levels, held against what.

With S(.) = -log p(x|.), up to a constant, a score is, of an image x and its prompt y,

    log p(x|y) - log mean_k p(x|y_k) + lambda log p(x|y)  =  -log mean_k exp(-S(y_k)) - (1 + lambda) S(y)

where the y_k are what the prompt is held against: nothing at all (the null branch), other prompts, or both. Against the
null it is information; against prompts that differ in one thing it asks about that thing, and the one that fits best
counts, since the mean of likelihoods is close to their largest. With nothing to be held against, lambda log p(x|y) is
left. Whoever draws with guidance draws from another model than p(x|y), and lambda log p(x|y) may be that one's: the
error of the guided field u(.) + g (u(.|y) - u(.)) takes the place of the prompt's. It asks the network for nothing more
than information does, and is likelihood for g = 1.

Exact weights are Gauss-Legendre's times t/(1-t), so that S is an integral over t in nats. Over a band of noise levels
sigma = 1 - t they are t/(1-t) times the levels' distance: the part of that integral which lies in the band. Even
weights look at a few levels alike: no nats, but the network's errors at low noise, which t/(1-t) multiplies most, do
not drown what it knows at high noise.

The default is the likelihood of a guided field over the middle of the path: `rfmi.choose_score` proposed it on training
prompts of the small world, drawn with guidance; notebook 04 measures it on others. Information alone prefers an image
that its prompt makes likely and hardly anything else does, which a blemish helps; likelihood alone prefers a plain one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rfmi.times import gauss_legendre

DEFAULT_METHOD = "guided_likelihood"
PASSING_QUANTILE = 0.75  # of a prompt's scores: what its good images reach
PATH_METHODS = ("path", "guided_path", "squared_path", "accumulated_difference")


def check_noises(noises: int) -> None:
    """Raises ValueError for a number of noises that makes no pairs and is not one."""
    if noises < 1 or (noises > 1 and noises % 2):
        raise ValueError(f"noises is {noises}; they come in pairs: take one, or an even number")


@dataclass(frozen=True)
class Method:
    """A score that needs no trajectory; the formula is at the top of this module.

    null: whether the prompt is held against the null branch.
    prompts: against how many other prompts it is held.
    likelihood: lambda, how much log p(x|y) weighs beside.
    sigmas: noise levels, or empty for the exact integral.
    nodes: of the integral's quadrature.
    noises: draws of eps at each, one or an even number, since they come in pairs of opposite sign; from four on scores
        have a standard error.
    weights: of the levels, "even", or "exact" for evenly spaced ones.
    guidance: g of the field whose likelihood is taken, 1 for the prompt's own.
    Raises ValueError for anything else, for exact weights of fewer than two levels, and for a score of nothing.
    """

    null: bool = True
    prompts: int = 0
    likelihood: float = 0.0
    sigmas: tuple[float, ...] = ()
    nodes: int = 10
    noises: int = 4
    weights: str = "even"
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.weights not in ("even", "exact") or (self.weights == "exact" and len(self.sigmas) == 1):
            asked = f"weights are {self.weights!r} at {len(self.sigmas)} levels"
            raise ValueError(f"{asked}; take 'even', or 'exact' at two or more")
        if not isinstance(self.prompts, int) or self.prompts < 0 or not 0 <= self.likelihood < float("inf"):
            asked = f"prompts is {self.prompts!r} and likelihood {self.likelihood!r}"
            raise ValueError(f"{asked}; take a whole number, and a number, of 0 or more")
        if not 0 < self.guidance < float("inf") or (self.guidance != 1 and not self.likelihood):
            asked = f"guidance is {self.guidance!r} and likelihood {self.likelihood!r}"
            raise ValueError(f"{asked}; take a guidance above 0, and a likelihood above 0 where it is not 1")
        if not (self.null or self.prompts or self.likelihood):
            raise ValueError("a prompt is held against nothing, and its likelihood weighs 0; ask for one of them")
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

    def branches(self, labels: Tensor, others: Tensor | None) -> list[Tensor | None]:
        """The conditions whose errors are asked for, the prompt's own first and the null branch, None, second, where it
        is held against it or the likelihood is a guided field's; labels (n,).

        others: (n, prompts) labels of other prompts. Raises ValueError where they are asked for and not given, or the
        reverse, or are of another number.
        """
        given = 0 if others is None else others.shape[1]
        if given != self.prompts:
            raise ValueError(f"the method holds a prompt against {self.prompts} others and {given} were given")
        return [labels, *([None] if self.asks_null else []), *([] if others is None else others.unbind(1))]

    @property
    def asks_null(self) -> bool:
        """Whether the null branch is asked for."""
        return self.null or self.guidance != 1

    @property
    def evaluations(self) -> int:
        """Network evaluations a sample."""
        return (len(self.sigmas) or self.nodes) * self.noises * (1 + self.asks_null + self.prompts)


HIGH_NOISE = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
MIDDLE = (0.3, 0.4, 0.5, 0.6, 0.7)
DECIDED = (0.4, 0.5, 0.6, 0.7, 0.8)
EVEN = (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)
_MIDDLE = {"sigmas": MIDDLE, "noises": 16, "weights": "exact"}

METHODS = {
    "re_noising": Method(),
    "re_noising_even": Method(sigmas=EVEN),
    "re_noising_high_noise": Method(sigmas=HIGH_NOISE),
    "re_noising_middle": Method(**_MIDDLE),
    "conditional_loss": Method(null=False, likelihood=1.0, sigmas=EVEN),
    "conditional_loss_middle": Method(null=False, likelihood=1.0, **_MIDDLE),
    "information_and_likelihood": Method(likelihood=1.0, **_MIDDLE),
    "guided_likelihood": Method(null=False, likelihood=1.0, guidance=1.5, **_MIDDLE | {"sigmas": DECIDED}),
    "against_prompts": Method(null=False, prompts=2, **_MIDDLE),
}


def method_named(name: str | Method) -> Method:
    """The method of a name.

    name: of `METHODS`, or a method, which is returned. Raises ValueError, naming all, for another.
    """
    if isinstance(name, Method):
        return name
    if name in PATH_METHODS:
        raise ValueError(f"{name!r} scores a trajectory and no finished image; `rfmi.select` has it, or take another")
    if name not in METHODS:
        raise ValueError(f"there is no score {name!r}; there are {', '.join([*METHODS, *PATH_METHODS])}")
    return METHODS[name]
