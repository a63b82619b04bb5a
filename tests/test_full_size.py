"""The benchmark of the full-size architecture: it runs small, and its record is that of the full size."""

import json
import re

import pytest

from lab.benchmarks import full_size
from lab.paths import data_folder


def record():
    return json.loads((data_folder() / "recorded" / "full_size_h100.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_it_measures_small_what_the_record_holds_at_full_size(tmp_path, capsys):
    full_size.main([str(tmp_path / "small.json"), "--small"])
    small = json.loads((tmp_path / "small.json").read_text(encoding="utf-8"))
    kinds = [{re.sub(r"\d+", "", name) for name in each["measured"]} for each in (small, record())]
    assert kinds[0] == kinds[1] and small["transformer_parameters"] < record()["transformer_parameters"] / 1000
    assert all(row["seconds"] > 0 for row in small["measured"].values())
    assert capsys.readouterr().out.count(" s\n") == 4


def test_the_record_is_of_the_published_architecture():
    """2,243,171,520 parameters has the transformer of stable-diffusion-3.5-medium."""
    found = record()
    assert found["transformer_parameters"] == 2_243_171_520 and "H100" in found["device"]
    for name, row in found["measured"].items():
        if "a_second" in row:
            rows = int(re.search(r"(\d+) rows", name)[1])
            assert row["a_second"] == pytest.approx(4 * rows / row["seconds"], rel=2e-3)
        if "evaluations_a_second" in row:
            assert row["evaluations_a_second"] == pytest.approx(row["evaluations"] / row["seconds"], rel=2e-3)
