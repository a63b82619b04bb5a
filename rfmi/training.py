"""The one checkpointed training loop, as a generator: the caller counts and shows, and may stop when it likes.

The random numbers of a step are a function of (seed, step) alone. A checkpoint therefore holds the weights, their
moving average, the optimisers' state, every loss and every validation, and nothing else is needed to go on exactly
where a killed run was. It is a safetensors file, written whole or not at all.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler

from rfmi.files import read_tensors, write_tensors
from rfmi.runs import check_same

CHECKPOINT = "checkpoint.safetensors"


class StepRandomness:
    """The random numbers of one step: `random` for choices among things, `generator` for tensors."""

    def __init__(self, seed: int, step: int) -> None:
        self.random = Random(f"{seed} {step}")
        self.generator = torch.Generator().manual_seed(self.random.getrandbits(62))


@dataclass
class Training:
    """Where a training stands.

    parameters: what is trained, by name.
    optimizers: of these parameters; their learning rates as given are the highest.
    averaging: what the moving average of the weights keeps of itself a step, 0 for none.
    average: the moving average, by name.
    losses: of every step done.
    validation: (step, value) of every look at the average; the larger the value, the better.
    best: the average that the best look saw.
    """

    parameters: Mapping[str, Tensor]
    optimizers: Sequence[torch.optim.Optimizer]
    averaging: float
    average: dict[str, Tensor] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.average = {name: value.detach().clone() for name, value in self.parameters.items()}

    @property
    def chosen_step(self) -> int:
        """The step whose average is the result: the best validated one, or the last there is; never step 0."""
        trained = [(step, value) for step, value in self.validation if step > 0]
        return max(trained, key=lambda look: look[1])[0] if trained else len(self.losses)

    @property
    def result(self) -> dict[str, Tensor]:
        """The weights that the training came to, by name."""
        return self.best or self.average

    def add(self, loss: float) -> None:
        """Enter the loss of a step that is done, and move the average on."""
        step = len(self.losses)
        self.losses.append(_number(loss, "loss", step))
        weight = 1 - min(self.averaging, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.parameters.values()], weight)

    def look(self, validate: Callable[[], float]) -> None:
        """Validate the average, which the parameters hold meanwhile."""
        step, own = len(self.losses), {name: value.detach().clone() for name, value in self.parameters.items()}
        self.fill(self.average)
        try:
            with torch.no_grad():
                value = validate()
        finally:
            self.fill(own)
        self.validation.append((step, _number(value, "value of the validation", step)))
        if step and self.chosen_step == step:
            self.best = {name: average.clone() for name, average in self.average.items()}

    @torch.no_grad()
    def fill(self, values: Mapping[str, Tensor]) -> None:
        """Give the parameters these values, by name."""
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    def write(self, path: Path, run: Mapping[str, Any], scaler: GradScaler | None) -> None:
        """Write the checkpoint of a run; OSError, in a sentence, where the disk is full."""
        parts = {"weights": self.parameters, "average": self.average, "best": self.best}
        for k, optimizer in enumerate(self.optimizers):
            parts |= {f"optimizer.{k}.{i}": entries for i, entries in optimizer.state_dict()["state"].items()}
        named = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
        tensors = {name: torch.as_tensor(value) for name, value in named.items()}
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        tensors["validation"] = torch.tensor(self.validation, dtype=torch.float64).reshape(-1, 2)
        write_tensors(path, tensors, run=run, scaler={} if scaler is None else scaler.state_dict())

    def read(self, path: Path, run: Mapping[str, Any], free: Sequence[str], scaler: GradScaler | None) -> None:
        """Go on from a checkpoint. Raises ValueError for one that is damaged, of another run or of other weights."""
        tensors, facts = read_tensors(path)
        if not facts.keys() >= {"run", "scaler"}:
            raise ValueError(f"{path} is no checkpoint of a training; move it away, and the training starts anew")
        check_same(facts["run"], run, path.parent, free)
        weights = _part(tensors, "weights")
        shapes = {name: value.shape for name, value in weights.items()}
        if shapes != {name: value.shape for name, value in self.parameters.items()}:
            raise ValueError(f"{path} is of another network; move it away, and the training starts anew")
        self.fill(weights)
        for name, value in self.average.items():
            value.copy_(tensors[f"average.{name}"])
        self.best = {name: value.to(self.average[name]) for name, value in _part(tensors, "best").items()}
        for k, optimizer in enumerate(self.optimizers):
            state = optimizer.state_dict()
            # one for each parameter, whose state is empty where it has had no gradient yet
            indices = [i for group in state["param_groups"] for i in group["params"]]
            state["state"] = {i: _part(tensors, f"optimizer.{k}.{i}") for i in indices}
            optimizer.load_state_dict(state)
        self.losses = tensors["losses"].tolist()
        self.validation = [(int(step), value) for step, value in tensors["validation"].tolist()]
        if scaler is not None and facts["scaler"]:
            scaler.load_state_dict(facts["scaler"])


def train(
    training: Training,
    take_step: Callable[[int], float],
    *,
    steps: int,
    rate: Callable[[int], float],
    checkpoint: Path,
    run: Mapping[str, Any],
    free: Sequence[str] = (),
    checkpoint_seconds: float = 120.0,
    checkpoint_steps: int | None = None,
    validate: Callable[[], float] | None = None,
    validation_every: int = 100,
    scaler: GradScaler | None = None,
    writes: bool = True,
) -> Iterator[tuple[int, float]]:
    """Train until `steps`, from the checkpoint where there is one; yields (steps done, loss).

    training: where it starts; it is advanced in place.
    take_step: called with the step's number, takes one step of the optimisers and returns its loss.
    rate: the learning rate of a step, as a share of the highest.
    checkpoint: its file. run: what tells this run from another; free: names in it that a run that goes on may change.
    checkpoint_seconds, checkpoint_steps: how often to write; the second, if given, in place of the first.
    validate: the value of the parameters as they are, called with their average in them every `validation_every` steps.
    scaler: of float16 gradients. writes: whether this process writes the checkpoint.
    Raises FloatingPointError where a loss or a value is no number (the last checkpoint stays), ValueError for a
    checkpoint of another run or of more steps, OSError for a full disk.
    """
    if checkpoint.exists():
        training.read(checkpoint, run, free, scaler)
        check_steps(training.losses, training.validation, steps, validation_every, checkpoint.parent)
    highest = [[group["lr"] for group in optimizer.param_groups] for optimizer in training.optimizers]
    if validate is not None and not training.losses:
        training.look(validate)
    last_written = time.monotonic()
    for step in range(len(training.losses), steps):
        done, last = step + 1, step + 1 == steps
        for optimizer, rates in zip(training.optimizers, highest, strict=True):
            for group, most in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = most * rate(step)
        training.add(take_step(step))
        if validate is not None and (last or done % validation_every == 0):
            training.look(validate)
        by_time = time.monotonic() - last_written > checkpoint_seconds
        due = done % checkpoint_steps == 0 if checkpoint_steps else by_time
        if (due or last) and writes:
            training.write(checkpoint, run, scaler)
            last_written = time.monotonic()
        yield done, training.losses[-1]


def check_steps(
    losses: Sequence[float], validation: Sequence[Sequence[float]], steps: int, validation_every: int, folder: Path
) -> None:
    """Raises ValueError for a folder of more steps than are asked for, or looked at where a longer run would not be."""
    if len(losses) > steps:
        said = f"{folder} was trained for {len(losses)} steps and {steps} are asked for"
        raise ValueError(f"{said}; ask for as many, or choose another folder")
    odd = [int(step) for step, _ in validation if step % validation_every and step < steps]
    if odd:
        said = f"{folder} was validated at its last step {odd[0]}, which a run of {steps} steps is not"
        advice = f"choose another folder, or make a run longer only from a multiple of {validation_every}"
        raise ValueError(f"{said}; {advice}")


def _part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}


def _number(value: float, what: str, step: int) -> float:
    if not math.isfinite(value):
        said = f"the {what} is no number at step {step}"
        raise FloatingPointError(f"{said}; lower the learning rate, and call again in another folder")
    return float(value)
