"""Reduce reference samples of the 40 tasks to the small statistics that the tests compare a port against.

Usage: python lab/benchmarks/make_bmi_reference.py FOLDER data/bmi

FOLDER holds tasks.json (true mutual information by name) and, for each task, NAME.npz with the arrays x (n, dim_x) and
y (n, dim_y).

The columns of a task are the coordinates of x and of y, log ||x||, log ||y||, and the differences x_i - y_j between
the first three coordinates of each, whose spread tells how closely the two follow each other. The first PILOT pairs
give each column a centre (its median) and a scale (its interquartile range), and nothing else. With both fixed in
that way, the other m pairs give

- order statistics of every column. Of n new values of the same continuous distribution, the number below the k-th
  smallest of m is beta-binomial(n, k, m + 1 - k) exactly, whatever the distribution;
- mean products of the scores 2/pi arctan((column - centre) / scale), which lie in [-1, 1] whatever the tails: all
  products of up to two scores, and all of up to four among the norms and the first three coordinates of x and of y. A
  mean of bounded products obeys the central limit theorem. Order two sees correlations; order four sees what turns
  with the norm or shares a scale.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np

PILOT = 500
LEVELS = np.array([0.001, 0.005, 0.02, 0.05, *np.arange(0.1, 0.95, 0.1), 0.95, 0.98, 0.995, 0.999])
DETAILED = 3
STEPS = 32767  # mean products are stored as 16-bit integers in units of 1/STEPS


def columns_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The coordinates of x and y, the logarithms of their norms, the first differences: (n, columns)."""
    norms = np.stack([np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)], axis=1)
    differences = x[:, :DETAILED, None] - y[:, None, :DETAILED]
    return np.concatenate([x, y, np.log(norms), differences.reshape(len(x), -1)], axis=1)


def ranks(size: int) -> np.ndarray:
    """Which of `size` sorted values are kept: one rank a level, counted from 1."""
    return np.maximum(1, np.round(LEVELS * size)).astype(int)


def mean_products(scores: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances over the rows of scores (n, k) of all products of at most `order` scores, with repetition."""
    n, k = scores.shape
    factors = [*scores.T.copy(), np.ones(n)]
    chosen = [each for each in itertools.combinations_with_replacement(range(k + 1), order) if each[0] < k]
    products = (np.prod([factors[i] for i in each], axis=0) for each in chosen)
    means, variances = zip(*((product.mean(), product.var()) for product in products), strict=True)
    return np.array(means), np.array(variances)


def moments(x: np.ndarray, y: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances of the products described at the top, in one fixed order."""
    scores = 2 / np.pi * np.arctan((columns_of(x, y) - centre) / scale)
    dim_x, dim_y = x.shape[1], y.shape[1]
    first = [*range(min(dim_x, DETAILED)), *range(dim_x, dim_x + min(dim_y, DETAILED))]
    detailed = [*first, dim_x + dim_y, dim_x + dim_y + 1]  # and the norms
    pairs, quadruples = mean_products(scores, 2), mean_products(scores[:, detailed], 4)
    means, variances = (np.concatenate(both) for both in zip(pairs, quadruples, strict=True))
    return means, variances


def describe(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """The statistics of one reference sample: size, centre, scale, order_statistics (levels, columns), moments."""
    if len(x) != len(y) or len(x) < 4 * PILOT:
        raise ValueError(f"a reference needs {4 * PILOT} pairs or more, got {len(x)} of x and {len(y)} of y; draw more")
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    low, centre, high = np.quantile(columns_of(x[:PILOT], y[:PILOT]), [0.25, 0.5, 0.75], axis=0).astype(np.float32)
    x, y = x[PILOT:], y[PILOT:]
    scale = high - low
    means, _ = moments(x, y, centre, scale)
    return {
        "size": np.array(len(x)),
        "centre": centre,
        "scale": scale,
        "order_statistics": np.sort(columns_of(x, y), axis=0)[ranks(len(x)) - 1].astype(np.float32),
        "moments": np.round(means * STEPS).astype(np.int16),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Reduce reference samples to the statistics that the tests use.")
    parser.add_argument("samples", type=Path, help="folder with tasks.json and one NAME.npz a task")
    parser.add_argument("output", type=Path, help="folder for reference_statistics.npz and mutual_information.json")
    folders = parser.parse_args(arguments)
    listing = folders.samples / "tasks.json"
    if not listing.is_file():
        parser.error(f"{folders.samples} has no tasks.json; name the folder that holds the reference samples")
    truth = {name: entry["mutual_information"] for name, entry in json.loads(listing.read_text()).items()}
    missing = [name for name in truth if not (folders.samples / f"{name}.npz").is_file()]
    if missing:
        parser.error(f"{folders.samples} lacks {', '.join(missing)}; each task of tasks.json needs its NAME.npz")
    arrays = {}
    for name in truth:
        with np.load(folders.samples / f"{name}.npz") as sample:
            arrays |= {f"{name}/{key}": value for key, value in describe(sample["x"], sample["y"]).items()}
    folders.output.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folders.output / "reference_statistics.npz", **arrays)
    (folders.output / "mutual_information.json").write_text(json.dumps(truth, indent=1) + "\n")


if __name__ == "__main__":
    main()
