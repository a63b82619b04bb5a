"""Files that are whole or not there, folders that know what they are of, and units that are dealt out once each."""

import errno
import json
import math
import os
import re
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from diffusers import SD3Transformer2DModel
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from rfmi import runs
from rfmi.files import (
    digests,
    disk_space,
    is_whole,
    read_record,
    read_tensors,
    whole_file,
    write_atomically,
    write_parts,
    write_record,
    write_tensors,
)
from rfmi.pipelines import fingerprint
from rfmi.runs import check_same, deal, open_folder, read_settings, versions, work_on

UNITS = range(6)


def files(folder, units=UNITS):
    return {unit: folder / f"{unit}.json" for unit in units}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def work(folder, units=UNITS, seconds=0.0):
    """Take units until there are none, and say in each file who made it; returns those that this process made."""
    paths, made = files(folder, units), []
    for unit in deal(paths, "work"):
        time.sleep(seconds)
        with open(folder / "log.txt", "a", encoding="utf-8") as log:
            log.write(f"{unit}\n")
        write_atomically(paths[unit], json.dumps(os.getpid()))
        made.append(unit)
    return made


@pytest.fixture
def dead(start_child):
    """The number of a process that is no more."""
    child = start_child(lambda: None)
    os.waitpid(child, 0)
    return child


# Units


def test_every_unit_is_dealt_once_and_none_that_is_there(tmp_path):
    write_atomically(files(tmp_path)[2], "{}")
    assert work(tmp_path) == [0, 1, 3, 4, 5]
    assert work(tmp_path) == []
    assert not list(tmp_path.glob("*.claim"))


def test_processes_share_the_units_and_make_each_once(tmp_path, start_child):
    children = [start_child(partial(work, tmp_path, seconds=0.1)) for _ in range(3)]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    made_by = [json.loads(path.read_text()) for path in files(tmp_path).values()]
    assert set(made_by) == set(children), "each of the three was free at some time"
    assert sorted((tmp_path / "log.txt").read_text().split()) == [str(unit) for unit in UNITS]
    assert names(tmp_path) == [*(f"{unit}.json" for unit in UNITS), "log.txt"]


def test_what_a_killed_process_had_taken_goes_to_another(tmp_path, start_child):
    def dies():
        for unit in deal(files(tmp_path), "work"):
            if unit == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            write_atomically(files(tmp_path)[unit], "{}")

    os.waitpid(start_child(dies), 0)
    assert names(tmp_path) == ["0.json", "1.json.claim"]
    assert sorted(work(tmp_path)) == [1, 2, 3, 4, 5]
    assert not list(tmp_path.glob("*.claim"))


class Waiting(Exception):
    pass


def waits(_):
    raise Waiting


@pytest.fixture
def claim(tmp_path, start_child):
    """The claim of unit 0 by a process that was killed, and that nobody has buried."""

    def dies():
        units = deal(files(tmp_path, [0]), "work")
        next(units)
        os.kill(os.getpid(), signal.SIGKILL)

    child = start_child(dies)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # it ended, and is a zombie
    yield tmp_path / "0.json.claim"
    os.waitpid(child, 0)


def record(claim, **facts):
    """The text of a claim with other facts in it; a later process of another's number is told apart by its start."""
    text = re.sub("(?m)^start=.*\n", "", claim.read_text()) if facts.pop("start", True) is None else claim.read_text()
    for name, value in facts.items():
        text = re.sub(rf"(?m)^{name}=.*$", f"{name}={value}", text)
    return text


def test_a_killed_process_that_nobody_has_buried_is_no_more_after_a_while(monkeypatch, claim):
    monkeypatch.setattr(runs, "SECONDS_OF_A_CLAIM", 0.5)
    claim.write_text(record(claim, duration=0.5))
    assert work(claim.parent, [0]) == [0]


def test_a_later_process_of_the_same_number_is_not_the_one_that_claimed(claim):
    """As in a container, whose first process has the same number every time."""
    claim.write_text(record(claim, pid=os.getpid()))
    assert work(claim.parent, [0]) == [0]


