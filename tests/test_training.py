"""The one training loop: against a plain computation, and nothing lost however often it is killed."""

import errno
import math
import os
import signal
from random import Random

import pytest
import torch
from safetensors.torch import load_file

from rfmi import files
from rfmi.training import StepRandomness, Training, train

STEPS = 7
RUN = {"seed": 0, "rate": 0.1, "name": "toy"}


class Interruption(Exception):
    pass


class Toy:
    """A regression by two optimisers, on numbers drawn at every step."""

    def __init__(self, averaging=0.7):
        generator = torch.Generator().manual_seed(0)
        self.parameters = {
            "matrix": torch.nn.Parameter(torch.randn(3, 2, generator=generator)),
            "offset": torch.nn.Parameter(torch.zeros(2)),
        }
        matrix, offset = self.parameters.values()
        optimizers = [torch.optim.AdamW([matrix], lr=0.1), torch.optim.SGD([offset], lr=0.2, momentum=0.5)]
        self.training = Training(self.parameters, optimizers, averaging)
        self.rates = []

    def take_step(self, step):
        generator = StepRandomness(5, step).generator
        x = torch.randn(8, 3, generator=generator)
        loss = (x @ self.parameters["matrix"] + self.parameters["offset"] - x[:, :2].sin()).square().mean()
        loss.backward()
        for optimizer in self.training.optimizers:
            self.rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    def validate(self):
        """Minus the distance of the matrix from ones, which rises and falls."""
        return -float((self.parameters["matrix"] - 1).square().mean())

    def steps(self, folder, steps=STEPS, take_step=None, validate=None, run=RUN, **options):
        options = {"checkpoint_steps": 2, "validation_every": 3, "rate": lambda step: min(1, (step + 1) / 4)} | options
        return train(
            self.training, take_step or self.take_step, steps=steps, checkpoint=folder / "checkpoint.safetensors",
            run=run, validate=validate or self.validate, **options,
        )  # fmt: skip


def trained(folder, **options):
    toy = Toy()
    for _ in toy.steps(folder, **options):
        pass
    return toy.training


def assert_same(a, b):
    assert a.losses == b.losses and a.validation == b.validation and a.chosen_step == b.chosen_step
    for name in ("parameters", "average", "best"):
        assert all(torch.equal(value, getattr(b, name)[key]) for key, value in getattr(a, name).items())


# Against plain computations


def test_weights_average_and_rates_are_those_of_a_plain_loop(tmp_path):
    toy, plain = Toy(), Toy()
    average = {name: value.detach().clone() for name, value in plain.parameters.items()}
    for done, loss in toy.steps(tmp_path):
        rate = min(1, done / 4)
        for optimizer, most in zip(plain.training.optimizers, (0.1, 0.2), strict=True):
            optimizer.param_groups[0]["lr"] = most * rate
        assert plain.take_step(done - 1) == loss
        assert toy.rates[-2:] == pytest.approx([0.1 * rate, 0.2 * rate])
        kept = min(0.7, done / (done + 9))
        average = {name: kept * value + (1 - kept) * plain.parameters[name] for name, value in average.items()}
        for name, value in plain.parameters.items():
            assert torch.equal(toy.parameters[name], value)
            torch.testing.assert_close(toy.training.average[name], average[name].detach())
    assert done == STEPS == len(toy.training.losses)


def test_without_averaging_the_result_is_the_last_weights(tmp_path):
    toy = Toy(averaging=0.0)
    for _ in train(
        toy.training, toy.take_step, steps=3, rate=lambda _: 1.0, checkpoint=tmp_path / "a.safetensors", run=RUN
    ):
        pass
    assert toy.training.chosen_step == 3 and toy.training.validation == []
    assert all(torch.equal(value, toy.training.result[name]) for name, value in toy.parameters.items())


def test_the_validation_is_of_the_average_and_leaves_the_weights(tmp_path):
    toy, seen = Toy(), []

    def look():
        seen.append(toy.parameters["matrix"].detach().clone())
        assert not torch.is_grad_enabled()
        return 0.0

    for done, _ in toy.steps(tmp_path, validate=look):
        if done in (3, 6, 7):
            assert torch.equal(seen[-1], toy.training.average["matrix"])
            assert not torch.equal(seen[-1], toy.parameters["matrix"])
    assert [step for step, _ in toy.training.validation] == [0, 3, 6, 7]
    assert torch.equal(toy.parameters["matrix"], trained(tmp_path / "plain").parameters["matrix"])


def test_the_best_look_is_the_result_and_the_untrained_one_is_not(tmp_path):
    toy, values, averages = Toy(), iter([9.0, 1.0, 5.0, 5.0]), {}
    for done, _ in toy.steps(tmp_path, validate=lambda: next(values)):
        averages[done] = toy.training.average["matrix"].clone()
    assert toy.training.validation == [(0, 9.0), (3, 1.0), (6, 5.0), (7, 5.0)]
    assert toy.training.chosen_step == 6, "the first of equals"
    assert torch.equal(toy.training.result["matrix"], averages[6])


def test_the_numbers_of_a_step_depend_on_seed_and_step_alone():
    first, again = StepRandomness(3, 5), StepRandomness(3, 5)
    assert first.random.random() == again.random.random()
    assert torch.equal(torch.rand(9, generator=first.generator), torch.rand(9, generator=again.generator))
    seen = {StepRandomness(seed, step).generator.initial_seed() for seed in range(9) for step in range(-9, 9)}
    assert len(seen) == 9 * 18
    assert first.generator.initial_seed() == Random("3 5").getrandbits(62)


