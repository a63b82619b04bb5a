"""Pairs of known mutual information in ten kinds of data, a trial for an estimator that was not made on them.

Three of each kind, KEPT_ASIDE, are for a trial that is run once, when an estimator is finished: nothing may be chosen
by it. They were written after all others, by someone who had neither read the estimator's code nor run it, and are made
in other ways than the open ones, so that what was learnt on the open ones counts there only if it is general.
"""

from __future__ import annotations

from lab.oracles.pairs import later_scales, later_shapes
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
_LATER = later_shapes.LATER | later_scales.LATER
KINDS: dict[str, dict[str, Task]] = {
    kind: {task.name: task for task in [*tasks, *_LATER[kind]]} for kind, tasks in _GROUPS.items()
}
PAIRS: dict[str, Task] = {name: task for tasks in KINDS.values() for name, task in tasks.items()}
KIND_OF: dict[str, str] = {name: kind for kind, tasks in KINDS.items() for name in tasks}
KEPT_ASIDE: frozenset[str] = frozenset(task.name for tasks in _LATER.values() for task in tasks)


def has_labels(task: Task) -> bool:
    """Whether y is a label: integers (n,) instead of float64 columns."""
    return task.dim_y == 0
