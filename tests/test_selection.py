"""Selection: what is kept is best by the score, candidates are the pipeline's own images, and nothing is lost."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image

from lab.worlds.shapes.shipped import base_pipeline
import rfmi
from rfmi.sampling import path_scores
from rfmi.pipelines import PipelineField, sample
from rfmi.scoring import METHODS, re_noising_scores
from rfmi.scoring.re_noising import method_draws
from rfmi.selection import Pruning, candidates, read_selection, select, selecting
from rfmi.selection.folder import fingerprint, unit_path

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


def kept_rows(selection):
    return selection.candidates[selection.candidates["rank"].notna()].sort_values(["prompt_id", "rank"])


def test_a_candidate_is_the_pipelines_image_of_its_seed(pipeline, whole):
    for row in kept_rows(whole).itertuples():
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
    for i, row in enumerate(kept_rows(whole).itertuples()):
        again = re_noising_scores(field, whole.latents[i : i + 1], whole.prompt_id[i : i + 1], method, seed=5 + 3 * i)
        assert row.score == pytest.approx(again.values.item(), rel=1e-3, abs=1e-2)
        assert row.standard_error == pytest.approx(again.standard_errors.item(), rel=1e-3, abs=1e-2)


def test_path_scores_in_the_table_are_those_of_the_trajectory(pipeline, whole):
    field = PipelineField(pipeline, TEXTS)
    expected = path_scores(
        field, field.noise([8, 9, 10]), torch.tensor([1, 1, 1]), times=field.times(3), guidance=2.0
    )
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
    assert kept_rows(pruned).seed.tolist() == kept_rows(whole).seed.tolist()
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
        expected = two.score.where(~two.index.isin(last), all_.score)
        np.testing.assert_allclose(part.score, expected, rtol=1e-3, atol=1e-2)
        assert part["rank"].idxmin() == all_.score[last].idxmax()
        assert part.standard_error.notna().tolist() == part.index.isin(last).tolist()


def test_a_score_of_fewer_noises_stops_when_it_has_them():
    rounds = Pruning(rounds=((4, 2), (2, 4), (1, 8)))
    assert rounds.noises(METHODS["re_noising_high_noise"]) == [(4, range(2)), (2, range(2, 4))]
    assert rounds.noises(METHODS["information_and_likelihood"])[-1] == (1, range(6, 14))
    assert rounds.noises(replace(METHODS["re_noising"], noises=1)) == [(4, range(1))]


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
    assert kept_rows(pruned).seed.item() == SMALL["seed"] + last
    place = kept_rows(whole).seed.tolist().index(SMALL["seed"] + last)
    torch.testing.assert_close(pruned.latents[0], whole.latents[place], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(pruned.candidates.score[last], whole.candidates.score[last], rtol=1e-3, atol=1e-2)


def test_as_many_are_kept_as_asked_whatever_the_rounds(pipeline, tmp_path):
    pruned = select(pipeline, TEXTS, output=tmp_path, prune=Pruning(rounds=((1, 2),)), **SMALL | {"keep": 2}).candidates
    for _, part in pruned.groupby("prompt_id"):
        finalists = part.draft_score.nlargest(2).index
        assert part["rank"].notna().tolist() == part.index.isin(finalists).tolist()
        assert part["rank"].idxmin() == part.score.idxmax()


@pytest.mark.parametrize("method", [METHODS["conditional_loss"], replace(METHODS["re_noising"], noises=1)])
def test_any_method_can_be_pruned(pipeline, tmp_path, method):
    pruning = Pruning(rounds=((2, 2), (1, 2)))
    found = select(pipeline, TEXTS[:1], output=tmp_path, prune=pruning, **SMALL | {"method": method}).candidates
    assert found.evaluations.sum() == pruning.evaluations(method, 3, 3, guidance=2.0)
    assert found.score.notna().sum() == 2 and found.fate.tolist().count("kept") == 1


def test_pruning_against_other_prompts(pipeline, tmp_path):
    texts, arguments = [*TEXTS, "a green square"], SMALL | {"method": "against_prompts"}
    whole = select(pipeline, texts, output=tmp_path / "whole", **arguments)
    pruned = select(pipeline, texts, output=tmp_path, prune=Pruning(rounds=((3, 4),)), **arguments)
    np.testing.assert_allclose(pruned.candidates.score, whole.candidates.score, rtol=1e-3, atol=1e-2)


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


def test_two_processes_choose_as_one(pipeline, whole, tmp_path, in_two_processes):
    in_two_processes(lambda: select(pipeline, TEXTS, output=tmp_path / "two", **SMALL))
    again = read_selection(tmp_path / "two")
    pd.testing.assert_frame_equal(again.candidates, whole.candidates)
    assert len(list((tmp_path / "two" / "units").iterdir())) == 2


def test_a_path_score_can_choose(pipeline, tmp_path):
    found = select(pipeline, TEXTS[:1], output=tmp_path, **(SMALL | {"method": "path"}))
    assert found.candidates.score.equals(found.candidates.path) and found.candidates.standard_error.isna().all()


def test_a_method_of_ones_own_can_choose(pipeline, whole, tmp_path):
    own = SMALL | {"method": METHODS[SMALL["method"]]}
    assert kept_rows(select(pipeline, TEXTS, output=tmp_path, **own)).seed.tolist() == kept_rows(whole).seed.tolist()
    cheaper = SMALL | {"method": replace(METHODS[SMALL["method"]], noises=1)}
    with pytest.raises(ValueError, match="another method"):
        select(pipeline, TEXTS, output=tmp_path, **cheaper)


def test_a_lost_image_is_noticed(pipeline, tmp_path):
    found = select(pipeline, TEXTS[:1], output=tmp_path, **(SMALL | {"method": "path"}))
    next((found.folder / "images").glob("*.png")).unlink()
    with pytest.raises(FileNotFoundError, match="has lost the image"):
        read_selection(tmp_path)


def test_another_selection_is_not_mixed_in(pipeline, whole):
    with pytest.raises(ValueError, match="another candidates, seed"):
        select(pipeline, TEXTS, output=whole.folder, **(SMALL | {"seed": 6, "candidates": 4}))


def test_other_weights_have_another_fingerprint(pipeline):
    before, weight = fingerprint(pipeline.transformer), next(pipeline.transformer.parameters())
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.view(-1)[0] += 1
        changed = fingerprint(pipeline.transformer)
        weight.copy_(kept)
    assert changed != before == fingerprint(pipeline.transformer)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keep": 4}, "cannot be kept"),
        ({"keep": 0}, "cannot be kept"),
        ({"method": "best"}, "there is no score"),
        ({"prompts": []}, "at least one prompt"),
        ({"prompts": "a red circle"}, "at least one prompt"),
        ({"prompts": [*TEXTS, TEXTS[0]]}, "listed 2 times"),
        ({"prompts": ["a red dragon"]}, "does not know"),
        ({"steps": 2}, "at least 3 steps"),
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
        found = method_draws(*arguments, **options)
        found[1] = torch.nan
        return found

    monkeypatch.setattr(candidates, "method_draws", overflown)
    with pytest.raises(FloatingPointError, match="another precision"):
        select(pipeline, TEXTS, output=tmp_path, prune=prune, **SMALL)
    monkeypatch.undo()
    assert len(select(pipeline, TEXTS, output=tmp_path, prune=prune, **SMALL).latents) == 2


def test_drafts_are_scored_with_other_noises_than_finalists(pipeline, monkeypatch, tmp_path):
    seeds = []

    def spied(*arguments, seed, **options):
        seeds.append(seed)
        return method_draws(*arguments, seed=seed, **options)

    monkeypatch.setattr(candidates, "method_draws", spied)
    select(pipeline, TEXTS[:1], output=tmp_path, prune=Pruning(rounds=((2, 2),)), **SMALL)
    assert len(seeds) == 2 and seeds[0] != seeds[1] == SMALL["seed"]