# Going on


@pytest.mark.parametrize("step", range(STEPS))
def test_killed_at_any_step_it_ends_with_the_same_weights(tmp_path, start_child, step):
    whole, toy = trained(tmp_path / "whole"), Toy()

    def mortal(number):
        if number == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return toy.take_step(number)

    child = start_child(lambda: list(toy.steps(tmp_path, take_step=mortal)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (tmp_path / "checkpoint.safetensors").exists() == (step >= 2)
    assert_same(trained(tmp_path), whole)
    ours, theirs = (load_file(folder / "checkpoint.safetensors") for folder in (tmp_path, tmp_path / "whole"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("most", range(1, STEPS))
def test_an_abandoned_loop_goes_on_where_it_was(tmp_path, most):
    whole = trained(tmp_path / "whole")
    for _ in zip(Toy().steps(tmp_path, checkpoint_steps=1), range(most), strict=False):
        pass
    toy, went_on = Toy(), []
    for done, _ in toy.steps(tmp_path):
        went_on.append(done)
    assert went_on == list(range(min(most + 1, STEPS) + 1, STEPS + 1)) and len(toy.training.losses) == STEPS
    assert_same(toy.training, whole)


def test_a_checkpoint_is_written_when_time_is_up_and_at_the_end(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(Training, "write", lambda self, *_: written.append(len(self.losses)))
    for seconds, steps in ((0.0, list(range(1, STEPS + 1))), (1e6, [STEPS])):
        written.clear()
        trained(tmp_path, checkpoint_steps=None, checkpoint_seconds=seconds)
        assert written == steps
    written.clear()
    trained(tmp_path, writes=False)
    assert written == []


def test_a_finished_training_may_be_made_longer(tmp_path):
    trained(tmp_path, steps=6)
    assert_same(trained(tmp_path, steps=9), trained(tmp_path / "whole", steps=9))
    with pytest.raises(ValueError, match="trained for 9 steps and 6 are asked for"):
        trained(tmp_path, steps=6)


def test_a_last_look_that_a_longer_run_would_not_take_is_refused(tmp_path):
    trained(tmp_path, steps=7)
    assert [step for step, _ in trained(tmp_path, steps=7).validation] == [0, 3, 6, 7]
    with pytest.raises(ValueError, match="validated at its last step 7.* multiple of 3"):
        trained(tmp_path, steps=9)


# Faults


def test_another_run_is_not_gone_on_with(tmp_path):
    trained(tmp_path)
    for run, words in ((RUN | {"seed": 1, "name": "b"}, "another name, seed"), ({"seed": 0}, "another name, rate")):
        with pytest.raises(ValueError, match=words):
            trained(tmp_path, run=run)
    assert len(trained(tmp_path, run=RUN | {"seed": 1}, free=("seed",)).losses) == STEPS


@pytest.mark.parametrize("left", [0, 7, 200, -1])
def test_a_damaged_checkpoint_is_said(tmp_path, left):
    trained(tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match="checkpoint.safetensors is damaged .* remove it") as raised:
        trained(tmp_path)
    assert "\n" not in str(raised.value)


def test_no_change_of_a_checkpoint_goes_unnoticed(tmp_path, damage):
    trained(tmp_path)
    damage(tmp_path / "checkpoint.safetensors")
    with pytest.raises(ValueError, match="checkpoint.safetensors is damaged .* remove it"):
        trained(tmp_path)


def test_a_file_of_something_else_is_no_checkpoint(tmp_path):
    files.write_tensors(tmp_path / "checkpoint.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(ValueError, match="no checkpoint of a training"):
        trained(tmp_path)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    other = Toy()
    with torch.no_grad():
        other.parameters["offset"].data = torch.zeros(3)
    trained(tmp_path)
    with pytest.raises(ValueError, match="another network"):
        next(other.steps(tmp_path))


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_it_and_the_last_checkpoint_stays(tmp_path, number):
    toy = Toy()
    with pytest.raises(FloatingPointError, match="loss is no number at step 5"):
        list(toy.steps(tmp_path, take_step=lambda step: number if step == 5 else toy.take_step(step)))
    assert_same(trained(tmp_path), trained(tmp_path / "whole"))
    with pytest.raises(FloatingPointError, match="validation is no number at step 0"):
        trained(tmp_path / "other", validate=lambda: number)


def test_a_look_that_fails_gives_the_weights_back(tmp_path):
    toy, looks = Toy(), []

    def look():
        looks.append(toy.parameters["matrix"].detach().clone())
        if len(looks) == 2:
            raise Interruption
        return 0.0

    own = {}
    with pytest.raises(Interruption):
        for done, _ in toy.steps(tmp_path, validate=look):
            own[done] = toy.parameters["matrix"].detach().clone()
    plain = Toy()
    for step, rate in enumerate((0.25, 0.5, 0.75)):
        for optimizer, most in zip(plain.training.optimizers, (0.1, 0.2), strict=True):
            optimizer.param_groups[0]["lr"] = most * rate
        plain.take_step(step)
    assert torch.equal(toy.parameters["matrix"], plain.parameters["matrix"])


def test_a_full_disk_is_said_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    write, written = files.save_file, []

    def full(tensors, path, metadata):
        written.append(path)
        if len(written) == 3:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "x")
        write(tensors, path, metadata)

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(OSError, match="is full; make room and call again"):
        trained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    assert len(load_file(tmp_path / "checkpoint.safetensors")["losses"]) == 4
    monkeypatch.undo()
    assert_same(trained(tmp_path), trained(tmp_path / "whole"))
