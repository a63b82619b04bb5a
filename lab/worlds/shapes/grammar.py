"""Drawing prompts at random, category by category, and changing one atom of a prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from lab.worlds.shapes.phrases import MAX_OBJECTS, Phrase, Prompt
from lab.worlds.shapes.words import CATEGORIES, COLORS, HELD_OUT, OPPOSITE, RELATIONS, RELATIONS_OF, SHAPES, SIZES
from lab.worlds.shapes.words import TEXTURES

VALUES = {"shape": SHAPES, "color": COLORS, "texture": TEXTURES, "size": SIZES}


def draw_prompt(category: str, random: Random, *, held_out: bool = False) -> Prompt:
    """A random prompt of one category.

    held_out: whether it may name the attribute pairs kept for validation. Raises ValueError for another category.
    """
    if category not in CATEGORIES:
        raise ValueError(f"no such category: {category!r}; there are {', '.join(CATEGORIES)}")
    while True:
        prompt = _DRAW[category](random)
        if prompt.category == category and _sensible(prompt) and (held_out or not prompt.pairs & HELD_OUT):
            return prompt


def _sensible(prompt: Prompt) -> bool:
    """Whether the phrases differ in what they name (a reader can tell them apart) and a picture can show them."""
    named = [replace(phrase, count=1) for phrase in prompt.phrases]
    first, *others = named
    if len(set(named)) < len(named) or prompt.n_objects > MAX_OBJECTS:
        return False
    if any(_fit_one_object(p, q) for p in named for q in named if p is not q):
        return False
    if prompt.relation in RELATIONS_OF["3d_spatial"]:
        return not first.color or first.color != others[0].color
    if prompt.relation in ("bigger", "smaller"):
        return not first.size and not others[0].size
    if prompt.relation in ("same_color", "different_color"):
        return not first.color and not others[0].color
    return True


def _fit_one_object(p: Phrase, q: Phrase) -> bool:
    attributes = [(getattr(p, kind), getattr(q, kind)) for kind in VALUES]
    return all(not a or not b or a == b for a, b in attributes)


def _phrase(random: Random, *kinds: str, count: int = 1) -> Phrase:
    return Phrase(**{kind: random.choice(VALUES[kind]) for kind in ("shape", *kinds)}, count=count)


def _plain(kind: str) -> Callable[[Random], Prompt]:
    def draw(random: Random) -> Prompt:
        n = random.choices((1, 2, 3), (0.1, 0.6, 0.3))[0]
        return Prompt(tuple(_phrase(random, kind) for _ in range(n)))

    return draw


def _shape(random: Random) -> Prompt:
    n = random.choices((1, 2, 3), (0.1, 0.6, 0.3))[0]
    return Prompt(tuple(_phrase(random, *(["size"] if random.random() < 0.6 else [])) for _ in range(n)))


def _related(category: str) -> Callable[[Random], Prompt]:
    def draw(random: Random) -> Prompt:
        relation = random.choice(RELATIONS_OF[category])
        kind = random.choice(["texture", "size"] if relation.endswith("_color") else ["color"])
        return Prompt((_phrase(random, kind), _phrase(random, kind)), relation)

    return draw


def _numeracy(random: Random) -> Prompt:
    kinds = random.choice([(), ("color",)])
    counts = random.choice([(2,), (3,), (4,), (1, 2), (2, 1), (1, 3), (3, 1), (2, 2)])
    return Prompt(tuple(_phrase(random, *kinds, count=count) for count in counts))


def _complex(random: Random) -> Prompt:
    """Two phrases of two or three adjectives, mostly with a relation; now and then a count in place of it."""
    kinds = [random.choice([("texture", "color"), ("size", "color"), ("size", "texture", "color")]) for _ in range(2)]
    counts = random.choices([(1, 1), (2, 1), (1, 2), (2, 2)], (0.8, 0.08, 0.08, 0.04))[0]
    phrases = tuple(_phrase(random, *kind, count=count) for kind, count in zip(kinds, counts, strict=True))
    related = counts == (1, 1) and random.random() < 0.75
    return Prompt(phrases, random.choice(list(RELATIONS)) if related else "")


_DRAW = {
    "color": _plain("color"),
    "shape": _shape,
    "texture": _plain("texture"),
    "spatial": _related("spatial"),
    "3d_spatial": _related("3d_spatial"),
    "numeracy": _numeracy,
    "non_spatial": _related("non_spatial"),
    "complex": _complex,
}


def change_one_atom(prompt: Prompt, random: Random) -> Prompt | None:
    """The same prompt with the atom changed that its category is about.

    Colors and textures are exchanged between two phrases where these differ in both attribute and shape (the same
    words in another binding), and replaced otherwise; a shape is replaced; a relation is turned into its opposite; a
    count becomes one more or one less; in a complex prompt one of these is chosen at random. None where no such
    change makes another sensible prompt.
    """
    kinds = {"color": ["color"], "shape": ["shape"], "texture": ["texture"], "numeracy": ["count"]}.get(
        prompt.category, ["relation"]
    )
    if prompt.category == "complex":
        kinds = ["color", "texture", "shape", "size"] + ["relation"] * bool(prompt.relation)
    changed = [[each for each in _changes(prompt, kind) if _sensible(each)] for kind in kinds]
    changed = [each for each in changed if each]
    if not changed:
        return None
    if prompt.category == "complex":  # every kind with the same chance, however many changes it has
        return random.choice(random.choice(changed))
    return random.choice(changed[0])


def _changes(prompt: Prompt, kind: str) -> list[Prompt]:
    """Every prompt that differs from this one in one atom of one kind."""
    if kind == "relation":
        return [replace(prompt, relation=OPPOSITE[prompt.relation])]
    if kind == "count":
        changed = [
            _with_phrase(prompt, i, count=count)
            for i, phrase in enumerate(prompt.phrases)
            for count in (phrase.count - 1, phrase.count + 1)
            if count >= 1
        ]
        return [each for each in changed if any(phrase.count > 1 for phrase in each.phrases)]  # "a circle" counts none
    if kind in ("color", "texture"):
        exchanged = [
            _with_phrase(_with_phrase(prompt, i, **{kind: getattr(q, kind)}), j, **{kind: getattr(p, kind)})
            for i, p in enumerate(prompt.phrases)
            for j, q in enumerate(prompt.phrases)
            if i < j and getattr(p, kind) and getattr(q, kind) and getattr(p, kind) != getattr(q, kind)
            if p.shape != q.shape and p.count == q.count
        ]
        if exchanged:
            return exchanged
    named = [(i, getattr(phrase, kind)) for i, phrase in enumerate(prompt.phrases) if getattr(phrase, kind)]
    taken = {value for _, value in named} if kind in ("color", "shape", "texture") else set()
    return [
        _with_phrase(prompt, i, **{kind: value})
        for i, old in named
        for value in VALUES[kind]
        if value != old and value not in taken
    ]


def _with_phrase(prompt: Prompt, i: int, **attributes: str | int) -> Prompt:
    phrases = list(prompt.phrases)
    phrases[i] = replace(phrases[i], **attributes)
    return replace(prompt, phrases=tuple(phrases))
