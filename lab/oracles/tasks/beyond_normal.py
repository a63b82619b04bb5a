"""The 40 tasks of "Beyond Normal" (Czyz et al., arXiv 2306.11078), under the names of its package benchmark-mi.

A name is read from the right: a family with its parameters, then the maps applied to it. The task
"spiral-normal_cdf-multinormal-sparse-5-5-2-2.0" is a Gaussian in 5 and 5 dimensions with 2 correlated pairs of strength
2.0, made uniform, then turned.
"""

from __future__ import annotations

import difflib
from functools import partial

import numpy as np

from lab.oracles.tasks import families, maps
from lab.oracles.tasks.task import Task

WAVES_X = ((0.4, 1.0, 0.0), (0.2, 1.7, 1.0), (0.03, 3.3, -2.5))
WAVES_Y = ((-0.4, 0.4, 0.0), (0.17, 1.3, 3.5), (0.02, 4.3, -2.5))
BIMODAL_X = {"weights": (0.3, 0.7), "means": (0.0, 5.0)}
BIMODAL_Y = {"weights": (0.5, 0.5), "means": (-1.0, 3.0)}


def _on_both(map_: families.Map, task: Task) -> Task:
    return families.transformed(task, map_, map_, f"{map_.__name__}-{task.name}")


def _identity(values: np.ndarray) -> np.ndarray:
    return values


def _dense(dim: int) -> Task:
    return families.gaussian_pair_task(
        f"multinormal-dense-{dim}-{dim}-0.5", families.dense_covariance(dim, dim, 0.5), dim
    )


def _sparse(dim: int) -> Task:
    covariance = families.sparse_covariance(dim, dim, pairs=2, strength=2.0)
    return families.gaussian_pair_task(f"multinormal-sparse-{dim}-{dim}-2-2.0", covariance, dim)


def _the_forty() -> list[Task]:
    normal = families.bivariate_normal_task(0.75)
    uniform = _on_both(maps.normal_cdf, normal)
    cauchy = families.student_task(1, 1, 1)
    bimodal = partial(maps.normal_to_mixture, **BIMODAL_X), partial(maps.normal_to_mixture, **BIMODAL_Y)
    waves = partial(maps.wiggly, waves=WAVES_X), partial(maps.wiggly, waves=WAVES_Y)
    dense = [_dense(dim) for dim in (2, 3, 5, 25, 50)]
    sparse = [_sparse(dim) for dim in (2, 3, 5, 25)]
    student = [families.student_task(d, d, dof) for d, dof in ((2, 1), (2, 2), (3, 2), (3, 3), (5, 2), (5, 3))]
    uniform_sparse = [_on_both(maps.normal_cdf, task) for task in sparse[1:]]
    return [
        normal,
        uniform,
        families.additive_task(0.1),
        families.additive_task(0.75),
        families.transformed(normal, *bimodal, "1v1-bimodal-0.75"),
        families.transformed(normal, *waves, f"wiggly-{normal.name}"),
        _on_both(maps.half_cube, normal),
        cauchy,
        _on_both(maps.asinh, cauchy),
        families.transformed(uniform, maps.swissroll_x, _identity, f"swissroll_x-{uniform.name}"),
        *dense,
        *sparse,
        *student,
        *uniform_sparse,
        *(_on_both(maps.half_cube, task) for task in sparse[1:]),
        *(families.spiralled(task) for task in sparse[1:]),
        *(families.spiralled(task) for task in uniform_sparse),
        *(_on_both(maps.asinh, task) for task in (student[0], student[2], student[4])),
    ]


TASKS: dict[str, Task] = {task.name: task for task in _the_forty()}


def get(name: str) -> Task:
    """The task of that name. Raises ValueError for an unknown one, with the nearest names."""
    if name not in TASKS:
        near = difflib.get_close_matches(str(name), TASKS, n=3, cutoff=0.3)
        hint = f"did you mean {', '.join(near)}" if near else "lab.oracles.tasks.TASKS lists them"
        raise ValueError(f"there is no task named {name!r}; {hint}")
    return TASKS[name]
