"""What the notebooks on fine-tuning share: choices from one pool, models with a LoRA merged in, gains and shares."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from lab.worlds.shapes.shipped import base_pipeline
import rfmi
from rfmi.evaluation import Evaluation, by_image, compare, mean_of_categories
from rfmi.finetuning import PRESETS, FinetuningSettings, finetune
from rfmi.pipelines import Conditioning, PipelineField, sample
from lab.worlds.shapes import CATEGORIES
from rfmi.selection import Selection, best, join, select, worst
from rfmi.selection.folder import fingerprint, kept_rows
from lab.study import finetuning_experiments as experiments
from lab.study import finetuning_tables as tables
from lab.study.cache import digest
from lab.study.finetuning_experiments import BASE_MODEL, chain, control_units, material, model, tuned
from lab.study.finetuning_pools import (
    HELD_OUT,
    Pool,
    chosen_by,
    control_and_round,
    rejected_by,
    round_name,
    scored_by,
    without_held_out,
)
from lab.study.shipped import pipeline_with


def selection(prompts=3, keep=2, seed=0, null=0.0, texts=None):
    n, generator = prompts * keep, torch.Generator().manual_seed(seed)
    rows = [i // keep for i in range(n)]
    table = pd.DataFrame(
        {
            "prompt_id": rows,
            "prompt": [f"prompt {row}" if texts is None else texts[row] for row in rows],
            "seed": [i % keep for i in range(n)],
            "score": [float(-i) for i in range(n)],
            "rank": [float(i % keep) for i in range(n)],
        }
    )
    embeddings = torch.randn(prompts + 1, 4, generator=generator)
    embeddings[-1] = null
    latents = torch.randn(n, 2, 4, 4, generator=generator)
    return Selection(Path("nowhere/one"), table, latents, torch.tensor(rows), Conditioning({"pooled": embeddings}))


def test_selections_are_joined_and_prompts_numbered_on():
    one, two = selection(seed=1), selection(prompts=2, seed=2)
    both = join([one, two])
    assert both.prompt_id.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert torch.equal(both.latents, torch.cat([one.latents, two.latents]))
    assert len(both.conditioning) == 6
    for number, origin, row in ((2, one, 2), (3, two, 0), (5, one, 3), (5, two, 2)):
        assert torch.equal(both.conditioning.tensors["pooled"][number], origin.conditioning.tensors["pooled"][row])
    assert torch.equal(best(both).latents, torch.cat([best(one).latents, best(two).latents]))


def test_selections_of_other_pipelines_are_not_joined():
    with pytest.raises(ValueError, match="null conditions differ"):
        join([selection(), selection(null=1.0)])
    with pytest.raises(ValueError, match="at least one"):
        join([])


def test_a_choice_by_other_numbers_takes_their_largest():
    chosen = selection(keep=3)
    by = [0.0, 5.0, 1.0, 2.0, 0.0, 7.0, 1.0, 0.0, 0.5]
    assert torch.equal(best(chosen, by).latents, chosen.latents[[1, 5, 6]])
    assert torch.equal(worst(chosen, by).latents, chosen.latents[[0, 4, 7]])
    assert best(chosen, by).prompt_id.tolist() == [0, 1, 2]
    for bad in (by[1:], [*by[:-1], float("nan")]):
        with pytest.raises(ValueError, match="9 numbers"):
            best(chosen, bad)


def test_every_control_chooses_by_its_own_numbers():
    pool = selection(prompts=4, keep=2)
    numbers = {"ours": np.array([0, 1] * 4), "judge": np.array([1, 1, 0, 0, 2, 1, 1, 2])}
    assert torch.equal(chosen_by("ours", pool, numbers, 0).latents, pool.latents[1::2])
    assert torch.equal(chosen_by("worst", pool, numbers, 0).latents, pool.latents[::2])
    by_judge = chosen_by("judge", pool, numbers, 0).latents
    assert torch.equal(by_judge[2:], pool.latents[[4, 7]])
    assert torch.equal(rejected_by("ours", pool, numbers, 0).latents, pool.latents[::2])
    assert torch.equal(rejected_by("worst", pool, numbers, 0).latents, pool.latents[1::2])
    assert torch.equal(rejected_by("judge", pool, numbers, 0).latents[2:], pool.latents[[5, 6]])
    for seed in range(3):  # never the same image on both sides
        sides = [by("random", pool, numbers, seed).latents for by in (chosen_by, rejected_by)]
        assert not (sides[0] == sides[1]).flatten(1).all(1).any()
    drawn = [chosen_by("random", pool, numbers, seed).latents for seed in (0, 0, 1, 2, 3)]
    assert torch.equal(drawn[0], drawn[1]) and any(not torch.equal(drawn[0], other) for other in drawn[2:])


def test_what_a_control_trains_on_is_its_choice_or_all_images_with_its_numbers():
    pool = selection(prompts=3, keep=2)
    numbers = {"ours": np.arange(6.0), "judge": np.array([2.0, 1.0, 0.0, 1.0, 2.0, 0.0])}
    for weighting in ("advantage", "verdict"):
        all_images, rejected = material("judge", pool, numbers, FinetuningSettings(weighting=weighting))
        assert rejected is None and torch.equal(all_images.latents, pool.latents)
        np.testing.assert_allclose(all_images.candidates.score, numbers["judge"], atol=1e-6)
    by_chance = [
        material("random", pool, numbers, FinetuningSettings(weighting="verdict", seed=seed))[0].candidates.score
        for seed in (0, 5)
    ]
    np.testing.assert_array_equal(*by_chance, err_msg="trainings of one control have the same numbers")
    assert pool.candidates.score.tolist() == [-float(i) for i in range(6)]
    for preference in ("none", "dpo"):
        best_images, rejected = material("judge", pool, numbers, FinetuningSettings(preference=preference))
        assert torch.equal(best_images.latents, pool.latents[[0, 3, 4]])
        assert rejected is None if preference == "none" else torch.equal(rejected.latents, pool.latents[[1, 2, 5]])
    signs = [scored_by(control, pool, numbers, 0).candidates.score.to_numpy() for control in ("ours", "worst")]
    np.testing.assert_array_equal(signs[0], -signs[1])


def test_held_out_prompts_are_apart_from_the_others():
    pool = selection(prompts=2 * HELD_OUT, keep=2)
    kept, held = (without_held_out(pool, part) for part in (False, True))
    assert held.prompt_id.unique().tolist() == [HELD_OUT - 1, 2 * HELD_OUT - 1]
    assert len(kept.latents) + len(held.latents) == len(pool.latents)
    assert not set(kept.prompt_id.tolist()) & set(held.prompt_id.tolist())
    assert int(held.candidates["rank"].notna().sum()) == len(held.latents)
    assert torch.equal(best(held).latents, pool.latents[[2 * HELD_OUT - 2, 4 * HELD_OUT - 2]])


def test_a_merged_lora_draws_what_diffusers_draws_with_it_loaded(tmp_path):
    pipeline = StableDiffusion3Pipeline.from_pretrained(base_pipeline())
    field = PipelineField(pipeline, ["a red circle"])
    noise, labels, times = field.noise([1, 2]), torch.zeros(2, dtype=torch.long), field.times(4)
    chosen = replace(
        selection(prompts=1), latents=torch.randn(2, *field.shape), conditioning=field.conditioning,
    )  # fmt: skip
    settings = FinetuningSettings(steps=3, batch=2, learning_rate=2e-2, warmup=0, averaging=0.0, rank=2)
    lora = finetune(pipeline, chosen, output=tmp_path, settings=settings).folder

    def drawn(one):
        return sample(PipelineField(one, ["a red circle"]), noise, labels, times=times, guidance=2.0)

    before = drawn(pipeline)
    merged = drawn(pipeline_with([lora]))
    pipeline.load_lora_weights(lora)
    torch.testing.assert_close(merged, drawn(pipeline), rtol=1e-3, atol=1e-3)
    assert (merged - before).abs().max() > 1e-2
    torch.testing.assert_close(drawn(pipeline_with([])), before, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_a_model_of_several_loras_is_the_weighted_mean_of_what_they_add(tmp_path, monkeypatch):
    pipeline = StableDiffusion3Pipeline.from_pretrained(base_pipeline())
    field = PipelineField(pipeline, ["a red circle"])
    chosen = replace(
        selection(prompts=1), latents=torch.randn(2, *field.shape), conditioning=field.conditioning,
    )  # fmt: skip
    shared = {"steps": 3, "batch": 2, "learning_rate": 2e-2, "warmup": 0, "averaging": 0.0}
    loras = [
        finetune(
            pipeline, chosen, output=tmp_path / str(seed), settings=FinetuningSettings(**shared, seed=seed, **kind)
        ).folder
        for seed, kind in enumerate(({"rank": 2}, {"rank": 4, "alpha": 2}))
    ]
    base, *alone = (queries(pipeline_with(each).transformer) for each in ([], *([lora] for lora in loras)))
    assert all((one - base).norm() > 1e-2 for one in alone)
    for weight, parts in ((1.3, [0, 1]), (1.0, [0, 1]), (1.3, [1])):
        found = queries(pipeline_with([loras[i] for i in parts], weight).transformer)
        expected = base + weight * sum(alone[i] - base for i in parts) / len(parts)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    monkeypatch.setattr(experiments, "folder_of", lambda kind, unit: loras[unit["seed"]])
    units = [{"seed": 0}, {"seed": 1}]
    whole, *others = (weights(pipeline_with(part).transformer) for part in ([], loras[:1], loras[1:]))
    changes = [each - whole for each in others]
    cosine = float(changes[0] @ changes[1] / changes[0].norm() / changes[1].norm())
    assert experiments.agreement(units) == pytest.approx(cosine, rel=1e-3)
    assert experiments.agreement([*units, units[0]]) == pytest.approx((1 + 2 * cosine) / 3, rel=1e-3)
    assert np.isnan(experiments.agreement(units[:1]))
    found = weights(experiments.loaded(model(*units, weight=1.3), "cpu").transformer)
    torch.testing.assert_close(found, whole + 1.3 * sum(changes) / 2, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(weights(experiments.loaded(BASE_MODEL, "cpu").transformer), whole)
    for name, lora in zip("ab", loras, strict=True):
        pipeline.load_lora_weights(lora, adapter_name=name)
    pipeline.set_adapters(["a", "b"], [0.65, 0.65])
    noise, labels, times = field.noise([1, 2]), torch.zeros(2, dtype=torch.long), field.times(4)
    own, merged = (
        sample(PipelineField(one, ["a red circle"]), noise, labels, times=times, guidance=2.0)
        for one in (pipeline, pipeline_with(loras, 1.3))
    )
    torch.testing.assert_close(merged, own, rtol=1e-3, atol=1e-3)


def weights(transformer, kind=""):
    """All weights of a kind in one vector."""
    return torch.cat([value.flatten() for name, value in transformer.state_dict().items() if kind in name])


def queries(transformer):
    """All weights that make queries, which every adapter changes."""
    return weights(transformer, "to_q.weight")


def test_a_second_pool_is_drawn_with_the_lora_loaded_and_learned_from_with_it_unloaded(tmp_path):
    pipe = StableDiffusion3Pipeline.from_pretrained(base_pipeline())
    settings = replace(PRESETS["advantage"], steps=3, batch=4, warmup=0, averaging=0.0, rank=2)
    recipe = {"candidates": 2, "keep": 2, "guidance": 1.0, "steps": 3}
    everything = select(pipe, ["a red circle", "a blue square"], output=tmp_path / "all", **recipe)
    first = finetune(pipe, everything, output=tmp_path / "lora", settings=settings)
    weights = fingerprint(pipe.transformer)
    pipe.load_lora_weights(first.folder)
    more = select(pipe, ["a green cross", "a red square"], output=tmp_path / "more", seed=4, **recipe)
    pipe.unload_lora_weights()
    assert fingerprint(pipe.transformer) == weights
    own = select(pipe, ["a green cross", "a red square"], output=tmp_path / "base", seed=4, **recipe)
    assert (more.latents - own.latents).abs().max() > 1e-3
    second = finetune(pipe, more, output=tmp_path / "lora_2", settings=settings, start=first.folder)
    base, one, two = (queries(pipeline_with(each).transformer) for each in ([], [first.folder], [second.folder]))
    assert 0 < (two - one).norm() < (two - base).norm(), "the second goes on from the first"


def evaluation(values):
    """values: by category, a row a prompt, a column an image."""
    rows = [
        {"category": category, "prompt": f"{category} {i}", "seed": 42 + j, "aligned": value, "score": value}
        for category, table in values.items()
        for i, row in enumerate(table)
        for j, value in enumerate(row)
    ]
    return Evaluation(pd.DataFrame(rows), None)


def test_seeds_of_training_are_averaged_image_by_image():
    base = evaluation({"color": [[0, 0], [1, 1]], "shape": [[0, 1]]})
    one = evaluation({"color": [[1, 1], [1, 1]], "shape": [[1, 1]]})
    two = evaluation({"color": [[0, 0], [1, 1]], "shape": [[0, 1]]})
    assert by_image([one, two]).to_numpy().tolist() == [[0.5, 0.5], [1.0, 1.0], [0.5, 1.0]]
    assert by_image(one).columns.tolist() == [42, 43]
    found = compare(base, [one, two])
    assert found.value.to_dict() == pytest.approx({"color": 0.25, "shape": 0.25, "mean": 0.25})
    with pytest.raises(ValueError, match="other prompts or seeds"):
        compare(base, [one, evaluation({"color": [[0, 0], [1, 1]], "shape": [[0, 1, 1]]})])


def test_the_interval_of_a_mean_is_that_of_the_central_limit():
    random = np.random.default_rng(0)
    values = {"color": random.normal(0, 1, 400), "shape": random.normal(0, 2, 400)}
    index = [(category, str(i)) for category, part in values.items() for i in range(len(part))]
    series = pd.Series(np.concatenate(list(values.values())), pd.MultiIndex.from_tuples(index, names=["category", "p"]))
    found = mean_of_categories(series, 0).loc["mean"]
    half = 1.96 * np.sqrt((1 + 4) / 400) / 2
    assert found.high - found.low == pytest.approx(2 * half, rel=0.12)
    assert found.value == pytest.approx(np.mean([part.mean() for part in values.values()]))


def test_noises_that_all_prompts_share_widen_the_interval():
    random = np.random.default_rng(2)
    prompts, noises = random.normal(0, 1, (2, 60, 1)), random.normal(0, 1, (1, 1, 40))
    found = mean_of_categories(by_image(evaluation(dict(zip(("color", "shape"), prompts + noises, strict=True)))), 0)
    half = 1.96 * np.sqrt(prompts.var(1).mean() / 60 / 2 + noises.var() / 40)
    assert found.high["mean"] - found.low["mean"] == pytest.approx(2 * half, rel=0.1)
    assert found.high["color"] - found.low["color"] > 3.92 * np.sqrt(noises.var() / 40)


POOL = Pool(6, 4, 1, 1.0, 8, 1000, "cpu", False, "float32")


def seeds_of(pool):
    """Every seed that a pool draws from, of all categories."""
    found = []
    for i, category in enumerate(CATEGORIES):
        start = pool.seed_after(i)
        found += range(start, start + len(pool.texts(category)) * pool.candidates)
    return found


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_training_goes_from_round_to_round_and_sees_no_prompt_and_no_noise_twice(parts):
    units = control_units(replace(POOL, parts=parts), {"steps": 3}, [0, 1, 2])
    first = {"random", "ours", "judge", "worst", "clip_score", "published_path"}
    assert set(units) == first | {round_name("ours", i + 1) for i in range(parts)}
    assert all([unit["seed"] for unit in each] == [0, 1, 2] for each in units.values())
    for name, each in units.items():
        control, number = control_and_round(name)
        for i, unit in enumerate(each):
            whole = chain(unit)
            assert len(whole) == number and round_name(control, number) == name
            assert {part["control"] for part in whole} == {control}
            assert [part["start"] for part in whole] == [None, *whole[:-1]]
            assert all(part["pool"]["start"] == part["start"] for part in whole)
            assert whole == [units[round_name(control, j + 1)][i] for j in range(len(whole))]
            assert all(not part["pool"]["along_path"] for part in whole[1:])
    firsts = [chain(unit)[0]["pool"] for each in units.values() for unit in each]
    assert all(pool == firsts[0] for pool in firsts), "all controls choose from the same first pool"
    assert firsts[0]["along_path"]
    pools = [Pool(**unit["pool"]) for unit in chain(units[round_name("ours", parts)][0])]
    for category in CATEGORIES:
        assert sorted(text for pool in pools for text in pool.texts(category)) == sorted(POOL.texts(category))
    seeds = [seed for pool in pools for seed in seeds_of(pool)]
    assert min(seeds) == 1000 and len(set(seeds)) == len(seeds) == len(CATEGORIES) * 6 * 4


def test_the_pools_that_models_can_draw_are_drawn_before_trainings_on_them(monkeypatch):
    units, done = control_units(replace(POOL, parts=2), {}, [0]), []

    def drawn(pools, workers):
        assert all(pool.start is None or digest(pool.start) in done for pool in pools)
        done.extend(digest(asdict(pool)) for pool in pools)

    def trained(function, asked, *_):
        assert all(digest(unit["pool"]) in done for unit in asked)
        done.extend(digest(unit) for unit in asked)
        return [{"unit": unit} for unit in asked]

    monkeypatch.setattr(experiments, "draw_pools", drawn)
    monkeypatch.setattr(experiments, "run", trained)
    found = tuned(units, 1)
    assert {name: [each["unit"] for each in runs] for name, runs in found.items()} == units
    pools = {digest(unit["pool"]) for each in units.values() for unit in each}
    assert pools <= set(done) and len(pools) == 1 + 1  # the first, and the second of ours


def test_a_model_is_evaluated_with_its_trainings_and_weight_in_the_order_asked_for(monkeypatch):
    monkeypatch.setattr(experiments, "run", lambda function, asked, *_: asked)
    one, two = control_units(POOL, {}, [0, 1])["ours"]
    models = {"ours": model(one, two, weight=1.5), "base": BASE_MODEL, "one": model(two)}
    found = experiments.evaluated(models, {"n_prompts": 3}, POOL, 1)
    assert list(found) == ["ours", "base", "one"]
    assert found["ours"]["trainings"] == [one, two] and found["ours"]["weight"] == 1.5
    assert found["base"]["trainings"] == [] and found["one"] == found["base"] | {"trainings": [two]}
    assert {"n_prompts": 3, "device": "cpu", "compiled": False, "precision": "float32"}.items() <= found["one"].items()


def test_a_pool_has_the_images_and_scores_of_full_selection_for_less(tmp_path):
    pipeline = StableDiffusion3Pipeline.from_pretrained(base_pipeline())
    recipe = {"candidates": 4, "keep": 4, "guidance": 1.0, "steps": 4, "seed": 3}
    found = {}
    for along_path, evaluations in ((True, 2 * 4 + 2 * 2 * 5), (False, 4 + 2 * 2 * 5)):
        asked = replace(POOL, noises=2, along_path=along_path).choosing()
        chosen = select(pipeline, ["a red circle"], output=tmp_path / str(len(found)), **recipe, **asked)
        rows = kept_rows(chosen.candidates)
        found[along_path] = rows.set_index("seed").assign(place=range(4)).sort_index(), chosen.latents
        assert rows.evaluations.tolist() == [evaluations] * 4
    (whole, images), (table, latents) = found.values()
    torch.testing.assert_close(latents[table.place.tolist()], images[whole.place.tolist()], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(table.score, whole.score, rtol=1e-3)
    assert whole.path.notna().all() and table.path.isna().all()


def test_prompts_are_not_dealt_into_parts_that_can_hold_none_out():
    for parts in (0, 4):
        with pytest.raises(ValueError, match=f"6 prompts a category cannot be dealt into {parts} parts"):
            replace(POOL, parts=parts)
    fewest = selection(prompts=2 * len(CATEGORIES))
    assert len(without_held_out(fewest, True).latents) and len(without_held_out(fewest, False).latents)


def test_settings_that_make_no_sense_are_refused_before_anything_is_drawn():
    with pytest.raises(ValueError, match="steps is 0"):
        control_units(POOL, {"steps": 0}, [0])
    with pytest.raises(ValueError, match="failing is 0"):
        control_units(POOL, {"failing": 0.0}, [0])
    for seeds in ([], [0, 1, 0]):
        with pytest.raises(ValueError, match="seeds of training are .* each once"):
            control_units(POOL, {}, seeds)
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="adapter weight is .* above 0"):
            model({"seed": 0}, weight=weight)


def test_later_rounds_are_told_by_what_they_add_to_the_one_before():
    values = {"base": [[0, 0]], "ours": [[1, 0]], "ours_round_2": [[1, 1]], "ours_round_3": [[1, 0]], "judge": [[1, 1]]}
    values["judge_round_2"] = [[0, 1]]
    evaluations = {name: evaluation({"color": each, "shape": each}) for name, each in values.items()}
    rows = [("base", 0.0), ("ours", 0.1), ("ours_round_2", 0.3), ("ours_round_3", 0.4)]
    measured = pd.DataFrame([{"measure": "recall", "series": name, "change": value} for name, value in rows])
    found = tables.later_rounds(evaluations, measured, 0)
    assert found.value.to_dict() == {"ours_round_2": 0.5, "ours_round_3": -0.5, "judge_round_2": -0.5}
    assert (found.low <= found.value).all() and (found.value <= found.high).all()
    assert found["recall, less base"].tolist()[:2] == [0.3, 0.4] and found["recall, less base"].isna().sum() == 1
    assert tables.later_rounds({"base": evaluations["base"]}, measured, 0).empty


def test_gains_are_told_noise_by_noise():
    base = evaluation({"color": [[0, 1], [1, 0]], "shape": [[0, 0]]})
    ours = evaluation({"color": [[1, 1], [1, 1]], "shape": [[0, 1]]})
    found = tables.by_noise({"base": base, "ours": ours}, "ours")
    assert found.index.tolist() == [42, 43] and found.base.tolist() == [0.25, 0.25]
    assert found.ours.tolist() == [0.5, 1.0] and found.gain.tolist() == [0.25, 0.75]


def test_gains_are_told_by_what_the_base_model_has_seen():
    texts = {"color 0": "a red triangle and a blue square", "color 1": "a red square and a blue circle"}
    texts |= {"shape 0": "a small square and a large circle"}
    base = evaluation({"color": [[0, 1], [0, 0]], "shape": [[1, 1]]})
    ours = evaluation({"color": [[0, 0], [1, 1]], "shape": [[1, 0]]})
    named = {
        name: Evaluation(each.images.replace({"prompt": texts}), None)
        for name, each in (("base", base), ("ours", ours))
    }
    found = tables.by_novelty(named, "ours", 0)
    assert found.loc["a pair never seen", ["prompts", "base", "value"]].tolist() == [1, 0.5, -0.5]
    assert found.loc["pairs seen in training", ["prompts", "base", "value"]].tolist() == [2, 0.5, 0.25]
    assert (found.low <= found.value).all() and (found.value <= found.high).all()
    seen_only = {name: Evaluation(each.images.query("category == 'shape'"), None) for name, each in named.items()}
    assert tables.by_novelty(seen_only, "ours", 0).index.tolist() == ["pairs seen in training"]


def test_the_share_of_the_ceiling_is_the_ratio_of_gains():
    random = np.random.default_rng(1)
    base = (random.random((60, 4)) < 0.3).astype(float)
    half, most = base.copy(), base.copy()
    half[:15], most[:30] = 1, 1
    evaluations = {
        name: evaluation({"color": table, "shape": table}) for name, table in
        (("base", base), ("ours", half), ("judge", most))
    }  # fmt: skip
    found = tables.share_of_ceiling(evaluations, "ours", 0)
    expected = (half - base).mean() / (most - base).mean()
    assert found["value"] == pytest.approx(expected) and found["low"] < expected < found["high"]
    assert tables.share_of_ceiling(evaluations, "judge", 0) == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_quality_is_told_with_its_change_from_the_base_model():
    values, generator = {"color": [[1, 0, 1]] * 8}, torch.Generator().manual_seed(3)

    def one(shift):
        return Evaluation(evaluation(values).images, torch.randn(24, 4, generator=generator) + shift)

    scenes, models = torch.randn(24, 4, generator=generator), {"base": one(0.0), "ours": one(0.7)}
    found = tables.quality_table(models, scenes, 0, resamples=20).set_index(["series", "measure"])
    ours, base = found.loc["ours"], found.loc["base"]
    assert set(ours.index) == {"frechet_distance", "cmmd", "precision", "recall", "diversity"}
    assert (ours.low <= ours.high).all() and (ours.change_low <= ours.change_high).all()
    np.testing.assert_allclose(ours.change, ours.value - base.value)
    assert (base[["change", "change_low", "change_high"]] == 0).all(axis=None)
    for name, each in models.items():
        distance = rfmi.quality.frechet_distance(scenes, each.features)
        assert found.value[name, "frechet_distance"] == pytest.approx(distance)


def test_a_table_says_what_every_method_needs():
    found = tables.alignment_by_method(
        {name: evaluation({"color": [[1, 0], [1, 1]], "shape": [[0, 0]]}) for name in ("base", "clip_score")}, 0
    )
    shown = tables.as_shown(found)
    assert shown.needs.to_dict() == {"base": "nothing", "clip_score": "an auxiliary model"}
    assert tables.needs("judge, best alone") == tables.needs("judge_round_2") == "the truth"
    assert list(shown.columns) == ["needs", "color", "shape", "mean"]
    assert shown.color["base"].startswith("75.0%") and shown["mean"]["base"].startswith("37.5%")


def test_the_alignment_of_choices_is_counted_by_category():
    pool = selection(prompts=2, keep=2, texts=["a red circle", "two blue squares"])
    numbers = {"ours": np.array([1, 0, 0, 1]), "aligned": np.array([1.0, 0.0, 1.0, 0.0]), "judge": np.zeros(4)}
    found = tables.chosen_alignment(pool, numbers, ["ours", "worst"], 0).set_index(["series", "category"]).value
    assert found["ours"].to_dict() == {"color": 1.0, "numeracy": 0.0, "mean": 0.5}
    assert found["worst"].to_dict() == {"color": 0.0, "numeracy": 1.0, "mean": 0.5}
