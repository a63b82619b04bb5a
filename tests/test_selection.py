"""Selection: what is kept is best by the score, candidates are the pipeline's own images, and nothing is lost."""

import json
import math
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from IPython.lib.pretty import pretty
from PIL import Image

from lab.worlds.shapes.shipped import base_pipeline
from rfmi.files import digests, write_record
from rfmi.pipelines import Conditioning, PipelineField, identity_of
from rfmi.runs import open_folder
from rfmi.sampling import path_scores, sample
from rfmi.scoring import METHODS, Method, re_noising_scores
from rfmi.scoring.methods import DEFAULT_METHOD
from rfmi.scoring.re_noising import re_noising_errors
from rfmi.selection import CHEAP, Pruning, Selection, best, candidates, read_selection, select, selecting, worst
from rfmi.selection.folder import finish_folder, unit_path, write_unit

TEXTS = ["a red circle", "two blue squares"]
SMALL = {"method": "re_noising_high_noise", "candidates": 3, "keep": 1, "steps": 3, "guidance": 2.0, "seed": 5}


@pytest.fixture(scope="module")
def pipeline():
    return StableDiffusion3Pipeline.from_pretrained(base_pipeline())


@pytest.fixture(scope="module")
def whole(pipeline, tmp_path_factory):
    return select(pipeline, TEXTS, output=tmp_path_factory.mktemp("whole"), **SMALL)


