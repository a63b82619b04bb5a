"""MINDE (arXiv 2310.09031) and MMG (arXiv 2509.20609) of diffusion-mi, on one thread: their batches are small.

settings: {"class": of dmi.estimators, "seconds": the processor's, for training, "arguments": of the class}; what is not
given stays as the package has it. Columns are standardised, as in its examples. The estimate is read on fitted pairs
at steps that grow by a factor of sqrt(2). That costs training nothing: random numbers are set back, time is taken out.
"""

import functools
import time

import numpy as np
import pytorch_lightning
import torch
from dmi import estimators
from sklearn.preprocessing import StandardScaler

PACKAGES = ("diffusion-mi", "torch", "torchvision", "pytorch-lightning", "numpy", "scikit-learn")
CHOSEN = ("learning_rate", "batch_size", "type", "ema_decay", "importance_sampling", "mc_iter", "preprocessing")


class Watched:
    """Trains for `seconds_allowed` on `sample`, both set from outside before `fit`, and keeps its `curve`."""

    def on_train_start(self):
        self.curve, self.steps, self.next_reading, self.reading_seconds = [], 0, 50, 0.0
        self.started = time.process_time()

    def on_train_epoch_end(self):
        """Takes the place of the package's own reading of the estimate, which would be made as well."""

    def on_train_batch_end(self, outputs, batch, batch_index):
        self.steps += 1
        now = time.process_time()
        trained = now - self.started - self.reading_seconds
        ended = trained >= self.seconds_allowed
        if ended or self.steps >= self.next_reading:
            with torch.random.fork_rng(devices=[]):
                value = self.estimate(*self.sample)
            self.train()
            self.curve.append({"steps": self.steps, "seconds": trained, "estimate": float(value)})
            self.next_reading = int(np.ceil(self.steps * 2**0.5))
            self.reading_seconds += time.process_time() - now
        if ended:
            self.trainer.should_stop = True


def estimate(x, y, seed, settings):
    silent = {"enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    pytorch_lightning.Trainer = functools.partial(pytorch_lightning.Trainer, **silent)  # made inside the package
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the package draws the order of its masks from NumPy's global generator
    chosen = type("Chosen", (Watched, getattr(estimators, settings["class"])), {})
    model = chosen(max_epochs=-1, seed=seed, **settings["arguments"])
    model.seconds_allowed, model.sample = settings["seconds"], [StandardScaler().fit_transform(each) for each in (x, y)]
    model.fit(*model.sample, *model.sample)  # MMG refuses to go without validation pairs, which are not looked at
    details = {"steps": model.steps, "parameters": sum(each.numel() for each in model.model_ema.module.parameters())}
    details |= {name: model.hparams[name] for name in CHOSEN if name in model.hparams}
    result = {"estimate": model.curve[-1]["estimate"], "curve": model.curve, "details": details}
    return result | {"excluded_seconds": model.reading_seconds}
