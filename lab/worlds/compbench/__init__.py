"""T2I-CompBench (arXiv 2307.06350) as a world: its prompts and its metrics, on the models of `lab.worlds.vision`.

    RFMI_COMPBENCH              the folder of {category}_train.txt and {category}_val.txt, or a data set of the hub
    RFMI_COMPBENCH_PUBLISHED    1 for the published evaluator's behaviour, faults and all (`published` in functions)

`score` is the category's metric: BLIP-VQA (color, shape, texture), a detector (spatial, numeracy), a detector and depth
(3d_spatial), CLIPScore (non_spatial), the mean of those that apply (complex). The detector is OWLv2 in place of UniDet:
scores that need it compare models, and are not those of published tables. `aligned` is a score of at least a half,
which no CLIPScore reaches: look at `score` for non_spatial.

Two published faults have no switch: prompts are not read back from file names, and what a prompt is says its category,
not a flag whose "False" is true. Of the 900 validation prompts of color, shape and texture, 204 have not two noun
phrases (spaCy), so that splitting at "and" would be another metric.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from lab.worlds import vision
from lab.worlds.compbench import files, formulas, language

name = "compbench"
categories = files.CATEGORIES


def __getattr__(attribute: str) -> tuple[str, ...]:
    """`sources`, with the files of prompts."""
    if attribute == "sources":
        return "lab.worlds.compbench", "lab.worlds.vision", *map(str, files.paths(files.source()))
    raise AttributeError(f"module {__name__!r} has no attribute {attribute!r}")


def identity() -> dict[str, str | bool]:
    """What the judge's numbers depend on besides code and files: the models by name, and whose behaviour it is."""
    return {variable: vision.named(variable) for variable in vision.MODELS} | {"published": is_published()}


def is_published() -> bool:
    """Whether the published evaluator's behaviour is asked for by the environment."""
    return os.environ.get("RFMI_COMPBENCH_PUBLISHED", "0") not in ("", "0")


def prompts(category: str, split: str = "val") -> tuple[str, ...]:
    """The benchmark's prompts, each once: "train" and "val", on which things are chosen, of its training file, and
    "locked", its validation file, by which models are compared.
    """
    texts = files.splits(files.source(), category)[split]
    known = {"spatial": language.FLAT, "3d_spatial": language.DEEP}.get(category)
    lost = [text for text in texts if known and language.relation(text, known) is None]
    if lost:
        raise ValueError(f"the {category} prompt {lost[0][:40]!r} names no relation; give one of {', '.join(known)}")
    return texts


def judge(images: Tensor, prompts: Sequence[str], category: str, published: bool | None = None) -> pd.DataFrame:
    """The category's metric, one row an image: `aligned`, `score`, and `parts`, what it was made of, by name.

    published: the published evaluator's behaviour; None for what the environment says.
    """
    if isinstance(prompts, str) or len(images) != len(prompts):
        raise ValueError(f"{len(images)} images and {len(prompts)} prompts; give a list of them, one an image")
    if category not in METRICS:
        raise ValueError(f"there is no category {category!r}; give one of {', '.join(METRICS)}")
    published = is_published() if published is None else published
    judged = METRICS[category](images, list(prompts), published)
    rows = [(score >= 0.5, score, parts) for score, parts in judged]
    return pd.DataFrame(rows, columns=["aligned", "score", "parts"]).astype({"aligned": bool, "score": float})


def changed(prompt: str, seed: int | str) -> str | None:
    """The prompt with two of its own attributes or things exchanged; None where that says the same."""
    return language.exchanged(prompt, seed)


def features(images: Tensor) -> Tensor:
    """CLIP's features, (n, d), not normalised."""
    return vision.clip_features(images)


def references(prompts: Sequence[str], category: str, n: int, seed: int | str) -> None:
    """None: nobody has true images of these prompts."""


