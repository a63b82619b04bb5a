"""The README's figures are those of reports/results, what it links is there, it is short, and its Python runs."""

import json
import re
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest

import rfmi
from lab import front
from lab.paths import data_folder, notebooks_folder, repository_root
from rfmi.finetuning import FinetuningSettings
from rfmi.statistics import mean_of_categories

ROOT = repository_root()
GUIDANCES = {"base_guidance": 4.0, "ours_guidance": 4.0}


def results(name):
    return json.loads((ROOT / "reports" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_marked_parts_are_those_of_the_report():
    """`python -m lab render` writes them."""
    assert front.written(readme(), ROOT / "reports") == readme()
    assert re.findall(r"<!-- (?!end)(\w+) -->", readme()) == list(front.PARTS)


def test_a_change_of_the_results_changes_what_is_written(tmp_path):
    shutil.copytree(ROOT / "reports" / "results", tmp_path / "results")
    found = []
    for low in (-0.1, 0.1):
        gain = {"value": 0.2, "low": low, "high": 0.3}
        changed = results("evaluation") | {"best_against_best": gain | GUIDANCES}
        (tmp_path / "results" / "evaluation.json").write_text(json.dumps(changed), encoding="utf-8")
        found.append(front.written(readme(), tmp_path))
        assert front.points(gain) in found[-1]
    assert "no clear gain" in found[0] and "no clear gain" not in found[1]


def test_it_is_read_on_one_screen():
    lines = readme().splitlines()
    assert len(readme().split()) <= 700
    assert any(line.startswith("```python") for line in lines[:45])


def test_the_card_of_the_model_says_what_the_report_says():
    found, card = results("base_model"), (data_folder() / "base_model" / "README.md").read_text(encoding="utf-8")
    for name, value in found["alignment"].items():
        if name in found["knowledge"]:
            low, high = found["alignment_interval"][name]
            row = f"| {name} | {found['knowledge'][name]:.0%} | {value:.0%} ({low:.0%} to {high:.0%}) |"
            assert row in card


def test_the_headline_follows_from_the_verdict_on_every_image():
    images = pd.read_csv(
        ROOT / "reports" / "results" / "evaluation_images.csv", index_col=["category", "prompt", "seed"]
    )
    assert len(images) == 240 * 10
    found = results("evaluation")
    for kind, name in (("at its best", "best_against_best"), (f"at {found['settings']['guidance']:g}", "gain")):
        gain = (images[f"ours {kind}"] - images[f"base {kind}"]).unstack("seed", sort=False)
        again = mean_of_categories(gain, found["settings"]["seeds"][0]).loc["mean"]
        assert {end: again[end] for end in ("value", "low", "high")} == pytest.approx(
            {end: found[name][end] for end in ("value", "low", "high")}, abs=1e-9
        )


def test_the_results_are_of_the_whole_benchmark():
    found = results("mi_benchmark")
    assert set(found["tasks"].values()) == {40}
    assert len({found["seeds"][n] for n in ("1000", "5000", "10000")}) == 1
    estimates = pd.DataFrame(found["estimates"])
    error = (estimates.value - estimates.true).abs()
    for n, mean in error.groupby(estimates.n).mean().items():
        assert mean == pytest.approx(found["mae"][str(n)])


def test_every_link_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", readme()) if not link.startswith("https://")]
    assert len(links) >= 8 and [link for link in links if not (ROOT / link).exists()] == []
    notebooks = {path.name for path in notebooks_folder().glob("*.ipynb")}
    assert notebooks == {link.removeprefix("notebooks/") for link in links if link.startswith("notebooks/")}


@pytest.mark.slow
def test_its_python_runs(tmp_path, monkeypatch):
    """Every block in turn, as it stands, with smaller defaults in the functions that it calls."""
    blocks = re.findall(r"```python\n(.*?)```", readme(), re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data_folder() / "base_model", tmp_path / "data" / "base_model")
    monkeypatch.setattr("rfmi.select", partial(rfmi.select, candidates=4, steps=3), raising=False)
    small = FinetuningSettings(steps=2, batch=4, failing=0.1)
    monkeypatch.setattr("rfmi.finetune", partial(rfmi.finetune, settings=small), raising=False)
    x, noise = np.random.default_rng(0).normal(size=(2, 1000, 1))
    scope: dict = {"x": x, "y": 0.8 * x + 0.6 * noise}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    low, high = scope["information"].interval
    assert low < 0.511 < high
    assert scope["selection"].images().shape[0] == 4 * len(scope["prompts"])
    assert (tmp_path / "lora" / "training.json").is_file()
    assert scope["images"].shape[0] == len(scope["prompts"])
