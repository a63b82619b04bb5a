"""Mutual information of pairs of arrays, by a rectified flow fitted to them.

Time runs from noise to data. What happens to the pairs, each step in a module of its own:

    inputs, tables    x and y as people have them, or a sentence that says what is wrong
    order             one order of rows, columns and classes, whatever the one they come in
    supports          an array without a density is given one, at no cost in information
    folds             which pairs are held out together
    cross_fit         for each fold, coordinates and Gaussian base fitted on the others
    flow, network     the networks, and what is read off them
    neighbours        a second opinion in few dimensions

The flow runs on the array of lower dimension (I is symmetric), or on the one that is no label. In up to four dimensions
in all, the flow's value and the neighbours' are joined by their errors; where they disagree, the interval is wider.
The standard error is that of sampling and that of fitting, added in squares, times 1.2 for what neither of them sees:
with it, 91 to 97% of the 95% intervals hold the truth of pairs kept aside (`lab.oracles.pairs`, notebook 02).
Between two labels no flow is needed: their table answers, its bias taken off.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from sklearn.base import BaseEstimator

from rfmi.arrays import inputs
from rfmi.arrays.cross_fit import CrossFit
from rfmi.arrays.flow import flow_information, z_of
from rfmi.arrays.folds import about_rows, deal, held_together, variance_factor
from rfmi.arrays.neighbours import Opinion, neighbour_opinion, table_information
from rfmi.arrays.order import Order
from rfmi.arrays.supports import Support
from rfmi.checks import check_device
from rfmi.estimators import Estimate

RESOLVED_CORRELATION = 0.99
FEW_DIMENSIONS = 4
SAFETY = 1.2


@dataclass(frozen=True)
class MutualInformation:
    """I(X; Y) in nats, from held-out pairs.

    value: the estimate
    standard_error: of sampling and of fitting together
    pointwise: (n,) i(x; y) of every pair, by the re-noising form and a network that did not see it
    forms: the value of each form after half of the training, where it differs least from the others
        (forms["re_noising"] is the mean of `pointwise`); "flow", what the flow says alone; and "neighbours", what the
        neighbours say alone, where they were asked; of two labels "table"
    diagnostics: what failed or must be known, name to sentence, empty where there is nothing
    network_used: whether the value holds what networks add to the Gaussian base
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
    x,
    y,
    *,
    seed: int = 0,
    discrete_y: bool | None = None,
    folds: int | None = None,
    steps: int | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> MutualInformation:
    """I(X; Y) in nats from n independent pairs, n from 50, in one setting for all data.

    The same arguments on the same machine give the same numbers; neither the order of rows or columns, nor the names of
    labels, nor units change them.

    x: (n, d_x) or (n,) numbers or labels: arrays, lists, data frames, tensors
    y: (n, d_y) or (n,), likewise
    seed: of folds, training and scoring
    discrete_y: whether y holds labels; by default text, booleans, categories and numbers of at most 20 values do
    folds: of the cross-fitting, 5 below 2,500 pairs, 3 below 7,500 and 2 above by default
    steps: of training, 600 (n / 1000)^0.43 from 300 to 5,000 by default, and up to four times as many where they help
    device: of training and scoring
    progress: whether a bar shows the training, where that takes more than five seconds
    Raises TypeError and ValueError for input that cannot be used, each before any training.
    """
    options = dict(seed=seed, discrete_y=discrete_y, folds=folds, steps=steps, device=device, progress=progress)
    return MutualInformationEstimator(**options).fit(x, y).result_