@pytest.mark.parametrize("facts", [{"host": "another-machine"}, {"pid": os.getppid(), "start": None}])
def test_a_claim_of_another_machine_or_of_a_living_process_is_respected(claim, monkeypatch, facts):
    claim.write_text(record(claim, **facts))
    monkeypatch.setattr(runs.time, "sleep", waits)
    folder, text = claim.parent, claim.read_text()
    units = deal(files(folder, range(3)), "work")
    for expected in (1, 2):
        assert next(units) == expected
        write_atomically(files(folder)[expected], "{}")
    with pytest.raises(Waiting):
        next(units)
    assert claim.read_text() == text


def test_a_unit_that_another_machine_makes_meanwhile_is_waited_for_and_not_made(claim, monkeypatch):
    claim.write_text(record(claim, host="another-machine"))
    monkeypatch.setattr(runs.time, "sleep", lambda _: write_atomically(claim.with_name("0.json"), "{}"))
    assert list(deal(files(claim.parent, [0]), "work")) == []


def test_what_a_dead_machine_had_taken_goes_to_another(claim, monkeypatch):
    monkeypatch.setattr(runs, "SECONDS_OF_A_CLAIM", 0.5)
    claim.write_text(record(claim, host="another-machine"))
    claim.write_text(record(claim, duration=0.5))
    assert work(claim.parent, [0]) == [0]


def test_a_claim_shows_other_machines_that_its_process_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "SECONDS_OF_A_CLAIM", 0.03)
    claim = tmp_path / "0.json.claim"
    for unit in deal(files(tmp_path, [0]), "work"):
        os.utime(claim, (time.time() - 1000,) * 2)
        while claim.stat().st_mtime < time.time() - 500:
            time.sleep(0.01)
        write_atomically(files(tmp_path)[unit], "{}")
    assert names(tmp_path) == ["0.json"]


def test_a_claim_without_a_name_is_nobodys_after_a_while(tmp_path):
    claim = tmp_path / "0.json.claim"
    claim.touch()
    runs.remove_leftovers(tmp_path)
    assert claim.exists()
    os.utime(claim, (time.time() - 1000,) * 2)
    runs.remove_leftovers(tmp_path)
    assert work(tmp_path, [0]) == [0]


def test_a_claim_without_a_name_keeps_nobody_waiting_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "SECONDS_OF_A_CLAIM", 5.0)
    (tmp_path / "0.json.claim").touch()
    assert work(tmp_path, [0]) == [0]


def test_what_failed_is_free_again(tmp_path):
    for _ in range(2):
        with pytest.raises(Waiting):
            for unit in deal(files(tmp_path), "work"):
                assert unit == 0
                raise Waiting
        assert names(tmp_path) == []


def test_a_unit_that_the_caller_did_not_write_comes_again(tmp_path):
    units = deal(files(tmp_path, [0]), "work")
    assert [next(units), next(units)] == [0, 0]


def test_a_full_disk_is_said_when_a_unit_is_claimed(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "x")

    monkeypatch.setattr(runs.SoftFileLease, "__enter__", full)
    with pytest.raises(OSError, match="is full"):
        next(deal(files(tmp_path), "work"))
    assert names(tmp_path) == []


# Folders


def test_a_folder_is_gone_on_with_by_the_same_settings_alone(tmp_path):
    settings = {"steps": 3, "seed": 0, "levels": (0.1, 0.2)}
    open_folder(tmp_path / "a", settings)
    open_folder(tmp_path / "a", settings)
    assert read_settings(tmp_path / "a") == settings | {"levels": [0.1, 0.2]}
    for changed, words in (
        (settings | {"seed": 1}, "another seed"), (settings | {"seed": 1, "steps": 4}, "another seed, steps"),
        ({"steps": 3, "seed": 0}, "another levels"), (settings | {"more": 1}, "another more"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"{words};"):
            open_folder(tmp_path / "a", changed)


@pytest.mark.parametrize("name", ["training.json", "checkpoint.safetensors", "units"])
def test_a_folder_of_something_else_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match="holds something else"):
        open_folder(tmp_path, {})
    assert names(tmp_path) == [name]


