"""What of a prompt holds among known objects: the part of the judge that looks at no pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from math import prod

from lab.worlds.shapes.phrases import Prompt
from lab.worlds.shapes.rendering import SceneObject
from lab.worlds.shapes.words import COLORS, RELATIONS


@dataclass(frozen=True)
class Verdict:
    """`atoms`: what the prompt demands, in words, and whether it holds; `score`: the category's, in [0, 1]."""

    atoms: dict[str, bool]
    score: float

    @property
    def aligned(self) -> bool:
        return all(self.atoms.values())


def verdict(prompt: Prompt, things: Sequence[SceneObject], overlaps: Sequence[tuple[int, int]] = ()) -> Verdict:
    """Which atoms of `prompt` hold among `things`, and the category's score in T2I-CompBench's form.

    things: from back to front; overlaps: pairs (behind, in front) of places in `things` that overlap. Without counts,
    every phrase is given an object of its own so that as many atoms hold as can, and further objects do not matter.
    With counts, each phrase demands that exactly so many objects match it.
    """
    if prompt.counted:
        return _judged(prompt, [things] * len(prompt.phrases), related=None)
    verdicts = []
    empty = [None] * max(0, len(prompt.phrases) - len(things))  # phrases get no object only where these are too few
    for places in permutations([*range(len(things)), *empty], len(prompt.phrases)):
        related = None
        if prompt.relation:
            related = None not in places[:2] and holds(prompt.relation, things, *places[:2], overlaps)
        verdicts.append(_judged(prompt, [[] if place is None else [things[place]] for place in places], related))
        if verdicts[-1].aligned:
            break
    return max(verdicts, key=lambda each: sum(each.atoms.values()))


def holds(relation: str, things: Sequence[SceneObject], i: int, j: int, overlaps: Sequence[tuple[int, int]]) -> bool:
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


def _judged(prompt: Prompt, given: Sequence[Sequence[SceneObject]], related: bool | None) -> Verdict:
    """Which atoms hold where every phrase is given some objects, and the score.

    related: whether the relation holds between the first two, which counts where these are what the phrases name; None
        where it is not asked for

    A phrase's probability of yes is the share of its atoms that hold. Attributes: the product over the phrases
    (BLIP-VQA's). Relations: 0.25 (s1 + s2) + 0.5 relation, zero below 0.5. Counts: the mean over the phrases of
    0.5 present + 0.5 exact. Complex: the mean of those that apply.
    """
    atoms, present, exact, shares, parts = {}, [], [], [], []
    for i, (phrase, things) in enumerate(zip(prompt.phrases, given, strict=True), start=1):
        name, named = f"{i} {phrase.shape}", phrase.named.items()
        here = [thing for thing in things if thing.shape == phrase.shape]
        demand = {f"{name} present": bool(here)}
        demand |= {f"{name} {word}": any(getattr(thing, kind) == word for thing in here) for kind, word in named}
        if prompt.counted:
            matching = [thing for thing in here if all(getattr(thing, kind) == word for kind, word in named)]
            demand[f"{name} number {phrase.count}"] = len(matching) == phrase.count
            exact.append(len(matching) == phrase.count)
        atoms |= demand
        present.append(bool(here))
        shares.append(sum(demand.values()) / len(demand))
    if related is not None:
        related = related and all(present[:2])
        atoms[RELATIONS[prompt.relation]] = related
        score = 0.25 * (shares[0] + shares[1]) + 0.5 * related
        parts.append(score if score >= 0.5 else 0.0)
    if prompt.counted:
        parts.append(sum(0.5 * p + 0.5 * e for p, e in zip(present, exact, strict=True)) / len(exact))
    if prompt.category in ("color", "shape", "texture", "complex"):
        parts.append(prod(shares))
    return Verdict(atoms, sum(parts) / len(parts))
