"""The estimators of benchmark-mi, the package of "Beyond Normal" (arXiv 2306.11078).

settings: {"class": a class of bmi.estimators, "arguments": its arguments}; what is not given is the package's default.
The neural ones test their critic every 250 steps on held-out pairs, return the best value and stop after two tests
without a better one. A test is part of the method, so its time counts, and gives a point of the curve: the best so far.
"""

import inspect
import json
import time

import bmi.estimators
from bmi.estimators.neural import _basic_training, _mine_estimator
from bmi.estimators.neural._training_log import TrainingLog

PACKAGES = ("benchmark-mi", "jax", "jaxlib", "equinox", "optax", "numpy", "scipy", "scikit-learn")


def estimate(x, y, seed, settings):
    curve = []
    started = time.perf_counter()

    class TimedLog(TrainingLog):
        def log_test_mi(self, n_step, mi):
            super().log_test_mi(n_step, mi)
            curve.append({"steps": n_step, "seconds": time.perf_counter() - started, "estimate": float(self.final_mi)})

    _basic_training.TrainingLog = _mine_estimator.TrainingLog = TimedLog
    chosen = getattr(bmi.estimators, settings["class"])
    seeded = {"seed": seed} if "seed" in inspect.signature(chosen).parameters else {}
    made = chosen(**settings["arguments"], **seeded)
    return {"estimate": float(made.estimate(x, y)), "curve": curve, "details": json.loads(made.parameters().json())}
