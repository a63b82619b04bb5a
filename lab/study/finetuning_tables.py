"""The tables of the notebooks on fine-tuning and evaluation.

Intervals are 95% bootstrap intervals that resample prompts within each category, and of images the noises that they
start from (`rfmi.evaluation.comparing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from rfmi.evaluation import MEAN, Evaluation, by_image, compare, mean_of_categories, share_of_the_way
from rfmi.quality import diversity, interval_of, quality_draws
from lab.worlds.shapes import parse
from lab.worlds.shapes.words import HELD_OUT
from rfmi.selection import Selection
from rfmi.selection.folder import kept_rows
from lab.study.finetuning_pools import CHOICE_SEED, chosen_by, control_and_round, round_name

BASE, CEILING = "base", "judge"
NEEDS = {"clip_score": "an auxiliary model", "judge": "the truth"}


def needs(method: str) -> str:
    """What a method needs beside the model itself; of a variation, "judge, ...", or a later round, "judge_round_2",
    what its choice needs."""
    return NEEDS.get(control_and_round(method)[0], "nothing")


def chosen_alignment(
    selection: Selection, numbers: Mapping[str, np.ndarray], controls: Sequence[str], seed: int
) -> pd.DataFrame:
    """How often the images that each control chooses are aligned: columns category, series, value, low, high, n."""
    kept, parts = kept_rows(selection.candidates), []
    aligned = pd.Series(numbers["aligned"], kept.index)
    for control in controls:
        rows = kept_rows(chosen_by(control, selection, numbers, CHOICE_SEED).candidates)
        index = pd.MultiIndex.from_arrays([rows.prompt.map(lambda text: parse(text).category), rows.prompt])
        values = pd.Series(aligned[rows.index].to_numpy(), index.set_names(["category", "prompt"]))
        parts.append(_as_series(mean_of_categories(values, seed), control))
    return pd.concat(parts, ignore_index=True)


def alignment_by_method(evaluations: Mapping[str, Evaluation], seed: int) -> pd.DataFrame:
    """Alignment of a method's images by category: columns category, series, value, low, high, n."""
    parts = [_as_series(mean_of_categories(by_image(each), seed), name) for name, each in evaluations.items()]
    return pd.concat(parts, ignore_index=True)


def as_shown(alignment: pd.DataFrame) -> pd.DataFrame:
    """The table of the papers: a row a method, what it needs, a column a category, with intervals."""
    text = [f"{row.value:.1%} ({row.low:.1%} to {row.high:.1%})" for row in alignment.itertuples()]
    table = alignment.assign(text=text).pivot(index="series", columns="category", values="text")
    table = table.loc[list(dict.fromkeys(alignment.series)), list(dict.fromkeys(alignment.category))]
    table.insert(0, "needs", [needs(name) for name in table.index])
    return table.rename_axis(index="fine-tuned on", columns=None)


def gains(evaluations: Mapping[str, Evaluation], seed: int, against: str = BASE) -> pd.DataFrame:
    """Every method's alignment less that of another, in the mean of the categories, paired by prompt."""
    rows = {
        name: compare(evaluations[against], each, seed=seed).loc[MEAN]
        for name, each in evaluations.items()
        if name != against
    }
    return pd.DataFrame(rows).T


def by_noise(evaluations: Mapping[str, Evaluation], name: str) -> pd.DataFrame:
    """Alignment by the seed of an image's noise, in the mean of the categories: the base model's, another's, and the
    gain."""
    found = {each: by_image(evaluations[each]).groupby("category").mean().mean() for each in (BASE, name)}
    return pd.DataFrame(found).assign(gain=found[name] - found[BASE])


def by_novelty(evaluations: Mapping[str, Evaluation], name: str, seed: int) -> pd.DataFrame:
    """The gain of a method on prompts whose pairs of attribute and shape the base model was trained on, and on those
    with a pair that it has never seen: columns prompts, base (its own alignment), value, low, high."""
    base, other = by_image(evaluations[BASE]), by_image(evaluations[name])
    unseen = base.index.get_level_values("prompt").map(lambda text: bool(parse(text).pairs & HELD_OUT))
    rows = {}
    for kind, places in (("pairs seen in training", ~unseen), ("a pair never seen", unseen)):
        if places.any():
            gain = mean_of_categories((other - base)[places], seed).loc[MEAN]
            own = base[places].groupby("category").mean().mean(axis=1).mean()
            rows[kind] = {"prompts": gain["n"], BASE: own} | gain[["value", "low", "high"]].to_dict()
    return pd.DataFrame(rows).T


