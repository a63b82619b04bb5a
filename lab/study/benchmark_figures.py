"""The figures of the benchmark notebook, drawn from its tables; every error in nats."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure
from scipy.stats import linregress

from lab.study.figures import DIVERGING, WIDE, colours, markers, panels


def error_map(estimates: pd.DataFrame) -> Figure:
    """Signed error by task and n, the mean of the seeds; tasks in the benchmark's order."""
    table = estimates.assign(error=estimates.value - estimates.true).pivot_table(
        index="task", columns="n", values="error", aggfunc="mean", sort=False
    )
    table = table[sorted(table.columns)]
    figure, axes = panels(size=(7.2, 1.6 + 0.24 * len(table)))
    seaborn.heatmap(
        table, annot=True, fmt="+.2f", cmap=DIVERGING, center=0, vmin=-0.3, vmax=0.3, annot_kws={"size": 7}, ax=axes
    )
    axes.set(xlabel="pairs in all", ylabel="")
    axes.tick_params(axis="y", labelsize=7)
    return figure


def error_against_n(ours: pd.DataFrame, published: pd.DataFrame) -> Figure:
    """Mean absolute error against n: ours with its 95% interval over tasks, and the published ones."""
    figure, axes = panels(size=WIDE)
    names = ["RFMI (this project)", *published.columns]
    colour, marker = colours(names), markers(names)
    axes.fill_between(ours.n, ours.mae_low, ours.mae_high, alpha=0.25, color=colour[names[0]], lw=0)
    axes.plot(ours.n, ours.mae, color=colour[names[0]], marker=marker[names[0]], lw=2.5, label=names[0])
    for name in published.columns:
        axes.plot(published.index, published[name], color=colour[name], marker=marker[name], lw=1, label=name)
    axes.set(xscale="log", yscale="log", xlabel="pairs in all", ylabel="mean absolute error (nats)")
    axes.legend(bbox_to_anchor=(1.02, 1), loc="upper left", fontsize=8)
    return figure


def intervals(estimates: pd.DataFrame, n: int) -> Figure:
    """Every estimate at n minus the truth, with its 95% interval, one row a task, seeds beside each other."""
    chosen = estimates[estimates.n == n]
    tasks = list(dict.fromkeys(chosen.task))
    figure, axes = panels(size=(7.2, 1.6 + 0.24 * len(tasks)))
    inside, outside = colours(["inside", "outside"]).values()
    seeds = chosen.seed.nunique()
    for row in chosen.itertuples():
        place = tasks.index(row.task) + 0.6 * ((row.seed + 0.5) / seeds - 0.5)
        hit = row.low <= row.true <= row.high
        line = {"color": inside if hit else outside, "lw": 1.5 if hit else 2.5}
        axes.plot([row.low - row.true, row.high - row.true], [place, place], solid_capstyle="butt", **line)
        axes.plot(row.value - row.true, place, marker="o" if hit else "X", ms=3 if hit else 6, **line)
    axes.axvline(0, color="k", lw=1)
    axes.set(yticks=range(len(tasks)), xlabel="estimate minus truth (nats)", ylim=(len(tasks) - 0.4, -0.6))
    axes.set_yticklabels(tasks, fontsize=7)
    return figure


def growth(table: pd.DataFrame, by: str) -> float:
    """The exponent b of seconds ~ by^b, by least squares on logarithms."""
    return float(linregress(np.log(table[by]), np.log(table.seconds)).slope)


def cost(by_n: pd.DataFrame, by_dim: pd.DataFrame) -> Figure:
    """Seconds against the number of pairs and against the dimension of x and y together, with the fitted exponents."""
    figure, axes = panels(1, 2, size=WIDE)
    for ax, table, by, label in (
        (axes[0], by_n, "n", "pairs in all"),
        (axes[1], by_dim.assign(dims=2 * by_dim.dim), "dims", "dimensions of x and y together"),
    ):
        exponent = growth(table, by)
        scale = np.exp(np.mean(np.log(table.seconds) - exponent * np.log(table[by])))
        ax.plot(table[by], table.seconds, "o", label="measured")
        ax.plot(table[by], scale * table[by] ** exponent, "--", label=f"exponent {exponent:.2f}")
        ax.set(xscale="log", yscale="log", xlabel=label, ylabel="seconds")
        ax.legend()
    return figure


def digits(table: pd.DataFrame) -> Figure:
    """The self-consistency tests on digits: information as more of the lower half is seen, and the three laws."""
    figure, (left, right) = panels(1, 2, size=WIDE)
    growing, others = table[table.test == "dependence"], table[table.test != "dependence"]
    left.errorbar(
        growing.level, growing.value, yerr=[growing.value - growing.low, growing.high - growing.value], fmt="o"
    )
    left.set(xlabel="principal components of the lower half", ylabel="information about the upper half (nats)")
    right.errorbar(
        others.value, others.label, xerr=[others.value - others.low, others.high - others.value], fmt="s", color="C1"
    )
    right.plot(others.expected, others.label, "k|", ms=16, mew=2, label="what consistency asks for")
    right.set(xlabel="nats", ylim=(len(others) - 0.4, -0.6))
    right.legend(loc="lower right", fontsize=8)
    return figure


def peers(curves: pd.DataFrame, tasks: list[str]) -> Figure:
    """Error against seconds of training, one panel a task; ours, which is read at its end alone, as a star."""
    names = list(dict.fromkeys(curves.estimator))
    colour, marker = colours(names), markers(names)
    figure, axes = panels(1, len(tasks), size=(3.2 * len(tasks), 3.6), sharey=True, squeeze=False)
    for ax, task in zip(axes[0], tasks, strict=True):
        for name in names:
            part = curves[(curves.estimator == name) & (curves.task == task)]
            ours = name == "RFMI"
            style = (
                {"marker": "*", "ms": 16, "ls": "", "zorder": 5} if ours else {"marker": marker[name], "ms": 3, "lw": 1}
            )
            ax.plot(part.seconds, part.error.clip(lower=1e-3), color=colour[name], label=name, **style)
        ax.set(xscale="log", yscale="log", xlabel="seconds of training", title=task)
        ax.title.set_fontsize(8)
    axes[0, 0].set_ylabel("absolute error (nats)")
    axes[0, -1].legend(bbox_to_anchor=(1.02, 1), loc="upper left", fontsize=8)
    return figure
