"""Drawing prompts at random, category by category, and changing one atom of a prompt."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from random import Random

from lab.worlds.shapes.phrases import MAX_OBJECTS, Phrase, Prompt
from lab.worlds.shapes.words import CATEGORIES, COLORS, OPPOSITE, RARE, RELATIONS, RELATIONS_OF, SHAPES, SIZES, TEXTURES

VALUES = {"shape": SHAPES, "color": COLORS, "texture": TEXTURES, "size": SIZES}
_SAID = {"bigger": "size", "smaller": "size", "same_color": "color", "different_color": "color"}  # by a relation


def draw_prompt(category: str, random: Random, *, even: bool = False) -> Prompt:
    """A random prompt of one category; even: whether rare pairs are named as often as all others."""
    if category not in CATEGORIES:
        raise ValueError(f"no such category: {category!r}; there are {', '.join(CATEGORIES)}")
    while True:
        prompt = _draw(category, random)
        if prompt.category == category and _sensible(prompt) and (even or random.random() < frequency(prompt)):
            return prompt


def frequency(prompt: Prompt) -> float:
    """How often training names the rarest pair of a prompt, by how often it names a common one: at most 1."""
    return min([RARE[pair] for pair in prompt.pairs & RARE.keys()], default=1.0)


def _draw(category: str, random: Random) -> Prompt:
    """A prompt of a category's form, which may be another's and make no sense."""
    if category in RELATIONS_OF:
        relation = random.choice(RELATIONS_OF[category])
        kind = random.choice(["texture", "size"] if relation.endswith("_color") else ["color"])
        return Prompt((_phrase(random, kind), _phrase(random, kind)), relation)
    if category == "numeracy":
        kinds = random.choice([(), ("color",)])
        counts = random.choice([(2,), (3,), (4,), (1, 2), (2, 1), (1, 3), (3, 1), (2, 2)])
        return Prompt(tuple(_phrase(random, *kinds, count=count) for count in counts))
    if category == "complex":  # mostly with a relation; now and then a count in place of it
        choices = [("texture", "color"), ("size", "color"), ("size", "texture", "color")]
        kinds = [random.choice(choices) for _ in range(2)]
        counts = random.choices([(1, 1), (2, 1), (1, 2), (2, 2)], (0.8, 0.08, 0.08, 0.04))[0]
        phrases = tuple(_phrase(random, *kind, count=count) for kind, count in zip(kinds, counts, strict=True))
        related = counts == (1, 1) and random.random() < 0.75
        return Prompt(phrases, random.choice(list(RELATIONS)) if related else "")
    n = random.choices((1, 2, 3), (0.1, 0.6, 0.3))[0]
    if category == "shape":
        return Prompt(tuple(_phrase(random, *(["size"] if random.random() < 0.6 else [])) for _ in range(n)))
    return Prompt(tuple(_phrase(random, category) for _ in range(n)))


def _phrase(random: Random, *kinds: str, count: int = 1) -> Phrase:
    return Phrase(**{kind: random.choice(VALUES[kind]) for kind in ("shape", *kinds)}, count=count)


def _sensible(prompt: Prompt) -> bool:
    """Whether no two phrases can mean one object (a reader can tell them apart) and a picture can show them."""
    if prompt.n_objects > MAX_OBJECTS or any(_fit_one_object(p, q) for p, q in combinations(prompt.phrases, 2)):
        return False
    if prompt.relation in RELATIONS_OF["3d_spatial"]:
        first, second = prompt.phrases
        return not first.color or first.color != second.color
    return not any(_SAID.get(prompt.relation) in phrase.named for phrase in prompt.phrases)


def _fit_one_object(p: Phrase, q: Phrase) -> bool:
    attributes = [(getattr(p, kind), getattr(q, kind)) for kind in VALUES]
    return all(not a or not b or a == b for a, b in attributes)


def change_one_atom(prompt: Prompt, random: Random) -> Prompt | None:
    """The same prompt with the atom changed that its category is about.

    Colors and textures are exchanged between two phrases where these differ in both attribute and shape (the same
    words in another binding), and replaced otherwise; a shape is replaced; a relation is turned into its opposite; a
    count becomes one more or one less; in a complex prompt one of these is chosen at random. None where no such
    change makes another sensible prompt.
    """
    if prompt.category == "complex":  # every kind with the same chance, however many changes it has
        kinds = ["color", "texture", "shape", "size"] + ["relation"] * bool(prompt.relation)
        changed = [each for kind in kinds if (each := _changes(prompt, kind))]
        return random.choice(random.choice(changed)) if changed else None
    kind = {"numeracy": "count", **dict.fromkeys(RELATIONS_OF, "relation")}.get(prompt.category, prompt.category)
    changed = _changes(prompt, kind)
    return random.choice(changed) if changed else None


def _changes(prompt: Prompt, kind: str) -> list[Prompt]:
    """Every sensible prompt that differs from this one in one atom of one kind."""
    if kind == "relation":
        changed = [replace(prompt, relation=OPPOSITE[prompt.relation])]
    elif kind == "count":
        numbers = [(i, phrase.count + more) for i, phrase in enumerate(prompt.phrases) for more in (-1, 1)]
        changed = [_with_phrase(prompt, i, count=number) for i, number in numbers if number >= 1]
        changed = [each for each in changed if each.counted]  # "a circle" counts none
    else:
        changed = _exchanged(prompt, kind) or _replaced(prompt, kind)
    return [each for each in changed if _sensible(each)]


def _exchanged(prompt: Prompt, kind: str) -> list[Prompt]:
    """Prompts in which two phrases have each other's color, or texture."""
    return [
        _with_phrase(_with_phrase(prompt, i, **{kind: q.named[kind]}), j, **{kind: p.named[kind]})
        for (i, p), (j, q) in combinations(enumerate(prompt.phrases), 2)
        if kind in ("color", "texture") and kind in p.named and kind in q.named and p.named[kind] != q.named[kind]
        if p.shape != q.shape and p.count == q.count
    ]


def _replaced(prompt: Prompt, kind: str) -> list[Prompt]:
    """Prompts in which one phrase has another word of a kind, one that no other phrase has, but for sizes."""
    named = [(i, word) for i, phrase in enumerate(prompt.phrases) if (word := getattr(phrase, kind))]
    taken = set() if kind == "size" else {word for _, word in named}
    return [
        _with_phrase(prompt, i, **{kind: word})
        for i, old in named
        for word in VALUES[kind]
        if word not in {old} | taken
    ]


def _with_phrase(prompt: Prompt, i: int, **attributes: str | int) -> Prompt:
    phrases = list(prompt.phrases)
    phrases[i] = replace(phrases[i], **attributes)
    return replace(prompt, phrases=tuple(phrases))