def test_what_killed_processes_left_is_removed_when_the_folder_is_opened(tmp_path, dead, claim):
    claims = {
        f"{dead}.json.claim": record(claim, pid=dead),
        "living.json.claim": record(claim, pid=os.getppid(), start=None),
        "theirs.json.claim": record(claim, host="another-machine", pid=dead),
    }
    claim.unlink()
    open_folder(tmp_path, {})
    living, ours, theirs = os.getppid(), runs.MACHINE, "another-machine"
    for folder in (tmp_path, tmp_path / "units", tmp_path / "images"):
        folder.mkdir(exist_ok=True)
        for writer in (f"{ours}.{dead}", f"{ours}.{living}", f"{theirs}.{dead}"):
            (folder / f"a.json.{writer}.tmp").touch()
        for name, text in claims.items():
            (folder / name).write_text(text)
    open_folder(tmp_path, {})
    for folder in (tmp_path, tmp_path / "units", tmp_path / "images"):
        left = [name for name in names(folder) if name.endswith((".tmp", ".claim"))]
        assert len(left) == 4 and not any(str(dead) in name.replace(f"{theirs}.{dead}", "") for name in left)


def test_a_finished_folder_is_opened_without_writing(tmp_path):
    open_folder(tmp_path, {"steps": 3})
    before = (tmp_path / "settings.json").stat().st_ino
    open_folder(tmp_path, {"steps": 3})
    assert (tmp_path / "settings.json").stat().st_ino == before


def test_of_two_processes_with_other_settings_one_has_the_folder(tmp_path, start_child):
    for k in range(5):
        children = [start_child(partial(open_folder, tmp_path / str(k), {"seed": seed})) for seed in range(3)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert sorted(codes) == [0, 1, 1] and codes.index(0) == read_settings(tmp_path / str(k))["seed"]


def test_processes_wait_for_units_and_never_for_each_other(tmp_path, monkeypatch):
    """A collective that one process enters and another does not ends a run after ten minutes."""
    monkeypatch.setattr(PartialState, "wait_for_everyone", lambda _: pytest.fail("a barrier"))
    for unit in work_on(tmp_path, {}, files(tmp_path, range(2)), "work", Path.exists):
        write_atomically(files(tmp_path)[unit], "{}")
    assert names(tmp_path) == ["0.json", "1.json", "settings.json"]


def test_damaged_settings_are_named_with_what_to_do(tmp_path, damage):
    open_folder(tmp_path, {"steps": 3, "seed": 0})
    damage(tmp_path / "settings.json")
    with pytest.raises(ValueError, match="settings.json is damaged .* remove") as raised:
        open_folder(tmp_path, {"steps": 3, "seed": 0})
    assert "\n" not in str(raised.value)


def test_a_damaged_unit_is_dealt_again(tmp_path, damage):
    paths = {i: tmp_path / f"{i}.safetensors" for i in range(3)}

    def made():
        numbers = []
        for i in work_on(tmp_path, {}, paths, "work"):
            write_tensors(paths[i], {"x": torch.full((3,), float(i))}, row=i)
            numbers.append(i)
        return numbers

    assert made() == [0, 1, 2] and made() == []
    before = [path.read_bytes() for path in paths.values()]
    damage(paths[1])
    assert made() == [1] and made() == []
    assert [path.read_bytes() for path in paths.values()] == before


def test_a_damaged_unit_that_another_process_makes_anew_is_waited_for(tmp_path, start_child):
    paths = {i: tmp_path / f"{i}.safetensors" for i in range(2)}
    for path in paths.values():
        path.write_bytes(b"cut")

    def slowly():
        for i in deal(paths, "work", is_whole):
            time.sleep(0.2)
            write_tensors(paths[i], {}, process=os.getpid())

    children = [start_child(slowly) for _ in range(2)]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert {read_tensors(path)[1]["process"] for path in paths.values()} == set(children)


def test_facts_are_compared_as_json_holds_them(tmp_path):
    check_same({"a": [1, 2], "b": 1}, {"a": (1, 2), "b": 2}, tmp_path, free=["b"])
    with pytest.raises(ValueError, match="another b"):
        check_same({"a": [1, 2], "b": 1}, {"a": (1, 2), "b": 2}, tmp_path)


# Files


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_atomically(path, "old")
    with pytest.raises(Waiting), whole_file(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise Waiting
    assert path.read_text() == "old"
    write_atomically(path, "new")
    assert path.read_text() == "new"


def test_tensors_are_kept_to_the_bit_with_their_facts(tmp_path):
    whole = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    write_tensors(tmp_path / "a.safetensors", {"part": whole[:, 1:3], "same": whole, "turned": whole.T}, b=["c"])
    kept = load_file(tmp_path / "a.safetensors")
    assert torch.equal(kept["part"], whole[:, 1:3]) and torch.equal(kept["turned"], whole.T)
    assert names(tmp_path) == ["a.safetensors"]
    tensors, facts = read_tensors(tmp_path / "a.safetensors")
    assert all(torch.equal(tensors[name], kept[name]) for name in kept) and facts == {"b": ["c"]}


ALL_KINDS = {
    "single": torch.tensor([1.0, math.nan, -math.inf]),
    "half": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3),
    "whole": torch.tensor(7),
    "truth": torch.tensor([True, False]),
    "nothing": torch.zeros(0, 3),
}


def outcome(read, path):
    """What a file holds, as text, or the sentence of its refusal."""
    try:
        return str(read(path))
    except ValueError as error:
        assert path.name in str(error) and "damaged" in str(error) and "remove it and call again" in str(error)
        assert "\n" not in str(error)
        return "refused"


FACTS = {"a": [0.1, 1e-300, math.nan], "é": {"c": None}, "n": np.int64(3)}


@pytest.mark.parametrize(
    ("write", "read"),
    [
        (lambda path: write_tensors(path, ALL_KINDS, **FACTS), read_tensors),
        (lambda path: write_record(path, FACTS), read_record),
    ],
    ids=["tensors", "record"],
)
def test_every_byte_that_is_changed_and_every_cut_is_noticed(tmp_path, write, read):
    path = tmp_path / "file"
    write(path)
    data, right = path.read_bytes(), outcome(read, path)
    assert "0.1" in right
    damaged = [data[:i] for i in range(len(data) - 1)]
    damaged += [data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :] for i in range(len(data))]
    for each in damaged:
        path.write_bytes(each)
        assert outcome(read, path) in ("refused", right)
    assert data[-1:] == b"\n" or outcome(read, path) == "refused"


