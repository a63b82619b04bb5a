"""How near generated images are to real ones, measured on the features of a network.

With features a_i of n images and b_j of m, (n, d) and (m, d):

    Frechet distance  |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)): FID's formula (Heusel et al. 2017, arXiv
                      1706.08500) on any features;
    CMMD              1000 times the squared maximum mean discrepancy of the features at unit length, Gaussian kernel
                      exp(-|a - b|^2 / (2 10^2)), every pair counted, the pairs of an image with itself as well
                      (Jayasumana et al. 2024, arXiv 2401.09603);
    precision         the share of generated images that lie within the distance of the k-th nearest neighbour of some
                      real image, the distance being that image's own to its neighbour among the real ones;
    recall            the same with the roles exchanged (Kynkaanniemi et al. 2019, arXiv 1904.06991).

None of them is free of bias. Between two samples of n from one distribution the Frechet distance is not zero but about
d (d + 5) / 2n for independent features of variance one, and CMMD about 1000 (2/n) times one minus the mean kernel;
precision and recall depend on n and m as well. So compare values at equal n, equal m and equal features only, and put
beside them the value of real images against other real ones.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

CMMD_WIDTH, CMMD_SCALE = 10.0, 1000.0
ROWS = 1024  # of a distance table that are held at once


def diversity(features: Tensor, groups: Sequence) -> Tensor:
    """The mean Euclidean distance between two images of the same group (prompt), one value a group.

    features: (n, d); groups: n labels, the groups coming out in the order of their first label. Raises ValueError for
    another number of labels than features, and for a group of one.
    """
    features, _ = _checked(features, features)
    if len(groups) != len(features):
        raise ValueError(f"there are {len(features)} features and {len(groups)} labels; give one label a feature")
    members = pd.Series(range(len(groups))).groupby(list(groups), sort=False, dropna=False)
    means = []
    for label, places in members:
        if len(places) < 2:
            raise ValueError(f"the group {label} has one image; diversity needs two or more of every prompt")
        own = features[places.tolist()]
        means.append(_distances(own, own).sum() / (len(own) * (len(own) - 1)))
    return torch.stack(means)


def quality_draws(
    real: Tensor,
    generated: Tensor,
    *,
    generator: torch.Generator,
    groups: Sequence | None = None,
    resamples: int = 200,
    k: int = 3,
) -> pd.DataFrame:
    """Every measure, a column each, of the images as they are (row 0) and of `resamples` bootstrap resamples.

    real, generated: features (n, d) and (m, d).
    generator: the same one gives the same resamples for any model: two models' rows are paired.
    groups: (n,) prompts, which are resampled whole, real and generated alike, as many and in the same order; None to
        resample images, within each set.
    k: the neighbour that bounds an image's neighbourhood.

    Repeated images raise the Frechet distance and CMMD once more as a small sample does; their bootstrap values are
    shifted back to have the mean of row 0. Neighbourhoods make no sense with repeated images: they stay fixed, and the
    images judged by them are resampled. Raises ValueError as the measures do, for fewer than two resamples, and for
    groups of another number.
    """
    if resamples < 2:
        raise ValueError(f"an interval needs two resamples or more, got {resamples}")
    real, generated = _checked(real, generated)
    if groups is None:
        drawn = [_resampled(part, resamples, generator) for part in (real, generated)]
    elif len(groups) == len(real) == len(generated):
        drawn = [_resampled(real, resamples, generator, groups)] * 2
    else:
        given = f"there are {len(groups)} groups, {len(real)} real and {len(generated)} generated images"
        raise ValueError(f"{given}; give as many of each, in the same order")
    even = [part.new_full((1, len(part)), 1 / len(part)) for part in (real, generated)]
    p, q = (torch.cat(rows) for rows in zip(even, drawn, strict=True))
    precise, recalled = _within(generated, real, _radii(real, k)), _within(real, generated, _radii(generated, k))
    draws = pd.DataFrame(
        {
            "frechet_distance": [_frechet_distance(*weights, real, generated) for weights in zip(p, q, strict=True)],
            "cmmd": _discrepancy(p, q, real, generated).tolist(),
            "precision": (q @ precise).tolist(),
            "recall": (p @ recalled).tolist(),
        }
    )
    for name in ("frechet_distance", "cmmd"):
        drawn = draws.loc[1:, name]
        draws.loc[1:, name] = (drawn + draws[name][0] - drawn.mean()).clip(lower=0)
    return draws


def quality(real: Tensor, generated: Tensor, *, generator: torch.Generator) -> pd.DataFrame:
    """value, low and high (95%) of every measure, images resampled within each set; as `quality_draws` has it."""
    return interval_of(quality_draws(real, generated, generator=generator))


def interval_of(draws: pd.DataFrame) -> pd.DataFrame:
    """value (row 0), low and high (95% of the other rows) of the columns of `quality_draws`, or of their difference."""
    low, high = draws[1:].quantile(0.025), draws[1:].quantile(0.975)
    return pd.DataFrame({"value": draws.loc[0], "low": low, "high": high}).rename_axis("measure")


def _resampled(features: Tensor, resamples: int, generator: torch.Generator, groups: Sequence | None = None) -> Tensor:
    """The weight of each image in a bootstrap resample of images, or of whole groups: (resamples, n), a row's sum 1."""
    labels = np.arange(len(features)) if groups is None else np.asarray(groups)
    _, places = np.unique(labels, return_inverse=True)
    n = int(places.max()) + 1
    drawn = torch.randint(n, (resamples, n), generator=generator, device=generator.device).to(features.device)
    counts = features.new_zeros(resamples, n)
    counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=counts.dtype))
    weights = counts[:, torch.from_numpy(places).to(features.device)]
    return weights / weights.sum(1, keepdim=True)


