"""The tables of the notebook on the world and its model, from the units' records.

Intervals are 95% bootstrap intervals over prompts (over pairs for knowledge); that of a mean of categories resamples
within each category.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from rfmi.evaluation import MEAN, mean_of_categories
from rfmi.quality import quality
from rfmi.statistics import bootstrap_mean
from lab.study.base_model_experiments import atom_kind



def judge_table(categories: Sequence[str], units: list[dict]) -> pd.DataFrame:
    """Share right and number asked by category; `all` adds up the numbers."""
    counts = pd.DataFrame(
        {
            category: {(test, key): unit[test][key] for test in unit for key in ("right", "asked")}
            for category, unit in zip(categories, units, strict=True)
        }
    ).T
    counts.loc["all"] = counts.sum()
    columns = {}
    for test in counts.columns.get_level_values(0).unique():
        columns[test] = counts[test]["right"] / counts[test]["asked"]
        columns[f"{test} (asked)"] = counts[test]["asked"].astype(int)
    return pd.DataFrame(columns)


def judge_overall(judged: pd.DataFrame) -> dict[str, float]:
    """Share right over all categories, by test."""
    return {test: float(judged.loc["all", test]) for test in ("rendered", "reconstructed", "changed")}


def mean_with_interval(values: dict[str, np.ndarray], seed: int) -> pd.DataFrame:
    """value, low, high and n by category, and of the mean of the categories.

    values: one number a prompt, by category.
    """
    return mean_of_categories(as_series(values), seed)


def as_series(values: dict[str, np.ndarray]) -> pd.Series:
    """One number a prompt, by category, as a series by category and prompt."""
    return pd.concat({name: pd.Series(part) for name, part in values.items()}, names=["category", "prompt"])


def share_table(pairs: pd.DataFrame, column: str, seed: int) -> pd.DataFrame:
    """The mean of a column over rows, or the share in which it holds, by category and in the mean of the categories."""
    parts = pairs.groupby("category", sort=False)[column]
    return mean_with_interval({name: part.to_numpy(float) for name, part in parts}, seed)


def margins(pairs: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The changed prompt's loss minus the true one's, by category and noise level."""
    rows = []
    for column in (name for name in pairs.columns if name.startswith("margin_")):
        for category, part in pairs.groupby("category", sort=False)[column]:
            found = bootstrap_mean(torch.tensor(part.to_numpy()), seed)
            rows.append({"category": category, "level": float(column.removeprefix("margin_"))} | vars(found))
    return pd.DataFrame(rows)


def images_table(categories: Sequence[str], units: list[dict], guidance: float) -> pd.DataFrame:
    """One row an image."""
    parts = [
        pd.DataFrame(unit["rows"]).assign(category=category) for category, unit in zip(categories, units, strict=True)
    ]
    return pd.concat(parts, ignore_index=True).assign(guidance=guidance)


def features_of(units: list[dict]) -> Tensor:
    """The features of every image of several units: (n, d)."""
    return torch.cat([torch.tensor(unit["features"]) for unit in units])


def by_prompt(images: pd.DataFrame, how: str) -> dict[str, np.ndarray]:
    """One number a prompt: the share of its images that are aligned ("mean"), or whether any is ("max")."""
    found = images.groupby(["category", "prompt"], sort=False)["aligned"].agg(how)
    return {name: part.to_numpy(float) for name, part in found.groupby("category", sort=False)}