def test_a_file_without_a_sha256_is_not_trusted(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match="damaged"):
        read_tensors(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="damaged"):
        read_record(tmp_path / "a.json")
    for read in (read_tensors, read_record):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "not there")


def test_files_of_the_same_content_are_the_same(tmp_path):
    for name in "ab":
        write_tensors(tmp_path / name, ALL_KINDS, one=1, two=2, three=[3])
    assert len(set(digests(tmp_path, "ab").values())) == 1
    assert digests(tmp_path, ["a", "c"])["c"] is None


def test_parts_are_written_as_one_tensor(tmp_path):
    whole = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0))
    write_parts(tmp_path / "a.safetensors", "latents", iter([whole[:3], whole[3:3], whole[3:].double()]))
    kept = load_file(tmp_path / "a.safetensors")
    assert kept.keys() == {"latents"} and torch.equal(kept["latents"], whole)
    write_parts(tmp_path / "a.safetensors", "latents", [whole.mT])
    assert torch.equal(load_file(tmp_path / "a.safetensors")["latents"], whole.mT)
    assert names(tmp_path) == ["a.safetensors"]


def test_a_full_disk_is_said_and_what_was_written_in_part_is_removed(tmp_path):
    write_atomically(tmp_path / "a.txt", "old")
    full = pytest.raises(OSError, match="is full; make room and call again")
    with full as raised, whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "x")
    assert raised.value.errno == errno.ENOSPC and "\n" not in str(raised.value)
    assert names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_other_errors_of_the_disk_pass_as_they_are(tmp_path):
    with pytest.raises(PermissionError, match="no"), disk_space(tmp_path):
        raise PermissionError(errno.EACCES, "no")


# What tells one run from another


def test_other_weights_and_other_adapters_have_another_fingerprint():
    network = SD3Transformer2DModel(
        sample_size=4, in_channels=2, out_channels=2, num_layers=1, attention_head_dim=8, num_attention_heads=1,
        joint_attention_dim=16, caption_projection_dim=8, pooled_projection_dim=8, pos_embed_max_size=4,
    )  # fmt: skip
    seen = [fingerprint(network)]
    assert fingerprint(network) == seen[0]
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] += 1
    seen.append(fingerprint(network))
    network.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), "default")
    seen.append(fingerprint(network))
    network.disable_adapters()
    seen.append(fingerprint(network))
    assert len(set(seen)) == 4


def test_versions_are_those_installed():
    assert versions()["torch"] == torch.__version__ and "python" in versions()
    assert versions(["no-such-package"]).keys() == {"python"}
