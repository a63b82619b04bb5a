"""Selection: what is kept is best by the score, candidates are the pipeline's own images, and nothing is lost."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image

import rfmi
from rfmi.path_scores import path_scores
from rfmi.pipelines import PipelineField
from rfmi.scoring import METHODS, re_noising_scores
from rfmi.selection import Pruning, candidates, read_selection, select, selecting
from rfmi.selection.folder import fingerprint, unit_path

TEXTS = ["a red circle", "two blue squares"]
SMALL = {"method": "re_noising_high_noise", "candidates": 3, "keep": 1, "steps": 3, "guidance": 2.0, "seed": 5}


@pytest.fixture(scope="module")
def pipeline():
    return StableDiffusion3Pipeline.from_pretrained(rfmi.base_pipeline())


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
    assert whole.candidates.seed.tolist() == [5, 6, 7] * 2


def test_the_score_in_the_table_is_that_of_the_kept_latents(pipeline, whole):
    field, method = PipelineField(pipeline, TEXTS), METHODS["re_noising_high_noise"]
    again = re_noising_scores(field, whole.latents, whole.prompt_id, method, seed=5)
    rows = kept_rows(whole)
    np.testing.assert_allclose(rows.score, again.values.numpy(), rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(rows.standard_error, again.standard_errors.numpy(), rtol=1e-3, atol=1e-2)


def test_path_scores_in_the_table_are_those_of_the_trajectory(pipeline, whole):
    field = PipelineField(pipeline, TEXTS)
    expected = path_scores(
        field, field.noise([5, 6, 7]), torch.tensor([1, 1, 1]), times=field.times(3), guidance=2.0
    )
    part = whole.candidates[whole.candidates.prompt_id == 1]
    for name, values in (("path", expected.path), ("guided_path", expected.guided_path)):
        np.testing.assert_allclose(part[name], values.numpy(), rtol=1e-3, atol=1e-2)


def test_evaluations_are_counted_candidate_by_candidate(pipeline, whole, tmp_path):
    assert set(whole.candidates.evaluations) == {2 * 3 + 48}
    pruned = select(pipeline, TEXTS[:1], output=tmp_path, prune=Pruning(steps=3, finalists=1, noises=2), **SMALL)
    cheap = 2 * 3 + Pruning().method.evaluations
    assert sorted(pruned.candidates.evaluations) == [cheap, cheap, cheap + 2 * 3 + 24]
    dropped = pruned.candidates[pruned.candidates.fate == "dropped as a draft"]
    assert len(dropped) == 2 and dropped.score.isna().all() and dropped.draft_score.notna().all()
    assert dropped.draft_score.max() <= pruned.candidates.draft_score.max()


def test_drafts_without_guidance_leave_out_the_null_branch(pipeline, tmp_path):
    pruned = select(
        pipeline, TEXTS[:1], output=tmp_path, prune=Pruning(steps=3, finalists=1, noises=None),
        **SMALL | {"guidance": 1.0}
    )  # fmt: skip
    cheap = 3 + Pruning().method.evaluations
    assert sorted(pruned.candidates.evaluations) == [cheap, cheap, cheap + 2 * 3 + 48]


def test_with_every_draft_a_finalist_pruning_changes_no_choice(pipeline, whole, tmp_path):
    pruned = select(
        pipeline, TEXTS, output=tmp_path, prune=Pruning(steps=3, finalists=3, noises=None), **SMALL
    )
    assert kept_rows(pruned).seed.tolist() == kept_rows(whole).seed.tolist()
    np.testing.assert_allclose(pruned.candidates.score, whole.candidates.score, rtol=1e-4, atol=1e-2)


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
        ({"prune": True}, "drafts of 14 steps cost more"),
        ({"method": "against_prompts"}, "have no 2 others"),
    ],
)
def test_bad_input_is_refused_before_anything_is_drawn(pipeline, tmp_path, change, words):
    arguments = {"prompts": TEXTS} | SMALL | change
    with pytest.raises(ValueError, match=words):
        select(pipeline, arguments.pop("prompts"), output=tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_finalists_are_scored_with_their_own_number_of_noises(pipeline, whole, tmp_path):
    found = select(pipeline, TEXTS, output=tmp_path, prune=Pruning(steps=3, finalists=3, noises=2), **SMALL)
    method = replace(METHODS[SMALL["method"]], noises=2)
    field, kept = PipelineField(pipeline, TEXTS), kept_rows(found)
    again = re_noising_scores(field, found.latents, found.prompt_id, method, seed=5)
    np.testing.assert_allclose(kept.score, again.values.numpy(), rtol=1e-3, atol=1e-2)
    assert (kept.score.to_numpy() - found.candidates.groupby("prompt_id").score.max().to_numpy() == 0).all()
    assert not np.allclose(found.candidates.score, whole.candidates.score)
    assert Pruning().of_finalists("path") == "path" and Pruning(noises=None).of_finalists(method) is method


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 2}, "3 steps and 1 finalist"),
        ({"finalists": 0}, "3 steps and 1 finalist"),
        ({"noises": 0}, "come in pairs"),
        ({"noises": 3}, "come in pairs"),
        ({"method": "path"}, "take a `Method`"),
        ({"method": METHODS["against_prompts"]}, "asks for no other prompts"),
    ],
)
def test_bad_pruning(change, words):
    with pytest.raises(ValueError, match=words):
        Pruning(**change)


def test_a_score_that_is_no_number_is_not_the_best(pipeline, monkeypatch, tmp_path):
    def overflown(*arguments, **options):
        found = re_noising_scores(*arguments, **options)
        found.values[1] = torch.nan
        return found

    monkeypatch.setattr(candidates, "re_noising_scores", overflown)
    with pytest.raises(FloatingPointError, match="another precision"):
        select(pipeline, TEXTS, output=tmp_path, **SMALL)
    monkeypatch.undo()
    assert len(select(pipeline, TEXTS, output=tmp_path, **SMALL).latents) == 2


def test_drafts_are_scored_with_other_noises_than_finalists(pipeline, monkeypatch, tmp_path):
    seeds = []

    def spied(*arguments, seed, **options):
        seeds.append(seed)
        return re_noising_scores(*arguments, seed=seed, **options)

    monkeypatch.setattr(candidates, "re_noising_scores", spied)
    select(pipeline, TEXTS[:1], output=tmp_path, prune=Pruning(steps=3, finalists=2), **SMALL)
    assert len(seeds) == 2 and seeds[0] != seeds[1] == SMALL["seed"]
