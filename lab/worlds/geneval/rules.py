"""The rules of GenEval (Ghosh et al. 2023, arXiv 2310.11513), from what a detector found to a verdict, and of GenEval 2
(Kamath et al. 2025, arXiv 2512.16853), from the answers of a model to a score.

A detection has a name, a score in [0, 1] and a box (left, top, right, bottom) in pixels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import hypot, prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.worlds.vision import Detection

THRESHOLDS = 0.3, 0.9  # of a detection's score, the second in counting, as published
MOST = 16  # detections of a class
OFFSET = 0.1  # of the sizes of both objects, which their centres must be apart at least


def kept(detections: Sequence[Detection], threshold: float) -> dict[str, list[Detection]]:
    """The detections that count, by class, surest first: at most 16 of each, with a score above the threshold."""
    found: dict[str, list[Detection]] = {}
    for each in sorted(detections, key=lambda each: -each.score):
        if each.score > threshold and len(found.setdefault(each.name, [])) < MOST:
            found[each.name].append(each)
    return found


def relations(a: Sequence[float], b: Sequence[float]) -> set[str]:
    """Where box a is, seen from box b: up to two of "left of", "right of", "above", "below".

    What the centres are apart on an axis beyond a tenth of both sizes, by their distance, must be above one half.
    """
    apart = [(a[i] + a[i + 2] - b[i] - b[i + 2]) / 2 for i in (0, 1)]
    needed = [OFFSET * (a[i + 2] - a[i] + b[i + 2] - b[i]) for i in (0, 1)]
    beyond = [max(abs(apart[i]) - needed[i], 0) for i in (0, 1)]
    words = [("right of", "left of")[apart[0] < 0], ("below", "above")[apart[1] < 0]]
    return {words[i] for i in (0, 1) if max(beyond) >= 1e-3 and beyond[i] / hypot(*apart) > 0.5}


def faults(entry: dict, found: dict[str, list[Detection]], color_of: Callable[[Detection], str]) -> list[str]:
    """What an image does wrong by a GenEval entry, a phrase a clause; none where it is correct.

    Of a class the `count` surest are judged: all must have the color, and stand as asked to all of the other clause,
    which must itself hold. More of them is a fault only where the entry excludes it.

    found: detections by class, as `kept` gives them
    color_of: the color of a detection, asked where a clause names one
    """
    wrong: list[str] = []
    held: list[list[Detection]] = []  # by clause; empty where it does not hold
    for clause in entry["include"]:
        name, count = clause["class"], clause["count"]
        chosen, fault = found.get(name, [])[:count], ""
        if len(chosen) < count:
            fault = f"{name}: {len(chosen)}, not {count}"
        elif "color" in clause and (others := {color_of(each) for each in chosen} - {clause["color"]}):
            fault = f"{name}: {' and '.join(sorted(others))}, not {clause['color']}"
        elif "position" in clause:
            relation, place = clause["position"]
            true = [relation in relations(each.box, mark.box) for each in chosen for mark in held[place]]
            fault = "" if true and all(true) else f"{name}: not {relation} {entry['include'][place]['class']}"
        held.append([] if fault else chosen)
        wrong += [fault] if fault else []
    numbers = [(each["class"], len(found.get(each["class"], [])), each["count"]) for each in entry.get("exclude") or ()]
    return wrong + [f"{name}: {number}, not below {limit}" for name, number, limit in numbers if number >= limit]


def as_yes_or_no(question: str, answer: str) -> tuple[str, bool]:
    """A question of GenEval 2 as one to which the answer is yes (True) or no.

    ("How many hens are in the image?", "two") becomes ("Are there exactly two hens in the image?", True).
    """
    if answer.lower() in ("yes", "no"):
        return question, answer.lower() == "yes"
    count = re.fullmatch(r"How many (.+) are (in .+\?)", question)
    return f"Are there exactly {answer} {count[1]} {count[2]}" if count else f"{question} Is it {answer}?", True


def soft_tifa(probabilities: Sequence[float]) -> tuple[float, float]:
    """Soft-TIFA AM, which tells of atoms, and GM, which tells of prompts: the arithmetic and the geometric mean of an
    image's atoms, each the probability of its right answer.
    """
    n = len(probabilities)
    return sum(probabilities) / n, prod(probabilities) ** (1 / n)
