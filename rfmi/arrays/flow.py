"""What a rectified flow says of I(X; Y): Gaussian base and networks, trained as long as it pays.

    V = E of t/(1-t) (v - a(x_t)) . (u(x_t|y) - u(x_t))

is the residual form, anchored at the base's null branch a (`rfmi.estimators`), on held-out pairs. Its bias is of first
order in the networks' errors: errors that scatter from one training set to the next add noise and no bias, underfitting
lowers V. The base's share is integrated exactly, the network's share by Monte Carlo.

1. Where the network adds nothing to the base that held-out pairs can tell, the base alone answers: what it adds, in
   standard errors over pairs, must pass 1 after a quarter of the steps, 1.5 after half of them and 3 at the end;
   below 2,500 pairs, its held-out loss may not pass the base's by five standard errors before the end, as then it
   learns pairs by heart. Where it fails, training stops.
2. Where the held-out loss still falls in the second half of the steps, by more than two standard errors, as many steps
   again follow, twice at most and up to 5,000 in all.
3. Richardson's extrapolation in the length of training: what is not yet learnt is taken to fall as 1 / steps, so that
   with V_1 after half of the steps and V_2 after all of them, V = V_2 + (V_2 - V_1).

The fitting error has two parts, added in squares. Where the networks answer: |V_2 - V_1|, and a quarter of the gap
between the squared and the re-noising form after half of the steps, between which the truth lies when errors are of
second order. Where the base answers alone: what the network seemed to add, if anything, and three times dimensions / n.
The sampling error is the spread of the point-wise information, which is the influence function of I and so holds the
sampling error of the fit too, or of V's own terms where that is larger. The rules and the shares were set on the open
pairs of `lab.oracles.pairs`; the forty tasks of the benchmark were looked at, the pairs kept aside were not.
"""

from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from rfmi.arrays.cross_fit import DRAWS, CrossFit, Forms
from rfmi.arrays.network import ResidualNetwork, train

SMALLEST_Z = {0.25: 1.0, 0.5: 1.5, 1.0: 3.0}
ROUNDS, STILL_LEARNING, MOST_STEPS = 3, 2.0, 5000
BY_HEART, FEW_PAIRS = 5.0, 2500
CHANGE_ERROR, GAP_ERROR, UNSEEN_ERROR = 1.0, 0.25, 3.0


@dataclass(frozen=True)
class FlowInformation:
    """The flow's estimate in nats.

    value: V
    sampling_error, fitting_error: its standard errors
    half: (n,) values of each form after half of the training
    change: V_2 - V_1, or what the network seemed to add where the base answers
    used: whether the value holds what the networks add
    network: the trained networks, None where the base scores pairs better
    evaluations: network evaluations spent on scoring
    """

    value: float
    sampling_error: float
    fitting_error: float
    half: Forms
    change: float
    used: bool
    network: ResidualNetwork | None
    evaluations: int


def flow_information(
    split: CrossFit, steps: int, *, seed: int, generator: torch.Generator, progress: bool
) -> FlowInformation:
    """Trains the networks and reads the estimate.

    split: the pairs in every fold's coordinates
    steps: of the first round of training
    seed: of scoring
    generator: of first weights and training
    progress: whether a bar shows the training, where that takes more than five seconds
    """
    n = len(split.fold)
    network = ResidualNetwork(len(split.x), split.x.shape[2], split.y.shape[2], generator).to(split.x.device)
    base_drawn = split.monte_carlo(None, seed)
    base = split.exact(base_drawn)
    half, full, scorings, length = base, base, 0, steps
    for round_number in range(ROUNDS):
        checks = {round(share * length): least for share, least in SMALLEST_Z.items()} if not round_number else {}
        training = train(network, split.base, split.x, split.y, split.training_rows, steps=length, generator=generator)
        bar = tqdm(training, total=length, disable=not progress, delay=5, mininterval=5)
        for step, averaged in enumerate(bar, 1):
            if step not in checks and step < length:
                continue
            drawn = split.monte_carlo(averaged, seed)  # in base_drawn's noise: the difference is the network's share
            half, full = full, {name: base[name] + drawn[name] - base_drawn[name] for name in drawn}
            scorings += 1
            added = full["residual"] - base["residual"]
            worse = n < FEW_PAIRS and step < length and z_of(full["re_noising"] - base["re_noising"]) < -BY_HEART
            if worse or z_of(added) < checks.get(step, -np.inf):
                fitting = max(added.mean(), 0.0), UNSEEN_ERROR * split.dimensions / n
                return _answer(
                    base, base["residual"], float(added.mean()), fitting, False, None, 2 * n * DRAWS * scorings
                )
        gain = z_of(full["re_noising"] - half["re_noising"])
        length = steps * 2**round_number  # as many as there have been
        if gain < STILL_LEARNING or 2 * length > MOST_STEPS:
            break
    change = float((full["residual"] - half["residual"]).mean())
    pairs = 2 * full["residual"] - half["residual"]
    gap = half["squared"].mean() - half["re_noising"].mean()
    fitting = CHANGE_ERROR * change, GAP_ERROR * gap
    if full["re_noising"].mean() < base["re_noising"].mean():
        half, averaged = half | {"re_noising": base["re_noising"]}, None
    return _answer(half, pairs, change, fitting, True, averaged, 2 * n * DRAWS * scorings)


def z_of(values: np.ndarray) -> float:
    """The mean of values (n,) in its standard errors."""
    return float(values.mean() / (values.std(ddof=1) / len(values) ** 0.5 + 1e-300))


def _answer(half: Forms, pairs: np.ndarray, change, fitting, *rest) -> FlowInformation:
    spread = max(float(part.std(ddof=1)) for part in (pairs, half["re_noising"]))
    error = float(np.hypot(*fitting))
    return FlowInformation(float(pairs.mean()), spread / len(pairs) ** 0.5, error, half, change, *rest)
