"""The 40 tasks of "Beyond Normal" (Czyz et al., arXiv 2306.11078), pairs of random vectors whose mutual information is
known exactly, under the names of its package benchmark-mi.

A name is read from the right: a family with its parameters, then the maps applied to it. The task
"spiral-normal_cdf-multinormal-sparse-5-5-2-2.0" is a Gaussian in 5 and 5 dimensions with 2 correlated pairs of strength
2.0, made uniform, then turned. Pairs with other parameters are made of the same pieces: `lab.oracles.tasks.families`
gives the dependence, and `lab.oracles.tasks.maps` the shapes of x and y.
"""

from __future__ import annotations

import difflib
from functools import partial

import numpy as np
from scipy.special import ndtr

from lab.oracles.tasks import families, maps
from lab.oracles.tasks.families import Task, student_task, transformed

WAVES_X = ((0.4, 1.0, 0.0), (0.2, 1.7, 1.0), (0.03, 3.3, -2.5))
WAVES_Y = ((-0.4, 0.4, 0.0), (0.17, 1.3, 3.5), (0.02, 4.3, -2.5))
BIMODAL_X = {"weights": (0.3, 0.7), "means": (0.0, 5.0)}
BIMODAL_Y = {"weights": (0.5, 0.5), "means": (-1.0, 3.0)}


def _on_both(name: str, map_: families.Map, task: Task) -> Task:
    return transformed(task, map_, map_, f"{name}-{task.name}")


def _gaussian(name: str, covariance: np.ndarray) -> Task:
    return families.gaussian_pair_task(name, covariance, dim_x=len(covariance) // 2)


def _the_forty() -> list[Task]:
    normal = _gaussian("1v1-normal-0.75", families.dense_covariance(1, 1, 0.75))
    uniform = _on_both("normal_cdf", ndtr, normal)
    cauchy = student_task(1, 1, 1)
    bimodal = partial(maps.normal_to_mixture, **BIMODAL_X), partial(maps.normal_to_mixture, **BIMODAL_Y)
    waves = partial(maps.wiggly, waves=WAVES_X), partial(maps.wiggly, waves=WAVES_Y)
    dense = [
        _gaussian(f"multinormal-dense-{dim}-{dim}-0.5", families.dense_covariance(dim, dim, 0.5))
        for dim in (2, 3, 5, 25, 50)
    ]
    sparse = [
        _gaussian(f"multinormal-sparse-{dim}-{dim}-2-2.0", families.sparse_covariance(dim, dim, 2, 2.0))
        for dim in (2, 3, 5, 25)
    ]
    student = [student_task(dim, dim, dof) for dim, dof in ((2, 1), (2, 2), (3, 2), (3, 3), (5, 2), (5, 3))]
    uniform_sparse = [_on_both("normal_cdf", ndtr, task) for task in sparse[1:]]
    return [
        normal,
        uniform,
        families.additive_task(0.1),
        families.additive_task(0.75),
        transformed(normal, *bimodal, "1v1-bimodal-0.75"),
        transformed(normal, *waves, f"wiggly-{normal.name}"),
        _on_both("half_cube", maps.half_cube, normal),
        cauchy,
        _on_both("asinh", np.arcsinh, cauchy),
        transformed(uniform, maps.swissroll_x, np.positive, f"swissroll_x-{uniform.name}"),
        *dense,
        *sparse,
        *student,
        *uniform_sparse,
        *(_on_both("half_cube", maps.half_cube, task) for task in sparse[1:]),
        *(families.spiralled(task) for task in sparse[1:] + uniform_sparse),
        *(_on_both("asinh", np.arcsinh, task) for task in student[::2]),
    ]


TASKS: dict[str, Task] = {task.name: task for task in _the_forty()}


def get(name: str) -> Task:
    """The task of that name. Raises ValueError for an unknown one, with the nearest names."""
    if name not in TASKS:
        near = difflib.get_close_matches(str(name), TASKS, n=3, cutoff=0.3)
        hint = f"did you mean {', '.join(near)}" if near else "lab.oracles.tasks.TASKS lists them"
        raise ValueError(f"there is no task named {name!r}; {hint}")
    return TASKS[name]
