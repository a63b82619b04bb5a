"""What the moving average of the weights is judged by while it trains: images of prompts that were held out.

No judge and no other model: the pipeline's own re-noising score, or the loss of the training, at the same noise
whenever it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from diffusers import DiffusionPipeline
from torch import Tensor, nn

from rfmi.finetuning.adapter import values_of_lora
from rfmi.finetuning.pairs import draw_batch, training_pairs
from rfmi.finetuning.settings import FinetuningSettings
from rfmi.finetuning.state import FREE
from rfmi.finetuning.training import loss_on
from rfmi.pipelines import PipelineField, family_of
from rfmi.scoring import Method, re_noising_scores
from rfmi.scoring.methods import HIGH_NOISE
from rfmi.selection import Selection
from lab.study.cache import digest

Validation = Callable[[nn.Module], float]


def held_out_information(
    field: PipelineField,
    x: Tensor,
    labels: Tensor,
    sigmas: Sequence[float] = HIGH_NOISE,
    seed: int = 0,
    *,
    noises: int = 1,
    form: str = "re_noising",
) -> Validation:
    """A validation for `finetune`: the mean score of held-out latents x (n, C, h, w) for the prompts `labels` (n,).

    field: of the very pipeline that is tuned; sigmas: noise levels, looked at alike, or () for the exact integral in
    nats; noises: draws at each; form: `re_noising`, which a null branch that gets worse raises too, or
    `conditional_loss`, which does not look at it. Raises ValueError for latents of none or of another number.
    """
    if not len(x) or len(x) != len(labels):
        raise ValueError(f"{len(x)} latents for {len(labels)} labels are held out; give at least one, one label each")
    against = "nothing" if form == "conditional_loss" else "null"
    method = Method(form, tuple(sigmas), noises=noises, against=against)

    def information(transformer: nn.Module) -> float:
        _check_pipeline(field.pipeline, transformer)
        return float(re_noising_scores(field, x, labels, method, seed=seed).values.mean())

    return _identified(information, [asdict(method), seed, x.double().sum(), labels, list(field.prompts)])


def held_out_loss(
    pipeline: DiffusionPipeline,
    held_out: Selection,
    settings: FinetuningSettings,
    rejected: Selection | Tensor | None = None,
    *,
    start: str | Path | None = None,
    rounds: int = 1,
) -> Validation:
    """A validation for `finetune`: the loss of `settings`, its sign turned, of pairs that are not trained on.

    Every pair is looked at `rounds` times, each time at its own noise and level, the same whenever it is called. start:
    the LoRA that `finetune` goes on from, where it does. Raises ValueError for pairs that could not be trained on, or
    for fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; look at every held-out pair at least once")
    family, pairs = family_of(pipeline), training_pairs(held_out, settings, rejected)
    whole = replace(settings, batch=len(pairs.latents), gradient_accumulation=1)

    def loss(transformer: nn.Module) -> float:
        _check_pipeline(pipeline, transformer)
        anchor = None if start is None else values_of_lora(pipeline, start)
        loss_of, values = loss_on(transformer, transformer, family, pairs, whole, anchor), []
        for round_ in range(rounds):
            batch = draw_batch(pairs, whole, round_)
            for first in range(0, len(pairs.latents), settings.batch):
                part = batch.part(slice(first, first + settings.batch))
                values.append(float(loss_of(part)) * len(part.x))
        return -sum(values) / (rounds * len(pairs.latents))

    facts = {name: value for name, value in asdict(settings).items() if name not in FREE}
    return _identified(loss, [facts, pairs.digest(), rounds])


def _identified(validation: Validation, facts: list) -> Validation:
    """With what tells it from another one, for a folder that was validated by it."""
    validation.identity = digest(facts)[:16]
    return validation


def _check_pipeline(pipeline: DiffusionPipeline, transformer: nn.Module) -> None:
    if transformer is not pipeline.transformer:
        raise ValueError("the validation is of another pipeline than the one that is tuned; make it of that one")
