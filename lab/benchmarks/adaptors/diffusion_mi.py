"""MINDE (arXiv 2310.09031) of diffusion-mi, trained for a given time.

settings: {"seconds": training time, "threads": of torch, "arguments": arguments of MINDEEstimator}. What is not given
stays as the package has it: network (64, 128 or 256 wide by the number of coordinates), Adam at 5e-5, batches of 64,
moving average of the weights, importance-sampled time. As published, a task trains for 195,000 to 234,000 steps; here
training ends at the given time, and the estimate is read along the way at steps that grow by a factor of sqrt(2), so
that the error can be followed against the time spent. Reading it costs the training nothing: its random numbers are set
back and its time is taken out.

Its batches are too small to share: a second thread makes a step no faster, and several times slower where anything else
runs on the machine, so one thread is the kinder choice.

The package fits on all pairs and estimates on the same pairs, and so does this.
"""

import functools
import time

import numpy as np
import pytorch_lightning
import torch
from dmi.estimators import MINDEEstimator

PACKAGES = ("diffusion-mi", "torch", "torchvision", "pytorch-lightning", "numpy", "scikit-learn")
FIRST_READING = 50
GROWTH = 2**0.5


class WatchedMINDE(MINDEEstimator):
    """MINDE with a clock: trains for `seconds_allowed`, set from outside before `fit`, and keeps its `curve`."""

    def on_train_start(self):
        self.curve, self.steps, self.next_reading, self.reading_seconds = [], 0, FIRST_READING, 0.0
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
                value, with_reference = self.compute_mi()
            self.train()
            point = {"steps": self.steps, "seconds": trained, "estimate": float(value)}
            self.curve.append(point | {"sigma_form": float(with_reference)})
            self.next_reading = int(np.ceil(self.steps * GROWTH))
            self.reading_seconds += time.perf_counter() - now
        if ended:
            self.trainer.should_stop = True


def estimate(x, y, seed, settings):
    # The trainer is made inside the package; its progress bar and its summary only cost time.
    pytorch_lightning.Trainer = functools.partial(
        pytorch_lightning.Trainer, enable_progress_bar=False, enable_model_summary=False
    )
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(seed)
    np.random.seed(seed)  # the package draws the order of its masks from NumPy's global generator
    model = WatchedMINDE(max_epochs=-1, seed=seed, **settings["arguments"])
    model.seconds_allowed = settings["seconds"]
    model.fit(x, y)
    value = model.estimate(x, y)
    parameters = sum(parameter.numel() for parameter in model.score.parameters())
    chosen = ("learning_rate", "batch_size", "type", "ema_decay", "importance_sampling", "mc_iter", "preprocessing")
    return {
        "estimate": float(value),
        "curve": model.curve,
        "excluded_seconds": model.reading_seconds,
        "details": {"steps": model.steps, "parameters": parameters, **{name: model.hparams[name] for name in chosen}},
    }
