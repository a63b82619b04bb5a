"""The README's figures are those of reports/results, what it links is there, and its Python runs."""

import json
import re
import shutil
from functools import partial

import pandas as pd
import pytest

import rfmi
from lab.paths import data_folder, notebooks_folder, repository_root
from rfmi.finetuning import FinetuningSettings
from rfmi.statistics import mean_of_categories

ROOT = repository_root()
NEEDS = {"clip_score": "an auxiliary model", "judge": "the truth"}


def results(name):
    return json.loads((ROOT / "reports" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def points(row):
    return f"{100 * row['value']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"


def benchmark_rows():
    found = results("mi_benchmark")
    published = pd.read_csv(data_folder() / "published" / "mi_benchmark.csv", index_col="estimator")
    for n in ("1000", "5000", "10000"):
        low, high = found["mae_interval"][n]
        best = published[n].min()
        yield (
            f"| {int(n):,} | {found['mae'][n]:.3f} ({low:.3f} to {high:.3f}) | {best:.3f} ({published[n].idxmin()}) "
            f"| {found['within_0.1'][n]:.0f} of {found['tasks'][n]} | {found['coverage'][n]:.0%} "
            f"| {found['median_width'][n]:.3f} |"
        )


def gain_rows():
    for name, gain in results("evaluation")["gains_on_few_images"].items():
        yield f"| `{name}` | {NEEDS.get(name, 'nothing')} | {points(gain)} |"


def answers():
    benchmark, world, scores = results("mi_benchmark"), results("base_model"), results("scoring")
    low, high = benchmark["mae_interval"]["10000"]
    yield f"Within {benchmark['mae']['10000']:.3f} nats ({low:.3f} to {high:.3f})"
    low, high = world["alignment_interval"]["mean"]
    yield f"tells {world['knowledge']['mean']:.0%} of changed prompts"
    yield f"{world['alignment']['mean']:.0%} ({low:.0%} to {high:.0%}) of its images"
    default, (low, high) = scores["default_method"], scores["top1_interval"][scores["default_method"]]
    assert default == "guided_likelihood"
    yield f"{scores['top1'][default]:.1%} ({low:.1%} to {high:.1%}) of prompts"
    yield f"a random one in {scores['top1']['random']:.1%}"
    yield f"the published score's in {scores['top1']['published_path']:.1%}"
    found = results("evaluation")
    for gain in (found["best_against_best"], found["gain"], found["gain_of_judge"], found["by_guidance"]["1"]["gain"]):
        yield points(gain).replace(" (", " points (")
    yield f"{world['at_best_guidance']['mean']:.0%} at its best guidance of {world['best_guidance']:g}"
    cost, images = results("sd35"), "network evaluations an image in place of"
    yield f"{cost['evaluations_per_image']:.1f} {images} {cost['evaluations_per_image_in_full']:.0f}"
    change = cost["alignment_change_recorded"]
    told = points(change | {"value": change["gain"]}).removesuffix(")")
    yield f"{told}, {change['n']:.0f} prompts)".replace(" (", " points of alignment (")
    hours = {(row["stage"], row["pixels"]): row["hours"] for row in cost["hours"]}
    yield f"{hours['choose among 50, published procedure', 1024]:.0f} hours to choose among 50 images as published"
    yield f"{hours['score 16 for training, cheaply', 1024]:.1f} to draw and score 16"


def full_size():
    path = data_folder() / "recorded" / "full_size_h100.json"
    found = json.loads(path.read_text(encoding="utf-8"))["measured"]
    for side in (1024, 512):
        yield f"{found[f'own call, {side} pixels']['images_an_hour']:,.0f}"
    for name in ("every candidate finished", "pruned"):
        yield f"{found[f'select, 512 pixels, {name}']['seconds']:.1f} s"
    step = found["training step, 1024 pixels"]
    yield f"{step['seconds']:.1f} s and {step['peak_gib']:.1f} GiB"


@pytest.mark.parametrize("rows", [benchmark_rows, gain_rows, answers, full_size])
def test_its_figures_are_those_of_the_report(rows):
    text = " ".join(readme().split())
    assert [row for row in rows() if " ".join(row.split()) not in text] == []


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
    counted = {1: "one seed", 5: "five seeds"}[found["seeds"]["10000"]]
    assert all(found["seeds"][n] == found["seeds"]["10000"] for n in ("1000", "5000"))
    assert counted in readme()
    estimates = pd.DataFrame(found["estimates"])
    error = (estimates.value - estimates.true).abs()
    for n, mean in error.groupby(estimates.n).mean().items():
        assert mean == pytest.approx(found["mae"][str(n)])


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", readme())
    assert len(links) >= 8 and [link for link in links if not (ROOT / link).exists()] == []
    notebooks = {path.name for path in notebooks_folder().glob("*.ipynb")}
    assert notebooks == {link.removeprefix("notebooks/") for link in links if link.startswith("notebooks/")}


@pytest.mark.slow
def test_its_python_runs(tmp_path, monkeypatch):
    """Every block in turn, as it stands, with smaller defaults in the functions that it calls."""
    blocks = re.findall(r"```python\n(.*?)```", readme(), re.DOTALL)
    assert len(blocks) == 3
    small = {"candidates": 4, "steps": 3}
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data_folder() / "base_model", tmp_path / "data" / "base_model")
    monkeypatch.setattr(
        "rfmi.finetuning.FinetuningSettings", partial(FinetuningSettings, steps=2, batch=4, failing=0.1)
    )
    for name, options in {"select": small, "evaluate": {"images_per_prompt": 2, "steps": 3}}.items():
        monkeypatch.setattr(rfmi, name, partial(getattr(rfmi, name), **options), raising=False)
    scope: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    low, high = scope["information"].interval
    assert low < 0.511 < high
    assert scope["selection"].images().shape[0] == 4 * len(scope["prompts"])
    assert all((tmp_path / f"lora_{seed}" / "training.json").is_file() for seed in range(3))
    assert list(scope["after"].by_category().index) == ["spatial"]
