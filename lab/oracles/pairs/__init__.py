"""Pairs of known mutual information in ten kinds of data, a trial for an estimator that was not made on them.

Half of each kind, KEPT_ASIDE, is for a trial that is run once: nothing may be chosen by it. Those pairs are made in
other ways than the open ones, so that what was learnt on the open ones counts there only if it is general.
"""

from __future__ import annotations

from lab.oracles.pairs.counted import DISCRETE, MIXED
from lab.oracles.pairs.geometric import MANIFOLDS, PERIODIC
from lab.oracles.pairs.labelled import LABELS
from lab.oracles.pairs.scaled import HEAVY_TAILS, MULTIPLICATIVE
from lab.oracles.pairs.series import AUTOCORRELATED
from lab.oracles.pairs.vectors import HIGH_INFORMATION, SPARSE
from lab.oracles.tasks.families import Task

_GROUPS = {
    "manifolds": MANIFOLDS,
    "labels": LABELS,
    "discrete": DISCRETE,
    "mixed": MIXED,
    "heavy tails": HEAVY_TAILS,
    "periodic": PERIODIC,
    "multiplicative": MULTIPLICATIVE,
    "high information": HIGH_INFORMATION,
    "sparse": SPARSE,
    "autocorrelated": AUTOCORRELATED,
}
KINDS: dict[str, dict[str, Task]] = {kind: {task.name: task for task in tasks} for kind, tasks in _GROUPS.items()}
PAIRS: dict[str, Task] = {name: task for tasks in KINDS.values() for name, task in tasks.items()}
KIND_OF: dict[str, str] = {name: kind for kind, tasks in KINDS.items() for name in tasks}
KEPT_ASIDE: frozenset[str] = frozenset(
    {
        *("torus", "sphere in five dimensions", "axes", "rolled sheet"),
        *("copied columns", "helix", "circle wound twice"),
        *("rings", "crossed strips", "forty sectors", "steep label"),
        *("thinned count", "scrambled symbols", "sum of two dice", "deciles and quartiles"),
        *("clipped normals", "spike and slab", "sometimes rounded"),
        *("Levy in Levy noise", "Lomax", "fifth powers"),
        *("stripes", "circle map", "ripples"),
        *("product of inputs", "ratio of inputs", "precision"),
        *("projection", "boxes", "four angles"),
        *("switch", "largest of five", "length of eight"),
        *("two windows", "walk on the circle", "renewed states"),
    }
)


def has_labels(task: Task) -> bool:
    """Whether y is a label: integers (n,) instead of float64 columns."""
    return task.dim_y == 0