def _frechet_distance(p: Tensor, q: Tensor, a: Tensor, b: Tensor) -> float:
    """For images weighted p and q. The root's trace is that of (S_a^(1/2) S_b S_a^(1/2))^(1/2), which is symmetric."""
    (mean_a, cov_a), (mean_b, cov_b) = _moments(p, a), _moments(q, b)
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * shared
    return max(float(distance), 0.0)


def _moments(weights: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    mean = weights @ features
    centred = features - mean
    return mean, (centred * weights[:, None]).T @ centred * (len(features) / (len(features) - 1))


def _discrepancy(p: Tensor, q: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """For images weighted p (resamples, n) and q (resamples, m)."""
    lengths = [part.norm(dim=1, keepdim=True) for part in (a, b)]
    if not all(bool((length > 0).all()) for length in lengths):
        raise ValueError("a feature has length zero and no direction; CMMD compares directions, so leave it out")
    a, b = a / lengths[0], b / lengths[1]
    k_aa, k_bb, k_ab = (torch.exp((x @ y.T - 1) / CMMD_WIDTH**2) for x, y in ((a, a), (b, b), (a, b)))
    pairs = ((p @ k_aa) * p).sum(-1) + ((q @ k_bb) * q).sum(-1) - 2 * ((p @ k_ab) * q).sum(-1)
    return CMMD_SCALE * pairs.clamp(min=0)


def _radii(features: Tensor, k: int) -> Tensor:
    """The distance of every feature to its k-th nearest other one, (n,)."""
    if not 1 <= k < len(features):
        raise ValueError(f"{len(features)} features have no neighbour number {k}; choose 1 <= k < n")
    return torch.cat([_distances(rows, features).kthvalue(k + 1, dim=1).values for rows in features.split(ROWS)])


def _within(points: Tensor, centers: Tensor, radii: Tensor) -> Tensor:
    """Whether each point lies within the radius of some center: 0 or 1."""
    near = [(_distances(rows, centers) <= radii).any(dim=1) for rows in points.split(ROWS)]
    return torch.cat(near).to(points)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean, exactly zero between equal features."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _checked(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in double precision."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"features must be tables (n, d) and (m, d) of two images or more each, got {shapes}")
    if not (bool(a.isfinite().all()) and bool(b.isfinite().all())):
        raise ValueError("the features hold values that are not finite; look at the images they come from")
    return a.double(), b.double()
