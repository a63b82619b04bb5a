"""This project's own estimator, in the project's own environment."""

import rfmi

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn")


def estimate(x, y, seed, settings):
    result = rfmi.estimate_mutual_information(x, y, seed=seed, **settings.get("arguments", {}))
    low, high = result.interval
    return {"estimate": float(result.value), "interval": [float(low), float(high)]}
