"""Scenes drawn at random for a prompt: exactly the objects it names, every free attribute and place at random.

Objects that overlap are solid and large unless the prompt says otherwise, and large ones lie on a coarser lattice.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from lab.worlds.shapes.phrases import Phrase, Prompt, parse
from lab.worlds.shapes.rendering import RADIUS, SIDE, Scene, SceneObject, hidden_share
from lab.worlds.shapes.truth import verdict
from lab.worlds.shapes.words import COLORS, HELD_OUT, RELATIONS_OF, SIZES, TEXTURES

STEP = 4  # centres lie on a lattice of this many pixels
OVERLAP_STEP = 8  # and on this one where two large objects overlap
GAP = 2  # the least number of pixels between two objects that do not overlap
HIDDEN = (0.1, 0.3)  # the share of the object behind that is hidden, least and most
SOLID = 0.6  # the chance of a free texture to be solid; the others share the rest
ATTEMPTS = 10_000


def draw_scene(prompt: Prompt, random: Random) -> Scene:
    """A scene in which `prompt` holds and which shows nothing else.

    Free attributes never make one of the pairs kept for validation. Raises ValueError for a prompt that no scene
    of this world can show.
    """
    for _ in range(ATTEMPTS):
        attributes = [
            (phrase.shape, *_fill(phrase, prompt, random)) for phrase in prompt.phrases for _ in range(phrase.count)
        ]
        places = _draw_places(prompt.relation, attributes, random)
        if places is None:
            continue
        things = [SceneObject(*each, *place) for each, place in zip(attributes, places, strict=True)]
        if prompt.relation in RELATIONS_OF["3d_spatial"]:
            overlaps = [(0, 1)]
            things = things[::-1] if prompt.relation == "front" else things
        else:
            overlaps = []
            random.shuffle(things)
        if verdict(prompt, things, overlaps).aligned:
            return Scene(tuple(things), str(prompt))
    raise ValueError(f"no scene of this world can show {str(prompt)!r}; its demands contradict each other")


def draw_scenes(prompts: Sequence[str], n: int, seed: str) -> list[Scene]:
    """`n` random scenes of each prompt in turn, all from one random stream; the same seed gives the same scenes."""
    random = Random(seed)
    return [draw_scene(parse(text), random) for text in prompts for _ in range(n)]


def _fill(phrase: Phrase, prompt: Prompt, random: Random) -> tuple[str, str, str]:
    colors = [color for color in COLORS if (color, phrase.shape) not in HELD_OUT]
    textures = [texture for texture in TEXTURES if (texture, phrase.shape) not in HELD_OUT]
    overlap = prompt.relation in RELATIONS_OF["3d_spatial"]
    solid = 1.0 if overlap else SOLID
    small = 0.0 if overlap else 0.5 if prompt.n_objects < 3 else 0.75
    weights = [solid if texture == "solid" else (1 - solid) / 2 for texture in textures]
    return (
        phrase.color or random.choice(colors),
        phrase.texture or random.choices(textures, weights)[0],
        phrase.size or random.choices(SIZES, (small, 1 - small))[0],
    )


def _draw_places(relation: str, attributes: list, random: Random) -> list[tuple[int, int]] | None:
    """Centres, or None where this draw does not fit."""
    if relation in RELATIONS_OF["3d_spatial"]:
        return _draw_overlapping(relation, attributes, random)
    sizes = [size for *_, size in attributes]
    places: list[tuple[int, int]] = []
    for i, size in enumerate(sizes):
        lattice = _lattice(size)
        free = [
            (x, y)
            for x in lattice
            for y in lattice
            if all(
                max(abs(x - x_0), abs(y - y_0)) >= RADIUS[size] + RADIUS[sizes[j]] + GAP
                for j, (x_0, y_0) in enumerate(places)
            )
            and not (i == 1 and relation in RELATIONS_OF["spatial"] and not _clear(places[0], (x, y)))
        ]
        if not free:
            return None
        places.append(random.choice(free))
    return places


def _clear(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether one axis is clearly the one on which two centres are farther apart."""
    return abs(abs(a[0] - b[0]) - abs(a[1] - b[1])) >= 2 * STEP


def _draw_overlapping(relation: str, attributes: list, random: Random) -> list[tuple[int, int]] | None:
    sizes = [size for *_, size in attributes]
    step = OVERLAP_STEP if sizes == ["large", "large"] else STEP
    places = [(random.choice(_lattice(size, step)), random.choice(_lattice(size, step))) for size in sizes]
    front, behind = (0, 1) if relation == "front" else (1, 0)
    dx, dy = (places[front][axis] - places[behind][axis] for axis in (0, 1))
    if attributes[0][1] == attributes[1][1] or max(abs(dx), abs(dy)) > RADIUS[sizes[0]] + RADIUS[sizes[1]]:
        return None
    kinds = [(shape, size) for shape, _, _, size in attributes]
    share = hidden_share(kinds[front], kinds[behind], dx, dy)
    return places if HIDDEN[0] <= share <= HIDDEN[1] else None


def _lattice(size: str, step: int = STEP) -> range:
    first = -(-int(RADIUS[size]) // step) * step
    return range(first, SIDE - first + 1, step)
