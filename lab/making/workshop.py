"""Where networks are trained, stage by stage, by `rfmi.training`: a stage resumes exactly from its checkpoint, and a
finished one is only read. The random numbers are functions of the recipe.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors.torch import load_file
from torch import Tensor, nn, optim
from tqdm import tqdm

from lab.making.recipe import Recipe, Schedule
from lab.worlds.shapes.shipped import write_checksums
from rfmi.files import write_atomically
from rfmi.runs import versions
from rfmi.training import CHECKPOINT, StepRandomness, Training, train

LARGEST_NORM = 1.0  # of a step's gradients
Loss = Callable[[StepRandomness, int], Tensor]  # of a step's random numbers and the size of its batch


@dataclass(frozen=True)
class Workshop:
    """A recipe, the folder of its checkpoints, and where and how it is trained."""

    recipe: Recipe
    folder: Path
    device: str = "cpu"
    checkpoint_seconds: float = 120.0

    def train(
        self, stage: str, module: nn.Module, schedule: Schedule, loss_of: Loss, optimizers: Sequence[optim.Optimizer]
    ) -> None:
        """Train a stage to its end, from its checkpoint where there is one; leaves the averaged weights in `module`."""

        def take_step(step: int) -> float:
            module.zero_grad()
            loss = loss_of(StepRandomness(schedule.seed, step), schedule.batch)
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), LARGEST_NORM)
            for optimizer in optimizers:
                optimizer.step()
            return loss.item()

        training = Training(dict(module.named_parameters()), optimizers, schedule.averaging)
        module.train()
        steps = train(
            training,
            take_step,
            steps=schedule.steps,
            rate=schedule.rate,
            checkpoint=self.folder / stage / CHECKPOINT,
            run=asdict(schedule),
            free=("steps", "decay"),  # a run may go on longer, or end sooner, as long as its rate has not begun to fall
            checkpoint_seconds=self.checkpoint_seconds,
        )
        with tqdm(total=schedule.steps, desc=stage, mininterval=5.0) as bar:
            for done, loss in steps:
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                bar.update(done - bar.n)
        training.fill(training.result)
        module.eval()

    def write_log(self, output: Path, stages: Sequence[str], start: Path | None = None) -> None:
        """`training.json` beside the weights, with the losses in a hundred means and the log of `start`; checksums."""
        curves = {}
        for stage in stages:
            losses = load_file(self.folder / stage / CHECKPOINT)["losses"].numpy()
            parts = np.array_split(losses, min(100, len(losses)))
            ends = np.cumsum([len(part) for part in parts])
            curves[stage] = [[int(end), round(float(part.mean()), 6)] for end, part in zip(ends, parts, strict=True)]
        log = {"recipe": asdict(self.recipe), "versions": versions(), "losses": curves}
        if start is not None:
            log["earlier"] = json.loads((start / "training.json").read_text(encoding="utf-8"))
        write_atomically(output / "training.json", json.dumps(log, indent=1) + "\n")
        write_checksums(output)


def muon_and_adamw(module: nn.Module, inner: Sequence[str], muon: dict, adamw: dict) -> list[optim.Optimizer]:
    """Muon (arXiv 2502.16982) for the matrices of layers whose name holds one of `inner`, AdamW for all else."""
    matrices, others = [], []
    for name, parameter in module.named_parameters():
        is_inner = parameter.ndim == 2 and any(each in name for each in inner)
        (matrices if is_inner else others).append(parameter)
    return [optim.Muon(matrices, **muon), optim.AdamW(others, **adamw)]
