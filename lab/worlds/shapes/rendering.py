"""Scenes and their pictures: flat objects on a light ground, painted from back to front.

A picture is a float tensor of shape (3, 64, 64) in [0, 1]. An object is one of thirty templates (shape, size, texture)
in one of six colors; the pattern of a texture is a darker tone of the object's own color. Centres lie between pixels,
on integer coordinates; edges are smoothed by counting 8 x 8 points a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

SIDE = 64
RADIUS = {"small": 8.5, "large": 12.0}
PATCH = 30  # the side of a template: the largest object and its smoothed edge
GROUND = (0.93, 0.93, 0.93)
BRIGHT = {
    "red": (0.87, 0.13, 0.13),
    "green": (0.13, 0.66, 0.20),
    "blue": (0.15, 0.30, 0.88),
    "yellow": (0.96, 0.80, 0.10),
    "purple": (0.62, 0.18, 0.74),
    "cyan": (0.15, 0.76, 0.84),
}
DARK_TONE = 0.42  # of the bright color, the pattern's tone
ROUNDING = 0.005  # of pictures beyond [0, 1]: half a step of 8 bits and a little
_SUBPIXELS = 8


@dataclass(frozen=True)
class SceneObject:
    """One object; (x, y) is its centre in pixels from the left and from the top, whole numbers where it is drawn."""

    shape: str
    color: str
    texture: str
    size: str
    x: float
    y: float


@dataclass(frozen=True)
class Scene:
    """Objects from back to front, and the prompt they were drawn for."""

    objects: tuple[SceneObject, ...]
    prompt: str


@cache
def template(shape: str, size: str, texture: str) -> tuple[np.ndarray, np.ndarray]:
    """(coverage, pattern) of an object, (30, 30) each in [0, 1]: the share of a pixel that is the object's, and the
    share of that which has the dark tone.
    """
    points = (np.arange(PATCH * _SUBPIXELS) + 0.5) / _SUBPIXELS - PATCH / 2
    y, x = np.meshgrid(points, points, indexing="ij")
    r = RADIUS[size]
    inside = {
        "circle": x**2 + y**2 <= (0.95 * r) ** 2,
        "square": np.maximum(abs(x), abs(y)) <= 0.86 * r,
        "triangle": (y <= 0.80 * r) & (abs(x) <= 0.55 * (y + r)),
        "cross": (np.maximum(abs(x), abs(y)) <= r) & (np.minimum(abs(x), abs(y)) <= 0.38 * r),
        "diamond": abs(x) + abs(y) <= 1.08 * r,
    }[shape]
    patterned = {
        "solid": np.zeros_like(inside),
        "striped": np.mod(y + 1.5, 6.0) < 3.0,
        "dotted": (np.mod(x + 3, 6.0) - 3.0) ** 2 + (np.mod(y + 3, 6.0) - 3.0) ** 2 <= 1.9**2,
    }[texture]
    blocks = (PATCH, _SUBPIXELS, PATCH, _SUBPIXELS)
    coverage, dark = (part.reshape(blocks).mean((1, 3)) for part in (inside, inside & patterned))
    return coverage, np.divide(dark, coverage, out=coverage * 0, where=coverage > 0)


@cache
def _painted(shape: str, size: str, texture: str, color: str) -> tuple[np.ndarray, np.ndarray]:
    """(coverage, coverage x color): (1, 30, 30) and (3, 30, 30), float32."""
    coverage, pattern = template(shape, size, texture)
    painted = coverage * (1 - (1 - DARK_TONE) * pattern) * np.asarray(BRIGHT[color])[:, None, None]
    return coverage[None].astype(np.float32), painted.astype(np.float32)


def render(scenes: Sequence[Scene]) -> Tensor:
    """The scenes' pictures: (n, 3, 64, 64), float32 in [0, 1]; what lies outside is cut off."""
    pictures = np.empty((len(scenes), 3, SIDE, SIDE), dtype=np.float32)
    canvas = np.empty((3, SIDE + PATCH, SIDE + PATCH), dtype=np.float32)
    for picture, scene in zip(pictures, scenes, strict=True):
        canvas[:] = np.asarray(GROUND)[:, None, None]
        for thing in scene.objects:
            coverage, painted = _painted(thing.shape, thing.size, thing.texture, thing.color)
            place = canvas[:, thing.y : thing.y + PATCH, thing.x : thing.x + PATCH]
            place *= 1 - coverage
            place += painted
        picture[:] = canvas[:, PATCH // 2 : -PATCH // 2, PATCH // 2 : -PATCH // 2]
    return torch.from_numpy(pictures)


@cache
def hidden_share(front: tuple[str, str], behind: tuple[str, str], dx: int, dy: int) -> float:
    """The share of the object behind, (shape, size), that the one in front covers when its centre lies (dx, dy) from
    that of the one behind.
    """
    over, under = (template(*thing, "solid")[0] for thing in (front, behind))
    moved = np.pad(over, SIDE)[SIDE - dy : SIDE - dy + PATCH, SIDE - dx : SIDE - dx + PATCH]
    return float((moved * under).sum() / under.sum())


def check_pictures(images: Tensor) -> None:
    """Raises ValueError for what is no tensor of pictures, floats (n, 3, 64, 64) in [0, 1]."""
    wanted = f"give floats (n, 3, {SIDE}, {SIDE}) in [0, 1]"
    if not isinstance(images, Tensor):
        raise ValueError(f"the pictures are a {type(images).__name__}; {wanted}")
    if images.ndim != 4 or images.shape[1:] != (3, SIDE, SIDE) or not images.is_floating_point():
        raise ValueError(f"the pictures are a tensor of shape {tuple(images.shape)} and {images.dtype}; {wanted}")
    low, high = (float(bound) for bound in images.aminmax()) if len(images) else (0.0, 1.0)
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise ValueError(f"the pictures reach from {low:.3g} to {high:.3g}, or hold what is no number; {wanted}")
