"""What of a prompt holds among known objects: the part of the judge that looks at no pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from math import prod
from typing import Protocol

from lab.worlds.shapes.phrases import Phrase, Prompt
from lab.worlds.shapes.words import COLORS, RELATIONS


class Thing(Protocol):
    """An object in words, with its centre in pixels. Lists of things run from back to front."""

    shape: str
    color: str
    texture: str
    size: str
    x: float
    y: float


@dataclass(frozen=True)
class Verdict:
    """`atoms`: what the prompt demands, in words, and whether it holds; `score`: the category's, in [0, 1]."""

    atoms: dict[str, bool]
    score: float

    @property
    def aligned(self) -> bool:
        return all(self.atoms.values())


def verdict(prompt: Prompt, things: Sequence[Thing], overlaps: Sequence[tuple[int, int]] = ()) -> Verdict:
    """Which atoms of `prompt` hold among `things`, and the category's score in T2I-CompBench's form.

    things: from back to front; overlaps: pairs (behind, in front) of places in `things` that overlap. Without counts,
    every phrase is given an object of its own so that as many atoms hold as can, and further objects do not matter.
    With counts, each phrase demands that exactly so many objects match it.
    """
    if any(phrase.count > 1 for phrase in prompt.phrases):
        demands = [_atoms(f"{i} {phrase.shape}", phrase, things, True) for i, phrase in enumerate(prompt.phrases, 1)]
        return _verdict(prompt, demands, None)
    best = None
    empty = [None] * max(0, len(prompt.phrases) - len(things))  # phrases get no object only where these are too few
    for places in permutations([*range(len(things)), *empty], len(prompt.phrases)):
        demands = [
            _atoms(f"{i} {phrase.shape}", phrase, [] if place is None else [things[place]], False)
            for i, (phrase, place) in enumerate(zip(prompt.phrases, places, strict=True), start=1)
        ]
        related = None
        if prompt.relation:
            present = all(next(iter(demand.values())) for demand in demands[:2])
            related = present and holds(prompt.relation, things, places[0], places[1], overlaps)
        this = _verdict(prompt, demands, related)
        if this.aligned:
            return this
        if best is None or sum(this.atoms.values()) > sum(best.atoms.values()):
            best = this
    return best


def holds(relation: str, things: Sequence[Thing], i: int, j: int, overlaps: Sequence[tuple[int, int]]) -> bool:
    """Whether `relation` holds between the objects at places i and j. Directions are T2I-CompBench's: the axis on
    which the centres are farther apart, and its sign. y grows downwards.
    """
    a, b = things[i], things[j]
    dx, dy = b.x - a.x, b.y - a.y
    return {
        "left": abs(dx) > abs(dy) and dx > 0,
        "right": abs(dx) > abs(dy) and dx < 0,
        "above": abs(dy) > abs(dx) and dy > 0,
        "below": abs(dy) > abs(dx) and dy < 0,
        "front": (j, i) in overlaps,
        "behind": (i, j) in overlaps,
        "bigger": (a.size, b.size) == ("large", "small"),
        "smaller": (a.size, b.size) == ("small", "large"),
        "same_color": a.color == b.color and a.color in COLORS,
        "different_color": a.color != b.color and {a.color, b.color} <= set(COLORS),
    }[relation]


def _atoms(name: str, phrase: Phrase, things: Sequence[Thing], counted: bool) -> dict[str, bool]:
    """What a phrase demands, and whether it holds among these objects; the first is that its shape is there."""
    here = [thing for thing in things if thing.shape == phrase.shape]
    named = [(kind, word) for kind in ("size", "texture", "color") if (word := getattr(phrase, kind))]
    atoms = {f"{name} present": bool(here)}
    atoms |= {f"{name} {word}": any(getattr(thing, kind) == word for thing in here) for kind, word in named}
    if counted:
        matching = [thing for thing in here if all(getattr(thing, kind) == word for kind, word in named)]
        atoms[f"{name} number {phrase.count}"] = len(matching) == phrase.count
    return atoms


def _verdict(prompt: Prompt, demands: list[dict[str, bool]], related: bool | None) -> Verdict:
    """Joins the phrases' atoms and the relation's.

    A phrase's probability of yes is the share of its atoms that hold. Attributes: the product over the phrases
    (BLIP-VQA's). Relations: 0.25 (s1 + s2) + 0.5 relation, zero below 0.5. Counts: the mean over the phrases of
    0.5 present + 0.5 exact. Complex: the mean of those that apply.
    """
    atoms = {name: held for demand in demands for name, held in demand.items()}
    shares = [sum(demand.values()) / len(demand) for demand in demands]
    parts = []
    if related is not None:
        atoms[RELATIONS[prompt.relation]] = related
        score = 0.25 * (shares[0] + shares[1]) + 0.5 * related
        parts.append(score if score >= 0.5 else 0.0)
    if any(phrase.count > 1 for phrase in prompt.phrases):
        parts.append(sum(0.5 * list(d.values())[0] + 0.5 * list(d.values())[-1] for d in demands) / len(demands))
    if prompt.category in ("color", "shape", "texture", "complex"):
        parts.append(prod(shares))
    return Verdict(atoms, sum(parts) / len(parts))
