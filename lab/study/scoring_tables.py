"""The tables of the notebook on scores, from the units' columns: how each score ranks the candidates of one prompt.

Prompts are the independent units: quality is measured within a prompt, averaged over the prompts of a category and then
over categories, with 95% bootstrap intervals that resample prompts within each category. The area under the curve is
defined only where a prompt has candidates of both kinds, so it is averaged over all such prompts at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from rfmi.evaluation import MEAN, share_of_the_way
from rfmi.statistics import Mean, bootstrap_mean
from rfmi.scoring import Method
from rfmi.selection import Pruning
from lab.study.base_model_tables import as_series, mean_with_interval, share_table

RANDOM, JUDGE = "random", "judge"


def candidates_table(categories: Sequence[str], units: list[dict]) -> pd.DataFrame:
    """One row a candidate."""
    parts = [pd.DataFrame(unit).assign(category=name) for name, unit in zip(categories, units, strict=True)]
    return pd.concat(parts, ignore_index=True)


def tops(table: pd.DataFrame, score: str, k: int = 1) -> dict[str, np.ndarray]:
    """The aligned share of the k best candidates by `score`, one number a prompt, by category; `RANDOM` takes all,
    `JUDGE` knows which are aligned.
    """

    def of_prompt(part: pd.DataFrame) -> float:
        if score == RANDOM:
            return part.aligned.mean()
        return part.nlargest(k, "aligned" if score == JUDGE else score).aligned.mean()

    return {
        name: np.array([of_prompt(one) for _, one in part.groupby("prompt", sort=False)])
        for name, part in table.groupby("category", sort=False)
    }


def areas(table: pd.DataFrame, score: str) -> np.ndarray:
    """The area under the curve of aligned against misaligned candidates, one number a prompt that has both."""
    found = [
        roc_auc_score(part.aligned, part[score])
        for _, part in table.groupby(["category", "prompt"], sort=False)
        if 0 < part.aligned.mean() < 1
    ]
    return np.array(found)


def area_with_interval(table: pd.DataFrame, score: str, seed: int) -> Mean:
    """The mean of `areas`; NaN where fewer than two prompts have candidates of both kinds."""
    found = areas(table, score)
    return bootstrap_mean(torch.tensor(found), seed) if len(found) > 1 else Mean(np.nan, np.nan, np.nan, len(found))


def ranking_table(table: pd.DataFrame, scores: Sequence[str], seed: int) -> pd.DataFrame:
    """By score: area under the curve, alignment of the best one and of the best four, with intervals, and the share of
    the way from random choice to the judge's.
    """
    rows = {}
    for score in (RANDOM, *scores, JUDGE):
        best = mean_with_interval(tops(table, score), seed).loc[MEAN]
        row = {"top1": best.value, "top1_low": best.low, "top1_high": best.high}
        row["top4"] = mean_with_interval(tops(table, score, 4), seed).value[MEAN]
        if score not in (RANDOM, JUDGE):
            area = area_with_interval(table, score, seed)
            row |= {"auc": area.value, "auc_low": area.low, "auc_high": area.high, "auc_prompts": area.n}
        rows[score] = row | share_of_ceiling(table, score, seed)
    return pd.DataFrame(rows).T


def share_of_ceiling(table: pd.DataFrame, score: str, seed: int) -> dict[str, float]:
    """How far the choice by `score` is on the way from random choice to the judge's own, with its interval."""
    found = share_of_the_way(*(as_series(tops(table, name)) for name in (RANDOM, score, JUDGE)), seed)
    return {"share": found["value"], "share_low": found["low"], "share_high": found["high"]}


def by_category(table: pd.DataFrame, scores: Sequence[str], seed: int) -> pd.DataFrame:
    """Alignment of the best candidate by category and score: columns category, series, value, low, high."""
    parts = [
        mean_with_interval(tops(table, score), seed).assign(series=score).rename_axis("category").reset_index()
        for score in scores
    ]
    return pd.concat(parts, ignore_index=True)


def by_noise_level(table: pd.DataFrame, forms: Sequence[str], seed: int) -> pd.DataFrame:
    """The area under the curve of what one noise level says alone: columns form, sigma, value, low, high."""
    rows = []
    for name in table.columns:
        form, _, sigma = name.partition(" at ")
        if form in forms and sigma:
            rows.append({"form": form, "sigma": float(sigma)} | vars(area_with_interval(table, name, seed)))
    return pd.DataFrame(rows)


def pruning_table(full: pd.DataFrame, pruned: pd.DataFrame, seed: int) -> dict[str, float]:
    """Network evaluations of full over pruned selection; the change of the chosen images' alignment, and the full score
    that the pruned choice gives away, in standard deviations of a prompt's candidates, each with its interval over
    prompts, paired; and how often both choose the same.
    """
    both = full.merge(pruned, on=["category", "prompt"], suffixes=("", "_pruned"), validate="one_to_one")
    if not len(both) == len(full) == len(pruned):
        raise ValueError(f"full and pruned selection share {len(both)} of {len(full)} and {len(pruned)} prompts")
    scores = [np.asarray(each) for each in both.scores]
    best, taken = (
        np.array([each[i] for each, i in zip(scores, both[name], strict=True)]) for name in ("chosen", "chosen_pruned")
    )
    both["alignment_change"] = both.aligned_pruned - both.aligned
    both["score_given_away"] = (best - taken) / [each.std(ddof=1) for each in scores]
    row = {"evaluations_ratio": full.evaluations.sum() / pruned.evaluations.sum()}
    for name in ("alignment_change", "score_given_away"):
        found = share_table(both, name, seed).loc[MEAN]
        row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return row | {"same_choice": (both.chosen == both.chosen_pruned).mean(), "prompts": len(both)}


def other_savings(method: Method, pruning: Pruning, candidates: int, steps: int) -> dict[str, float]:
    """Network evaluations of full selection over those of others: of pruned selection `guided`; of pruned selection
    where the full one too leaves out the scores along its paths, and with them the null branch while it draws
    (`without_paths`); and that of rounds of noise alone, all candidates finished (`rounds_alone`)."""
    guided = candidates * (2 * steps + method.evaluations)
    without_paths = candidates * (steps + method.evaluations)
    rounds_alone = candidates * steps + pruning.evaluations_of_rounds(method, candidates, first=candidates)
    return {
        "guided": guided / pruning.evaluations(method, candidates, steps, guidance=2.0),
        "without_paths": without_paths / pruning.evaluations(method, candidates, steps, guidance=1.0),
        "rounds_alone": without_paths / rounds_alone,
    }


def results(ranking: pd.DataFrame, best: str, pruned: dict, overhead: dict, settings: dict[str, Any]) -> dict[str, Any]:
    """What goes into reports/results/scoring.json."""
    published = ranking.rename(index={"path": "published_path"})
    return {
        "top1": published.top1.to_dict(),
        "top1_interval": published[["top1_low", "top1_high"]].T.to_dict("list"),
        "auc": published.auc.dropna().to_dict(),
        "auc_interval": published[["auc_low", "auc_high"]].dropna().T.to_dict("list"),
        "best_method": best,
        "share_of_ceiling": ranking.share[best],
        "share_of_ceiling_interval": [ranking.share_low[best], ranking.share_high[best]],
        "pruned": pruned,
        "scoring_overhead": overhead["median"],
        "scoring_overhead_range": [overhead["least"], overhead["largest"]],
        "settings": settings,
    }
