"""One look for every figure, and the three general ones: points with intervals, lines with bands, a grid of pictures.

seaborn's theme, the palette "colorblind", three sizes, one colour and one marker a name. Sizes are in inches, for a
page of about 10 inches; figures are saved at RESOLUTION dots an inch. A table has one row a point, `value`, and its
interval `low` to `high` where it has one.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PALETTE = "colorblind"
RESOLUTION = 110
SMALL = (5.4, 3.6)
WIDE = (9.6, 4.0)
TALL = (9.6, 7.2)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
STYLE = {"figure.dpi": RESOLUTION, "savefig.dpi": RESOLUTION, "figure.figsize": SMALL, "axes.titlelocation": "left"}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "grid.alpha": 0.5, "legend.frameon": False}
STYLE |= {"lines.markersize": 5, "errorbar.capsize": 2}
BESIDE = {"bbox_to_anchor": (1.01, 1), "loc": "upper left", "fontsize": 8}


def use_style() -> None:
    """The theme of the study."""
    seaborn.set_theme(context="notebook", style="whitegrid", palette=PALETTE, font_scale=0.9, rc=STYLE)


def panels(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float] = WIDE, **options: object
) -> tuple[Figure, Axes]:
    """A figure of rows x columns panels in the study's style; returns (figure, axes) as `matplotlib.pyplot.subplots`
    does.
    """
    use_style()
    return plt.subplots(rows, columns, figsize=size, layout="constrained", **options)


def colours(names: Iterable[str]) -> dict[str, tuple[float, float, float]]:
    """One colour a name, the same for the same list in every figure."""
    names = list(names)
    return dict(zip(names, seaborn.color_palette(PALETTE, len(names)), strict=True))


def markers(names: Iterable[str]) -> dict[str, str]:
    """One marker a name, so that no figure depends on colour alone."""
    return {name: MARKERS[position % len(MARKERS)] for position, name in enumerate(names)}


def points(
    table: pd.DataFrame,
    *,
    x: str = "category",
    y: str = "value",
    by: str | None = "series",
    horizontal: bool = False,
    label: str = "share",
    bars: Sequence[tuple[float, str]] = (),
    limits: tuple[float, float] | None = None,
    axes: Axes | None = None,
) -> Figure:
    """Values with their intervals by category, a colour and a marker a series.

    table: columns (or index) `x`, `y`, `by` where there is one, low and high where values have intervals
    x, y, by: names of the category, the value and the series; without `by` there is one series
    horizontal: a row a category, the first one on top, in place of a column
    label: of the axis of values; limits: its ends
    bars: (value, name) of lines across
    axes: a panel to draw into; a figure of its own without
    """
    table = _with_columns(table, x, by)
    places, names = list(dict.fromkeys(table[x])), list(dict.fromkeys(table[by] if by else [""]))
    if axes is None:
        _, axes = panels(size=(7.2, 0.36 * len(places) + 1.2) if horizontal else WIDE)
    colour, marker = colours(names), markers(names)
    crowded = table[x].duplicated().any()  # several series in one place stand beside each other
    for k, name in enumerate(names):
        part = table[table[by] == name] if by else table
        shift = 0.5 * ((k + 0.5) / len(names) - 0.5) if crowded else 0.0
        where = [places.index(place) + shift for place in part[x]]
        error = _interval(part, y)
        style = {"fmt": marker[name], "color": colour[name], "label": name}
        if horizontal:
            axes.errorbar(part[y], where, xerr=error, **style)
        else:
            axes.errorbar(where, part[y], yerr=error, **style)
    for value, name in bars:
        (axes.axvline if horizontal else axes.axhline)(value, color="k", lw=0.8, ls="--" if name else "-")
        end = len(places) - 0.5
        axes.annotate(name, (value, end) if horizontal else (end, value), fontsize=8, ha="right", va="bottom")
    if horizontal:
        axes.set(yticks=range(len(places)), yticklabels=places, ylim=(len(places) - 0.5, -0.5), xlabel=label)
        axes.set(xlim=limits) if limits else None
    else:
        axes.set(xticks=range(len(places)), xticklabels=places, ylabel=label)
        axes.set(ylim=limits) if limits else None
    if len(names) > 1:
        axes.legend(**BESIDE)
    return axes.figure


def lines(
    table: pd.DataFrame,
    *,
    x: str,
    y: str = "value",
    by: str | None = None,
    labels: tuple[str, str] | None = None,
    zero: float | None = None,
    log: str = "",
    axes: Axes | None = None,
) -> Figure:
    """Lines with bands, a colour and a marker a series; the series "mean" in black.

    table: columns `x`, `y`, `by` where there is one, low and high where values have intervals
    labels: of the two axes, the columns' names without
    zero: the height of a line across, as 0 or 0.5
    log: the axes with a logarithmic scale, "x", "y" or "xy"
    axes: a panel to draw into; a figure of its own without
    """
    table = _with_columns(table, x, by)
    names = list(dict.fromkeys(table[by] if by else [""]))
    if axes is None:
        _, axes = panels(size=WIDE if len(names) > 6 else (6.4, 3.8))
    colour, marker = colours(names) | {"mean": "k"}, markers(names)
    for name in names:
        part = (table[table[by] == name] if by else table).sort_values(x)
        if {"low", "high"} <= {*part.columns}:
            axes.fill_between(part[x], part.low.astype(float), part.high.astype(float), color=colour[name], alpha=0.15,
                              lw=0)  # fmt: skip
        width = 2.5 if name == "mean" else 1
        axes.plot(part[x], part[y], color=colour[name], marker=marker[name], lw=width, label=name)
    if zero is not None:
        axes.axhline(zero, color="k", lw=0.8)
    axes.set(xlabel=(labels or (x, y))[0], ylabel=(labels or (x, y))[1])
    axes.set(**{f"{axis}scale": "log" for axis in log})
    if len(names) > 1:
        axes.legend(**BESIDE)
    return axes.figure


def picture_grid(
    pictures: torch.Tensor,
    labels: Sequence[str],
    *,
    columns: int,
    marks: Sequence[bool] | None = None,
    inch: float = 1.2,
) -> Figure:
    """Pictures in rows, each below its label.

    pictures: (n, 3, height, width) in [0, 1]
    labels: n texts
    marks: whether the judge finds a picture aligned; it then stands before the label as a tick or a cross
    inch: the width of a picture
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


def _with_columns(table: pd.DataFrame, *names: str | None) -> pd.DataFrame:
    """The table with these columns, taken from its index where they are there. Raises ValueError where they are not."""
    table = table if all(name is None or name in table for name in names) else table.reset_index()
    for name in names:
        if name is not None and name not in table:
            raise ValueError(f"the table has no column {name!r}; it has {', '.join(map(str, table.columns))}")
    return table


def _interval(part: pd.DataFrame, y: str) -> np.ndarray | None:
    """(2, n) how far the interval reaches below and above each value; None where there are none."""
    if not {"low", "high"} <= {*part.columns}:
        return None
    return np.maximum(0, [part[y] - part.low, part.high - part[y]])