class MutualInformationEstimator(BaseEstimator):
    """`estimate_mutual_information` in the form of scikit-learn, which also scores pairs that it was not fitted on.

    The arguments are those of the function. After `fit`, `result_` is the MutualInformation.
    """

    def __init__(self, *, seed=0, discrete_y=None, folds=None, steps=None, device="cpu", progress=True):
        self.seed = seed
        self.discrete_y = discrete_y
        self.folds = folds
        self.steps = steps
        self.device = device
        self.progress = progress

    def fit(self, x, y) -> Self:
        """Estimates I(X; Y) and keeps the fields; arguments and errors are those of `estimate_mutual_information`."""
        device = check_device(self.device)
        x, y, self._classes = inputs.pair(x, y, discrete_y=self.discrete_y)
        n = len(x)
        folds = (5 if n < 2500 else 3 if n < 7500 else 2) if self.folds is None else self.folds
        steps = int(np.clip(600 * (n / 1000) ** 0.43, 300, 5000)) if self.steps is None else self.steps
        inputs.check_settings(n, self.seed, folds, steps)
        factor = variance_factor(x, y)
        self._order = order = Order.of(x, y)
        x, y = order.apply(x, order.x), order.apply(y, order.y)
        if x.ndim == y.ndim == 1:
            self._of_labels(x, y, order)
            return self
        groups = held_together(x, y, order.rows if factor > 1 else None)
        repeated = 0 if factor > 1 else n - len(np.unique(groups))
        self._supports = [None if side.ndim == 1 else Support.of(side) for side in (x, y)]
        distinct = np.unique(groups, return_index=True)[1] if repeated else slice(None)
        opinion = self._second_opinion(x[distinct], y[distinct])
        generator = torch.Generator().manual_seed(self.seed)
        self._swapped = self._runs_on_y(x, y)
        target, condition = self._target_and_condition(x, y)
        fold = deal(groups, folds, self.seed)
        self._split = CrossFit.of(target, condition, fold, 1 in (x.ndim, y.ndim), generator, device)
        self._flow = flow_information(self._split, steps, seed=self.seed, generator=generator, progress=self.progress)
        self.result_ = self._result(opinion, order, factor, about_rows(x, y, factor, repeated))
        return self

    def score_pairs(self, x, y) -> np.ndarray:
        """The point-wise information i(x; y) (m,) in nats of new pairs, in the mean over the folds' fields.

        x, y: m pairs with the columns of those that were fitted
        Raises ValueError for other columns, for labels that were not fitted and before `fit`.
        """
        if not hasattr(self, "result_"):
            raise ValueError("nothing is fitted yet; call fit(x, y) first")
        sides, orders = [], (self._order.x, self._order.y)
        for name, values, classes, order in zip("xy", (x, y), self._classes, orders, strict=True):
            sides.append(inputs.new_rows(values, name, classes, len(order)))
            sides[-1] = order[sides[-1]] if classes is not None else sides[-1][:, order]
        if len(sides[0]) != len(sides[1]):
            raise ValueError(f"x has {len(sides[0])} rows and y has {len(sides[1])}; they must be pairs, row by row")
        if sides[0].ndim == sides[1].ndim == 1:
            return self._table[sides[0], sides[1]]
        target, condition = self._target_and_condition(*sides)
        return self._split.new_pairs(self._flow.network, target, condition, self.seed)

    def _dimensions(self) -> list[int]:
        """How many dimensions x and y fill, a label none."""
        return [0 if support is None else support.dimension for support in self._supports]

    def _second_opinion(self, x: np.ndarray, y: np.ndarray) -> Opinion | None:
        if sum(self._dimensions()) > FEW_DIMENSIONS:
            return None
        sides = zip((x, y), self._supports, strict=True)
        return neighbour_opinion(*(side if support is None else support.reduced(side) for side, support in sides))

    def _runs_on_y(self, x: np.ndarray, y: np.ndarray) -> bool:
        """Whether the flow runs on y: the side of numbers, of fewer dimensions, of fewer columns that repeat values."""
        if 1 in (x.ndim, y.ndim):
            return x.ndim == 1
        repeating = [sum(len(values) > 0 for values in support.values) for support in self._supports]
        first, second = zip(self._dimensions(), repeating, strict=True)
        return second < first

    def _target_and_condition(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The array that the flow runs on, with a density (n, d), and the other, (n, d_y) or indicators of labels."""
        sides = list(zip((x, y), self._supports, strict=True))
        (target, support), (condition, other) = reversed(sides) if self._swapped else sides
        full = support.completed(target, np.random.default_rng(self.seed))
        if other is not None:
            return full, other.reduced(condition)
        return full, np.eye(len(self._order.x if self._swapped else self._order.y))[condition]

    def _of_labels(self, x: np.ndarray, y: np.ndarray, order: Order) -> None:
        values, bias = table_information(x, y)
        self._table = np.full((len(order.x), len(order.y)), -np.inf)
        self._table[x, y] = values
        value, sampling = float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5
        error, pointwise = SAFETY * float(np.hypot(sampling, bias)), values[np.argsort(order.rows)]
        self.result_ = MutualInformation(value, error, pointwise, {"table": value}, {}, False, 0)

    def _result(self, opinion: Opinion | None, order: Order, factor: float, rows: dict[str, str]) -> MutualInformation:
        flow, split = self._flow, self._split
        sampling = flow.sampling_error * factor**0.5
        joined = alone = Opinion(flow.value, flow.fitting_error)
        forms = {name: float(values.mean()) for name, values in flow.half.items()} | {"flow": flow.value}
        diagnostics = {}
        if opinion is not None:
            forms["neighbours"] = opinion.value
            joined = alone.joined(opinion, sampling)
            if abs(alone.value - opinion.value) > 2 * np.hypot(alone.error + opinion.error, sampling):
                differ = f"the flow alone says {alone.value:.3f} nats and nearest neighbours {opinion.value:.3f}"
                diagnostics["second_opinion"] = f"{differ}; the interval spans both"
        value = min(joined.value, split.limit)
        diagnostics |= rows | self._diagnostics(value)
        return MutualInformation(
            value,
            SAFETY * float(np.hypot(sampling, joined.error)),
            flow.half["re_noising"][np.argsort(order.rows)],
            forms,
            diagnostics,
            flow.used,
            flow.evaluations,
        )

    def _diagnostics(self, value: float) -> dict[str, str]:
        flow, split, said = self._flow, self._split, {}
        if value == split.limit:
            said["truncation_limit"] = f"the estimate is the labels' entropy, {value:.3f} nats, the most they can tell"
        gain = flow.half["re_noising"]
        if z_of(gain) < -2 and gain.mean() < -0.01:
            worse = f"the conditional branch is worse than the null on held-out pairs, by {-gain.mean():.3f} nats"
            said["held_out_loss_gap"] = f"{worse}; get more pairs"
        largest = float(split.base.correlations.max())
        if largest > RESOLVED_CORRELATION:
            resolved = f"a correlation of {largest:.4f} is at the limit of what is resolved"
            said["truncation_limit"] = f"{resolved}; the mutual information may be larger, or infinite"
        dimensions, seen = split.dimensions, split.training_rows.shape[1]
        if seen < 20 * dimensions:
            few = f"{seen} training pairs for {dimensions} dimensions"
            said["few_samples"] = f"{few}; get {20 * dimensions} or reduce dimensions"
        if flow.used and abs(flow.change) > max(0.1, 0.1 * abs(value)):
            moved = f"the flow's value still moved by {flow.change:.3f} nats in the second half of training"
            said["training_length"] = f"{moved}; raise steps"
        return said
