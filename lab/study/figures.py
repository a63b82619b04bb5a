"""One look for every figure, and the three general ones: points with intervals, lines with bands, a grid of pictures.

seaborn's theme, the palette "colorblind", three sizes, one colour and one marker a name. Sizes are in inches, for a
page of about 10 inches; figures are saved at RESOLUTION dots an inch.

A table has one row a point; `x`, `y` and `by` name the columns or index levels of places, values and series, `low` and
`high` are the ends of intervals. What is drawn goes into the panel `axes`, or into a figure of its own.
"""

import textwrap
from collections.abc import Collection, Iterable, Sequence

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
MOST_NAMED = 4  # lines that bear their names; more have a legend
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
STYLE = {"figure.dpi": RESOLUTION, "savefig.dpi": RESOLUTION, "figure.figsize": SMALL, "axes.titlelocation": "left"}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "grid.alpha": 0.5, "legend.frameon": False}
STYLE |= {"lines.markersize": 5, "errorbar.capsize": 2}
BESIDE = {"bbox_to_anchor": (1.01, 1), "loc": "upper left", "fontsize": 8}


def panels(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float] = WIDE, **options: object
) -> tuple[Figure, Axes]:
    """(figure, axes) of rows x columns panels in the study's style, as `matplotlib.pyplot.subplots` gives them."""
    seaborn.set_theme(context="notebook", style="whitegrid", palette=PALETTE, font_scale=0.9, rc=STYLE)
    return plt.subplots(rows, columns, figsize=size, layout="constrained", **options)


def colours(names: Collection[str]) -> dict[str, tuple[float, float, float]]:
    """One colour a name, the same for the same list in every figure."""
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
    title: str = "",
    axes: Axes | None = None,
) -> Figure:
    """Values with their intervals by category, a colour and a marker a series.

    horizontal: a row a category, the first one on top, in place of a column
    label, limits: of the axis of values
    bars: (value, name) of lines across
    title: what the figure shows, in a few words
    """
    series = _series(table, x, by)
    places = list(dict.fromkeys(place for part in series.values() for place in part[x]))
    if axes is None:
        _, axes = panels(size=(7.2, 0.36 * len(places) + 1.2) if horizontal else WIDE)
    colour, marker = colours(series), markers(series)
    crowded = sum(map(len, series.values())) > len(places)  # several series in one place stand beside each other
    for k, (name, part) in enumerate(series.items()):
        shift = 0.5 * ((k + 0.5) / len(series) - 0.5) if crowded else 0.0
        where, error = [places.index(place) + shift for place in part[x]], None
        if {"low", "high"} <= {*part.columns}:
            error = np.maximum(0, [part[y] - part.low, part.high - part[y]])
        style = {"fmt": marker[name], "color": colour[name], "label": name, "xerr" if horizontal else "yerr": error}
        axes.errorbar(*((part[y], where) if horizontal else (where, part[y])), **style)
    end = len(places) - 0.5
    for value, name in bars:
        (axes.axvline if horizontal else axes.axhline)(value, color="k", lw=0.8, ls="--" if name else "-")
        axes.annotate(name, (value, end) if horizontal else (end, value), fontsize=8, ha="right", va="bottom")
    of_places, of_values = "yx" if horizontal else "xy"
    axes.set(**{f"{of_places}ticks": range(len(places)), f"{of_places}ticklabels": places, f"{of_values}label": label})
    if horizontal:
        axes.set_ylim(end, -0.5)
    if limits:
        axes.set(**{f"{of_values}lim": limits})
    if len(series) > 1:
        axes.legend(**BESIDE)
    return _titled(axes, title)


def lines(
    table: pd.DataFrame,
    *,
    x: str,
    y: str = "value",
    by: str | None = None,
    labels: tuple[str, str] | None = None,
    zero: float | None = None,
    log: str = "",
    title: str = "",
    axes: Axes | None = None,
) -> Figure:
    """Lines with bands, a colour and a marker a series; the series "mean" in black. Up to four bear their own names.

    labels: of the two axes, the columns' names without
    zero: the height of a line across, as 0 or 0.5
    log: the axes with a logarithmic scale, "x", "y" or "xy"
    title: what the figure shows, in a few words
    """
    series = _series(table, x, by)
    if axes is None:
        _, axes = panels(size=WIDE if len(series) > 6 else (6.4, 3.8))
    colour, marker = colours(series) | {"mean": "k"}, markers(series)
    for name, part in series.items():
        part = part.sort_values(x)
        if {"low", "high"} <= {*part.columns}:
            ends = (part[end].astype(float) for end in ("low", "high"))
            axes.fill_between(part[x], *ends, color=colour[name], alpha=0.15, lw=0)
        look = {"color": colour[name], "marker": marker[name], "lw": 2.5 if name == "mean" else 1}
        axes.plot(part[x], part[y], label=name, **look)
    if zero is not None:
        axes.axhline(zero, color="k", lw=0.8)
    axes.set(xlabel=(labels or (x, y))[0], ylabel=(labels or (x, y))[1])
    axes.set(**{f"{axis}scale": "log" for axis in log})
    if 1 < len(series) <= MOST_NAMED:
        _name_lines(axes, colour)
    elif len(series) > 1:
        axes.legend(**BESIDE)
    return _titled(axes, title)


def _name_lines(axes: Axes, colour: dict[str, tuple[float, float, float]]) -> None:
    """Every line's name at its right end, in its colour; names that would overlap are moved apart."""
    axes.figure.draw_without_rendering()  # which finds the places
    named = [line for line in axes.lines if line.get_label() in colour]
    ends = {line.get_label(): line.get_xydata()[np.argmax(line.get_xdata())] for line in named}
    heights = {name: axes.transData.transform(end)[1] for name, end in ends.items()}
    least, above = axes.figure.dpi / 72 * 11, np.inf
    for name in sorted(heights, key=heights.get, reverse=True):
        moved = min(heights[name], above - least)
        offset = 6, (moved - heights[name]) * 72 / axes.figure.dpi
        axes.annotate(name, ends[name], offset, textcoords="offset points", color=colour[name], fontsize=8, va="center")
        above = moved


def _titled(axes: Axes, title: str) -> Figure:
    if title:
        axes.set_title(title, fontsize=10)
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

    pictures: (n, 3, height, width) in [0, 1], each `inch` wide
    marks: whether the judge finds a picture aligned; it then stands before the label as a tick or a cross
    """
    rows = -(-len(pictures) // columns)
    figure, axes = panels(rows, columns, size=(inch * columns, (inch + 0.45 * any(labels)) * rows), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, (axis, picture, label) in enumerate(zip(axes.flat, pictures, labels, strict=False)):
        axis.imshow(picture.permute(1, 2, 0).numpy(), interpolation="nearest")
        mark = "" if marks is None else "✓ " if marks[i] else "✗ "
        title = "\n".join(textwrap.wrap(mark + label, round(15 * inch)))
        axis.set_title(title, fontsize=8, loc="center", y=1.0, pad=2)
    return figure


def _series(table: pd.DataFrame, x: str, by: str | None) -> dict[str, pd.DataFrame]:
    """The rows of every series by its name, "" where there is one; `x` and `by` may be in the index."""
    table = table if {x, by} - {None} <= {*table.columns} else table.reset_index()
    for name in {x, by} - {None, *table.columns}:
        raise ValueError(f"the table has no column {name!r}; it has {', '.join(map(str, table.columns))}")
    return {name: table[table[by] == name] for name in dict.fromkeys(table[by])} if by else {"": table}
