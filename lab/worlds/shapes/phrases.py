"""Prompts: their structure, their text, and back.

A prompt is one to three noun phrases ("a large striped red circle", "two blue squares") and at most one relation,
between the first and the second. Its category, one of T2I-CompBench's eight, follows from its structure alone: a
prompt in which a phrase has two adjectives, or which mixes kinds of adjectives or of demands, is `complex`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from textwrap import shorten

from lab.worlds.shapes.words import COLORS, COUNTS, PLURALS, RELATIONS, RELATIONS_OF, SHAPES, SIZES, TEXTURES, WORDS

MAX_OBJECTS = 4
_SINGULAR = {plural: shape for shape, plural in PLURALS.items()}
_RELATION_OF_WORDS = {words: relation for relation, words in RELATIONS.items()}
_RELATION_PATTERN = re.compile(" (" + "|".join(sorted(_RELATION_OF_WORDS, key=len, reverse=True)) + ") ")


@dataclass(frozen=True)
class Phrase:
    """`count` objects of one shape; an attribute left empty is free."""

    shape: str
    color: str = ""
    texture: str = ""
    size: str = ""
    count: int = 1

    @property
    def adjectives(self) -> tuple[str, ...]:
        return tuple(word for word in (self.size, self.texture, self.color) if word)

    @property
    def pairs(self) -> frozenset[tuple[str, str]]:
        """(attribute, shape) of every adjective."""
        return frozenset((word, self.shape) for word in self.adjectives)


@dataclass(frozen=True)
class Prompt:
    """What a picture is to show: `relation` (a key of RELATIONS, or empty) holds between the first two phrases."""

    phrases: tuple[Phrase, ...]
    relation: str = ""

    @property
    def category(self) -> str:
        if max(len(phrase.adjectives) for phrase in self.phrases) > 1:
            return "complex"
        counted = any(phrase.count > 1 for phrase in self.phrases)
        if self.relation:
            of = next(category for category, relations in RELATIONS_OF.items() if self.relation in relations)
            return "complex" if counted else of
        if counted:
            return "numeracy"
        kinds = {tuple(bool(word) for word in (p.size, p.texture, p.color)) for p in self.phrases}
        if kinds == {(False, False, True)}:
            return "color"
        if kinds == {(False, True, False)}:
            return "texture"
        if kinds <= {(True, False, False), (False, False, False)}:
            return "shape"
        return "complex"

    @property
    def pairs(self) -> frozenset[tuple[str, str]]:
        return frozenset().union(*(phrase.pairs for phrase in self.phrases))

    @property
    def n_objects(self) -> int:
        return sum(phrase.count for phrase in self.phrases)

    def __str__(self) -> str:
        one = "one" if any(phrase.count > 1 for phrase in self.phrases) else "a"
        said = []
        for phrase in self.phrases:
            single = phrase.count == 1
            count, noun = (one, phrase.shape) if single else (COUNTS[phrase.count - 1], PLURALS[phrase.shape])
            said.append(" ".join([count, *phrase.adjectives, noun]))
        if self.relation:
            return f"{said[0]} {RELATIONS[self.relation]} {said[1]}"
        return " and ".join(filter(None, [", ".join(said[:-1]), said[-1]]))


def parse(text: str) -> Prompt:
    """The structure of a prompt.

    Raises ValueError, in one sentence, for an empty text, a word the world does not know, and a text outside the
    grammar.
    """
    words = re.findall(r"[^\s,]+|,", text)
    if not words:
        raise ValueError("the prompt is empty; say what to draw, as in 'a red circle and a blue square'")
    unknown = [word for word in words if word not in WORDS]
    if unknown:
        raise ValueError(
            f"the world does not know the word {unknown[0][:40]!r}; lab/worlds/shapes/words.py holds those it knows"
        )
    plain = " ".join(words)
    relation = _RELATION_PATTERN.search(plain)
    parts = [plain[: relation.start()], plain[relation.end() :]] if relation else re.split(r" , | and ", plain)
    prompt = Prompt(
        phrases=tuple(_parse_phrase(part, text) for part in parts),
        relation=_RELATION_OF_WORDS[relation[1]] if relation else "",
    )
    if len(prompt.phrases) > 3 or prompt.n_objects > MAX_OBJECTS:
        raise ValueError(
            f"the prompt {shorten(text, 100)!r} asks for more than a picture holds: "
            f"at most three phrases and {MAX_OBJECTS} objects, please"
        )
    return prompt


def _parse_phrase(part: str, text: str) -> Phrase:
    read = re.fullmatch(
        rf"(?P<count>a|{'|'.join(COUNTS)})"
        rf"(?: (?P<size>{'|'.join(SIZES)}))?(?: (?P<texture>{'|'.join(TEXTURES)}))?(?: (?P<color>{'|'.join(COLORS)}))?"
        rf" (?P<shape>{'|'.join([*SHAPES, *_SINGULAR])})",
        part,
    )
    count = 0 if not read else 1 if read["count"] == "a" else COUNTS.index(read["count"]) + 1
    if not read or (read["shape"] in _SINGULAR) != (count > 1):
        raise ValueError(
            f"cannot read {shorten(part, 60)!r} in the prompt {shorten(text, 100)!r}; a phrase is a count, then size, "
            "texture and color as wanted, in this order, then a shape, as in 'two small striped red circles'"
        )
    attributes = {kind: read[kind] or "" for kind in ("color", "texture", "size")}
    return Phrase(_SINGULAR.get(read["shape"], read["shape"]), **attributes, count=count)
