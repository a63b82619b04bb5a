"""MINDE (arXiv 2310.09031) of diffusion-mi, trained for a given time on one thread: its batches are too small to share.

settings: {"seconds": training time, "arguments": of MINDEEstimator}; what is not given stays as the package has it. The
estimate is read along the way, at steps that grow by a factor of sqrt(2). Reading it costs the training nothing: its
random numbers are set back and its time is taken out. Like the package, this estimates on the pairs it has fitted.
"""

import functools
import time

import numpy as np
import pytorch_lightning
import torch
from dmi.estimators import MINDEEstimator

PACKAGES = ("diffusion-mi", "torch", "torchvision", "pytorch-lightning", "numpy", "scikit-learn")
CHOSEN = ("learning_rate", "batch_size", "type", "ema_decay", "importance_sampling", "mc_iter", "preprocessing")


class WatchedMINDE(MINDEEstimator):
    """Trains for `seconds_allowed`, set from outside before `fit`, and keeps its `curve`."""

    def on_train_start(self):
        self.curve, self.steps, self.next_reading, self.reading_seconds = [], 0, 50, 0.0
        self.started = time.perf_counter()

    def on_train_epoch_end(self):
        """Takes the place of the package's own reading of the estimate, which would be made as well."""

    def on_train_batch_end(self, outputs, batch, batch_index):
        self.steps += 1
        now = time.perf_counter()
        trained = now - self.started - self.reading_seconds
        ended = trained >= self.seconds_allowed
        if ended or self.steps >= self.next_reading:
            with torch.random.fork_rng(devices=[]):
                value, _ = self.compute_mi()
            self.train()
            self.curve.append({"steps": self.steps, "seconds": trained, "estimate": float(value)})
            self.next_reading = int(np.ceil(self.steps * 2**0.5))
            self.reading_seconds += time.perf_counter() - now
        if ended:
            self.trainer.should_stop = True


def estimate(x, y, seed, settings):
    silent = {"enable_progress_bar": False, "enable_model_summary": False}  # of the trainer made inside the package
    pytorch_lightning.Trainer = functools.partial(pytorch_lightning.Trainer, **silent)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the package draws the order of its masks from NumPy's global generator
    model = WatchedMINDE(max_epochs=-1, seed=seed, **settings["arguments"])
    model.seconds_allowed = settings["seconds"]
    model.fit(x, y)
    value = float(model.estimate(x, y))
    parameters = sum(parameter.numel() for parameter in model.score.parameters())
    details = {"steps": model.steps, "parameters": parameters, **{name: model.hparams[name] for name in CHOSEN}}
    return {"estimate": value, "curve": model.curve, "excluded_seconds": model.reading_seconds, "details": details}