def image_of(selection, row):
    pixels = np.array(Image.open(selection.folder / "images" / f"{row.prompt_id:05d}_{row.seed:05d}.png"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def test_a_candidate_is_the_pipelines_image_of_its_seed(pipeline, whole):
    for row in whole.kept.itertuples():
        expected = pipeline(
            row.prompt, generator=torch.Generator().manual_seed(row.seed), guidance_scale=2.0, num_inference_steps=3,
            max_sequence_length=1, output_type="pt",
        ).images[0]  # fmt: skip
        assert (image_of(whole, row) - expected).abs().max() < 0.01


def test_the_best_by_the_score_are_kept(whole):
    for _, part in whole.candidates.groupby("prompt_id"):
        assert part.score.idxmax() == part["rank"].idxmin()
        assert sorted(part.fate) == ["kept", "scored", "scored"]


def test_every_prompt_has_seeds_of_its_own(whole):
    assert whole.candidates.seed.tolist() == [5, 6, 7, 8, 9, 10]


def test_the_score_in_the_table_is_that_of_the_kept_latents(pipeline, whole):
    field, method = PipelineField(pipeline, TEXTS), METHODS["re_noising_high_noise"]
    for i, row in enumerate(whole.kept.itertuples()):
        again = re_noising_scores(field, whole.latents[i : i + 1], whole.prompt_id[i : i + 1], method, seed=5 + 3 * i)
        assert row.score == pytest.approx(again.values.item(), rel=1e-3, abs=1e-2)
        assert row.standard_error == pytest.approx(again.standard_errors.item(), rel=1e-3, abs=1e-2)


def test_path_scores_in_the_table_are_those_of_the_trajectory(pipeline, whole):
    field = PipelineField(pipeline, TEXTS)
    expected = path_scores(field, field.noise([8, 9, 10]), torch.tensor([1, 1, 1]), times=field.times(3), guidance=2.0)
    part = whole.candidates[whole.candidates.prompt_id == 1]
    for name, values in (("path", expected.path), ("guided_path", expected.guided_path)):
        np.testing.assert_allclose(part[name], values.numpy(), rtol=1e-3, atol=1e-2)


def test_evaluations_are_counted_candidate_by_candidate(pipeline, whole, tmp_path):
    assert set(whole.candidates.evaluations) == {2 * 3 + 48}
    pruning = Pruning(rounds=((1, 2),))
    pruned = select(pipeline, TEXTS[:1], output=tmp_path, prune=pruning, **SMALL).candidates
    draft = 2 * (2 + 1) + pruning.method.evaluations
    assert sorted(pruned.evaluations) == [draft, draft, draft + 2 * 1 + 24]
    assert pruned.evaluations.sum() == pruning.evaluations(METHODS[SMALL["method"]], 3, 3, guidance=2.0)
    dropped = pruned[pruned.fate == "dropped as a draft"]
    assert len(dropped) == 2 and dropped.score.isna().all() and dropped.draft_score.notna().all()
    assert dropped.draft_score.max() <= pruned.draft_score[pruned.fate == "kept"].item()
    assert pruned.path.isna().all()


def test_without_guidance_drawing_leaves_out_the_null_branch(pipeline, tmp_path):
    pruning = Pruning(rounds=((2, 2), (1, 2)))
    pruned = select(pipeline, TEXTS[:1], output=tmp_path, prune=pruning, **SMALL | {"guidance": 1.0}).candidates
    draft = 2 + 1 + pruning.method.evaluations
    assert sorted(pruned.evaluations) == [draft, draft + 1 + 24, draft + 1 + 24 + 24]
    assert pruned.evaluations.sum() == pruning.evaluations(METHODS[SMALL["method"]], 3, 3, guidance=1.0)


def test_a_finalist_goes_on_to_the_image_it_would_have_been(pipeline, whole, tmp_path):
    pruned = select(pipeline, TEXTS, output=tmp_path, prune=Pruning(rounds=((3, 4),)), **SMALL)
    assert pruned.kept.seed.tolist() == whole.kept.seed.tolist()
    torch.testing.assert_close(pruned.latents, whole.latents, rtol=1e-4, atol=1e-4)
    assert pruned.candidates.draft_score.isna().all(), "no draft could be dropped, so none was drawn"
    for column in ("score", "standard_error"):
        np.testing.assert_allclose(pruned.candidates[column], whole.candidates[column], rtol=1e-3, atol=1e-2)


def test_a_round_adds_to_the_noises_of_those_before(pipeline, whole, tmp_path):
    pruned = select(pipeline, TEXTS, output=tmp_path, prune=Pruning(rounds=((3, 2), (2, 2))), **SMALL)
    few = replace(METHODS[SMALL["method"]], noises=2)
    fewer = select(pipeline, TEXTS, output=tmp_path / "fewer", **SMALL | {"method": few}).candidates
    for (_, part), (_, all_), (_, two) in zip(
        *(table.groupby("prompt_id") for table in (pruned.candidates, whole.candidates, fewer)), strict=True
    ):
        last = two.score.nlargest(2).index
        change = (all_.score - two.score)[last].mean()  # reaches the one left behind
        expected = (two.score + change).where(~two.index.isin(last), all_.score)
        np.testing.assert_allclose(part.score, expected, rtol=1e-3, atol=1e-2)
        assert part["rank"].idxmin() == all_.score[last].idxmax()
        assert part.standard_error.notna().tolist() == part.index.isin(last).tolist()


def test_a_score_of_fewer_noises_stops_when_it_has_them():
    rounds = Pruning(rounds=((4, 2), (2, 4), (1, 8)))
    assert rounds.noises(METHODS["re_noising_high_noise"], 9) == [(4, range(2)), (2, range(2, 4))]
    assert rounds.noises(METHODS["information_and_likelihood"], 9)[-1] == (1, range(6, 14))
    assert rounds.noises(replace(METHODS["re_noising"], noises=1), 3) == [(3, range(1))]


def test_drafts_part_from_the_grid_where_they_should():
    before, after, long = Pruning().split(torch.linspace(0, 28, 29))
    assert before.tolist() == list(range(21)) and after.tolist() == list(range(20, 29))
    assert long.tolist() == [20, 24, 28]
    shortest = Pruning(seen=0.01, shortcut=9).split(torch.linspace(0, 3, 4))
    assert [part.tolist() for part in shortest] == [[0, 1], [1, 2, 3], [1, 2, 3]]


def test_a_draft_is_the_image_of_the_first_steps_and_the_long_ones(pipeline, tmp_path):
    pruning, arguments = Pruning(seen=0.5, rounds=((1, 4),)), SMALL | {"steps": 6}
    pruned = select(pipeline, TEXTS[:1], output=tmp_path, prune=pruning, **arguments)
    field, label = PipelineField(pipeline, TEXTS[:1]), torch.zeros(3, dtype=torch.long)
    before, _, long = pruning.split(field.times(6))
    drafts = sample(field, field.noise([5, 6, 7]), label, times=torch.cat([before[:-1], long]), guidance=2.0)
    expected = re_noising_scores(field, drafts, label, pruning.method, seed=6).values
    np.testing.assert_allclose(pruned.candidates.draft_score, expected, rtol=1e-3, atol=1e-2)
    last = int(expected.argmax())
    whole = select(pipeline, TEXTS[:1], output=tmp_path / "whole", **arguments | {"keep": 3})
    assert pruned.kept.seed.item() == SMALL["seed"] + last
    place = whole.kept.seed.tolist().index(SMALL["seed"] + last)
    torch.testing.assert_close(pruned.latents[0], whole.latents[place], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(pruned.candidates.score[last], whole.candidates.score[last], rtol=1e-3, atol=1e-2)


def test_as_many_are_kept_as_asked_whatever_the_rounds(pipeline, tmp_path):
    pruned = select(pipeline, TEXTS, output=tmp_path, prune=Pruning(rounds=((1, 2),)), **SMALL | {"keep": 2}).candidates
    for _, part in pruned.groupby("prompt_id"):
        finalists = part.draft_score.nlargest(2).index
        assert part["rank"].notna().tolist() == part.index.isin(finalists).tolist()
        assert part["rank"].idxmin() == part.score.idxmax()


def test_the_cheap_preset_finishes_and_scores_all(pipeline, tmp_path):
    """At the size of the bar: at most 90 evaluations an image at 16 candidates, 28 steps, guidance above 1."""
    method, asked = METHODS[DEFAULT_METHOD], SMALL | {"steps": 28, "candidates": 16, "method": DEFAULT_METHOD}
    del asked["keep"]
    cheap = select(pipeline, TEXTS[:1], output=tmp_path / "cheap", prune=CHEAP, **asked)
    table = cheap.candidates
    assert table.evaluations.mean() <= 90
    assert table.evaluations.sum() == CHEAP.evaluations(method, 16, 28, guidance=2.0)
    assert CHEAP.evaluations(method, 50, 28, guidance=4.5) / 50 <= 90
    assert set(table.fate) == {"kept"} and table.score.notna().all() and len(cheap.latents) == 16
    assert cheap.kept.score.is_monotonic_decreasing, "scores of unequal noises are in one order"
    assert simulated(pipeline, cheap, method, CHEAP) == pytest.approx(table.score.tolist(), rel=1e-3, abs=1e-2)


def simulated(pipeline, selection, method, pruning):
    """The scores of a prompt's finished candidates, from the errors of all under all noises."""
    latents = selection.latents[selection.kept.seed.argsort().tolist()]
    labels, (times, weights) = torch.zeros(len(latents), dtype=torch.long), method.times_and_weights()
    field, seed = PipelineField(pipeline, selection.prompts), int(selection.candidates.seed.min())
    options = {"times": times, "noises": 8, "seed": seed, "guidance": method.guidance}
    guided = re_noising_errors(field, latents, method.branches(labels, None), **options)[2]
    draws = -(guided * weights[:, None]).sum(1).numpy()
    score, inside, seen = draws[:, : pruning.rounds[0][1]].mean(1), np.arange(len(latents)), pruning.rounds[0][1]
    for share, more in pruning.rounds[1:]:
        inside = inside[score[inside].argsort()[::-1][: math.ceil(share * len(latents))]]
        seen += more
        new = draws[inside, :seen].mean(1)
        score = score + (new - score[inside]).mean()
        score[inside] = new
    return score.tolist()


@pytest.mark.parametrize("method", [METHODS["conditional_loss"], replace(METHODS["re_noising"], noises=1)])
def test_any_method_can_be_pruned(pipeline, tmp_path, method):
    pruning = Pruning(rounds=((2, 2), (1, 2)))
    found = select(pipeline, TEXTS[:1], output=tmp_path, prune=pruning, **SMALL | {"method": method}).candidates
    assert found.evaluations.sum() == pruning.evaluations(method, 3, 3, guidance=2.0)
    assert found.score.notna().sum() == 2 and found.fate.tolist().count("kept") == 1


@pytest.mark.slow
def test_pruning_against_other_prompts(pipeline, tmp_path):
    texts, arguments = [*TEXTS, "a green square"], SMALL | {"method": replace(METHODS["against_prompts"], noises=4)}
    whole = select(pipeline, texts, output=tmp_path / "whole", **arguments)
    pruned = select(pipeline, texts, output=tmp_path, prune=Pruning(rounds=((3, 4),)), **arguments)
    np.testing.assert_allclose(pruned.candidates.score, whole.candidates.score, rtol=1e-3, atol=1e-2)


def test_prompts_are_held_against_the_negatives_given(pipeline, tmp_path):
    method = Method(null=False, prompts=1, sigmas=(0.5, 0.8), noises=2)
    negatives, arguments = {text: ["a green diamond"] for text in TEXTS}, SMALL | {"method": method, "keep": 3}
    found = select(pipeline, TEXTS, output=tmp_path, negatives=negatives, **arguments)
    assert len(found.conditioning) == len(TEXTS) + 1
    for name, rows in PipelineField(pipeline, TEXTS).conditioning.tensors.items():
        torch.testing.assert_close(found.conditioning.tensors[name], rows, rtol=1e-4, atol=1e-4)
    field = PipelineField(pipeline, [*TEXTS, "a green diamond"])
    others = torch.full((len(found.latents), 1), len(TEXTS))
    expected = re_noising_scores(field, found.latents, found.prompt_id, method, seed=SMALL["seed"], others=others)
    first = found.prompt_id == 0  # noises are by the prompt's own seed
    torch.testing.assert_close(found.scores("score")[first], expected.values[first], rtol=1e-3, atol=1e-2)
    with pytest.raises(ValueError, match="negatives"):
        select(pipeline, TEXTS, output=tmp_path, negatives={text: ["a cross"] for text in TEXTS}, **arguments)


def test_the_folder_is_what_its_readers_expect(whole):
    lines = [json.loads(line) for line in (whole.folder / "images" / "metadata.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == TEXTS
    assert all((whole.folder / "images" / line["file_name"]).is_file() for line in lines)
    assert not any(text in str(path) for path in whole.folder.rglob("*") for text in TEXTS)
    assert whole.latents.shape == (2, 6, 8, 8) and whole.prompt_id.tolist() == [0, 1]
    assert len(whole.conditioning) == len(TEXTS) + 1
    pd.testing.assert_frame_equal(read_selection(whole.folder).candidates, whole.candidates)


def test_a_killed_run_goes_on_at_the_next_prompt(pipeline, whole, tmp_path, monkeypatch):
    calls = []

    def dies_at_the_second(*arguments):
        calls.append(arguments[1])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return candidates.draw_candidates(*arguments)

    monkeypatch.setattr(selecting, "draw_candidates", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        select(pipeline, TEXTS, output=tmp_path, **SMALL)
    assert unit_path(tmp_path, 0).exists() and not unit_path(tmp_path, 1).exists()
    with pytest.raises(FileNotFoundError, match="no finished selection"):
        read_selection(tmp_path)
    monkeypatch.undo()
    again = select(pipeline, TEXTS, output=tmp_path, **SMALL)
    pd.testing.assert_frame_equal(again.candidates, whole.candidates)
    assert torch.equal(again.latents, whole.latents)


def contents(folder):
    """The sha256 of every file, by its name in the folder."""
    return digests(folder, sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))


def same(a, b):
    pd.testing.assert_frame_equal(a.candidates, b.candidates)
    assert torch.equal(a.latents, b.latents) and torch.equal(a.prompt_id, b.prompt_id)
    assert contents(a.folder) == contents(b.folder)


@pytest.mark.slow
def test_two_processes_choose_as_one(pipeline, whole, tmp_path, in_two_processes):
    in_two_processes(lambda: select(pipeline, TEXTS, output=tmp_path / "two", **SMALL))
    same(read_selection(tmp_path / "two"), whole)


@pytest.mark.slow
def test_two_plain_processes_on_one_folder_choose_as_one(pipeline, whole, tmp_path, start_child, monkeypatch):
    made = tmp_path / "made.txt"

    def told(field, label, *rest):
        with open(made, "a", encoding="utf-8") as log:
            log.write(f"{label} {os.getpid()}\n")
        return candidates.draw_candidates(field, label, *rest)

    monkeypatch.setattr(selecting, "draw_candidates", told)
    children = [start_child(lambda: select(pipeline, TEXTS, output=tmp_path / "two", **SMALL)) for _ in range(2)]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    same(read_selection(tmp_path / "two"), whole)
    lines = [line.split() for line in made.read_text().splitlines()]
    assert sorted(label for label, _ in lines) == ["0", "1"], "no prompt was drawn twice"
    assert {int(process) for _, process in lines} == set(children)


@pytest.mark.slow
def test_processes_that_are_killed_and_one_that_joins_late_choose_as_one(pipeline, tmp_path, start_child, monkeypatch):
    texts = [f"{number} {colour} squares" for number in ("two", "three") for colour in ("red", "blue", "green")]
    alone = select(pipeline, texts, output=tmp_path / "alone", **SMALL)

    def slowly(*arguments):
        time.sleep(0.15)
        return candidates.draw_candidates(*arguments)

    monkeypatch.setattr(selecting, "draw_candidates", slowly)

    def work():
        select(pipeline, texts, output=tmp_path / "shared", **SMALL)

    steady, random = [start_child(work) for _ in range(2)], Random(0)
    for _ in range(10):
        victim = start_child(work)
        time.sleep(random.uniform(0.02, 0.3))
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
    late = start_child(work)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in (*steady, late)] == [0, 0, 0]
    work()  # what killed processes have left is removed when the folder is opened
    same(read_selection(tmp_path / "shared"), alone)


def test_all_are_kept_by_default_and_one_where_candidates_are_pruned(pipeline, whole, tmp_path):
    asked = {name: value for name, value in SMALL.items() if name != "keep"}
    every = select(pipeline, TEXTS, output=tmp_path / "all", **asked)
    assert len(every.latents) == 6 and set(every.candidates.fate) == {"kept"}
    assert every.kept.groupby("prompt_id").score.apply(lambda own: own.is_monotonic_decreasing).all()
    assert every.kept["rank"].tolist() == [0, 1, 2, 0, 1, 2]
    same_images = best(every)
    assert same_images.kept.seed.tolist() == whole.kept.seed.tolist()
    torch.testing.assert_close(same_images.latents, whole.latents)
    pruned = select(pipeline, TEXTS, output=tmp_path / "one", prune=Pruning(rounds=((2, 2),)), **asked)
    assert pruned.prompt_id.tolist() == [0, 1]


# What a selection answers


def test_a_selection_knows_the_pipeline_that_drew_it(pipeline, whole):
    assert whole.origin == json.loads(json.dumps(identity_of(pipeline))) and "transformer" in whole.origin
    assert best(whole).origin == whole.origin and made_up().origin is None


def test_a_selection_is_one_line_at_the_end_of_a_cell(whole):
    assert pretty(whole) == "Selection of 2 of 6 candidates for 2 prompts"


def made_up(folder=Path("nowhere")):
    """Two prompts' candidates, listed in another order than they were kept."""
    table = pd.DataFrame(
        {
            "prompt_id": [0, 0, 0, 1, 1, 1],
            "prompt": ["red"] * 3 + ["blue"] * 3,
            "seed": [10, 11, 12, 13, 14, 15],
            "fate": ["kept", "scored", "kept", "kept", "kept", "kept"],
            "score": [1.0, 0.0, 2.0, 5.0, 3.0, 4.0],
            "rank": [1.0, np.nan, 0.0, 0.0, 2.0, 1.0],
        }
    )
    latents = torch.tensor([12.0, 10, 13, 15, 14]).reshape(5, 1, 1, 1)
    conditioning = Conditioning({"encoder_hidden_states": torch.zeros(3, 1, 1)})
    return Selection(folder, table, latents, torch.tensor([0, 0, 1, 1, 1]), conditioning)


def assert_consistent(selection, seeds):
    """Rows, latents and prompts tell of the same images, which are these."""
    assert selection.kept.seed.tolist() == seeds == selection.latents.flatten().int().tolist()
    assert selection.kept.prompt_id.tolist() == selection.prompt_id.tolist()


def test_kept_rows_are_in_the_order_of_the_latents():
    selection = made_up()
    assert_consistent(selection, [12, 10, 13, 15, 14])
    assert selection.prompts == ["red", "blue"]
    assert repr(selection) == "Selection of 5 of 6 candidates for 2 prompts"


def test_images_are_read_in_the_order_of_the_latents(pipeline, whole, tmp_path):
    (tmp_path / "images").mkdir()
    for prompt, seed in ((0, 12), (0, 10), (1, 13), (1, 15), (1, 14)):
        pixels = np.full((4, 6, 3), (seed, 255, 0), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{prompt:05d}_{seed:05d}.png")
    names = [str(path.relative_to(tmp_path)) for path in made_up(tmp_path).files]
    write_record(tmp_path / "manifest.json", digests(tmp_path, names))
    images = made_up(tmp_path).images()
    assert images.shape == (5, 3, 4, 6) and images.dtype == torch.float32
    torch.testing.assert_close(255 * images[:, 0, 0, 0], torch.tensor([12.0, 10, 13, 15, 14]))
    assert (images[:, 1] == 1).all() and (images[:, 2] == 0).all()
    decoded = PipelineField(pipeline, TEXTS).decode(whole.latents)
    assert (whole.images() - decoded).abs().max() <= 0.5 / 255 + 1e-3


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_a_column_is_given_in_the_order_of_the_latents(kind):
    selection = made_up()
    more = selection.with_column("judge", kind([1, 2, 3, 4, 5]))
    assert more.kept.judge.tolist() == [1, 2, 3, 4, 5] and more.scores("judge").tolist() == [1, 2, 3, 4, 5]
    assert more.candidates.set_index("seed").judge.drop(11).to_dict() == {12: 1, 10: 2, 13: 3, 15: 4, 14: 5}
    assert math.isnan(more.candidates.set_index("seed").judge[11])
    assert "judge" not in selection.candidates and more.folder == selection.folder
    assert_consistent(more, [12, 10, 13, 15, 14])
    assert more.with_column("judge", [0.0] * 5).scores("judge").tolist() == [0] * 5


def test_the_best_and_the_worst_of_every_prompt_by_a_column():
    selection = made_up().with_column("judge", [0.0, 1.0, 0.3, 0.2, 0.7])
    assert_consistent(best(selection), [12, 13])
    assert_consistent(worst(selection), [10, 14])
    assert_consistent(best(selection, by="judge"), [10, 14])
    assert_consistent(worst(selection, by="judge"), [12, 15])
    assert_consistent(best(best(selection)), [12, 13])
    assert len(best(selection).candidates) == 6


def test_a_part_of_a_selection_is_consistent():
    selection = made_up()
    assert_consistent(selection.keeping(torch.tensor([False, True, True, False, True])), [10, 13, 14])
    assert_consistent(selection.of_prompts([1]), [13, 15, 14])
    assert_consistent(selection.of_prompts([0, 2]), [12, 10])
    assert_consistent(selection.of_prompts([]), [])
    part = selection.keeping(torch.tensor([False, True, False, False, True])).with_column("judge", [1.0, 2.0])
    assert part.scores("judge").tolist() == [1, 2]
    assert selection.of_prompts([1]).prompts == ["red", "blue"], "numbers of prompts go on meaning the same"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: s.scores("typo"), "no column 'typo'; it has score, extra"),
        (lambda s: s.scores("prompt"), "'prompt' .* no number"),
        (lambda s: s.with_column("a", [1.0, math.nan, 1, 1, 1]).scores("a"), "'a' .* no number"),
        (lambda s: s.with_column("a", [1.0, math.inf, 1, 1, 1]).scores("a"), "'a' .* no number"),
        (lambda s: s.with_column("a", [1.0] * 6), "6 values for 5 kept images"),
        (lambda s: best(s, by="typo"), "no column 'typo'"),
        (lambda s: worst(s.with_column("a", [math.nan] * 5), by="a"), "no number"),
    ],
)
def test_what_a_selection_cannot_answer_is_said_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words) as raised:
        call(made_up().with_column("extra", [0.0] * 5))
    assert "\n" not in str(raised.value)


# Methods, folders, faults


def test_a_path_score_can_choose(pipeline, tmp_path):
    found = select(pipeline, TEXTS[:1], output=tmp_path, **(SMALL | {"method": "path"}))
    assert found.candidates.score.equals(found.candidates.path) and found.candidates.standard_error.isna().all()


def test_a_method_of_ones_own_can_choose(pipeline, whole, tmp_path):
    own = SMALL | {"method": METHODS[SMALL["method"]]}
    assert select(pipeline, TEXTS, output=tmp_path, **own).kept.seed.tolist() == whole.kept.seed.tolist()
    cheaper = SMALL | {"method": replace(METHODS[SMALL["method"]], noises=1)}
    with pytest.raises(ValueError, match="another method"):
        select(pipeline, TEXTS, output=tmp_path, **cheaper)


def test_a_lost_image_is_noticed(pipeline, tmp_path):
    found = select(pipeline, TEXTS[:1], output=tmp_path, **(SMALL | {"method": "path"}))
    next((found.folder / "images").glob("*.png")).unlink()
    with pytest.raises(FileNotFoundError, match="has lost the image"):
        read_selection(tmp_path)


FILES = ["settings.json", "manifest.json", "candidates.parquet", "latents.safetensors", "embeddings.safetensors"]
FILES += ["images/metadata.jsonl", "images/*.png", "units/*.safetensors"]


def test_every_kind_of_file_is_tried_below(whole):
    assert {path for name in FILES for path in whole.folder.glob(name)} == {
        path for path in whole.folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_or_made_anew(pipeline, whole, tmp_path, name, damage):
    shutil.copytree(whole.folder, tmp_path, dirs_exist_ok=True)
    path = sorted(tmp_path.glob(name))[0]
    damage(path)
    try:
        read = read_selection(tmp_path)
        assert read.images().equal(whole.images()) and read.latents.equal(whole.latents)
        pd.testing.assert_frame_equal(read.candidates, whole.candidates)
        assert path.suffix not in (".png", ".json"), "a unit is not looked at where all of it is elsewhere"
    except (ValueError, FileNotFoundError) as error:
        assert path.name in str(error) and "again" in str(error)
        assert "\n" not in str(error)
    if name == "settings.json":
        with pytest.raises(ValueError, match="settings.json is damaged .* remove"):
            select(pipeline, TEXTS, output=tmp_path, **SMALL)
    else:
        same(select(pipeline, TEXTS, output=tmp_path, **SMALL), whole)


@pytest.mark.parametrize("name", FILES[-2:])
def test_what_is_damaged_before_the_end_is_drawn_again(pipeline, whole, tmp_path, name, damage):
    for part in ("settings.json", "units", "images"):
        source = whole.folder / part
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / part)
    damage(sorted(tmp_path.glob(name))[0])
    with pytest.raises(FileNotFoundError, match="no finished selection"):
        read_selection(tmp_path)
    same(select(pipeline, TEXTS, output=tmp_path, **SMALL), whole)


def test_a_lost_unit_or_image_is_drawn_again(pipeline, whole, tmp_path):
    shutil.copytree(whole.folder, tmp_path, dirs_exist_ok=True)
    for name in ("images/*.png", "units/*.safetensors", "candidates.parquet"):
        sorted(tmp_path.glob(name))[-1].unlink()
        same(select(pipeline, TEXTS, output=tmp_path, **SMALL), whole)


def peak_growth(work):
    """How many bytes of memory more than before some work takes at its peak."""

    def status(name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now
    except OSError:
        pytest.skip("the system does not tell peaks")
    before = status("VmRSS")
    work()
    return status("VmHWM") - before


def test_keeping_many_takes_no_more_memory_than_keeping_one(tmp_path):
    shape, prompts = (16, 64, 64), [f"prompt {i}" for i in range(16)]
    conditioning = Conditioning({"encoder_hidden_states": torch.zeros(len(prompts) + 1, 4, 8)})
    images, grown = torch.zeros(20, 3, 8, 8), {}
    for keep in (1, 20):
        folder, columns = tmp_path / str(keep), {"score": torch.arange(20.0, dtype=torch.float64)}
        open_folder(folder, {"pipeline": "none"})
        for i, prompt in enumerate(prompts):
            latents = torch.full((keep, *shape), float(i))
            drawn = candidates.Candidates(columns, ["kept"] * 20, list(range(keep)), latents)
            write_unit(folder, i, prompt, drawn, images[:keep], 20 * i)
        grown[keep] = peak_growth(lambda folder=folder: finish_folder(folder, len(prompts), lambda: conditioning))
        kept = read_selection(folder).latents
        assert kept.shape == (keep * len(prompts), *shape) and kept[::keep, 0, 0, 0].tolist() == [*range(16)]
    assert grown[20] - grown[1] < kept.nbytes / 5, "no copy of all latents is held, not even one"


def test_another_selection_is_not_mixed_in(pipeline, whole):
    with pytest.raises(ValueError, match="another candidates, seed"):
        select(pipeline, TEXTS, output=whole.folder, **(SMALL | {"seed": 6, "candidates": 4}))


@pytest.mark.parametrize("name", ["pytorch_lora_weights.safetensors", "training.json", "checkpoint.safetensors"])
def test_a_folder_of_a_fine_tuning_is_refused(pipeline, tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match="holds something else"):
        select(pipeline, TEXTS, output=tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keep": 4}, "keep is 4; give a whole number from 1 to 3"),
        ({"keep": 0}, "keep is 0"),
        ({"method": "best"}, "there is no score"),
        ({"prompts": []}, "at least one prompt"),
        ({"prompts": "a red circle"}, "at least one prompt"),
        ({"prompts": [*TEXTS, TEXTS[0]]}, "listed 2 times"),
        ({"prompts": ["a red dragon"]}, "does not know"),
        ({"steps": 2}, "steps is 2"),
        ({"guidance": -1.0}, "guidance is -1"),
        ({"guidance": math.nan}, "guidance is nan"),
        ({"guidance": math.inf}, "guidance is inf"),
        ({"prune": 5}, "give True, False"),
        ({"method": "against_prompts"}, "have no 2 others"),
        ({"method": "path", "prune": True}, "scores whole paths"),
    ],
)
def test_bad_input_is_refused_before_anything_is_drawn(pipeline, tmp_path, change, words):
    arguments = {"prompts": TEXTS} | SMALL | change
    with pytest.raises(ValueError, match=words):
        select(pipeline, arguments.pop("prompts"), output=tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seen": 1.0}, "between 0 and 1"),
        ({"seen": 0.0}, "between 0 and 1"),
        ({"shortcut": 0}, "take 1 or more"),
        ({"rounds": ()}, "at least one round"),
        ({"rounds": ((0, 2),)}, "at least one round"),
        ({"rounds": ((2, 2), (2, 4))}, "fewer in every next one"),
        ({"rounds": ((4, 0),)}, "come in pairs"),
        ({"rounds": ((4, 3),)}, "come in pairs"),
        ({"rounds": ((4, 1), (2, 2))}, "half a pair"),
        ({"rounds": ((4, 2), (2, 1))}, "half a pair"),
        ({"rounds": ((4.0, 2),)}, "whole numbers"),
        ({"rounds": ((1.0, 2), (3, 2))}, "whole numbers"),
        ({"rounds": ((1.0, 2), (0.0, 2))}, "whole numbers"),
        ({"rounds": ((0.5, 2), (0.5, 4))}, "fewer in every next one"),
        ({"shortcut": 1.5}, "whole numbers"),
        ({"method": "path"}, "take a `Method`"),
        ({"method": METHODS["against_prompts"]}, "asks for no other prompts"),
    ],
)
def test_bad_pruning(change, words):
    with pytest.raises(ValueError, match=words):
        Pruning(**change)


@pytest.mark.parametrize("prune", [False, True])
def test_a_score_that_is_no_number_is_not_the_best(pipeline, monkeypatch, tmp_path, prune):
    def overflown(*arguments, **options):
        errors = re_noising_errors(*arguments, **options)
        errors[:, 1] = torch.nan
        return errors

    monkeypatch.setattr(candidates, "re_noising_errors", overflown)
    with pytest.raises(FloatingPointError, match="another precision"):
        select(pipeline, TEXTS, output=tmp_path, prune=prune, **SMALL)
    monkeypatch.undo()
    assert len(select(pipeline, TEXTS, output=tmp_path, prune=prune, **SMALL).latents) == 2


def test_drafts_are_scored_with_other_noises_than_finalists(pipeline, monkeypatch, tmp_path):
    seeds = []

    def spied(*arguments, seed, **options):
        seeds.append(seed)
        return re_noising_errors(*arguments, seed=seed, **options)

    monkeypatch.setattr(candidates, "re_noising_errors", spied)
    select(pipeline, TEXTS[:1], output=tmp_path, prune=Pruning(rounds=((2, 2),)), **SMALL)
    assert len(seeds) == 2 and seeds[0] != seeds[1] == SMALL["seed"]
