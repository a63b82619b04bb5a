"""What must hold before any training starts; each fault is one sentence that says what is wrong and what to do."""

import numpy as np
import torch

SMALLEST_N = 50


def check_numbers(values: np.ndarray, name: str) -> np.ndarray:
    """The array as float64 (n, d). Raises TypeError for other than floats, ValueError for shapes or bad values."""
    if not isinstance(values, np.ndarray) or not np.issubdtype(values.dtype, np.floating):
        kind = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        hint = ", or pass discrete_y=True where y holds labels" if name == "y" else ""
        raise TypeError(f"{name} must be a numpy array of floats, got {kind}; use {name}.astype(float){hint}")
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(f"{name} must have shape (n, d), got {values.shape}; use {name}.reshape(-1, 1) for d = 1")
    bad = int((~np.isfinite(values)).any(1).sum())
    if bad:
        raise ValueError(f"{name} has NaN or infinite values in {bad} rows; remove or impute those pairs")
    constant = np.flatnonzero(np.ptp(values, axis=0) == 0)
    if len(values) and len(constant):
        raise ValueError(f"columns {constant.tolist()} of {name} are constant; drop them, they carry no information")
    return values.astype(np.float64)


def check_labels(labels: np.ndarray) -> np.ndarray:
    """Labels (n,) or (n, 1) as class numbers (n,). Raises TypeError or ValueError where they cannot be labels."""
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(f"labels must have shape (n,), got {labels.shape}; combine several labels of a pair into one")
    if labels.dtype == object and not all(isinstance(label, str) for label in labels):
        raise TypeError("labels of dtype object must all be strings; convert them with y.astype(str) or number them")
    if np.issubdtype(labels.dtype, np.floating) and not np.isfinite(labels).all():
        raise ValueError("y has NaN or infinite labels; remove those pairs")
    classes, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise ValueError("y has a single label; two or more are needed for it to carry information")
    if counts.min() < 10:
        rare = f"label {classes[counts.argmin()]!r} has {counts.min()} pairs"
        raise ValueError(f"{rare}; merge labels until each has 10, or pass y as numbers")
    return numbers


def check_pairs(x: np.ndarray, y: np.ndarray) -> None:
    """Raises ValueError for too few pairs, lengths that differ and repeated pairs; x (n, d_x), y (n, d_y) or (n,)."""
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} rows and y has {len(y)}; they must be pairs, row by row")
    if len(x) < SMALLEST_N:
        raise ValueError(f"{len(x)} pairs are too few to fit and score on; at least {SMALLEST_N} are needed")
    repeated = len(x) - len(np.unique(np.column_stack([x, y]), axis=0))
    if repeated:
        raise ValueError(f"{repeated} pairs are repeated, and a network would score what it saw; drop duplicated rows")


def check_settings(n: int, seed: int, folds: int, steps: int) -> None:
    """Raises ValueError for numbers that are not whole or too small, and for more folds than n / 10."""
    for name, value, least in (("seed", seed, 0), ("folds", folds, 2), ("steps", steps, 20)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} is {value!r}; choose a whole number, {least} or more")
    if folds > n // 10:
        raise ValueError(f"folds is {folds}; choose at most n / 10, which is {n // 10}")


def check_device(device: str | torch.device) -> torch.device:
    """The device, if this machine has it; raises ValueError where it does not."""
    try:
        device = torch.device(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {str(device)!r} is not to be had here; pass device='cpu'") from error
    return device
