"""Every figure of the README is the one in reports/results, as printed by `rows`."""

import json
from dataclasses import asdict

import pandas as pd
import pytest

from lab.worlds.shapes import CATEGORIES
from rfmi.scoring import METHODS
from rfmi.selection import Pruning
from lab.study.finetuning_tables import needs
from lab.paths import data_folder, repository_root
from lab.study.scoring_tables import other_savings


def results(name):
    return json.loads((repository_root() / "reports" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def readme():
    return (repository_root() / "README.md").read_text(encoding="utf-8")


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


def base_model_rows():
    found = results("base_model")
    for name in (*CATEGORIES, "mean"):
        low, high = found["alignment_interval"][name]
        yield (
            f"| {name} | {found['knowledge'][name]:.0%} | {found['alignment'][name]:.0%} ({low:.0%} to {high:.0%}) "
            f"| {found['best'][name]:.0%} |"
        )


@pytest.mark.parametrize("page", ["README.md", "data/base_model/README.md"])
def test_base_model_table(page):
    text = (repository_root() / page).read_text(encoding="utf-8")
    assert [row for row in base_model_rows() if row not in text] == []


def test_the_judge_and_the_speed():
    found = results("base_model")
    judge, speed = found["judge"], found["images_per_second"]
    assert (
        f"right on {judge['rendered']:.1%} of atoms of rendered scenes, {judge['reconstructed']:.1%} after the "
        f"autoencoder, and catches {judge['changed']:.1%} of single changes"
    ) in " ".join(readme().split())
    assert f"{speed:.0f} images a second" in readme()


SCORES = (
    "random", "published_path", "guided_path", "re_noising", "conditional_loss_middle", "re_noising_middle",
    "information_and_likelihood", "clip_score", "judge",
)  # fmt: skip


def scoring_rows():
    found = results("scoring")
    for name in SCORES:
        low, high = found["top1_interval"][name]
        area = f"{found['auc'][name]:.2f}" if name in found["auc"] else ""
        yield f"| `{name}` | {needs(name)} | {found['top1'][name]:.1%} ({low:.1%} to {high:.1%}) | {area} |"


def test_scoring_table():
    assert [row for row in scoring_rows() if row not in readme()] == []


def test_the_share_of_the_ceiling_and_the_cost_of_choosing():
    found, text = results("scoring"), " ".join(readme().split())
    low, high = found["share_of_ceiling_interval"]
    assert f"goes {found['share_of_ceiling']:.0%} ({low:.0%} to {high:.0%}) of the way" in text
    other = found["top1_at_other_guidance"]["guidance 2"]
    ours, random, judge = (other[name] for name in (found["best_method"], "random", "judge"))
    assert f"at guidance 2, on half as many prompts, {(ours - random) / (judge - random):.0%}" in text
    method, steps = METHODS[found["best_method"]], found["settings"]["steps"]
    assert found["settings"]["pruning"] == json.loads(json.dumps(asdict(Pruning())))
    for m, row in found["pruned"].items():
        evaluations = Pruning().evaluations(method, int(m), steps, guidance=1.0)
        assert row["evaluations_ratio"] == pytest.approx(int(m) * (2 * steps + method.evaluations) / evaluations)
        assert (
            f"{row['evaluations_ratio']:.1f} times fewer network evaluations at {m} candidates, for "
            f"{100 * row['alignment_change']:+.1f} ({100 * row['alignment_change_low']:+.1f} to "
            f"{100 * row['alignment_change_high']:+.1f}) points of alignment"
        ) in text
    few, many = (other_savings(method, Pruning(), m, steps) for m in (16, 50))
    assert (
        f"With guidance, where drawing needs both branches, it takes {few['guided']:.1f} and {many['guided']:.1f} times "
        "fewer; without, but against full selection that leaves out the scores along the path, "
        f"{few['without_paths']:.1f} and {many['without_paths']:.1f} times, of which rounds of noise alone save "
        f"{few['rounds_alone']:.1f} and {many['rounds_alone']:.1f}"
    ) in text
    assert f"cost {found['scoring_overhead']:+.1%} of generation with guidance" in text


def test_benchmark_table():
    for row in benchmark_rows():
        assert row in readme(), f"the README lacks this row: {row}"


def test_the_results_are_of_the_whole_benchmark():
    found = results("mi_benchmark")
    assert set(found["tasks"].values()) == {40}
    assert all(found["seeds"][n] == 5 for n in ("1000", "5000", "10000"))
    estimates = pd.DataFrame(found["estimates"])
    error = (estimates.value - estimates.true).abs()
    for n, mean in error.groupby(estimates.n).mean().items():
        assert abs(mean - found["mae"][str(n)]) < 1e-9


def test_seconds_of_one_pass():
    assert f"{results('mi_benchmark')['seconds'] / 60:.1f} minutes" in readme()


TUNED = ("base", "worst", "random", "published_path", "ours", "clip_score", "judge", "ours_round_2")


def points(value):
    """Shares as points: value, low and high."""
    return f"{100 * value['value']:+.1f} ({100 * value['low']:+.1f} to {100 * value['high']:+.1f})"


def finetuning_rows():
    found = results("evaluation")
    for name in TUNED:
        low, high = found["alignment_interval"][name]
        gain = points(found["gains"][name]) if name in found["gains"] else ""
        yield f"| `{name}` | {needs(name)} | {found['alignment'][name]:.1%} ({low:.1%} to {high:.1%}) | {gain} |"


def quality_rows():
    for measure, row in results("evaluation")["quality"].items():
        base = f"{row['base']:.3f} ({row['base_low']:.3f} to {row['base_high']:.3f})"
        ours = f"{row['ours']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
        change = f"{row['change']:+.3f} ({row['change_low']:+.3f} to {row['change_high']:+.3f})"
        yield f"| {measure} | {base} | {ours} | {change} |"


def test_finetuning_tables():
    assert [row for row in (*finetuning_rows(), *quality_rows()) if row not in readme()] == []


def test_what_fine_tuning_gains():
    found, text = results("evaluation"), " ".join(readme().split())
    settings, drawn = found["settings"], found["settings"]["evaluation"]
    low, high = found["share_of_ceiling_interval"]
    assert f"{points(found['gain_over_random'])} points more than on random numbers" in text
    assert f"{found['share_of_ceiling']:.0%} ({low:.0%} to {high:.0%}) of what the judge's numbers gain" in text
    second = found["later_rounds"]["ours_round_2"]
    assert (
        f"A second round adds {points(second)} points and costs images: recall is then "
        f"{100 * second['recall, less base']:+.1f} points from the base model's, and the Frechet distance "
        f"{second['frechet_distance, less base']:+.2f}"
    ) in text
    assert settings["rounds"] == 2
    seeds, weight = settings["seeds"], settings["adapter_weight"]
    assert f"the mean of the trainings of seeds {seeds}, at an adapter weight of {weight:g}" in text
    by_noise = [100 * row["gain"] for row in found["by_noise"].values()]
    assert f"from noise to noise the gain goes from {min(by_noise):+.1f} to {max(by_noise):+.1f} points" in text
    seen, unseen = (found["by_novelty"][kind] for kind in ("pairs seen in training", "a pair never seen"))
    assert (
        f"gains {points(seen)} points on the {seen['prompts']:.0f} prompts whose pairs of attribute and shape the base "
        f"model was trained on, and {points(unseen)} on the {unseen['prompts']:.0f} with a pair that it has never seen, "
        f"of which it follows {unseen['base']:.0%}"
    ) in text
    assert f"{settings['candidates']} images of each of {settings['training_prompts']} training prompts" in text
    assert f"{drawn['n_prompts']} validation prompts a category, {drawn['images_per_prompt']} images each" in text
    assert f"{settings['training']['steps']} steps" in text and "`verdict`" in text
    assert settings["training"]["weighting"] == "verdict"
    assert f"{settings['training']['failing']:g} deviations" in text
    assert f"{found['step_time_ratio']:.2f} times the samples a second of diffusers' own loop" in text


def test_what_the_mean_and_the_weight_and_verdicts_gain():
    found, text = results("finetuning"), " ".join(readme().split())
    tried = {name: points(value) for name, value in found["variations"].items()}
    assert (
        f"One training alone gains {tried['ours, one training']}, at the weight {tried['ours, one at the weight']}, "
        f"and the mean without the weight {tried['ours, mean at weight 1']}; one training by scores in place of verdicts "
        f"gains {tried['scores']}"
    ) in text
    assert f"a cosine of {found['agreement']['ours']:.2f} (random numbers: {found['agreement']['random']:.2f})" in text


def test_what_the_best_image_alone_gains():
    found, text = results("finetuning")["variations"], " ".join(readme().split())
    ours, judge, random = (points(found[f"{name}, best alone"]) for name in ("ours", "judge", "random"))
    found = f"choice of ours gains {ours}, the judge's {judge} and random choice {random} points (one training seed)"
    assert found in text
