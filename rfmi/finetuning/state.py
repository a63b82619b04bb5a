"""Where a fine-tuning stands, and its checkpoint: one safetensors file, written whole or not at all.

It holds the adapter's weights, their moving average, the best average so far, the optimiser's state, every loss and
every validation; the batches are functions of the step. That is all there is to go on exactly where a run was killed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rfmi.runs import write_tensors

FREE = ("steps", "checkpoint_seconds", "checkpoint_steps")  # what a run that goes on may change


@dataclass
class State:
    """The parameters by name, their moving average, the optimiser, the loss of every step done, and the validations
    (step, value) with the average that the best of them saw."""

    parameters: dict[str, nn.Parameter]
    average: dict[str, Tensor]
    optimizer: AcceleratedOptimizer
    losses: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def chosen_step(self) -> int:
        """The step whose average is the result: the best validated one, the first of equals, or the last there is.
        The untrained step 0 is validated for comparison and not chosen."""
        trained = [(step, value) for step, value in self.validation if step > 0]
        return max(trained, key=lambda found: found[1])[0] if trained else len(self.losses)

    @property
    def chosen(self) -> dict[str, Tensor]:
        """The weights that are the result."""
        return self.best or self.average

    def validate(self, value: float) -> None:
        """Enter the value of the average at this step."""
        step = len(self.losses)
        self.validation.append((step, value))
        if step and self.chosen_step == step:
            self.best = {name: average.clone() for name, average in self.average.items()}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The parameters hold their average, for as long as the context lasts."""
        own = [parameter.detach().clone() for parameter in self.parameters.values()]
        self._fill(self.average)
        try:
            yield
        finally:
            self._fill(dict(zip(self.parameters, own, strict=True)))

    @torch.no_grad()
    def _fill(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    def write(self, path: Path, run: dict, accelerator: Accelerator) -> None:
        """Write the checkpoint of a run; OSError, in a sentence, where the disk is full."""
        tensors = {f"weights.{name}": value for name, value in self.parameters.items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for i, entries in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": torch.as_tensor(value) for name, value in entries.items()}
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        tensors["validation"] = torch.tensor(self.validation, dtype=torch.float64).reshape(-1, 2)
        scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else {}
        write_tensors(path, tensors, {"run": json.dumps(run), "scaler": json.dumps(scaler)})

    def read(self, path: Path, run: dict, accelerator: Accelerator) -> None:
        """Go on from a checkpoint. Raises ValueError for one that is damaged, of another run, or of more steps than are
        asked for."""
        try:
            with safe_open(path, framework="pt") as file:
                facts = {name: json.loads(text) for name, text in file.metadata().items()}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}); remove it, and the training starts anew") from error
        check_run(facts["run"], run, path.parent)
        check_steps(tensors["losses"], tensors["validation"].tolist(), run["settings"], path.parent)

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        self._fill(part("weights."))
        for name, value in part("average.").items():
            self.average[name].copy_(value)
        device = next(iter(self.average.values())).device
        self.best = {name: value.to(device) for name, value in part("best.").items()}
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in part("optimizer.").items():
            i, key = name.split(".", 1)
            states.setdefault(int(i), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})
        self.losses = tensors["losses"].tolist()
        self.validation = [(int(step), value) for step, value in tensors["validation"].tolist()]
        if accelerator.scaler is not None and facts["scaler"]:
            accelerator.scaler.load_state_dict(facts["scaler"])


def check_run(there: dict, run: dict, folder: Path) -> None:
    """Raises ValueError where a folder's run is another than the one asked for: they would be mixed."""
    flat = [{**record, **(record.get("settings") or {})} for record in (there, json.loads(json.dumps(run)))]
    names = sorted({*flat[0], *flat[1]} - {"settings", *FREE})
    changed = [name for name in names if flat[0].get(name) != flat[1].get(name)]
    if changed:
        raise ValueError(
            f"{folder} holds a fine-tuning with another {', '.join(changed)}; choose another folder, or remove it"
        )


def check_steps(losses: Sequence[float], validation: Sequence[Sequence[float]], settings: dict, folder: Path) -> None:
    """Raises ValueError for a folder of more steps than are asked for, or one that was looked at where a longer run
    would not have looked."""
    steps, every = settings["steps"], settings["validation_every"]
    if len(losses) > steps:
        raise ValueError(
            f"{folder} was trained for {len(losses)} steps and {steps} are asked for; ask for as many, or choose "
            "another folder"
        )
    odd = [int(step) for step, _ in validation if step % every and step < steps]
    if odd:
        raise ValueError(
            f"{folder} was validated at its last step {odd[0]}, which a run of {steps} steps is not; choose another "
            f"folder, or make a run longer only from a multiple of {every}"
        )
