"""What a fine-tuning is asked for. The defaults are the recipe of notebook 05; `PAPER` has the published values, and
`FULL_SIZE` is the recipe for Stable Diffusion 3.5 Medium on one GPU of 80 GiB.

The learning rate rises over `warmup` steps and stays. Noise levels are logit-normal, logit(sigma) ~ N(mean,
deviation^2) with sigma = 1 - t. Diffusers' own script draws them likewise and then shifts them by its scheduler, s
sigma / (1 + (s - 1) sigma), which is a mean larger by log s.
"""

import math
from dataclasses import dataclass

from rfmi.checks import whole_number

CHOICES = {"weighting": ("verdict", "advantage", "top"), "mixed_precision": ("no", "bf16", "fp16")}
COUNTS = ("steps", "batch", "gradient_accumulation", "rank", "alpha", "checkpoint_steps", "validation_every")
POSITIVE = ("learning_rate", "largest_gradient_norm", "temperature", "failing", "largest_deviation")
NOT_NEGATIVE = ("warmup", "weight_decay", "checkpoint_seconds")
OPTIONAL, SWITCHES = ("alpha", "checkpoint_steps"), ("dora", "gradient_checkpointing")


@dataclass(frozen=True)
class FinetuningSettings:
    """A fine-tuning.

    steps: of the optimiser (AdamW).
    batch: images that go through the network at once, over all processes; fewer, for good, where memory runs out.
    gradient_accumulation: batches that one step takes.
    gradient_checkpointing: keep no more than each layer's inputs for the backward pass, and compute the rest again.
    learning_rate, warmup, weight_decay, largest_gradient_norm: of the optimiser.
    rank, alpha: of the adapter, which is scaled by alpha / rank; alpha None for a scale of 1.
    dora: weights split into direction and magnitude (arXiv 2402.09353).
    targets: ends of the names of the layers that are adapted, None for the family's attention projections.
    noise_level: mean and deviation of logit(sigma).
    weighting: `advantage`: advantages are made of the scores themselves. `verdict`: of 1 and 0, an image failing whose
        score is more than `failing` deviations below the upper quartile of its prompt's. `top`: all images alike, by
        flow matching, as published.
    temperature: advantages are deviations from the prompt's mean over this.
    failing: of `verdict`, in deviations within prompts.
    largest_deviation: advantages are cut there, in deviations within prompts, and centred again; scores have long
        tails, and a few blemished images would be most of the gradient.
    averaging: what the moving average of the weights keeps of itself a step, 0 for none.
    mixed_precision: `no`, `bf16` or `fp16`, of the computation; the adapter is float32 in any case.
    checkpoint_seconds, checkpoint_steps: how often to write; the second, if given, in place of the first.
    validation_every: steps from one look at the held-out loss to the next.
    seed: of the adapter, the batches and their noise.
    Raises ValueError for values that make no sense.
    """

    steps: int = 300
    batch: int = 64
    gradient_accumulation: int = 1
    gradient_checkpointing: bool = False
    learning_rate: float = 1e-3
    warmup: int = 20
    weight_decay: float = 1e-4
    largest_gradient_norm: float = 1.0
    rank: int = 16
    alpha: int | None = None
    dora: bool = False
    targets: tuple[str, ...] | None = None
    noise_level: tuple[float, float] = (0.0, 0.5)
    weighting: str = "advantage"
    temperature: float = 0.3
    failing: float = 1.2
    largest_deviation: float = 1.0
    averaging: float = 0.99
    mixed_precision: str = "no"
    checkpoint_seconds: float = 120.0
    checkpoint_steps: int | None = None
    validation_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name in COUNTS and not (value is None and name in OPTIONAL):
                whole_number(name, value, 1)
            if name in POSITIVE and not (_is_number(value) and 0 < value < math.inf):
                raise ValueError(f"{name} is {value}; give a number above 0")
            if name in NOT_NEGATIVE and not (_is_number(value) and value >= 0):
                raise ValueError(f"{name} is {value}; give 0 or more")
            if name in SWITCHES and not isinstance(value, bool):
                raise ValueError(f"{name} is {value!r}; give True or False")
            if name in CHOICES and value not in CHOICES[name]:
                raise ValueError(f"{name} is {value!r}; choose from {', '.join(CHOICES[name])}")
        if not (_is_number(self.averaging) and 0 <= self.averaging < 1):
            raise ValueError(f"averaging is {self.averaging}; give a share from 0 to below 1")
        whole_number("seed", self.seed, 0)
        levels = self.noise_level if isinstance(self.noise_level, tuple | list) else ()
        finite = all(_is_number(level) and abs(level) < math.inf for level in levels)
        if len(levels) != 2 or not finite or levels[1] <= 0:
            raise ValueError(f"noise_level is {self.noise_level}; give a mean and a deviation above 0")
        if isinstance(self.targets, str) or (self.targets is not None and not self.targets):
            raise ValueError(f"targets is {self.targets!r}; give a tuple of ends of layers' names, or None")

    @property
    def signed(self) -> bool:
        """Whether images weigh by advantages, which have a sign and a loss of their own."""
        return self.weighting != "top"

    @property
    def images_a_step(self) -> int:
        """Images that one step of the optimiser takes."""
        return self.batch * self.gradient_accumulation

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0, as a share of the highest."""
        return min(1.0, (step + 1) / max(1, self.warmup))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# RFMI, arXiv 2503.14358, and its code: on the best of 50 candidates, keep=1
_LOOP = {"steps": 2000, "batch": 240, "learning_rate": 5e-6, "warmup": 400, "largest_gradient_norm": 5e-3}
PAPER = FinetuningSettings(**_LOOP, rank=32, alpha=32, noise_level=(0.0, 1.0), weighting="top")
# 64 images of 1024 pixels a step: 11 GiB in all, of which each of the 8 images at once takes 0.77
FULL_SIZE = FinetuningSettings(
    batch=8, gradient_accumulation=8, gradient_checkpointing=True, mixed_precision="bf16", rank=32, alpha=32
)
