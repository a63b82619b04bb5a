"""Reduce reference samples of the 40 tasks to the small statistics that the tests compare a port against.

    python lab/benchmarks/make_bmi_reference.py FOLDER data/bmi

The columns of a task are the coordinates of x and of y, log ||x||, log ||y||, and the differences x_i - y_j between the
first three coordinates of each, which tell how closely they follow each other. The first PILOT pairs give each column
its centre (median) and scale (interquartile range), and nothing else. The other m pairs give

- order statistics of every column. Of n new values of the same continuous distribution, the number below the k-th
  smallest of m is beta-binomial(n, k, m + 1 - k) exactly, whatever the distribution;
- mean products of the scores 2/pi arctan((column - centre) / scale), which lie in [-1, 1], so that the central limit
  theorem holds whatever the tails: all of up to two scores, which see correlations, and all of up to four among the
  norms and the first three coordinates of x and of y, which see what turns with the norm or shares a scale.
"""

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


def mean_products(scores: np.ndarray, order: int) -> np.ndarray:
    """Means and variances, (2, products), over the rows of scores (n, k), of all products of at most `order` scores."""
    factors = [*scores.T.copy(), np.ones(len(scores))]
    chosen = list(itertools.combinations_with_replacement(range(len(factors)), order))[:-1]  # the last is of ones alone
    products = (np.prod([factors[i] for i in each], axis=0) for each in chosen)
    return np.array([(product.mean(), product.var()) for product in products]).T


def moments(x: np.ndarray, y: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Means and variances, (2, products), of the products described at the top, in one fixed order."""
    scores = 2 / np.pi * np.arctan((columns_of(x, y) - centre) / scale)
    dim_x, dim_y = x.shape[1], y.shape[1]
    first = [*range(min(dim_x, DETAILED)), *range(dim_x, dim_x + min(dim_y, DETAILED))]
    norms = [dim_x + dim_y, dim_x + dim_y + 1]
    return np.concatenate([mean_products(scores, 2), mean_products(scores[:, first + norms], 4)], axis=1)


def describe(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """The statistics of one reference sample: size, centre, scale, order_statistics (levels, columns), moments."""
    if len(x) != len(y) or len(x) < 4 * PILOT:
        raise ValueError(f"a reference needs {4 * PILOT} pairs or more, got {len(x)} of x and {len(y)} of y; draw more")
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    low, centre, high = np.quantile(columns_of(x[:PILOT], y[:PILOT]), [0.25, 0.5, 0.75], axis=0).astype(np.float32)
    x, y, scale = x[PILOT:], y[PILOT:], high - low
    return {
        "size": np.array(len(x)),
        "centre": centre,
        "scale": scale,
        "order_statistics": np.sort(columns_of(x, y), axis=0)[ranks(len(x)) - 1].astype(np.float32),
        "moments": np.round(moments(x, y, centre, scale)[0] * STEPS).astype(np.int16),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("samples", type=Path, help="with tasks.json, truths by name, and NAME.npz of x and y for each")
    parser.add_argument("output", type=Path, help="folder for reference_statistics.npz and mutual_information.json")
    folders = parser.parse_args(arguments)
    arrays, truth = {}, {}
    try:
        for name, entry in json.loads((folders.samples / "tasks.json").read_text()).items():
            truth[name] = entry["mutual_information"]
            with np.load(folders.samples / f"{name}.npz") as sample:
                arrays |= {f"{name}/{key}": value for key, value in describe(sample["x"], sample["y"]).items()}
    except FileNotFoundError as error:
        parser.error(f"{error.filename} is not there; name a folder with tasks.json and a NAME.npz for each task in it")
    folders.output.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folders.output / "reference_statistics.npz", **arrays)
    (folders.output / "mutual_information.json").write_text(json.dumps(truth, indent=1) + "\n")


if __name__ == "__main__":
    main()
