"""This project's own estimator, in the project's own environment."""

from rfmi import estimate_mutual_information  # now, so that the seconds are without those of importing torch

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn")


def estimate(x, y, seed, settings):
    result = estimate_mutual_information(x, y, seed=seed, **settings["arguments"])
    return {"estimate": float(result.value), "interval": [float(bound) for bound in result.interval]}
