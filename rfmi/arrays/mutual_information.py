"""Mutual information of pairs of arrays, by a rectified flow fitted to them.

Time runs from noise to data. For K folds: coordinates, Gaussian base and network are fitted on the other folds, and the
pairs of the fold are scored by them. The flow runs on the array of lower dimension (I is symmetric; a thin manifold
makes an easier condition than a target), or on x where y is a label. The value is put together from three parts.

1. Residual form, anchored at the base's null branch a (`rfmi.estimators`), on held-out pairs:
       V = E of t/(1-t) (v - a(x_t)) . (u(x_t|y) - u(x_t)),
   whose bias is of first order in the networks' errors: overfitting adds noise and no bias, underfitting lowers V. So
   the networks are trained further than the best held-out loss. The base's share is integrated exactly, the network's
   share by Monte Carlo.
2. Richardson's extrapolation in the length of training. What is not yet learnt falls about as 1 / steps; with V_1 after
   half of the steps and V_2 after all of them, V = V_2 + (V_2 - V_1).
3. Where the network adds nothing to the base that held-out pairs can tell, the base alone answers: what it adds, in
   standard errors over pairs, must pass 1 after a quarter of the steps, 1.5 after half of them and 3 at the end;
   training stops where it does not.

Standard error: the sampling error over pairs; three quarters of |V_2 - V_1| (of what the network seemed to add, where
the base answers); and a quarter of the gap between the squared and the re-noising form after half of the steps, between
which the truth lies when errors are of second order; added in squares. The sampling error is the spread of the
point-wise information, which is the influence function of I and so holds the sampling error of the fit too, or of V's
own terms where that is larger. These shares and the rules above were set on pairs of known information that are not
among the 40 tasks of the benchmark.
"""

from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from rfmi.arrays.cross_fit import DRAWS, CrossFit
from rfmi.arrays.network import ResidualNetwork, train
from rfmi.estimators import Estimate

SMALLEST_Z = {0.25: 1.0, 0.5: 1.5, 1.0: 3.0}
EXTRAPOLATION_ERROR, GAP_ERROR = 0.75, 0.25
RESOLVED_CORRELATION = 0.99
SMALLEST_N = 50


@dataclass(frozen=True)
class MutualInformation:
    """I(X; Y) in nats, from held-out pairs.

    value: the estimate
    standard_error: of sampling and of fitting together
    pointwise: (n,) i(x; y) of every pair, by the re-noising form and a network that did not see it
    forms: the value of each form after half of the training, where it differs least from the others;
        forms["re_noising"] is the mean of `pointwise`
    diagnostics: what failed, name to sentence, empty where nothing did
    network_used: whether the networks added to the Gaussian base
    evaluations: network evaluations spent on scoring
    """

    value: float
    standard_error: float
    pointwise: np.ndarray
    forms: dict[str, float]
    diagnostics: dict[str, str]
    network_used: bool
    evaluations: int

    interval = Estimate.interval

    def __repr__(self) -> str:
        low, high = self.interval
        said = "; ".join([f"95% interval {low:.3f} to {high:.3f}", *self.diagnostics.values()])
        return f"MutualInformation({self.value:.3f} nats, {said})"


