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
    maps: every fold's coordinates
    limit: the entropy of y in nats where it is a label, which no mutual information exceeds, else infinite
    """

    x: Tensor
    y: Tensor
    base: GaussianBase
    fold: Tensor
    training_rows: Tensor
    maps: tuple[CanonicalCoordinates, ...]
    limit: float

    @classmethod
    def of(
        cls,
        x: np.ndarray,
        y: np.ndarray,
        fold: np.ndarray,
        indicators: bool,
        generator: Generator,
        device: torch.device,
    ) -> Self:
        """Fits every fold's coordinates on the others; `fold` (n,) says which pair belongs to which."""
        fold = torch.from_numpy(fold)
        rows = [torch.nonzero(fold != k)[:, 0] for k in range(int(fold.max()) + 1)]
        maps = tuple(CanonicalCoordinates.fit(x[r], y[r], indicators=indicators) for r in rows)
        x_in, y_in = _in_coordinates(maps, x, y, device)
        correlations = _stacked([m.correlations[None, : x_in.shape[2]] for m in maps], device)
        base = GaussianBase(correlations)
        if indicators:
            places = _stacked([m.y_coordinates(np.eye(y.shape[1]))[:, : y_in.shape[2]] for m in maps], device)
            counts = _stacked([y[r].sum(0)[None] + 0.5 for r in rows], device)  # not zero: a fold may lack a label
            prior = counts / counts.sum(-1, keepdim=True)
            base = GaussianBase(correlations, correlations * base.partner(places), prior)
        shortest = min(len(r) for r in rows)
        some = [r[torch.randperm(len(r), generator=generator)[:shortest]] for r in rows]
        limit = float(entropy(y.mean(0))) if indicators else np.inf
        return cls(x_in, y_in, base, fold, torch.stack(some), maps, limit)

    @property
    def dimensions(self) -> int:
        """Of both sides together, in the folds' coordinates."""
        return self.x.shape[2] + self.y.shape[2]

    def monte_carlo(self, network: ResidualNetwork | None, seed: int) -> Forms:
        """Every form (n,) of base and network, or of the base alone, each pair under the fold that did not see it; one
        seed gives every network the same times and noise."""
        forms = {name: np.zeros(len(self.fold)) for name in FORMS}
        for k in range(len(self.x)):
            held = self.fold == k
            scored = self._scored(network, k, self.x[k, held], self.y[k, held], seed)
            for name in FORMS:
                forms[name][held] = scored[name]
        return forms

    def new_pairs(self, network: ResidualNetwork | None, x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
        """The re-noising form (n,) of pairs that no fold has seen, in the mean over the folds."""
        several = np.append(np.arange(len(x)), 0)  # one pair has no spread, which an Estimate asks for
        x_in, y_in = _in_coordinates(self.maps, x[several], y[several], self.x.device)
        values = []
        for k in range(len(self.maps)):
            pairs = k, x_in[k, :, : self.x.shape[2]], y_in[k, :, : self.y.shape[2]]
            values.append(self.base.exact_re_noising(*pairs).cpu().numpy())
            if network is not None:
                base, drawn = (self._scored(each, *pairs, seed)["re_noising"] for each in (None, network))
                values[-1] = values[-1] + drawn - base
        return np.mean(values, axis=0)[:-1]

    def _scored(self, network: ResidualNetwork | None, fold: int, x: Tensor, y: Tensor, seed: int) -> Forms:
        scored = monte_carlo_forms(
            FittedField(self.base, network, fold),
            x,
            y,
            times=self.base.times(DRAWS),
            anchor=FittedField(self.base, None, fold),
            generator=Generator().manual_seed(seed + 1 + fold),
        )
        return {name: getattr(scored, name).pointwise.cpu().numpy() for name in FORMS}

    def exact(self, forms: Forms) -> Forms:
        """The base's forms, exact where they are known: re-noising always, all of them where y is no label; the rest as
        in `forms`."""
        exact = {name: values.copy() for name, values in forms.items()}
        for k in range(len(self.x)):
            held = self.fold == k
            pairs = k, self.x[k, held], self.y[k, held]
            exact["re_noising"][held] = self.base.exact_re_noising(*pairs).cpu().numpy()
            if self.base.label_means is None:
                exact["squared"][held] = self.base.exact_squared(*pairs).cpu().numpy()
                exact["residual"][held] = (exact["squared"][held] + exact["re_noising"][held]) / 2
        return exact


def _in_coordinates(maps, x: np.ndarray, y: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """The pairs in the coordinates of every fold, as many as all folds have: (folds, n, d) and (folds, n, d_y)."""
    pairs = [m(x, y) for m in maps]
    kept_x, kept_y = (min(getattr(m, side).shape[1] for m in maps) for side in ("x_rotation", "y_rotation"))
    return _stacked([x[:, :kept_x] for x, _ in pairs], device), _stacked([y[:, :kept_y] for _, y in pairs], device)


def _stacked(parts: list[np.ndarray], device: torch.device) -> Tensor:
    return torch.tensor(np.stack(parts), dtype=torch.float32, device=device)
