"""GenEval and GenEval 2 in form: prompts from the user's files, judged by their rules with `lab.worlds.vision` as eyes.

RFMI_GENEVAL is the path of the benchmark's own file ("locked"); RFMI_GENEVAL_TRAIN and RFMI_GENEVAL_VAL are those of
further prompts in the same form, to train and to choose on. A file may hold entries of both benchmarks.

Figures are not the published evaluators' to the digit:

- an open-vocabulary detector, asked for the entry's own classes, stands in place of Mask2Former. The thresholds of its
  scores are the published ones, of which the second, for counting, is more than such a detector often gives: choose
  your own by RFMI_GENEVAL_THRESHOLDS ("0.3 0.9"), on images whose objects you have counted, before you believe a count.
  `detect` leaves out what overlaps a surer detection of its class; published, nothing is left out.
- boxes have no masks: a color is read off the whole crop, not off the object on grey. The published CLIP is
  openai/clip-vit-large-patch14; RFMI_VISION_CLIP names one.
- a color's cosine is the mean over the three published phrases, not the cosine with the phrases' mean.
- GenEval 2's "How many hens are in the image?", answered "two", is asked as "Are there exactly two hens in the image?",
  and the probability is that of "yes" against "no".
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from textwrap import shorten

import pandas as pd
import torch
from torch import Tensor

from lab.worlds.geneval.entries import COLORS, FILES, SECOND, SOURCE, TASKS, category_of, entries, files
from lab.worlds.geneval.rules import THRESHOLDS, as_yes_or_no, faults, kept, soft_tifa

name = "geneval"
PHRASES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")


def __getattr__(attribute: str) -> tuple[str, ...]:
    """`categories`, those in the named files, or all where none is named; `sources`, with those files."""
    if attribute == "categories":
        there = {category_of(entry) for each in entries().values() for entry in each.values()}
        return tuple(category for category in (*TASKS, SECOND) if category in there or not there)
    if attribute == "sources":
        return "lab.worlds.geneval", "lab.worlds.vision", *map(str, files().values())
    raise AttributeError(f"module {__name__!r} has no attribute {attribute!r}")


def identity() -> dict[str, str | tuple[float, float]]:
    """What the judge's numbers depend on besides code and files: the models by name, and the thresholds."""
    from lab.worlds.vision import named

    models = {variable: named(variable) for variable in ("RFMI_VISION_VQA", "RFMI_VISION_DETECTOR", "RFMI_VISION_CLIP")}
    return models | {"thresholds": thresholds()}


def thresholds() -> tuple[float, float]:
    """What a detection's score must be above, and in counting, where a doubtful object must not count."""
    said = os.environ.get("RFMI_GENEVAL_THRESHOLDS")
    try:
        usual, counting = map(float, said.split()) if said else THRESHOLDS
    except ValueError as error:
        raise ValueError(f"RFMI_GENEVAL_THRESHOLDS is {said[:40]!r}; give two numbers, as '0.3 0.9'") from error
    return usual, counting


def prompts(category: str, split: str = "val") -> tuple[str, ...]:
    """The prompts of a category, in the file's order. Raises ValueError where the split has no file, or none of it."""
    if split not in files():
        raise ValueError(f"no file is named for the split {split!r}; set {FILES[split]} to the path of {SOURCE}")
    here = entries()[split]
    texts = tuple(prompt for prompt, entry in here.items() if category_of(entry) == category)
    if not texts:
        has = ", ".join({category_of(entry): None for entry in here.values()})
        raise ValueError(f"the file of {FILES[split]} has no prompts of {category}; it has those of {has}")
    return texts


def judge(images: Tensor, prompts: Sequence[str], category: str = "") -> pd.DataFrame:
    """One row an image, by the entry of its prompt.

    GenEval: `aligned`, whether the image is correct; `score`, the same as 1 or 0 (its mean over a task is the published
    figure, the mean over tasks the overall one); `reason`, what is wrong; `found`, class to number.
    GenEval 2: `aligned`, all atoms above one half; `score`, Soft-TIFA AM; `soft_tifa_gm`, Soft-TIFA GM; `atoms`, skill
    and question to the probability of the right answer; `group`, how many atoms the prompt has.

    Raises ValueError for a prompt that no file holds.
    """
    if isinstance(prompts, str) or len(images) != len(prompts):
        raise ValueError(f"there are {len(images)} images and {len(prompts)} prompts; give one an image, in a list")
    asked = [entry_of(prompt) for prompt in prompts]  # refused before the long part
    rows: dict[int, dict] = {i: _answered(images[i], entry) for i, entry in enumerate(asked) if "vqa_list" in entry}
    if drawn := [i for i in range(len(asked)) if i not in rows]:
        rows |= zip(drawn, _detected(images[drawn], [asked[i] for i in drawn]), strict=True)
    return pd.DataFrame([rows[i] for i in range(len(asked))], columns=None if rows else ["aligned", "score"])


