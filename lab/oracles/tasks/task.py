"""A task: a sampler of pairs (x, y) under a name, with the mutual information I(X; Y) in nats.

The random numbers of a draw depend on (name, n, seed) and on nothing else, through a hash of the three. So two tasks
never share random numbers under one seed, not even a task and its own transformed version, and a draw of 1,000 pairs
is not the beginning of a draw of 10,000.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Sampler = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Task:
    """Pairs of known mutual information.

    name: also the key of the random numbers; dim_x, dim_y: number of coordinates; mutual_information: I(X; Y) in
    nats; sampler: maps (n, generator) to float64 arrays x (n, dim_x) and y (n, dim_y).
    """

    name: str
    dim_x: int
    dim_y: int
    mutual_information: float
    sampler: Sampler

    def sample(self, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw n pairs, float64 arrays x (n, dim_x) and y (n, dim_y), the same for the same (name, n, seed).

        Raises ValueError if n is not a positive integer or seed is not an integer.
        """
        if not isinstance(n, (int, np.integer)) or n < 1:
            raise ValueError(f"n is the number of pairs to draw, got {n!r}; pass a positive integer")
        if not isinstance(seed, (int, np.integer)):
            raise ValueError(f"seed must be an integer, got {seed!r}; pass the number that identifies the draw")
        digest = hashlib.sha256(f"{self.name}/{int(n)}/{int(seed)}".encode()).digest()
        return self.sampler(int(n), np.random.default_rng(int.from_bytes(digest, "little")))
