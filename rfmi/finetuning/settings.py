"""What a fine-tuning is asked for; presets: `paper` has the published values, `small` is flow matching at the size of
the small world's model; `advantage` and `verdict` learn from a selection that keeps every candidate, by what it scores
and by whether it fails, which moves images less in ways that no prompt asked for.

The learning rate rises over `warmup` steps and stays. Noise levels are logit-normal, logit(sigma) ~ N(mean,
deviation^2) with sigma = 1 - t. Diffusers' own script draws them likewise and then shifts them by its scheduler, s
sigma / (1 + (s - 1) sigma), which is a mean larger by log s.
"""

from __future__ import annotations

from dataclasses import dataclass

WEIGHTINGS = ("top", "information", "information_within_prompt", "advantage", "verdict")
PREFERENCES = ("none", "dpo")
PRECISIONS = ("no", "bf16", "fp16")
COUNTS = ("steps", "batch", "gradient_accumulation", "rank", "alpha", "checkpoint_steps", "validation_every")


@dataclass(frozen=True)
class FinetuningSettings:
    """A fine-tuning; the defaults are those of the preset `small`.

    batch: pairs that go through the network at once, over all processes; a step takes `gradient_accumulation` of them.
    rank, alpha: of the adapter, which is scaled by alpha / rank; alpha None for a scale of 1. dora: weights split into
    direction and magnitude (arXiv 2402.09353). targets: ends of the names of the layers that are adapted, None for the
    family's attention projections. null_share: of the pairs, trained with the null condition. hold_null: weight of the
    penalty that holds the null branch to the base model's. noise_level: mean and deviation of logit(sigma). weighting:
    `top` takes all pairs alike, `information` by the softmax of score / (temperature x the scores' deviation),
    `information_within_prompt` likewise among the pairs of each prompt, `advantage` by (score - its prompt's mean) /
    (temperature x the deviation within prompts), which has a sign and a loss of its own (`rfmi.finetuning.losses`).
    `verdict` is an advantage of two values: an image fails whose score is more than `failing` deviations within prompts
    below the upper quartile of its prompt's, and 1 or 0 takes the score's place. largest_deviation: advantages are cut
    there, in deviations within prompts, and centred again; scores have long tails, and a few blemished images would be
    most of the gradient. preference: `dpo` trains on pairs of a chosen and a rejected image, with `beta` on the mean
    squared error of an element. averaging: what the moving average of the weights keeps of itself a step, 0 for none.
    mixed_precision: of the computation; the adapter is float32 in any case.
    checkpoint_steps: if given, in place of checkpoint_seconds. Raises ValueError for values that make no sense.
    """

    steps: int = 400
    batch: int = 64
    gradient_accumulation: int = 1
    learning_rate: float = 5e-4
    warmup: int = 20
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    largest_gradient_norm: float = 1.0
    rank: int = 16
    alpha: int | None = None
    dora: bool = False
    targets: tuple[str, ...] | None = None
    null_share: float = 0.0
    hold_null: float = 0.0
    noise_level: tuple[float, float] = (0.0, 1.0)
    weighting: str = "top"
    temperature: float = 1.0
    failing: float = 1.2
    largest_deviation: float = 1.0
    preference: str = "none"
    beta: float = 1000.0
    averaging: float = 0.99
    mixed_precision: str = "no"
    checkpoint_seconds: float = 120.0
    checkpoint_steps: int | None = None
    validation_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in COUNTS:
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name} is {value}; give a whole number of at least 1")
        for name in ("learning_rate", "largest_gradient_norm", "temperature", "failing", "largest_deviation", "beta"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; give a number above 0")
        for name in ("warmup", "weight_decay", "hold_null", "checkpoint_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give 0 or more")
        if not 0 <= self.null_share <= 1 or not 0 <= self.averaging < 1:
            raise ValueError(
                f"null_share is {self.null_share} and averaging {self.averaging}; give shares from 0 to 1, averaging "
                "below 1"
            )
        if len(self.noise_level) != 2 or not self.noise_level[1] > 0:
            raise ValueError(f"noise_level is {self.noise_level}; give a mean and a deviation above 0")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {self.betas}; give two numbers from 0 to below 1")
        if isinstance(self.targets, str) or (self.targets is not None and not self.targets):
            raise ValueError(f"targets is {self.targets!r}; give a tuple of ends of layers' names, or None")
        for name, known in (("weighting", WEIGHTINGS), ("preference", PREFERENCES), ("mixed_precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose from {', '.join(known)}")
        if self.signed and self.preference != "none":
            raise ValueError(
                f"weighting is {self.weighting!r} and preference 'dpo', which are two losses; take one, and leave the "
                "other out"
            )

    @property
    def signed(self) -> bool:
        """Whether images weigh by advantages, which have a sign."""
        return self.weighting in ("advantage", "verdict")

    @property
    def loss(self) -> str:
        """The name of the loss that is asked for (`rfmi.finetuning.losses`)."""
        if self.signed:
            return "advantage"
        return "preference" if self.preference == "dpo" else "flow-matching"

    @property
    def pairs_a_step(self) -> int:
        """Pairs that one step of the optimiser takes."""
        return self.batch * self.gradient_accumulation

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup))


PRESETS = {
    "small": FinetuningSettings(),
    "advantage": FinetuningSettings(learning_rate=1e-3, weighting="advantage", temperature=0.1),
    "verdict": FinetuningSettings(learning_rate=1e-3, weighting="verdict", temperature=0.1),
    "paper": FinetuningSettings(
        steps=2000,
        batch=240,
        learning_rate=5e-6,
        warmup=400,
        betas=(0.9, 0.999),
        weight_decay=1e-4,
        largest_gradient_norm=5e-3,
        rank=32,
        alpha=32,
        noise_level=(0.0, 1.0),
    ),
}
