"""The figures of the README, written between its markers from the results of the committed report.

A marked part begins with <!-- name --> and ends with <!-- end -->; `PARTS` says what stands in it.
"""

import re
from collections.abc import Iterable
from operator import itemgetter
from pathlib import Path

import pandas as pd

from lab.paths import data_folder
from lab.study.numbers import results_of

MARKED = re.compile(r"(<!-- (\w+) -->\n).*?(\n<!-- end -->)", re.DOTALL)
VALUE_LOW_HIGH = itemgetter("value", "low", "high")  # of a row of results
QUESTIONS = {
    "01_rfmi_in_closed_form": "Do the identities hold?",
    "02_benchmark": "Does a learned flow measure mutual information?",
    "03_world_and_model": "What does the model know and draw?",
    "04_which_score_ranks": "Which score finds the best image?",
    "05_fine_tuning": "What does fine-tuning teach it?",
    "06_evaluation": "What does it gain?",
    "07_sd35": "What does the paper's experiment cost?",
}


def written(text: str, reports: Path) -> str:
    """The README `text` with its marked parts made anew from {reports}/results."""
    results = results_of(reports)
    return MARKED.sub(lambda part: part[1] + PARTS[part[2]](results) + part[3], text)


def with_interval(numbers: Iterable[float], form: str, unit: str = "", scale: float = 1) -> str:
    """A value and its interval's two ends, times `scale` and in the format `form`."""
    value, low, high = (format(scale * number, form) for number in numbers)
    return f"{value}{unit} ({low} to {high})"


def points(row: dict[str, float]) -> str:
    """A change of a share and its interval, in percentage points."""
    return with_interval(VALUE_LOW_HIGH(row), "+.1f", " points", 100)


def listed(words: list[str]) -> str:
    """Words as one reads them: commas, and an "and" before the last."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def _headline(results: dict) -> str:
    found = results["evaluation"]
    best, guidance = found["best_against_best"], found["settings"]["guidance"]
    shown = "a gain" if best["low"] > 0 else "a loss" if best["high"] < 0 else "no clear gain"
    scales = listed([*dict.fromkeys(f"{best[f'{name}_guidance']:g}" for name in ("base", "ours"))])
    rise, measured = itemgetter("change", "change_low", "change_high"), (found["quality"], found["quality_at_pool"])
    rises = [with_interval(rise(measures["frechet_distance"]), "+.2f") for measures in measured]
    return (
        f"**With base and fine-tuned model each at its best guidance ({scales}), fine-tuning on the model's own images "
        f"shows {shown} in alignment with new prompts: {points(best)}. At guidance {guidance:g}, it gains "
        f"{points(found['gain'])}. The Fréchet distance to true scenes changes by {listed(rises)}.** 95% intervals."
    )


def _findings(results: dict) -> str:
    benchmark, scores, found = (results[name] for name in ("mi_benchmark", "scoring", "evaluation"))
    error = with_interval([benchmark["mae"]["10000"], *benchmark["mae_interval"]["10000"]], ".3f", " nats")
    published = pd.read_csv(data_folder() / "published" / "mi_benchmark.csv", index_col="estimator")["10000"].min()
    beyond = sorted((int(n), row["coverage"]) for n, row in benchmark["beyond"].items())
    sizes, held = listed([f"{n:,}" for n, _ in beyond]), listed([f"{coverage:.0%}" for _, coverage in beyond])
    settings, chosen, top = scores["settings"], scores["default_method"], scores["top1"]
    aligned = with_interval([top[chosen], *scores["top1_interval"][chosen]], ".1f", "%", 100)
    best, gained = found["best_against_best"]["base_guidance"], points(found["gain_of_guidance"])
    return "\n".join(
        [
            f"- **Measuring.** Over forty benchmark tasks, the mean error from 10,000 samples is {error}; best"
            f" published: {published:.3f}. On ten other kinds, interval coverage is {held} at {sizes} samples.",
            f"- **Scoring.** Of {settings['candidates']} images at guidance {settings['guidance']:g}, the one with the"
            f" highest guided likelihood is aligned for {aligned} of validation prompts,"
            f" the published score's choice for {top['published_path']:.1%}, a random one for {top['random']:.1%}.",
            f"- **Guidance does more**: at {best:g}, it gives the base model {gained} on validation prompts.",
        ]
    )


def _answers(results: dict) -> dict[str, str]:
    benchmark, world, scores = (results[name] for name in ("mi_benchmark", "base_model", "scoring"))
    learned, gains, cost = (results[name] for name in ("finetuning", "evaluation", "sd35"))
    truth = learned["correlation_with_truth"]["ours"]
    hours = {(row["stage"], row["pixels"]): row["hours"] for row in cost["hours"]}
    return {
        "01": "Yes, but without guidance the published score ranks samples backwards",
        "02": f"Yes: {benchmark['within_0.1']['10000']:.0f} of 40 tasks within 0.1 nat",
        "03": f"It tells {world['knowledge']['mean']:.0%} of changed prompts from the true one and draws "
        f"{world['at_best_guidance']['mean']:.0%} of validation images right at guidance {world['best_guidance']:g}",
        "04": "Of the model's own, those with a likelihood; its proposal closes "
        f"{scores['share_of_ceiling']:.0%} of the gap to the judge",
        "05": f"Its score; correlation with the judge's verdicts: {with_interval(VALUE_LOW_HIGH(truth), '.2f')}",
        "06": f"{points(gains['gain'])} at guidance {gains['settings']['guidance']:g}; at each model's best, "
        f"{points(gains['best_against_best'])}",
        "07": f"Choosing among 50: {hours['choose among 50, published procedure', 1024]:.0f} H100 hours a category, "
        f"{hours['choose among 50, cheaply', 1024]:.0f} cheaply",
    }


def _notebooks(results: dict) -> str:
    answers, rows = _answers(results), ["| | question | answer |", "|---|---|---|"]
    for name, question in QUESTIONS.items():
        picture = f'<img src="reports/thumbnails/{name}.png" width="120" alt="">'
        links = f"[{name[:2]}](notebooks/{name}.ipynb), [page](reports/{name}.html)"
        rows.append(f"| {picture} | {links}: {question} | {answers[name[:2]]} |")
    return "\n".join(rows)


PARTS = {"headline": _headline, "findings": _findings, "notebooks": _notebooks}