def alignment_table(images: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Alignment, that of the best image of a prompt, and the mean score, by category, the first two with intervals."""
    aligned, best = (mean_with_interval(by_prompt(images, how), seed) for how in ("mean", "max"))
    table = aligned.rename(columns={"value": "aligned"}).drop(columns="n")
    table[["best", "best_low", "best_high"]] = best[["value", "low", "high"]]
    scores = images.groupby("category", sort=False).score.mean()
    return table.assign(score=pd.concat([scores, pd.Series({MEAN: scores.mean()})]), prompts=aligned.n)


def shares_beside(known: pd.DataFrame, alignment: pd.DataFrame) -> pd.DataFrame:
    """Knowledge, alignment and the alignment of the best, one row each a category, for the figure."""
    best = alignment[["best", "best_low", "best_high"]].set_axis(["value", "low", "high"], axis=1)
    drawn = alignment[["aligned", "low", "high"]].set_axis(["value", "low", "high"], axis=1)
    series = {"knowledge": known[["value", "low", "high"]], "aligned": drawn, "best by the judge": best}
    parts = [table.assign(series=name).rename_axis("category").reset_index() for name, table in series.items()]
    return pd.concat(parts, ignore_index=True)


def guidance_curves(
    drawn: dict[float, tuple[pd.DataFrame, Tensor]], scenes: list[list[list[float]]], seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Alignment by category and image quality, each against the guidance scale.

    drawn: images and their features by scale; scenes: features of rendered scenes, a list a category. Every scale is
    measured on as many images as the smallest set has, since the distances depend on their number.
    """
    real = torch.cat([torch.tensor(part) for part in scenes])
    n = min(len(real), *(len(features) for _, features in drawn.values()))
    curve, measured = [], []
    for scale, (images, features) in sorted(drawn.items()):
        table = mean_with_interval(by_prompt(images, "mean"), seed)
        curve.append(table.rename_axis("category").reset_index().assign(guidance=scale))
        generator = torch.Generator().manual_seed(seed)
        real_part, part = (all_[torch.randperm(len(all_), generator=generator)[:n]] for all_ in (real, features))
        measured.append(quality(real_part, part, generator=generator).reset_index().assign(guidance=scale))
    return pd.concat(curve, ignore_index=True), pd.concat(measured, ignore_index=True)


def failures(images: pd.DataFrame) -> pd.DataFrame:
    """The share of a category's images in which an atom of each kind fails."""
    kinds = images.failed.map(lambda failed: {atom_kind(name) for name in failed})
    columns = ("present", "color", "texture", "size", "number", "relation")
    table = pd.DataFrame({kind: kinds.map(lambda found, kind=kind: kind in found) for kind in columns})
    return table.groupby(images.category, sort=False).mean()


def unseen_table(images: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Alignment of prompts that name a pair of attributes kept from the flow, beside that of the others."""
    found = images.groupby(["unseen", "prompt"])["aligned"].mean()
    parts = {"unseen" if unseen else "seen": part.to_numpy(float) for unseen, part in found.groupby("unseen")}
    return mean_with_interval(parts, seed).drop(index=MEAN)


def images_per_second(timed: list[dict], workers: int) -> float:
    """Images drawn in a second by `workers` processes side by side; `timed` are the records of `speed_unit`."""
    return workers * sum(unit["images"] for unit in timed) / sum(unit["seconds"] for unit in timed)


def training_losses(log: dict) -> pd.DataFrame:
    """The losses in a model's `training.json`: stage, step, loss; a run that started from another follows it."""
    earlier = training_losses(log["earlier"]) if "earlier" in log else pd.DataFrame(columns=["stage", "step", "loss"])
    parts = [earlier]
    for stage, curve in log["losses"].items():
        before = earlier.step[earlier.stage == stage].max() if stage in set(earlier.stage) else 0
        steps, losses = zip(*curve, strict=True)
        parts.append(pd.DataFrame({"stage": stage, "step": [before + step for step in steps], "loss": losses}))
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def results(
    judge: dict[str, float],
    known: pd.DataFrame,
    alignment: pd.DataFrame,
    quality: pd.DataFrame,
    images_per_second: float,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """What goes into reports/results/base_model.json."""
    return {
        "judge": judge,
        "knowledge": known.value.to_dict(),
        "knowledge_interval": known[["low", "high"]].T.to_dict("list"),
        "alignment": alignment.aligned.to_dict() | {"best_of_16": alignment.best[MEAN]},
        "alignment_interval": alignment[["low", "high"]].T.to_dict("list"),
        "best": alignment.best.to_dict(),
        "score": alignment.score.to_dict(),
        "quality": quality.to_dict("records"),
        "images_per_second": images_per_second,
        "settings": settings,
    }
