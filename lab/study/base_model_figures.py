"""The figures of the notebook on the world and its model."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from lab.study.figures import TALL, WIDE, colours, markers, panels


def picture_grid(
    pictures: Tensor, labels: Sequence[str], *, columns: int, marks: Sequence[bool] | None = None, inch: float = 1.2
) -> Figure:
    """Pictures (n, 3, height, width) in [0, 1] in rows, each above its label.

    marks: whether the judge finds a picture aligned; it then stands before the label as a tick or a cross.
    """
    rows = -(-len(pictures) // columns)
    figure, axes = panels(rows, columns, size=(inch * columns, (inch + 0.45 * any(labels)) * rows), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, (axis, picture, label) in enumerate(zip(axes.flat, pictures, labels, strict=False)):
        axis.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
        mark = "" if marks is None else "✓ " if marks[i] else "✗ "
        title = "\n".join(textwrap.wrap(mark + label, round(15 * inch)))
        axis.set_title(title, fontsize=6.5, loc="center", y=1.0, pad=2)
    return figure


def shares(table: pd.DataFrame, *, bars: Sequence[tuple[float, str]] = ()) -> Figure:
    """Shares with intervals by category, one colour and marker a series.

    table: columns category, series, value, low, high. bars: (height, name) of lines across.
    """
    figure, axes = panels(size=WIDE)
    categories, names = list(dict.fromkeys(table.category)), list(dict.fromkeys(table.series))
    colour, marker = colours(names), markers(names)
    for k, name in enumerate(names):
        part = table[table.series == name]
        places = [categories.index(c) + 0.5 * ((k + 0.5) / len(names) - 0.5) for c in part.category]
        spread = [np.maximum(0, part.value - part.low), np.maximum(0, part.high - part.value)]
        axes.errorbar(places, part.value, yerr=spread, fmt=marker[name], color=colour[name], label=name)
    for height, name in bars:
        axes.axhline(height, color="k", lw=0.8, ls="--")
        axes.annotate(name, (len(categories) - 0.5, height), fontsize=8, ha="right", va="bottom")
    axes.set(xticks=range(len(categories)), xticklabels=categories, ylim=(-0.02, 1.04), ylabel="share")
    axes.legend(bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=8)
    return figure


def margin_by_level(margins: pd.DataFrame) -> Figure:
    """How far the changed prompt's loss lies above the true one's, by noise level and category.

    margins: columns category, level, value, low, high (in units of the loss).
    """
    figure, axes = panels(2, 4, size=(TALL[0], 4.6), sharex=True)
    for axis, (category, part) in zip(axes.flat, margins.groupby("category", sort=False), strict=False):
        axis.fill_between(part.level, part.low, part.high, alpha=0.3, lw=0)
        axis.plot(part.level, part.value, marker="o")
        axis.axhline(0, color="k", lw=0.8)
        axis.set_title(category, fontsize=9)
    figure.supxlabel("noise level sigma = 1 - t", fontsize=9)
    figure.supylabel("loss under the changed prompt minus the true one", fontsize=9)
    return figure


def against_guidance(table: pd.DataFrame, quality: pd.DataFrame) -> Figure:
    """Alignment (left) and image quality (right, each relative to its value at the first scale) against guidance.

    table: columns category, guidance, value, low, high with a category "mean"; quality: measure, guidance, value, low,
    high.
    """
    figure, (left, right) = panels(1, 2, size=(9.6, 4.2))
    names = [*(c for c in dict.fromkeys(table.category) if c != "mean"), "mean"]
    colour, marker = colours(names), markers(names)
    for name in names:
        part = table[table.category == name]
        thick = name == "mean"
        left.plot(part.guidance, part.value, color="k" if thick else colour[name], marker=marker[name],
                  lw=2.5 if thick else 1, label=name)  # fmt: skip
        if thick:
            left.fill_between(part.guidance, part.low, part.high, color="k", alpha=0.15, lw=0)
    left.set(xlabel="guidance scale", ylabel="share of images in which all atoms hold", ylim=(0, 1))
    left.legend(fontsize=7, ncols=2)
    metrics = list(dict.fromkeys(quality.measure))
    colour, marker = colours(metrics), markers(metrics)
    for name in metrics:
        part = quality[quality.measure == name]
        first = part.value.iloc[0]
        right.fill_between(part.guidance, part.low / first, part.high / first, color=colour[name], alpha=0.2, lw=0)
        right.plot(part.guidance, part.value / first, color=colour[name], marker=marker[name],
                   label=f"{name} (at {part.guidance.iloc[0]:g}: {first:.3g})")  # fmt: skip
    right.set(xlabel="guidance scale", ylabel="relative to the first scale", yscale="log")
    right.legend(fontsize=7)
    return figure


def loss_curves(losses: pd.DataFrame) -> Figure:
    """The training loss of every stage, smoothed. losses: columns stage, step, loss."""
    stages = list(dict.fromkeys(losses.stage))
    figure, axes = panels(1, len(stages), size=(2.6 * len(stages), 2.8), squeeze=False)
    for axis, stage in zip(axes.flat, stages, strict=True):
        part = losses[losses.stage == stage]
        axis.plot(part.step, part.loss)
        axis.set(title=stage, xlabel="step", yscale="log")
    axes.flat[0].set_ylabel("training loss")
    return figure
