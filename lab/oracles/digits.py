"""Pairs of real images whose mutual information nobody knows, and laws that every measure of it has to obey.

The 1,797 digits that come with scikit-learn are cut into upper half x and lower half y, dithered by half a grey level
and reduced to principal components.

    dependence     x against the first `level` components of y: grows with the level
    independence   y of another digit, drawn at random: 0
    processing     y with a function of itself beside it: as without
    additivity     two digits side by side, each seen once: twice that of one
    label          the whole digit against its class: at most the entropy of the class
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import entropy
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

HALF = 4  # rows of an 8 x 8 digit


def digit_pairs(test: str, level: int, components: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """x (n, components) and y (n, d_y), or labels (n,) in the test "label".

    test: one of those above
    level: components of y in the test "dependence"
    components: of each half, and of the whole digit
    seed: of the dither and of what is drawn at random

    Raises ValueError for another test.
    """
    digits = load_digits()
    grey = digits.images + np.random.default_rng(seed).uniform(-0.5, 0.5, digits.images.shape)
    parts = (part.reshape(len(grey), -1) for part in (grey[:, :HALF], grey[:, HALF:], grey))
    x, y, whole = (PCA(components, random_state=0).fit_transform(part) for part in parts)
    generator = np.random.default_rng([seed, level])
    match test:
        case "dependence":
            return x, y[:, :level]
        case "independence":
            return x, y[generator.permutation(len(y))]
        case "processing":
            return x, np.column_stack([y, np.sin(y) + 0.5 * y**2])
        case "additivity":
            order = generator.permutation(len(y))
            first, second = order[: len(y) // 2], order[len(y) // 2 : 2 * (len(y) // 2)]
            return np.column_stack([x[first], x[second]]), np.column_stack([y[first], y[second]])
        case "label":
            return whole, digits.target
    raise ValueError(f"there is no test {test!r}; choose dependence, independence, processing, additivity or label")


def against_laws(means: pd.DataFrame, components: int) -> pd.DataFrame:
    """The same rows with what each law calls itself (`label`), what it asks for (`expected`) and whether it `holds`.

    means: columns test, level, value, low, high in nats, means over seeds

    The seeds share the digits, so their intervals do not shrink together. A law holds where value and expectation
    differ by no more than both intervals allow, added in squares; the entropy of the class is a bound, and holds where
    the value does not exceed it by more than its interval. The halves alone have no law.
    """
    full = means[(means.test == "dependence") & (means.level == components)].iloc[0]
    width = full.high - full.low
    class_entropy = float(entropy(np.bincount(load_digits().target)))
    laws = {  # name, expectation, and the expectation's own uncertainty
        "independence": ("another digit's half: 0", 0.0, 0.0),
        "processing": ("with a function of y: unchanged", full.value, width / 2),
        "additivity": ("two digits: twice", 2 * full.value, width),
        "label": ("class of the digit: at most its entropy", class_entropy, 0.0),
    }
    rows = []
    for row in means.to_dict("records"):
        label, expected, uncertainty = laws.get(row["test"], ("halves", None, None))
        holds = None
        if expected is not None:
            gap = row["value"] - expected
            allowed = np.hypot((row["high"] - row["low"]) / 2, uncertainty)
            holds = bool((gap if row["test"] == "label" else abs(gap)) <= allowed)
        rows.append(row | {"label": label, "expected": expected, "holds": holds})
    return pd.DataFrame(rows)
