"""The study of scores: what pruning saves and gives away, and from which noises it chooses."""

import pandas as pd
import pytest
import torch

from rfmi.scoring import METHODS
from rfmi.selection import Pruning
from rfmi.selection.candidates import Candidates
from lab.study import scoring_experiments as experiments
from lab.study.scoring_tables import other_savings, pruning_table


def choices(chosen, aligned, evaluations):
    rows = [("color", 3, [1.0, 2.0, 3.0]), ("color", 5, [0.0, 4.0, 2.0]), ("shape", 3, [1.0, 0.0, 5.0])]
    table = pd.DataFrame(rows, columns=["category", "prompt", "scores"])
    return table.assign(chosen=chosen, aligned=aligned, evaluations=evaluations)


def test_what_pruning_saves_and_gives_away():
    full, pruned = choices([2, 1, 2], [1.0, 0.0, 1.0], 30.0), choices([2, 2, 0], [1.0, 1.0, 0.0], 10.0)
    found = pruning_table(full, pruned.sample(frac=1, random_state=0), seed=0)
    assert found["evaluations_ratio"] == 3 and found["prompts"] == 3
    assert found["alignment_change"] == pytest.approx((0.5 - 1) / 2)
    assert found["same_choice"] == pytest.approx(1 / 3)
    deviations = [pd.Series(each).std() for each in full.scores]
    assert found["score_given_away"] == pytest.approx(((0 + 2 / deviations[1]) / 2 + 4 / deviations[2]) / 2)
    assert found["alignment_change_low"] <= found["alignment_change"] <= found["alignment_change_high"]


def test_a_choice_against_itself_gives_nothing_away():
    full = choices([2, 1, 2], [1.0, 0.0, 1.0], 30.0)
    found = pruning_table(full, full, seed=0)
    assert found["evaluations_ratio"] == 1 and found["same_choice"] == 1
    assert found["alignment_change"] == found["score_given_away"] == found["score_given_away_high"] == 0


def test_other_prompts_are_not_compared():
    full = choices([2, 1, 2], [1.0, 0.0, 1.0], 30.0)
    with pytest.raises(ValueError, match="share 2 of 3 and 2 prompts"):
        pruning_table(full, full[:2], seed=0)


def test_savings_are_those_of_the_formula():
    method, pruning = METHODS["information_and_likelihood"], Pruning(rounds=((4, 2), (2, 4)))
    drafts, scores = 16 * pruning.method.evaluations, (4 * 2 + 2 * 4) * 2 * 5
    assert other_savings(method, pruning, 16, 28) == {
        "guided": 16 * (56 + 160) / (16 * 44 + drafts + 4 * 16 + scores),
        "without_paths": 16 * (28 + 160) / (16 * 22 + drafts + 4 * 8 + scores),
        "rounds_alone": 16 * (28 + 160) / (16 * 28 + (16 * 2 + 2 * 4) * 2 * 5),
    }


def test_rounds_alone_are_all_where_no_draft_is_dropped():
    method, pruning = METHODS["information_and_likelihood"], Pruning(rounds=((4, 2), (2, 4)))
    found = other_savings(method, pruning, 3, 28)
    assert found["rounds_alone"] == found["without_paths"] == 3 * (28 + 160) / (3 * 28 + (3 * 2 + 2 * 4) * 2 * 5)


def test_every_prompt_is_chosen_from_noises_of_its_own(monkeypatch):
    asked = {}

    def drawn(field, label, recipe, others):
        asked[field.prompts[label]] = recipe.seed
        nothing = torch.zeros(recipe.candidates, dtype=torch.float64)
        latents = field.noise([recipe.seed])
        return Candidates({"evaluations": nothing, "score": nothing}, ["kept"] * recipe.candidates, [0], latents)

    monkeypatch.setattr(experiments, "draw_candidates", drawn)
    common = {"candidates": 16, "guidance": 1.0, "steps": 28, "method": "information_and_likelihood", "seed": 100}
    common |= {"device": "cpu", "compiled": False, "precision": "float32"}
    for pruned in (True, False):
        for category in ("color", "shape"):
            experiments.choice_unit(category, n_prompts=6, pruned=pruned, **common)
    seeds = sorted(asked.values())
    assert len(seeds) == 12 and all(later - seed >= 16 for seed, later in zip(seeds, seeds[1:], strict=False))
    few = dict(asked)
    asked.clear()
    experiments.choice_unit("color", n_prompts=2, pruned=False, **common)
    assert len(asked) == 2 and asked.items() <= few.items()  # whatever number of prompts
