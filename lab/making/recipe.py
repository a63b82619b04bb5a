"""What each profile trains, and for how long. Profiles change values, never the code path."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lab.making.schedule import Schedule
from lab.worlds.shapes.words import CATEGORIES


@dataclass(frozen=True)
class Recipe:
    """Sizes and schedules of every stage; `shards` of latents (4,096 scenes each); `categories`: of the flow's scenes,
    one named twice comes twice as often; `precision` and `compiled`: of the flow's arithmetic.
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
    precision: str = "float32"
    compiled: bool = False


RECIPES = {
    "smoke": Recipe(
        autoencoder=Schedule(steps=40, batch=8, learning_rate=2e-3, warmup=10),
        text=Schedule(steps=20, batch=32, learning_rate=2e-3, warmup=10),
        clip=Schedule(steps=10, batch=16, learning_rate=1e-3, warmup=10),
        flow=Schedule(steps=60, batch=32, learning_rate=2e-3, warmup=10),
        autoencoder_channels=(8, 16, 16, 16),
        text_layers=2,
        shards=1,
        layers=2,
        heads=2,
    ),
    "cpu": Recipe(
        autoencoder=Schedule(steps=3700, batch=16, learning_rate=2e-3, decay=0.6, averaging=0.99),
        text=Schedule(steps=600, batch=128, learning_rate=2e-3, warmup=50, decay=0.7, averaging=0.98),
        clip=Schedule(steps=1200, batch=128, learning_rate=1e-3, warmup=50, decay=0.5, averaging=0.99),
        flow=Schedule(steps=5200, batch=256, learning_rate=2e-3, warmup=200, decay=0.25, averaging=0.998),
        compiled=True,
    ),
    "gpu": Recipe(
        autoencoder=Schedule(steps=20_000, batch=64, learning_rate=1e-3, decay=0.6),
        text=Schedule(steps=4000, batch=256, learning_rate=1e-3, decay=0.7),
        clip=Schedule(steps=2500, batch=512, learning_rate=1e-3, decay=0.8),
        flow=Schedule(steps=100_000, batch=1024, learning_rate=1e-3, warmup=500, averaging=0.9995),
        shards=250,
        precision="bfloat16",
        compiled=True,
    ),
}

# Further runs on two cores, each from the last one's folder on (`--start`): new scenes, more of what is learned last.
RECIPES["cpu_longer"] = replace(
    RECIPES["cpu"],
    flow=replace(RECIPES["cpu"].flow, steps=4800, decay=0.4, seed=1),
    categories=(*CATEGORIES, "3d_spatial", "3d_spatial", "texture", "numeracy"),
)
RECIPES["cpu_overlaps"] = replace(
    RECIPES["cpu"],
    flow=replace(RECIPES["cpu"].flow, steps=3200, decay=0.5, seed=2),
    categories=(*CATEGORIES, *["3d_spatial"] * 5, "complex", "texture"),
)
RECIPES["cpu_overlaps_longer"] = replace(
    RECIPES["cpu"],
    flow=replace(RECIPES["cpu"].flow, steps=3000, decay=0.5, seed=3),
    categories=(*CATEGORIES, *["3d_spatial"] * 6, "complex", "complex", "texture"),
)
RECIPES["cpu_coarse_overlaps"] = replace(
    RECIPES["cpu"],
    flow=replace(RECIPES["cpu"].flow, steps=2000, decay=0.6, seed=4),
    shards=24,
    categories=(*CATEGORIES, *["3d_spatial"] * 5, "complex", "texture"),
)
