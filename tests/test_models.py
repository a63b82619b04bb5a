"""Pipelines of the notebooks' units: what LoRAs add is merged as diffusers itself would load it."""

from copy import deepcopy
from dataclasses import replace

import pandas as pd
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from lab import study
from lab.study.models import transformer_alone
from lab.worlds import load_world
from rfmi.finetuning import FinetuningSettings, finetune
from rfmi.pipelines import PipelineField
from rfmi.sampling import sample
from rfmi.selection import Selection

HERE = load_world("shapes")
PROMPTS = ["a red circle", "a blue square"]


@pytest.fixture(scope="module")
def pipeline():
    return HERE.pipeline()


@pytest.fixture(scope="module")
def loras(pipeline, tmp_path_factory):
    """Two, of other ranks and scales, on one selection."""
    field = PipelineField(pipeline, PROMPTS)
    rows = [0, 0, 1, 1]
    table = pd.DataFrame(
        {"prompt_id": rows, "prompt": [PROMPTS[row] for row in rows], "seed": range(4), "score": [1.0, 0.0, 0.0, 1.0],
         "rank": [0.0, 1.0, 1.0, 0.0]}
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("loras")
    latents = torch.randn(4, *field.shape, generator=torch.Generator().manual_seed(0))
    chosen = Selection(folder, table, latents, torch.tensor(rows), field.conditioning)
    shared = FinetuningSettings(steps=3, batch=2, learning_rate=2e-2, warmup=0, averaging=0.0, weighting="advantage")
    kinds = ({"rank": 2}, {"rank": 4, "alpha": 2})
    return [
        finetune(pipeline, chosen, output=folder / str(seed), settings=replace(shared, seed=seed, **kind)).folder
        for seed, kind in enumerate(kinds)
    ]


def weights(loras=(), weight=1.0):
    """All weights of the merged transformer in one vector."""
    transformer = study.pipeline("", HERE, loras=loras, weight=weight).transformer
    return torch.cat([value.flatten() for value in transformer.state_dict().values()])


def test_a_model_of_several_loras_is_the_weighted_mean_of_what_they_add(loras):
    base, *alone = (weights(each) for each in ([], *([lora] for lora in loras)))
    assert all((one - base).norm() > 1e-2 for one in alone)
    for weight, parts in ((1.3, [0, 1]), (1.0, [0, 1]), (1.3, [1])):
        expected = base + weight * sum(alone[i] - base for i in parts) / len(parts)
        torch.testing.assert_close(weights([loras[i] for i in parts], weight), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(weights(), base), "the plain pipeline stays as it is"


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_merged_loras_draw_what_diffusers_draws_with_them_loaded(pipeline, loras):
    field = PipelineField(pipeline, PROMPTS)
    noise, labels, times = field.noise([1, 2]), torch.arange(2), field.times(4)

    def drawn(one):
        return sample(PipelineField(one, PROMPTS), noise, labels, times=times, guidance=2.0)

    before, merged = drawn(pipeline), drawn(study.pipeline("", HERE, loras=loras, weight=1.3))
    for name, lora in zip("ab", loras, strict=True):
        pipeline.load_lora_weights(lora, adapter_name=name)
    try:
        pipeline.set_adapters(["a", "b"], [0.65, 0.65])
        torch.testing.assert_close(merged, drawn(pipeline), rtol=1e-3, atol=1e-3)
    finally:
        pipeline.unload_lora_weights()
    assert (merged - before).abs().max() > 1e-2


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight, tmp_path):
    with pytest.raises(ValueError, match="weight of the LoRAs is .* above 0"):
        study.pipeline("", HERE, loras=[tmp_path], weight=weight)


def test_of_a_named_model_nothing_but_the_transformer_is_loaded_to_merge_into(loras, tmp_path, pipeline):
    pipeline.save_pretrained(tmp_path / "model")
    alone = transformer_alone(str(tmp_path / "model"), HERE, "float32")
    assert {name for name, part in alone.components.items() if part is not None} == {"transformer", "scheduler"}
    merged = study.pipeline(str(tmp_path / "model"), HERE, loras=loras, weight=1.3)
    plain = study.pipeline(str(tmp_path / "model"), HERE)
    assert merged.vae is plain.vae and merged.text_encoder is plain.text_encoder
    for name, value in study.pipeline("", HERE, loras=loras, weight=1.3).transformer.state_dict().items():
        assert torch.equal(value, merged.transformer.state_dict()[name])


def test_other_weights_have_another_name(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "one")
    with torch.no_grad():
        changed = deepcopy(pipeline.transformer)
        next(changed.parameters()).mul_(1.1)
    StableDiffusion3Pipeline(**pipeline.components | {"transformer": changed}).save_pretrained(tmp_path / "other")
    names = [study.weights_of(str(tmp_path / name), HERE) for name in ("one", "other")]
    assert names[0] == study.weights_of("", HERE) != names[1]
