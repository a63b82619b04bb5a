"""Velocity fields in closed form, with their exact mutual information: the oracles of everything else.

Time runs from noise to data, x_t = (1 - t) eps + t x. All computations are in float64, all information in nats.

If x ~ N(mu, S), then x_t ~ N(t mu, A_t) with A_t = (1 - t)^2 I + t^2 S, and

    u(x_t, t) = mu + G_t (x_t - t mu),     G_t = (t S - (1 - t) I) A_t^-1,

which has no singularity on [0, 1]: u = mu - x_t at t = 0 and u = x_t at t = 1.

Gaussian pair. With (x, y) jointly Gaussian, x | y ~ N(mu_y, C) with C = S - B, B = S_xy S_yy^-1 S_yx, and

    I(X; Y) = (log det S - log det C) / 2,   i(x; y) = log N(x; mu_y, C) - log N(x; mu, S).

Gaussian mixture. y is a label k with probability pi_k, and x | k ~ N(mu_k, S_k): the null velocity is the mean of the
labels' velocities under their posterior at x_t,

    u(x_t, t) = sum_k w_k u(x_t, t | k),     w_k proportional to pi_k N(x_t; t mu_k, A_{t,k}).

Both classes offer the exact integrands of the identities as functions of t (`lab.oracles.integrands`).
"""

from __future__ import annotations

import math

import torch

from lab.oracles.integrands import GaussianIntegrands, MixtureIntegrands


