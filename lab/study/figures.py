"""One look for every figure: seaborn's theme, the palette "colorblind", three sizes and one colour a name.

Sizes are in inches, for a page of about 10 inches; figures are saved at RESOLUTION dots an inch.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PALETTE = "colorblind"
RESOLUTION = 110
SMALL = (5.4, 3.6)
WIDE = (9.6, 4.0)
TALL = (9.6, 7.2)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
DIVERGING = "RdBu_r"
SEQUENTIAL = "crest"


def use_style() -> None:
    """The theme of the study; called once at the top of a notebook."""
    seaborn.set_theme(context="notebook", style="whitegrid", palette=PALETTE, font_scale=0.9)
    plt.rcParams.update(
        {
            "figure.figsize": SMALL,
            "figure.dpi": RESOLUTION,
            "savefig.dpi": RESOLUTION,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.alpha": 0.5,
            "legend.frameon": False,
            "lines.markersize": 5,
            "errorbar.capsize": 2,
        }
    )


def panels(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float] = WIDE, **options: object
) -> tuple[Figure, Axes]:
    """A figure of rows x columns panels in the study's style; returns (figure, axes) as `matplotlib.pyplot.subplots`
    does.
    """
    use_style()
    return plt.subplots(rows, columns, figsize=size, layout="constrained", **options)


def colours(names: list[str]) -> dict[str, tuple[float, float, float]]:
    """One colour a name, the same for the same list in every figure."""
    return dict(zip(names, seaborn.color_palette(PALETTE, len(names)), strict=True))


def markers(names: list[str]) -> dict[str, str]:
    """One marker a name, so that no figure depends on colour alone."""
    return {name: MARKERS[position % len(MARKERS)] for position, name in enumerate(names)}
