"""Prompts: their structure, their text, and back.

A prompt is one to three noun phrases ("a large striped red circle", "two blue squares") and at most one relation,
between the first and the second. Its category, one of T2I-CompBench's eight, follows from its structure alone: a
prompt in which a phrase has two adjectives, or which mixes kinds of adjectives or of demands, is `complex`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
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
    def named(self) -> dict[str, str]:
        """The adjectives by their kind, in the order of the text."""
        return {kind: word for kind in ("size", "texture", "color") if (word := getattr(self, kind))}


@dataclass(frozen=True)
class Prompt:
    """What a picture is to show: `relation` (a key of RELATIONS, or empty) holds between the first two phrases."""

    phrases: tuple[Phrase, ...]
    relation: str = ""

    @property
    def counted(self) -> bool:
        return any(phrase.count > 1 for phrase in self.phrases)

    @property
    def category(self) -> str:
        if max(len(phrase.named) for phrase in self.phrases) > 1 or (self.counted and self.relation):
            return "complex"
        if self.relation:
            return next(category for category, relations in RELATIONS_OF.items() if self.relation in relations)
        if self.counted:
            return "numeracy"
        kinds = {next(iter(phrase.named), "size").replace("size", "shape") for phrase in self.phrases}
        return kinds.pop() if len(kinds) == 1 else "complex"

    @property
    def pairs(self) -> frozenset[tuple[str, str]]:
        """(attribute, shape) of every adjective."""
        return frozenset((word, phrase.shape) for phrase in self.phrases for word in phrase.named.values())

    @property
    def n_objects(self) -> int:
        return sum(phrase.count for phrase in self.phrases)

    def __str__(self) -> str:
        said = []
        for phrase in self.phrases:
            count = COUNTS[phrase.count - 1] if self.counted else "a"
            noun = phrase.shape if phrase.count == 1 else PLURALS[phrase.shape]
            said.append(" ".join([count, *phrase.named.values(), noun]))
        if self.relation:
            return f"{said[0]} {RELATIONS[self.relation]} {said[1]}"
        return " and ".join(filter(None, [", ".join(said[:-1]), said[-1]]))


def read_prompts(path: Path) -> tuple[str, ...]:
    """The prompts of a file, one a line; T2I-CompBench's own files read as well.

    Windows line ends and a missing final newline are fine; blank lines and repeated prompts are left out.
    """
    lines = [" ".join(line.split()) for line in path.read_text(encoding="utf-8-sig").splitlines()]
    texts = tuple(dict.fromkeys(line for line in lines if line))
    if not texts:
        raise ValueError(f"{path} holds no prompt; it should hold one a line")
    return texts


def parse(text: str) -> Prompt:
    """The structure of a prompt; ValueError for a text outside the grammar."""
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
    phrases = tuple(_parse_phrase(part, text) for part in parts)
    prompt = Prompt(phrases, _RELATION_OF_WORDS[relation[1]] if relation else "")
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