class GaussianPath:
    """The path of N(mean, covariance) towards the standard normal, through the eigenvectors of the covariance."""

    def __init__(self, covariance: torch.Tensor):
        self.covariance = _check_covariance(covariance)
        self.eigenvalues, self.basis = torch.linalg.eigh(self.covariance)

    def spread(self, t: torch.Tensor) -> torch.Tensor:
        """Eigenvalues of A_t, (B, d) for t (B,)."""
        return (1 - t)[:, None] ** 2 + t[:, None] ** 2 * self.eigenvalues

    def power(self, t: torch.Tensor, exponent: float) -> torch.Tensor:
        """A_t to some power, (B, d, d) for t (B,)."""
        return (self.basis * self.spread(t)[:, None, :] ** exponent) @ self.basis.T

    def gain(self, t: torch.Tensor) -> torch.Tensor:
        """Eigenvalues of G_t, (B, d) for t (B,)."""
        return (t[:, None] * self.eigenvalues - (1 - t)[:, None]) / self.spread(t)

    def velocity(self, x_t: torch.Tensor, t: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """u (B, d) at x_t (B, d), t (B,), for means (d,) or (B, d)."""
        return mean + ((x_t - t[:, None] * mean) @ self.basis * self.gain(t)) @ self.basis.T

    def log_density(self, x_t: torch.Tensor, t: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """log p_t(x_t), (B,)."""
        spread = self.spread(t)
        coordinates = (x_t - t[:, None] * mean) @ self.basis
        return -0.5 * (coordinates**2 / spread + spread.log() + math.log(2 * math.pi)).sum(1)

    def sample(self, mean: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
        """n draws (n, d) of N(mean, covariance)."""
        normal = torch.randn(n, len(self.eigenvalues), generator=generator, dtype=torch.float64)
        return mean + (normal * self.eigenvalues.sqrt()) @ self.basis.T


class GaussianPairField(GaussianIntegrands):
    """The velocity field of a jointly Gaussian pair (x, y) in any dimensions."""

    def __init__(self, covariance: torch.Tensor, x_dimension: int, mean: torch.Tensor | None = None):
        """covariance: (d_x + d_y, d_x + d_y), x first; x_dimension: d_x; mean: (d_x + d_y,), zeros by default."""
        self.joint = GaussianPath(covariance)
        joint = self.joint.covariance
        if not 1 <= x_dimension < len(joint):
            raise ValueError(
                f"x_dimension is {x_dimension}; it must leave a coordinate for x and one for y among {len(joint)}"
            )
        mean = joint.new_zeros(len(joint)) if mean is None else torch.as_tensor(mean, dtype=torch.float64)
        if mean.shape != joint.shape[:1]:
            raise ValueError(
                f"the mean has shape {tuple(mean.shape)}; it must be ({len(joint)},), one value per coordinate"
            )
        self.x_dimension, self.y_dimension = x_dimension, len(joint) - x_dimension
        self.x_mean, self.y_mean = mean[:x_dimension], mean[x_dimension:]
        of_x, of_y = joint.split([x_dimension, self.y_dimension])
        s_xx, s_xy, s_yy = of_x[:, :x_dimension], of_x[:, x_dimension:], of_y[:, x_dimension:]
        self.regression = torch.linalg.solve(s_yy, s_xy.T).T
        explained = self.regression @ s_xy.T
        self.explained = (explained + explained.T) / 2
        self.marginal, self.conditional = GaussianPath(s_xx), GaussianPath(s_xx - self.explained)

    @classmethod
    def from_correlations(cls, correlations: list[float] | torch.Tensor) -> GaussianPairField:
        """Standard normal x and y with one coordinate each per correlation, which ties the two coordinates."""
        rho = torch.as_tensor(correlations, dtype=torch.float64).reshape(-1)
        eye = torch.eye(2 * len(rho), dtype=torch.float64)
        return cls(eye + rho.diag(len(rho)) + rho.diag(-len(rho)), len(rho))

    def conditional_mean(self, condition: torch.Tensor) -> torch.Tensor:
        """E[x | y], (n, d_x) for y (n, d_y)."""
        y = _check_rows(condition, self.y_dimension, "the condition")
        return self.x_mean + (y - self.y_mean) @ self.regression.T

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """u (B, d_x) at x_t (B, d_x), t (B,), given y (B, d_y) or None for the null condition."""
        x, time = _check_state(x_t, t, self.x_dimension)
        if condition is None:
            return self.marginal.velocity(x, time, self.x_mean).to(x_t.dtype)
        return self.conditional.velocity(x, time, self.conditional_mean(condition)).to(x_t.dtype)

    @property
    def mutual_information(self) -> float:
        """I(X; Y) in nats."""
        return float(self.marginal.eigenvalues.log().sum() - self.conditional.eigenvalues.log().sum()) / 2

    def pointwise(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """i(x; y) = log p(x|y) / p(x), (n,) for x (n, d_x) and y (n, d_y)."""
        x = _check_rows(x, self.x_dimension, "x")
        mean, one = self.conditional_mean(condition), x.new_ones(len(x))
        return self.conditional.log_density(x, one, mean) - self.marginal.log_density(x, one, self.x_mean)

    def sample(self, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """n pairs: x (n, d_x) and y (n, d_y)."""
        draws = self.joint.sample(torch.cat([self.x_mean, self.y_mean]), n, generator)
        return draws[:, : self.x_dimension], draws[:, self.x_dimension :]


class GaussianMixtureField(MixtureIntegrands):
    """The velocity field of a Gaussian mixture whose condition is the label of the component, as a prompt is."""

    def __init__(self, means: torch.Tensor, covariances: torch.Tensor, prior: torch.Tensor | None = None):
        """means: (K, d); covariances: (d, d) for all labels, or (K, d, d); prior: (K,), even by default."""
        self.means = torch.as_tensor(means, dtype=torch.float64)
        if self.means.ndim != 2 or 0 in self.means.shape or not bool(torch.isfinite(self.means).all()):
            raise ValueError(
                f"means must be a finite (K, d) array with a row per label, got shape {tuple(self.means.shape)}"
            )
        self.labels, self.dimension = self.means.shape
        covariances = torch.as_tensor(covariances, dtype=torch.float64)
        each = (self.labels, self.dimension, self.dimension)
        if covariances.shape not in (each, each[1:]):
            raise ValueError(
                f"covariances have shape {tuple(covariances.shape)}; give (d, d) or (K, d, d) with d = {self.dimension}"
            )
        self.shared_covariance = covariances.ndim == 2
        self.paths = [GaussianPath(covariance) for covariance in covariances.expand(each)]
        even = self.means.new_full((self.labels,), 1 / self.labels)
        self.prior = even if prior is None else torch.as_tensor(prior, dtype=torch.float64)
        if self.prior.shape != even.shape or bool((self.prior <= 0).any()) or abs(float(self.prior.sum()) - 1) > 1e-6:
            raise ValueError(f"the prior must be {self.labels} positive probabilities that sum to 1, one per label")
        self.prior = self.prior / self.prior.sum()

    def branches(self, x_t: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Every label's velocity (B, K, d) and log density (B, K) at x_t (B, d), t (B,)."""
        velocities = [path.velocity(x_t, t, mean) for path, mean in zip(self.paths, self.means, strict=True)]
        densities = [path.log_density(x_t, t, mean) for path, mean in zip(self.paths, self.means, strict=True)]
        return torch.stack(velocities, 1), torch.stack(densities, 1)

    def both(self, x_t: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The conditional and the unconditional velocity, each (B, d), for labels (B,)."""
        x, time = _check_state(x_t, t, self.dimension)
        label = self.check_labels(condition, len(x))
        velocities, densities = self.branches(x, time)
        posterior = torch.softmax(densities + self.prior.log(), 1)
        conditional = velocities[torch.arange(len(x)), label]
        return conditional.to(x_t.dtype), (posterior[..., None] * velocities).sum(1).to(x_t.dtype)

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """u (B, d) at x_t (B, d), t (B,), given labels (B,) or None for the null condition."""
        if condition is None:
            return self.both(x_t, t, torch.zeros(len(x_t), dtype=torch.long))[1]
        return self.both(x_t, t, condition)[0]

    def pointwise(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """i(x; k) = log p(x|k) / p(x), (n,) for x (n, d) and labels (n,)."""
        x = _check_rows(x, self.dimension, "x")
        label = self.check_labels(condition, len(x))
        densities = self.branches(x, x.new_ones(len(x)))[1]
        return densities[torch.arange(len(x)), label] - torch.logsumexp(densities + self.prior.log(), 1)

    def sample(self, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """n pairs: x (n, d) and labels (n,)."""
        label = torch.multinomial(self.prior, n, replacement=True, generator=generator)
        x = torch.empty(n, self.dimension, dtype=torch.float64)
        for k, path in enumerate(self.paths):
            chosen = label == k
            x[chosen] = path.sample(self.means[k], int(chosen.sum()), generator)
        return x, label

    def check_labels(self, condition: torch.Tensor, n: int) -> torch.Tensor:
        """The labels as (n,) integers; ValueError where they are not."""
        label = torch.as_tensor(condition)
        if label.shape != (n,) or label.is_floating_point() or label.is_complex():
            raise ValueError(
                f"the condition must be {n} integer labels in a vector, got {label.dtype} of shape {tuple(label.shape)}"
            )
        if n and not 0 <= int(label.min()) <= int(label.max()) < self.labels:
            raise ValueError(f"labels must lie in 0 ... {self.labels - 1}; some do not")
        return label.long()


def _check_covariance(covariance: torch.Tensor) -> torch.Tensor:
    matrix = torch.as_tensor(covariance, dtype=torch.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not bool(torch.isfinite(matrix).all()):
        raise ValueError(f"a covariance must be a finite square matrix, got shape {tuple(matrix.shape)}")
    if not torch.allclose(matrix, matrix.T, rtol=1e-9, atol=1e-12):
        raise ValueError("a covariance is not symmetric; pass (S + S.T) / 2")
    values = torch.linalg.eigvalsh(matrix)
    if float(values[0]) <= 1e-13 * float(values[-1]):
        raise ValueError(
            "a covariance is not positive definite (a coordinate is a function of others); remove that coordinate"
        )
    return (matrix + matrix.T) / 2


def _check_rows(values: torch.Tensor, dimension: int, name: str) -> torch.Tensor:
    if values.ndim != 2 or values.shape[1] != dimension:
        raise ValueError(
            f"{name} must have shape (n, {dimension}), got {tuple(values.shape)}; reshape it to one row per pair"
        )
    return values.double()


def _check_state(x_t: torch.Tensor, t: torch.Tensor, dimension: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = _check_rows(x_t, dimension, "x_t")
    if t.shape != x.shape[:1] or not bool(((t >= 0) & (t <= 1)).all()):
        raise ValueError(f"t must be {len(x)} times in [0, 1], one per row of x_t, got shape {tuple(t.shape)}")
    return x, t.double()
