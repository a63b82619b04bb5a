"""How long a network is trained, how fast, and its training by `rfmi.training`, which resumes exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor, nn, optim

from rfmi.training import CHECKPOINT, StepRandomness, Training, train

LARGEST_NORM = 1.0  # of a step's gradients
Loss = Callable[[StepRandomness], Tensor]


@dataclass(frozen=True)
class Schedule:
    """The learning rate rises over `warmup` steps, stays, and falls to zero over the last `decay` share of `steps`; the
    moving average of the weights keeps `averaging` of itself a step.
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


def train_network(
    module: nn.Module,
    loss_of: Loss,
    optimizers: Sequence[optim.Optimizer],
    schedule: Schedule,
    folder: Path,
    *,
    checkpoint_seconds: float = 120.0,
) -> Iterator[tuple[int, float]]:
    """Train until `schedule.steps`, from the checkpoint in `folder` where there is one; yields (steps done, loss).

    At the end `module` holds the averaged weights. Raises as `rfmi.training.train` does.
    """

    def take_step(step: int) -> float:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss = loss_of(StepRandomness(schedule.seed, step))
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), LARGEST_NORM)
        for optimizer in optimizers:
            optimizer.step()
        return loss.item()

    training = Training(dict(module.named_parameters()), optimizers, schedule.averaging)
    module.train()
    yield from train(
        training,
        take_step,
        steps=schedule.steps,
        rate=schedule.rate,
        checkpoint=folder / CHECKPOINT,
        run=asdict(schedule),
        free=("steps", "decay"),  # a run may be made longer, or end sooner, as long as its rate has not begun to fall
        checkpoint_seconds=checkpoint_seconds,
    )
    training.fill(training.result)
    module.eval()


def read_losses(folder: Path) -> list[float]:
    """The loss of every step done so far."""
    with safe_open(folder / CHECKPOINT, framework="pt") as file:
        return file.get_tensor("losses").tolist()
