"""The figures of the notebook on scores."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from lab.study.figures import colours, markers, panels
from lab.study.scoring_tables import JUDGE, RANDOM


def ranking(tables: dict[str, pd.DataFrame]) -> Figure:
    """Alignment of the best candidate (left) and area under the curve (right) by score, a colour a guidance scale.

    tables: `ranking_table`s of the same scores by the name of a series. The first one's order is the figure's; its
    random choice and the judge's are its lines.
    """
    first = next(iter(tables.values()))
    scores = [name for name in first.sort_values("top1").index if name not in (RANDOM, JUDGE)]
    figure, (left, right) = panels(1, 2, size=(9.6, 0.32 * len(scores) + 1.4), sharey=True)
    colour, marker = colours(tables), markers(tables)
    for k, (series, table) in enumerate(tables.items()):
        places = [i + 0.5 * ((k + 0.5) / len(tables) - 0.5) for i in range(len(scores))]
        for axis, column in ((left, "top1"), (right, "auc")):
            part = table.loc[scores].astype(float)
            spread = [part[column] - part[f"{column}_low"], part[f"{column}_high"] - part[column]]
            axis.errorbar(part[column], places, xerr=spread, fmt=marker[series], color=colour[series], label=series)
        for end in (RANDOM, JUDGE):
            left.axvline(table.top1[end], color=colour[series], lw=0.8, ls="--" if end == RANDOM else "-")
    right.axvline(0.5, color="k", lw=0.8)
    left.set(yticks=range(len(scores)), yticklabels=scores, xlabel="alignment of the best candidate")
    right.set(xlabel="area under the curve, aligned against misaligned")
    right.legend(fontsize=8)
    return figure


def areas_by_level(table: pd.DataFrame) -> Figure:
    """What each noise level says alone: area under the curve against sigma, a line a form.

    table: columns form, sigma, value, low, high.
    """
    figure, axes = panels(size=(6.4, 3.8))
    forms = list(dict.fromkeys(table.form))
    colour, marker = colours(forms), markers(forms)
    for form, part in table.sort_values("sigma").groupby("form", sort=False):
        axes.fill_between(part.sigma, part.low, part.high, color=colour[form], alpha=0.15, lw=0)
        axes.plot(part.sigma, part.value, color=colour[form], marker=marker[form], label=form)
    axes.axhline(0.5, color="k", lw=0.8)
    axes.set(xlabel="noise level sigma = 1 - t", ylabel="area under the curve within a prompt")
    axes.legend(fontsize=8)
    return figure


def quality_against_cost(ranking: pd.DataFrame, evaluations: dict[str, float]) -> Figure:
    """Alignment of the best candidate against network evaluations a candidate, generation included.

    evaluations: by score.
    """
    figure, axes = panels(size=(6.4, 4.2))
    colour, marker = colours(list(evaluations)), markers(list(evaluations))
    for name, cost in evaluations.items():
        row = ranking.loc[name].astype(float)
        spread = [[row.top1 - row.top1_low], [row.top1_high - row.top1]]
        axes.errorbar([cost], [row.top1], yerr=spread, fmt=marker[name], color=colour[name], label=name)
    for end in (RANDOM, JUDGE):
        axes.axhline(ranking.top1[end], color="k", lw=0.8, ls="--" if end == RANDOM else "-")
        axes.annotate(end, (max(evaluations.values()), ranking.top1[end]), fontsize=8, ha="right", va="bottom")
    axes.set(xlabel="network evaluations a candidate", ylabel="alignment of the best candidate")
    axes.legend(bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=7)
    return figure
