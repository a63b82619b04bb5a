"""The estimators of benchmark-mi, the package of "Beyond Normal" (arXiv 2306.11078).

settings: {"class": a class of bmi.estimators, "arguments": its arguments}. What is not given stays as the package has
it.

The neural ones test their critic every 250 steps on the half of the pairs it is not trained on, return the best test
value and stop after two tests without a better one. Those tests are part of the method, so their time counts, and each
gives a point of the curve: the value that the estimator would return if it ended there.
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
        """The package's log, which also notes when each test was made."""

        def log_test_mi(self, n_step, mi):
            super().log_test_mi(n_step, mi)
            point = {"steps": n_step, "seconds": time.perf_counter() - started, "estimate": float(self.final_mi)}
            curve.append(point)

    _basic_training.TrainingLog = TimedLog
    _mine_estimator.TrainingLog = TimedLog
    chosen = getattr(bmi.estimators, settings["class"])
    arguments = dict(settings["arguments"])
    if "seed" in inspect.signature(chosen).parameters:
        arguments["seed"] = seed
    estimator = chosen(**arguments)
    value = float(estimator.estimate(x, y))
    return {"estimate": value, "curve": curve, "details": json.loads(estimator.parameters().json())}
