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

from lab.worlds.shapes.words import SHAPES, TEXTURES

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
_SUBPIXELS = 8


@dataclass(frozen=True)
class SceneObject:
    """One object; (x, y) is its centre in pixels from the left and from the top."""

    shape: str
    color: str
    texture: str
    size: str
    x: int
    y: int

    @property
    def radius(self) -> float:
        return RADIUS[self.size]


@dataclass(frozen=True)
class Scene:
    """Objects from back to front, and the prompt they were drawn for."""

    objects: tuple[SceneObject, ...]
    prompt: str


def _inside(shape: str, r: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if shape == "circle":
        return x**2 + y**2 <= (0.95 * r) ** 2
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.86 * r
    if shape == "triangle":
        return (y <= 0.80 * r) & (abs(x) <= 0.55 * (y + r))
    if shape == "cross":
        return (np.maximum(abs(x), abs(y)) <= r) & (np.minimum(abs(x), abs(y)) <= 0.38 * r)
    if shape == "diamond":
        return abs(x) + abs(y) <= 1.08 * r
    raise ValueError(f"no such shape: {shape!r}; there are {', '.join(SHAPES)}")


def _patterned(texture: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if texture == "solid":
        return np.zeros_like(x, dtype=bool)
    if texture == "striped":
        return np.mod(y + 1.5, 6.0) < 3.0
    if texture == "dotted":
        return (np.mod(x + 3, 6.0) - 3.0) ** 2 + (np.mod(y + 3, 6.0) - 3.0) ** 2 <= 1.9**2
    raise ValueError(f"no such texture: {texture!r}; there are {', '.join(TEXTURES)}")


@cache
def template(shape: str, size: str, texture: str) -> tuple[np.ndarray, np.ndarray]:
    """(coverage, pattern) of an object, (30, 30) each in [0, 1]: the share of a pixel that is the object's, and the
    share of that which has the dark tone.
    """
    points = (np.arange(PATCH * _SUBPIXELS) + 0.5) / _SUBPIXELS - PATCH / 2
    y, x = np.meshgrid(points, points, indexing="ij")
    inside = _inside(shape, RADIUS[size], x, y).astype(np.float64)
    dark = inside * _patterned(texture, x, y)
    blocks = (PATCH, _SUBPIXELS, PATCH, _SUBPIXELS)
    coverage = inside.reshape(blocks).mean((1, 3))
    return coverage, np.divide(dark.reshape(blocks).mean((1, 3)), coverage, out=coverage * 0, where=coverage > 0)


@cache
def _painted(shape: str, size: str, texture: str, color: str) -> tuple[np.ndarray, np.ndarray]:
    """(coverage, coverage x color): (1, 30, 30) and (3, 30, 30), float32."""
    coverage, pattern = template(shape, size, texture)
    painted = coverage * (1 - (1 - DARK_TONE) * pattern) * np.asarray(BRIGHT[color])[:, None, None]
    return coverage[None].astype(np.float32), painted.astype(np.float32)


def paint(picture: np.ndarray, thing: SceneObject) -> None:
    """Paint one object over a picture of shape (3, 64, 64); what lies outside it is cut off."""
    coverage, painted = _painted(thing.shape, thing.size, thing.texture, thing.color)
    top, left = thing.y - PATCH // 2, thing.x - PATCH // 2
    rows = slice(max(top, 0), min(top + PATCH, SIDE))
    columns = slice(max(left, 0), min(left + PATCH, SIDE))
    part = (slice(None), slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    picture[:, rows, columns] *= 1 - coverage[part]
    picture[:, rows, columns] += painted[part]


def render(scenes: Sequence[Scene]) -> Tensor:
    """The scenes' pictures: (n, 3, 64, 64), float32 in [0, 1]."""
    pictures = np.empty((len(scenes), 3, SIDE, SIDE), dtype=np.float32)
    pictures[:] = np.asarray(GROUND, dtype=np.float32)[:, None, None]
    for picture, scene in zip(pictures, scenes, strict=True):
        for thing in scene.objects:
            paint(picture, thing)
    return torch.from_numpy(pictures)


@cache
def hidden_share(front: tuple[str, str], behind: tuple[str, str], dx: int, dy: int) -> float:
    """The share of the object behind, (shape, size), that the one in front covers when its centre lies (dx, dy) from
    that of the one behind.
    """
    over, under = (template(*thing, "solid")[0] for thing in (front, behind))
    canvas = np.zeros((2 * SIDE, 2 * SIDE))
    corner = SIDE - PATCH // 2
    canvas[corner + dy : corner + dy + PATCH, corner + dx : corner + dx + PATCH] = over
    return float((canvas[corner : corner + PATCH, corner : corner + PATCH] * under).sum() / under.sum())


