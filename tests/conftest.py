"""Every test on one thread, with an empty cache of its own and figures that need no screen."""

import os
import traceback
from functools import partial
from pathlib import Path
from socket import socket

import matplotlib
import nbformat
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from nbformat.v4 import new_code_cell, new_markdown_cell

from rfmi.runs import process_state

matplotlib.use("Agg")
torch.set_num_threads(1)  # here too: a module's fixtures are made before those of its tests


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The test's own cache folder, empty."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("RFMI_CACHE", str(folder))
    return folder


@pytest.fixture
def start_child():
    """A function: the process of a copy of this one that does some work and ends, with 0 where it went well."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")

    def start(work):
        child = os.fork()
        if child == 0:
            try:
                work()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        return child

    return start


@pytest.fixture
def in_two_processes(start_child):
    """A function that does some work in two processes at once, as `accelerate launch` starts them."""

    def run(work):
        with socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def child(rank):
            os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", ACCELERATE_USE_CPU="1")
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
            AcceleratorState._reset_state(reset_partial_state=True)
            work()
            assert process_state().num_processes == 2

        children = [start_child(partial(child, rank)) for rank in "01"]
        assert [os.waitstatus_to_exitcode(os.waitpid(each, 0)[1]) for each in children] == [0, 0]

    return run


@pytest.fixture(params=["cut", "emptied", "a byte flipped"])
def damage(request):
    """A function that damages a file, one way in every test."""

    def damaged(path):
        data, half = path.read_bytes(), path.stat().st_size // 2
        flipped = data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]
        path.unlink()  # whoever has mapped it keeps what was there
        path.write_bytes({"cut": data[:half], "emptied": b"", "a byte flipped": flipped}[request.param])

    return damaged


NOTEBOOK = """
# A small study
---
question
Is the mean of $n$ draws small?
---
parameters
n_samples = 3
scale = 1.0
names = ["a"]
exact = True
output = ""
---
import matplotlib.pyplot as plt
import numpy as np

from lab import study

draws = scale * np.random.default_rng(0).standard_normal(n_samples)
---
figure, axes = plt.subplots()
axes.plot(draws)
study.show(figure, name="small_draws", caption="The draws <in order>.", alt="A line of \\"draws\\".", output=output)
---
study.save_results("small", {"mean": draws.mean(), "n": n_samples}, output)
---
verdict
print(f"The mean of {n_samples} draws is {'small' if abs(draws.mean()) < 10 else 'large'}.")
"""


@pytest.fixture
def write_notebook(tmp_path):
    """A function that writes a notebook into a study of its own in `tmp_path` and returns its path.

    The text's cells are separated by ---; a cell that starts with # is Markdown, a first line "parameters",
    "question" or "verdict" is a tag.
    """

    def write(text: str = NOTEBOOK, name: str = "01_small", profiles: dict | None = None) -> Path:
        cells = []
        for source in text.strip().split("\n---\n"):
            source = source.strip()
            tag, _, rest = source.partition("\n")
            tagged = tag in ("parameters", "verdict", "question")
            new = new_markdown_cell if source.startswith("#") or tag == "question" else new_code_cell
            cells.append(
                new(rest if tagged else source, metadata={"tags": [tag]} if tagged else {}, id=f"cell-{len(cells)}")
            )
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        path = tmp_path / "notebooks" / f"{name}.ipynb"
        (path.parent / "profiles").mkdir(parents=True, exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
        for profile, values in (profiles or {"smoke": {}}).items():
            (path.parent / "profiles" / f"{profile}.yaml").write_text(yaml.safe_dump(values))
        return path

    return write
