"""The figures of the notebooks on fine-tuning and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lab.study.figures import colours, markers, panels

SMOOTHED = 25  # steps


def curves(runs: Mapping[str, Mapping]) -> Figure:
    """Training loss, a mean over `SMOOTHED` steps (left), and the held-out value relative to the one before training
    (right), a line a run; the saved step is marked.

    runs: records of `tuning_unit` by name.
    """
    figure, (left, right) = panels(1, 2, size=(9.6, 3.8))
    colour, marker = colours(list(runs)), markers(list(runs))
    for name, run in runs.items():
        width = min(SMOOTHED, len(run["losses"]))
        smooth = np.convolve(run["losses"], np.full(width, 1 / width), "valid")
        left.plot(np.arange(len(smooth)) + width, smooth, color=colour[name], label=name)
        steps, values = (np.array(part) for part in zip(*run["validation"], strict=True))
        right.plot(steps, values - values[0], color=colour[name], marker=marker[name], label=name)
        chosen = int(np.flatnonzero(steps == run["chosen_step"])[0])
        right.plot(steps[chosen], values[chosen] - values[0], "o", ms=12, mfc="none", color=colour[name])
    left.set(xlabel="step", ylabel="training loss")
    right.set(xlabel="step", ylabel="held-out value, less that before training")
    right.axhline(0, color="k", lw=0.8)
    right.legend(fontsize=7, bbox_to_anchor=(1.01, 1), loc="upper left")
    return figure


def gains(table: pd.DataFrame, needs: Callable[[str], str]) -> Figure:
    """What each method adds to the base model's alignment, with intervals, the largest on top.

    table: value, low, high by method; needs: what a method of this name needs beside the model, which gives its colour.
    """
    table = table.sort_values("value")
    figure, axes = panels(size=(7.2, 0.42 * len(table) + 1.2))
    kinds = list(dict.fromkeys(needs(name) for name in table.index))
    colour, marker = colours(kinds), markers(kinds)
    for kind in kinds:
        rows = [i for i, name in enumerate(table.index) if needs(name) == kind]
        part = table.iloc[rows]
        spread = [part.value - part.low, part.high - part.value]
        axes.errorbar(part.value, rows, xerr=spread, fmt=marker[kind], color=colour[kind], label=f"needs {kind}")
    axes.axvline(0, color="k", lw=0.8)
    axes.set(yticks=range(len(table)), yticklabels=table.index, xlabel="alignment less the base model's")
    axes.legend(fontsize=8, bbox_to_anchor=(1.01, 1), loc="upper left")
    return figure


def measures(table: pd.DataFrame) -> Figure:
    """One panel a measure, one point with its interval a model. table: columns measure, series, value, low, high."""
    names, models = list(dict.fromkeys(table.measure)), list(dict.fromkeys(table.series))
    figure, axes = panels(1, len(names), size=(2.1 * len(names), 3.2), squeeze=False)
    colour, marker = colours(models), markers(models)
    for axis, name in zip(axes.flat, names, strict=True):
        part = table[table.measure == name].set_index("series").loc[models]
        for i, (model, row) in enumerate(part.iterrows()):
            spread = [[max(0, row.value - row.low)], [max(0, row.high - row.value)]]
            axis.errorbar([i], [row.value], yerr=spread, fmt=marker[model], color=colour[model])
        axis.set_xticks(range(len(models)), models, rotation=45, ha="right", fontsize=8)
        axis.set_title(name, fontsize=9)
        axis.margins(x=0.25)
    return figure
