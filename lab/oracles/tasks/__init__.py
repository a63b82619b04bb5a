"""Pairs of random vectors whose mutual information is known exactly.

`TASKS` holds the 40 tasks of "Beyond Normal" (arXiv 2306.11078) under their original names; `get(name)` finds one.
The pieces they are made of are public, so that pairs with other parameters can be drawn: a family of
`lab.oracles.tasks.families` (Gaussian, Student-t, additive uniform noise) gives the dependence, and maps of
`lab.oracles.tasks.maps` change the shape of x and y and leave the mutual information as it was.

    task = spiralled(gaussian_pair_task("mine", sparse_covariance(4, 4, pairs=1, strength=1.5), dim_x=4), speed=0.7)
    x, y = task.sample(1000, seed=0)
    task.mutual_information
"""

from lab.oracles.tasks.beyond_normal import TASKS, get
from lab.oracles.tasks.families import (
    additive_task,
    bivariate_normal_task,
    dense_covariance,
    gaussian_pair_task,
    sparse_covariance,
    spiralled,
    student_task,
    transformed,
)
from lab.oracles.tasks.maps import asinh, half_cube, normal_cdf, normal_to_mixture, spiral, swissroll_x, wiggly
from lab.oracles.tasks.task import Task

__all__ = [
    "TASKS",
    "Task",
    "additive_task",
    "asinh",
    "bivariate_normal_task",
    "dense_covariance",
    "gaussian_pair_task",
    "get",
    "half_cube",
    "normal_cdf",
    "normal_to_mixture",
    "sparse_covariance",
    "spiral",
    "spiralled",
    "student_task",
    "swissroll_x",
    "transformed",
    "wiggly",
]
