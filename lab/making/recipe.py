"""What each profile trains, how fast and for how long. Profiles change values, never the code path."""

from dataclasses import dataclass, replace

from lab.worlds.shapes.words import CATEGORIES


@dataclass(frozen=True)
class Schedule:
    """The learning rate rises over `warmup` steps, stays, and falls to zero over the last `decay` share of `steps`; the
    moving average of the weights keeps `averaging` of itself a step.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    decay: float = 0.3
    averaging: float = 0.998
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of a step, as a share of its highest."""
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return min(1.0, (step + 1) / max(1, self.warmup), left)


@dataclass(frozen=True)
class Recipe:
    """Sizes and schedules of every stage; `shards` of latents (4,096 scenes each); `categories`: of the flow's scenes,
    one named twice comes twice as often; `compiled`: whether the flow's loss is.
    """

    autoencoder: Schedule
    text: Schedule
    clip: Schedule
    flow: Schedule
    autoencoder_channels: tuple[int, ...] = (16, 32, 64, 96)
    text_layers: int = 3
    shards: int = 32
    categories: tuple[str, ...] = CATEGORIES
    layers: int = 8
    heads: int = 4
    compiled: bool = False


SMOKE = Recipe(
    autoencoder=Schedule(steps=40, batch=8, learning_rate=2e-3, warmup=10),
    text=Schedule(steps=20, batch=32, learning_rate=2e-3, warmup=10),
    clip=Schedule(steps=10, batch=16, learning_rate=1e-3, warmup=10),
    flow=Schedule(steps=60, batch=32, learning_rate=2e-3, warmup=10),
    autoencoder_channels=(8, 16, 16, 16),
    text_layers=2,
    shards=1,
    layers=2,
    heads=2,
)
CPU = Recipe(
    autoencoder=Schedule(steps=3700, batch=16, learning_rate=2e-3, decay=0.6, averaging=0.99),
    text=Schedule(steps=600, batch=128, learning_rate=2e-3, warmup=50, decay=0.7, averaging=0.98),
    clip=Schedule(steps=1200, batch=128, learning_rate=1e-3, warmup=50, decay=0.5, averaging=0.99),
    flow=Schedule(steps=5200, batch=256, learning_rate=2e-3, warmup=200, decay=0.25, averaging=0.998),
    compiled=True,
)


def longer(seed: int, steps: int, decay: float, more: tuple[str, ...], shards: int = 32) -> Recipe:
    """A further run on two cores, from the last one's folder on (`--start`): new scenes, `more` of some categories."""
    flow = replace(CPU.flow, steps=steps, decay=decay, seed=seed)
    return replace(CPU, flow=flow, categories=(*CATEGORIES, *more), shards=shards)


DEPTH = "3d_spatial"
RECIPES = {
    "smoke": SMOKE,
    "cpu": CPU,
    "cpu_longer": longer(1, 4800, 0.4, (DEPTH, DEPTH, "texture", "numeracy")),
    "cpu_overlaps": longer(2, 3200, 0.5, (*[DEPTH] * 5, "complex", "texture")),
    "cpu_overlaps_longer": longer(3, 3000, 0.5, (*[DEPTH] * 6, "complex", "complex", "texture")),
    "cpu_coarse_overlaps": longer(4, 2000, 0.6, (*[DEPTH] * 5, "complex", "texture"), shards=24),
    "cpu_long_tail": longer(5, 1500, 0.6, (DEPTH, DEPTH, DEPTH, "texture", "numeracy", "complex"), shards=24),
}
