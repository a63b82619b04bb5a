"""Scenes drawn at random for a prompt: exactly the objects it names, every free attribute and place at random.

Objects that overlap are solid and large unless the prompt says otherwise, and large ones lie on a coarser lattice.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from random import Random

import numpy as np

from lab.worlds.shapes.phrases import Phrase, Prompt, parse
from lab.worlds.shapes.rendering import RADIUS, SIDE, Scene, SceneObject, hidden_share
from lab.worlds.shapes.truth import verdict
from lab.worlds.shapes.words import COLORS, RARE, RELATIONS_OF, SIZES, TEXTURES

STEP = 4  # centres lie on a lattice of this many pixels
OVERLAP_STEP = 8  # and on this one where two large objects overlap
GAP = 2  # the least number of pixels between two objects that do not overlap
HIDDEN = (0.1, 0.3)  # the share of the object behind that is hidden, least and most
SOLID = 0.6  # the chance of a free texture to be solid; the others share the rest
ATTEMPTS = 10_000


def draw_scene(prompt: Prompt, random: Random) -> Scene:
    """A scene in which `prompt` holds and which shows nothing else.

    Free attributes never make a rare pair. Raises ValueError for a prompt that no scene
    of this world can show.
    """
    overlap = prompt.relation in RELATIONS_OF["3d_spatial"]
    for _ in range(ATTEMPTS):
        attributes = [_fill(phrase, prompt, random) for phrase in prompt.phrases for _ in range(phrase.count)]
        places = (_overlapping if overlap else _apart)(prompt.relation, attributes, random)
        if places is None:
            continue
        things = [SceneObject(*each, *place) for each, place in zip(attributes, places, strict=True)]
        if prompt.relation == "front":
            things.reverse()
        elif not overlap:
            random.shuffle(things)
        if verdict(prompt, things, [(0, 1)] if overlap else []).aligned:
            return Scene(tuple(things), str(prompt))
    raise ValueError(f"no scene of this world can show {str(prompt)!r}; its demands contradict each other")


def draw_scenes(prompts: Sequence[str], n: int, seed: str) -> list[Scene]:
    """`n` random scenes of each prompt in turn, all from one random stream; the same seed gives the same scenes."""
    random = Random(seed)
    return [draw_scene(parse(text), random) for text in prompts for _ in range(n)]


def _fill(phrase: Phrase, prompt: Prompt, random: Random) -> tuple[str, str, str, str]:
    """Shape, color, texture and size."""
    colors = [color for color in COLORS if (color, phrase.shape) not in RARE]
    textures = [texture for texture in TEXTURES if (texture, phrase.shape) not in RARE]
    overlap = prompt.relation in RELATIONS_OF["3d_spatial"]
    solid = 1.0 if overlap else SOLID
    small = 0.0 if overlap else 0.5 if prompt.n_objects < 3 else 0.75
    weights = [solid if texture == "solid" else (1 - solid) / 2 for texture in textures]
    return (
        phrase.shape,
        phrase.color or random.choice(colors),
        phrase.texture or random.choices(textures, weights)[0],
        phrase.size or random.choices(SIZES, (small, 1 - small))[0],
    )


def _apart(relation: str, attributes: list, random: Random) -> list[list[int]] | None:
    """Centres of objects that do not overlap, or None where this draw does not fit."""
    places: list[list[int]] = []
    radii = [RADIUS[size] for *_, size in attributes]
    for i, (*_, size) in enumerate(attributes):
        free = np.array(list(product(_lattice(size), repeat=2)))
        for place, radius in zip(places, radii, strict=False):
            free = free[abs(free - place).max(1) >= radii[i] + radius + GAP]
        if i == 1 and relation in RELATIONS_OF["spatial"]:  # it is clear on which axis the centres are farther apart
            x, y = abs(free - places[0]).T
            free = free[abs(x - y) >= 2 * STEP]
        if not len(free):
            return None
        places.append(random.choice(free.tolist()))
    return places


def _overlapping(relation: str, attributes: list, random: Random) -> list[tuple[int, int]] | None:
    """Centres of two objects of which one hides a little of the other, or None where this draw does not."""
    kinds = [(shape, size) for shape, _, _, size in attributes]
    step = OVERLAP_STEP if {size for _, size in kinds} == {"large"} else STEP
    places = [(random.choice(_lattice(size, step)), random.choice(_lattice(size, step))) for _, size in kinds]
    if attributes[0][1] == attributes[1][1]:
        return None
    front, behind = (0, 1) if relation == "front" else (1, 0)
    dx, dy = (places[front][axis] - places[behind][axis] for axis in (0, 1))
    least, most = HIDDEN
    return places if least <= hidden_share(kinds[front], kinds[behind], dx, dy) <= most else None


def _lattice(size: str, step: int = STEP) -> range:
    first = -(-int(RADIUS[size]) // step) * step
    return range(first, SIDE - first + 1, step)