def later_rounds(evaluations: Mapping[str, Evaluation], measured: pd.DataFrame, seed: int) -> pd.DataFrame:
    """What each later round adds to the alignment of the round before: value, low, high; and by how much each measure
    of quality is above the base model's after it, NaN where it was not measured.

    measured: of `quality_table`.
    """
    rows = {}
    for name in evaluations:
        control, number = control_and_round(name)
        if number > 1:
            before = round_name(control, number - 1)
            added = gains({each: evaluations[each] for each in (before, name)}, seed, against=before).loc[name]
            rows[name] = added[["value", "low", "high"]].to_dict()
    change = measured.pivot(index="series", columns="measure", values="change")
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])
    return table.join(change.add_suffix(", less base"))


def share_of_ceiling(evaluations: Mapping[str, Evaluation], name: str, seed: int) -> dict[str, float]:
    """The gain of a method over that of training on the judge's choices: value, low, high."""
    return share_of_the_way(*(by_image(evaluations[each]) for each in (BASE, name, CEILING)), seed)


def quality_table(
    evaluations: Mapping[str, Evaluation], scenes: torch.Tensor, seed: int, resamples: int = 200
) -> pd.DataFrame:
    """Image quality by method against rendered scenes of the same prompts, in the same order, and the diversity within
    a prompt: columns measure, series, value, low, high; and change, change_low, change_high, less the base model's.
    Intervals resample prompts, the same for all methods.
    """
    draws, parts = {}, []
    for name, found in evaluations.items():
        generator = torch.Generator().manual_seed(seed)
        groups = (found.images.category + " " + found.images.prompt).tolist()
        draws[name] = quality_draws(scenes, found.features, generator=generator, groups=groups, resamples=resamples)
        spread = diversity(found.features, groups).numpy()
        rows = np.random.default_rng(seed).integers(len(spread), size=(resamples, len(spread)))
        draws[name]["diversity"] = [spread.mean(), *spread[rows].mean(1)]
    for name, found in draws.items():
        change = interval_of(found - draws[BASE]).add_prefix("change_").rename(columns={"change_value": "change"})
        parts.append(interval_of(found).join(change).assign(series=name).reset_index())
    return pd.concat(parts, ignore_index=True)


def information_table(found: Mapping[str, dict], categories: Sequence[str], seed: int) -> pd.DataFrame:
    """The mutual information that each model's images carry of their prompts, nats: columns category, series, value,
    low, high."""
    parts = []
    for name, unit in found.items():
        pairs = [(category, i) for category, values in zip(categories, unit["information"], strict=True)
                 for i in range(len(values))]  # fmt: skip
        index = pd.MultiIndex.from_tuples(pairs, names=["category", "prompt"])
        values = pd.Series(np.concatenate(unit["information"]), index)
        parts.append(_as_series(mean_of_categories(values, seed), name))
    return pd.concat(parts, ignore_index=True)


def results(
    alignment: pd.DataFrame,
    gain: pd.DataFrame,
    share: dict[str, float],
    measured: pd.DataFrame,
    information: pd.DataFrame,
    step_time: dict[str, float],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """What goes into reports/results/evaluation.json."""
    mean = alignment[alignment.category == MEAN].set_index("series")
    wide = measured.set_index(["measure", "series"])
    told = information[information.category == MEAN].set_index("series")
    return {
        "alignment": mean.value.to_dict(),
        "alignment_interval": mean[["low", "high"]].T.to_dict("list"),
        "by_category": alignment.drop(columns="n").to_dict("records"),
        "gain": gain.loc["ours", ["value", "low", "high"]].to_dict(),
        "gains": gain[["value", "low", "high"]].T.to_dict(),
        "share_of_ceiling": share["value"],
        "share_of_ceiling_interval": [share["low"], share["high"]],
        "quality": {
            measure: {
                "base": wide.value[measure, BASE],
                "base_low": wide.low[measure, BASE],
                "base_high": wide.high[measure, BASE],
                "ours": wide.value[measure, "ours"],
                "low": wide.low[measure, "ours"],
                "high": wide.high[measure, "ours"],
                "change": wide.change[measure, "ours"],
                "change_low": wide.change_low[measure, "ours"],
                "change_high": wide.change_high[measure, "ours"],
            }
            for measure in dict.fromkeys(measured.measure)
        },
        "information": told[["value", "low", "high"]].T.to_dict(),
        "step_time_ratio": step_time["ratio"],
        "step_time_ratio_range": [step_time["smallest"], step_time["largest"]],
        "settings": settings,
    }


def _as_series(table: pd.DataFrame, name: str) -> pd.DataFrame:
    return table.assign(series=name).rename_axis("category").reset_index()