def entry_of(prompt: str) -> dict:
    """The entry of a prompt, from any of the files."""
    for here in entries().values():
        if prompt in here:
            return here[prompt]
    variables = " or ".join(FILES.values())
    raise ValueError(f"no file of GenEval has the prompt {shorten(prompt, 60)!r}; name one that does by {variables}")


def _detected(images: Tensor, asked: Sequence[dict]) -> list[dict]:
    from lab.worlds.vision import detect

    clauses = [[*entry["include"], *(entry.get("exclude") or ())] for entry in asked]
    names = [list({clause["class"]: None for clause in each}) for each in clauses]
    usual, counting = thresholds()
    rows = []
    for image, entry, seen in zip(images, asked, detect(images, names, min(usual, counting)), strict=True):
        found = kept(seen, counting if entry["tag"] == "counting" else usual)
        wrong = faults(entry, found, lambda each, image=image: color_of(image, each.box, each.name))
        numbers = {name: len(each) for name, each in found.items()}
        rows.append({"aligned": not wrong, "score": float(not wrong), "reason": "; ".join(wrong), "found": numbers})
    return rows


def color_of(image: Tensor, box: Sequence[float], name: str) -> str:
    """The color, one of ten, that CLIP sees without training in a box of an image (3, h, w)."""
    from lab.worlds.vision import clip_cosine

    left, top, right, bottom = (max(round(edge), 0) for edge in box)
    height, width = image.shape[1:]
    left, top = min(left, width - 1), min(top, height - 1)
    crop = image[:, top : max(bottom, top + 1), left : max(right, left + 1)]
    texts = [phrase.format(color=color, name=name) for phrase in PHRASES for color in COLORS]
    cosines = clip_cosine(crop.expand(len(texts), -1, -1, -1), texts)
    return COLORS[int(cosines.view(len(PHRASES), -1).mean(0).argmax())]


def _answered(image: Tensor, entry: dict) -> dict:
    from lab.worlds.vision import yes_probability

    texts, wanted = zip(*(as_yes_or_no(*pair) for pair in entry["vqa_list"]), strict=True)
    yes = yes_probability(image.expand(len(texts), -1, -1, -1), texts).tolist()
    right = [p if true else 1 - p for p, true in zip(yes, wanted, strict=True)]
    am, gm = soft_tifa(right)
    said = [f"{skill}: {text}" for skill, text in zip(entry.get("skills") or ["atom"] * len(texts), texts, strict=True)]
    row = {"aligned": min(right) > 0.5, "score": am, "soft_tifa_gm": gm, "atoms": dict(zip(said, right, strict=True))}
    return row | {"group": f"{entry.get('atom_count', len(texts))} atoms"}


def changed(prompt: str, seed: int | str) -> str | None:
    """The prompt with its two colors, or the two classes of a position, exchanged; None where it has no two, or where
    the exchange asks for the same.
    """
    include = entry_of(prompt).get("include", ())
    colors, names = {each["color"] for each in include if "color" in each}, {each["class"] for each in include}
    placed = any("position" in each for each in include)
    pair = sorted(colors if len(colors) == 2 else names if placed else ())
    return exchanged(prompt, *pair) if len(pair) == 2 else None


def exchanged(text: str, first: str, second: str) -> str | None:
    """A text with two phrases exchanged and "a" or "an" put right; None unless each is there once."""
    other = {first: second, second: first}
    longer_first = "|".join(map(re.escape, sorted(other, key=len, reverse=True)))
    pattern = re.compile(rf"\b(an? )?({longer_first})\b")
    if sorted(match[2] for match in pattern.finditer(text)) != sorted(other):
        return None
    article = {phrase: "an " if phrase[0] in "aeiou" else "a " for phrase in other}
    return pattern.sub(lambda match: (article[other[match[2]]] if match[1] else "") + other[match[2]], text)


def features(images: Tensor) -> Tensor:
    """CLIP's features, (n, d), not normalised."""
    from lab.worlds.vision import clip_features

    return clip_features(images)


def references(prompts: Sequence[str], category: str, n: int, seed: int | str) -> None:
    """None: there are no true images."""


def auxiliary_score(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """CLIPScore: the cosine, (n,)."""
    from lab.worlds.vision import clip_cosine

    return clip_cosine(images, prompts)


def pipeline(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
    """None: the user names a model."""