def auxiliary_score(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """CLIPScore."""
    return vision.clip_cosine(images, prompts)


def pipeline(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
    """None: the benchmark comes with no model."""


Judged = list[tuple[float, dict[str, float]]]


def _attributes(images: Tensor, prompts: Sequence[str], published: bool) -> Judged:
    asked = [language.phrases(text, published) for text in prompts]
    answers: list[dict[str, float]] = [{} for _ in asked]
    for k in range(max(map(len, asked), default=0)):
        some = [i for i, each in enumerate(asked) if k < len(each)]
        probabilities = vision.yes_probability(images[some], [f"{asked[i][k]}?" for i in some])
        for i, probability in zip(some, probabilities.tolist(), strict=True):
            answers[i][f"{k + 1}. {asked[i][k]}"] = probability
    return [(formulas.attribute_score(list(each.values())), each) for each in answers]


def _pairs(
    images: Tensor, prompts: Sequence[str], published: bool, deep: bool = False, within: bool = False
) -> list[tuple[float, dict[str, float]] | None]:
    """Two things and their place; None for a prompt that does not say so."""
    known = language.DEEP if deep else language.FLAT
    said = [language.two_things(text, known, published, within) for text in prompts]
    found = vision.detect(images, [[each[0], each[2]] if each else [] for each in said])
    near = vision.depth(images) if deep else [None] * len(images)
    judged = []
    for each, things, depth_map in zip(said, found, near, strict=True):
        if each is None:
            judged.append(None)
            continue
        one, relation, other = each
        ones, others = ([thing for thing in things if thing.name == name] for name in (one, other))
        if deep:
            position = partial(formulas.deep_position, relation, near=depth_map, published=published)
        else:
            position = partial(formulas.flat_position, relation, side=max(images.shape[-2:]), published=published)
        score = formulas.pair_score(ones, others, position, published)
        score = score if deep or score >= formulas.LEAST else 0.0
        judged.append((score, {f"1. {one}": _best(ones), f"2. {other}": _best(others)}))
    return judged


def _best(things: Sequence[vision.Detection]) -> float:
    return max((thing.score for thing in things), default=0.0)


def _spatial(images: Tensor, prompts: Sequence[str], published: bool, deep: bool = False) -> Judged:
    return [each or (0.0, {}) for each in _pairs(images, prompts, published, deep)]


def _numeracy(images: Tensor, prompts: Sequence[str], published: bool) -> Judged:
    asked = [language.things_and_numbers(text) for text in prompts]
    found = vision.detect(images, [list(dict.fromkeys(name for name, _ in each)) for each in asked])
    judged = []
    for each, things in zip(asked, found, strict=True):
        counts = {name: sum(thing.name == name for thing in things) for name, _ in each}
        judged.append((formulas.numeracy_score(each, counts), counts))
    return judged


def _actions(images: Tensor, prompts: Sequence[str], published: bool = False) -> Judged:
    return [(score, {}) for score in vision.clip_cosine(images, prompts).tolist()]


def _complex(images: Tensor, prompts: Sequence[str], published: bool) -> Judged:
    """3-in-1: attributes, the relation where there is one, the action where there is one or no relation."""
    attributes = _attributes(images, prompts, published)
    relations = _pairs(images, prompts, published, within=True)
    actions = _actions(images, [language.without_adjectives(text) for text in prompts])
    judged = []
    for text, attribute, relation, action in zip(prompts, attributes, relations, actions, strict=True):
        parts = {"attributes": attribute[0]} | ({"relation": relation[0]} if relation else {})
        if relation is None or language.has_action(text):
            parts["action"] = action[0]
        judged.append((sum(parts.values()) / len(parts), parts))
    return judged


METRICS = {
    "color": _attributes,
    "shape": _attributes,
    "texture": _attributes,
    "spatial": _spatial,
    "3d_spatial": partial(_spatial, deep=True),
    "numeracy": _numeracy,
    "non_spatial": _actions,
    "complex": _complex,
}
