"""The units of work behind the benchmark notebook, each a function of plain parameters that returns plain numbers."""

from __future__ import annotations

import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from rfmi.arrays.mutual_information import MutualInformation, estimate_mutual_information
from lab.study.cache import Cache, code_version
from lab.oracles.tasks import get
from lab.oracles.tasks.families import student_task

CODE = ("rfmi.arrays", "lab.oracles.tasks", "rfmi.estimators", "rfmi.fields", "rfmi.times", "rfmi.estimate")
HALF = 4  # rows of an 8 x 8 digit


def benchmark_cache() -> Cache:
    """The cache of these units: a change in the code of estimator or tasks computes them anew."""
    return Cache(code_version=code_version(*CODE, "lab.study.benchmark"))


def task_unit(task: str, n: int, seed: int, device: str = "cpu") -> dict:
    """One estimate of one of the 40 tasks from n pairs; `seed` draws the pairs and the folds."""
    named = get(task)
    x, y = named.sample(n, seed)
    return {"task": task, "n": n, "seed": seed, "true": named.mutual_information, **timed_estimate(x, y, seed, device)}


def cost_unit(dim: int, n: int, seed: int, device: str = "cpu") -> dict:
    """One estimate of a pair of Student vectors of `dim` coordinates each, with the seconds it took."""
    named = student_task(dim, dim, dof=2)
    x, y = named.sample(n, seed)
    return {"dim": dim, "n": n, "seed": seed, "true": named.mutual_information, **timed_estimate(x, y, seed, device)}


def digits_unit(test: str, level: int, components: int, seed: int) -> dict:
    """One self-consistency test on scanned digits, upper half x against lower half y, in principal components.

    test: "dependence" (x against the first `level` components of y), "independence" (y of another digit, drawn at
    random), "processing" (y with a function of itself beside it), "additivity" (two digits side by side) or "label"
    (the whole digit against its class).
    """
    x, y, whole, label = _digits(components, seed)
    generator = np.random.default_rng([seed, level])
    if test == "label":
        return {"test": test, "level": level, "seed": seed, **timed_estimate(whole, label, seed, discrete_y=True)}
    if test == "independence":
        y = y[generator.permutation(len(y))]
    elif test == "processing":
        y = np.column_stack([y, np.sin(y) + 0.5 * y**2])
    elif test == "additivity":
        order = generator.permutation(len(y))
        first, second = order[: len(y) // 2], order[len(y) // 2 : 2 * (len(y) // 2)]
        x, y = np.column_stack([x[first], x[second]]), np.column_stack([y[first], y[second]])
    elif test == "dependence":
        y = y[:, :level]
    else:
        raise ValueError(f"there is no test {test!r}; choose dependence, independence, processing, additivity or label")
    return {"test": test, "level": level, "seed": seed, **timed_estimate(x, y, seed)}


def timed_estimate(x: np.ndarray, y: np.ndarray, seed: int, device: str = "cpu", discrete_y: bool = False) -> dict:
    """Value, interval, seconds and what else is worth keeping of one estimate."""
    start = time.perf_counter()
    found: MutualInformation = estimate_mutual_information(
        x, y, seed=seed, discrete_y=discrete_y, device=device, progress=False
    )
    seconds = time.perf_counter() - start
    low, high = found.interval
    return {
        "value": found.value,
        "low": low,
        "high": high,
        "seconds": seconds,
        "network_used": found.network_used,
        "diagnostics": sorted(found.diagnostics),
        **{f"form_{name}": value for name, value in found.forms.items()},
    }


def _digits(components: int, seed: int):
    """Upper halves, lower halves and whole digits in principal components, and the labels; grey levels are dithered."""
    digits = load_digits()
    grey = digits.images + np.random.default_rng(seed).uniform(-0.5, 0.5, digits.images.shape)
    upper, lower = grey[:, :HALF].reshape(len(grey), -1), grey[:, HALF:].reshape(len(grey), -1)
    parts = [
        PCA(components, random_state=0).fit_transform(part) for part in (upper, lower, grey.reshape(len(grey), -1))
    ]
    return *parts, digits.target
