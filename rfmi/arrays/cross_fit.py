"""Cross-fitting: every pair is scored in coordinates, and by networks, that were fitted without it."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from scipy.stats import entropy
from torch import Generator, Tensor

from rfmi.arrays.coordinates import CanonicalCoordinates
from rfmi.arrays.gaussian_base import GaussianBase
from rfmi.arrays.network import FittedField, ResidualNetwork
from rfmi.estimators import monte_carlo_forms

FORMS = ("squared", "re_noising", "residual")
DRAWS = 8  # times per pair
Forms = dict[str, np.ndarray]


@dataclass(frozen=True)
class CrossFit:
    """The pairs in every fold's coordinates.

    x: (folds, n, d)
    y: (folds, n, d_y)
    base: every fold's Gaussian field
    fold: (n,) the fold of each pair, which scores it
    training_rows: (folds, m) the pairs each fold may see
    limit: the entropy of y in nats where it is a label, which no mutual information exceeds, else infinite
    """

    x: Tensor
    y: Tensor
    base: GaussianBase
    fold: Tensor
    training_rows: Tensor
    limit: float

    @classmethod
    def of(
        cls, x: np.ndarray, y: np.ndarray, folds: int, indicators: bool, generator: Generator, device: torch.device
    ) -> Self:
        """Shuffles the pairs into folds and fits every fold's coordinates on the others."""
        fold = torch.empty(len(x), dtype=torch.long)
        fold[torch.randperm(len(x), generator=generator)] = torch.arange(len(x)) % folds
        rows = [torch.nonzero(fold != k)[:, 0] for k in range(folds)]
        maps = [CanonicalCoordinates.fit(x[r], y[r], indicators=indicators) for r in rows]
        kept_x, kept_y = (min(getattr(m, side).shape[1] for m in maps) for side in ("x_rotation", "y_rotation"))

        def stacked(parts: list[np.ndarray]) -> Tensor:
            return torch.tensor(np.stack(parts), dtype=torch.float32, device=device)

        pairs = [m(x, y) for m in maps]
        correlations = stacked([m.correlations[None, :kept_x] for m in maps])
        base, limit = GaussianBase(correlations), np.inf
        if indicators:
            labels = np.vstack([np.zeros(y.shape[1]), np.eye(y.shape[1])])
            places = stacked([m.y_coordinates(labels)[:, :kept_y] for m in maps])
            counts = stacked([np.append(len(r) - y[r].sum(), y[r].sum(0))[None] for r in rows])
            prior = counts / counts.sum(-1, keepdim=True)
            base = GaussianBase(correlations, correlations * base.partner(places), prior)
            limit = float(entropy(np.append(1 - y.mean(0).sum(), y.mean(0))))
        shortest = min(len(r) for r in rows)
        return cls(
            stacked([pair[0][:, :kept_x] for pair in pairs]),
            stacked([pair[1][:, :kept_y] for pair in pairs]),
            base,
            fold,
            torch.stack([r[:shortest] for r in rows]),
            limit,
        )

    def monte_carlo(self, network: ResidualNetwork | None, seed: int) -> Forms:
        """Every form (n,) of base and network, or of the base alone, each pair under the fold that did not see it; one
        seed gives every network the same times and noise."""
        forms = {name: np.zeros(len(self.fold)) for name in FORMS}
        for k in range(len(self.x)):
            held = self.fold == k
            scored = monte_carlo_forms(
                FittedField(self.base, network, k),
                self.x[k, held],
                self.y[k, held],
                times=self.base.times(DRAWS),
                anchor=FittedField(self.base, None, k),
                generator=Generator().manual_seed(seed + 1 + k),
            )
            for name in FORMS:
                forms[name][held] = getattr(scored, name).pointwise.cpu().numpy()
        return forms

    def exact(self, forms: Forms) -> Forms:
        """The base's forms, exact where they are known: re-noising always, all of them where y is no label; the rest as in
        `forms`."""
        exact = {name: values.copy() for name, values in forms.items()}
        for k in range(len(self.x)):
            held = self.fold == k
            pairs = k, self.x[k, held], self.y[k, held]
            exact["re_noising"][held] = self.base.exact_re_noising(*pairs).cpu().numpy()
            if self.base.label_means is None:
                exact["squared"][held] = self.base.exact_squared(*pairs).cpu().numpy()
                exact["residual"][held] = (exact["squared"][held] + exact["re_noising"][held]) / 2
        return exact