def estimate_mutual_information(
    x: np.ndarray,
    y: np.ndarray,
    *,
    seed: int = 0,
    discrete_y: bool = False,
    folds: int | None = None,
    steps: int | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> MutualInformation:
    """I(X; Y) in nats from n independent pairs, n from 50, in one setting for all data.

    The same arguments on the same machine give the same numbers.

    x: (n, d_x) floats
    y: (n, d_y) floats, or with `discrete_y` labels (n,)
    seed: of folds, training and scoring
    discrete_y: y holds labels
    folds: of the cross-fitting, 5 below 2,500 pairs, 3 below 7,500 and 2 above by default
    steps: of training, 600 (n / 1000)^0.43 between 300 and 5,000 by default
    device: of training and scoring
    progress: whether a bar shows the training, where that takes more than five seconds
    Raises TypeError and ValueError for input that cannot be used, each before any training.
    """
    device = check_device(device)
    x = check_numbers(x, "x")
    condition = check_labels(y) if discrete_y else check_numbers(y, "y")
    check_pairs(x, condition)
    if discrete_y:
        condition = np.eye(condition.max() + 1)[condition][:, 1:]
    elif condition.shape[1] < x.shape[1]:
        x, condition = condition, x
    n = len(x)
    folds = (5 if n < 2500 else 3 if n < 7500 else 2) if folds is None else folds
    steps = int(np.clip(600 * (n / 1000) ** 0.43, 300, 5000)) if steps is None else steps
    check_settings(n, seed, folds, steps)
    generator = torch.Generator().manual_seed(seed)
    split = CrossFit.of(x, condition, folds, discrete_y, generator, device)
    network = ResidualNetwork(folds, split.x.shape[2], split.y.shape[2], generator).to(device)
    training = train(network, split.base, split.x, split.y, split.training_rows, steps=steps, generator=generator)
    base_drawn = split.monte_carlo(None, seed)
    base, scored = split.exact(base_drawn), {}
    checks = {round(share * steps): (share, smallest) for share, smallest in SMALLEST_Z.items()}
    for step, averaged in enumerate(tqdm(training, total=steps, disable=not progress, delay=5, mininterval=5), 1):
        if step in checks:
            share, smallest = checks[step]
            drawn = split.monte_carlo(averaged, seed)  # in base_drawn's noise: the difference is the network's share
            scored[share] = {name: base[name] + drawn[name] - base_drawn[name] for name in drawn}
            added = scored[share]["residual"] - base["residual"]
            if added.mean() < smallest * added.std() / n**0.5:
                return _result(base, base, float(added.mean()), split, False, 2 * n * DRAWS * len(scored))
    change = float((scored[1.0]["residual"] - scored[0.5]["residual"]).mean())
    return _result(scored[0.5], scored[1.0], change, split, True, 2 * n * DRAWS * len(scored))


def _result(half, full, change: float, split: CrossFit, used: bool, evaluations: int) -> MutualInformation:
    pairs = 2 * full["residual"] - half["residual"]
    value = min(float(pairs.mean()), split.limit)
    sampling = max(float(part.std(ddof=1)) for part in (pairs, half["re_noising"])) / len(pairs) ** 0.5
    forms = {name: float(values.mean()) for name, values in half.items()}
    gap = forms["squared"] - forms["re_noising"]
    error = float(np.sqrt(sampling**2 + (EXTRAPOLATION_ERROR * change) ** 2 + (GAP_ERROR * gap) ** 2))
    diagnostics = {}
    if value == split.limit:
        diagnostics["truncation_limit"] = f"the estimate is the labels' entropy, {value:.3f} nats; get more pairs"
    loss_gain = half["re_noising"]
    if loss_gain.mean() < -2 * loss_gain.std() / len(pairs) ** 0.5:
        worse = f"the conditional branch is worse than the null on held-out pairs, by {-loss_gain.mean():.3f} nats"
        diagnostics["held_out_loss_gap"] = f"{worse}; get more pairs"
    largest = float(split.base.correlations.max())
    if largest > RESOLVED_CORRELATION:
        resolved = f"a correlation of {largest:.4f} is at the limit of what is resolved"
        diagnostics["truncation_limit"] = f"{resolved}; the mutual information may be larger, or infinite"
    dimensions, seen = split.x.shape[2] + split.y.shape[2], split.training_rows.shape[1]
    if seen < 20 * dimensions:
        few = f"{seen} training pairs for {dimensions} dimensions"
        diagnostics["few_samples"] = f"{few}; get {20 * dimensions} or reduce dimensions"
    if used and abs(change) > max(0.1, 0.1 * abs(value)):
        moved = f"the value still moved by {change:.3f} nats in the second half of training"
        diagnostics["training_length"] = f"{moved}; raise steps"
    return MutualInformation(value, error, half["re_noising"], forms, diagnostics, used, evaluations)


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
