"""What every estimator returns.

An estimate of mutual information is a mean of point-wise values, one a pair (x, y), so it comes with a standard error,
a 95% interval and, where its form has them, the point-wise values themselves (in nats). `evaluations` counts what was
paid for it: one network evaluation is one velocity u(x_t, t, condition) for one sample, so the two branches of one x_t
count as two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

NORMAL_QUANTILE_95 = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """Mutual information in nats.

    value: the estimate; standard_error: its standard error; pointwise: (n,) tensor of point-wise values whose mean is
    `value`, or None where the form has none; evaluations: network evaluations spent.
    """

    value: float
    standard_error: float
    pointwise: torch.Tensor | None
    evaluations: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval (low, high) in nats, normal approximation."""
        half = NORMAL_QUANTILE_95 * self.standard_error
        return self.value - half, self.value + half

    @classmethod
    def from_pointwise(cls, pointwise: torch.Tensor, evaluations: int) -> Estimate:
        """The mean of independent point-wise values (n,), with the standard error of that mean.

        Raises ValueError for fewer than two values: one value has no standard error.
        """
        if pointwise.ndim != 1 or len(pointwise) < 2:
            raise ValueError(
                f"an estimate needs a vector of at least two point-wise values, got shape {tuple(pointwise.shape)}; "
                "score more pairs"
            )
        values = pointwise.double()
        error = values.std(unbiased=True) / len(values) ** 0.5
        return cls(float(values.mean()), float(error), pointwise, evaluations)
