"""One training loop for every network of the base model: any loss, any optimisers, exact resumption.

The batch of a step, its noise included, is a function of (seed, step) alone. A checkpoint therefore holds the weights,
their moving average, the optimisers' state, the losses and the number of steps done, and nothing else is needed to go
on exactly where a killed run was. Checkpoints are safetensors files, written whole or not at all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from rfmi.runs import write_tensors

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: the learning rate rises over `warmup` steps, stays, and falls to zero over the last
    `decay` share of `steps`; the moving average of the weights keeps `averaging` of itself a step.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: int = 100
    decay: float = 0.3
    averaging: float = 0.998
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of a step, as a share of its highest."""
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return min(1.0, (step + 1) / max(1, self.warmup), left)


class StepRandomness:
    """The random numbers of one step: `random` for scenes and prompts, `generator` for tensors."""

    def __init__(self, seed: int, step: int) -> None:
        from random import Random

        self.random = Random(f"{seed} {step}")
        self.generator = torch.Generator().manual_seed(self.random.getrandbits(62))


def train(
    module: nn.Module,
    loss_of: Callable[[StepRandomness], Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    schedule: Schedule,
    folder: Path,
    *,
    checkpoint_seconds: float = 120.0,
    largest_norm: float = 1.0,
) -> Iterator[tuple[int, float]]:
    """Train until `schedule.steps`, from the checkpoint in `folder` where there is one; yields (steps done, loss).

    At the end `module` holds the averaged weights. Raises FloatingPointError when the loss is no number (the last
    checkpoint stays), ValueError when the checkpoint is of another schedule or another network.
    """
    average = {name: value.detach().clone() for name, value in module.named_parameters()}
    path = folder / CHECKPOINT
    losses: list[float] = []
    if path.exists():
        losses = _read_checkpoint(path, module, average, optimizers, schedule)
    highest = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    module.train()
    last_written = time.monotonic()
    for step in range(len(losses), schedule.steps):
        for optimizer, rates in zip(optimizers, highest, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * schedule.rate(step)
            optimizer.zero_grad(set_to_none=True)
        loss = loss_of(StepRandomness(schedule.seed, step))
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), largest_norm)
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
        if losses[-1] != losses[-1]:
            raise FloatingPointError(
                f"the loss is no number at step {step}; lower the learning rate and go on from the last checkpoint"
            )
        weight = 1 - min(schedule.averaging, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), [p.detach() for p in module.parameters()], weight)
        if time.monotonic() - last_written > checkpoint_seconds or step + 1 == schedule.steps:
            _write_checkpoint(path, module, average, optimizers, schedule, losses)
            last_written = time.monotonic()
        yield step + 1, losses[-1]
    module.load_state_dict(average, strict=False)
    module.eval()


def read_losses(folder: Path) -> list[float]:
    """The loss of every step done so far."""
    with safe_open(folder / CHECKPOINT, framework="pt") as file:
        return file.get_tensor("losses").tolist()


def _write_checkpoint(path, module, average, optimizers, schedule, losses) -> None:
    tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    for k, optimizer in enumerate(optimizers):
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{k}.{i}.{name}": torch.as_tensor(value) for name, value in state.items()}
    tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
    write_tensors(path, tensors, {"schedule": json.dumps(asdict(schedule))})


def _read_checkpoint(path, module, average, optimizers, schedule) -> list[float]:
    with safe_open(path, framework="pt") as file:
        written = json.loads(file.metadata()["schedule"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    free = {"steps", "decay"}  # a run may be made longer, or end sooner, as long as its rate has not begun to fall
    changed = [name for name, value in asdict(schedule).items() if name not in free and written.get(name) != value]
    if changed:
        raise ValueError(
            f"the checkpoint {path} was made with another {', '.join(changed)}; "
            "move it away to start anew, or ask for what it was made with"
        )
    try:
        module.load_state_dict(_part(tensors, "module."))
    except RuntimeError as error:
        raise ValueError(f"the checkpoint {path} is of another network; move it away to start anew") from error
    for name, value in _part(tensors, "average.").items():
        average[name].copy_(value)
    for k, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, f"optimizer.{k}.").items():
            i, key = name.split(".", 1)
            state.setdefault(int(i), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return tensors["losses"].tolist()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
