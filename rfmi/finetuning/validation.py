"""What the moving average of the weights is judged by while it trains: images of prompts that were held out.

No judge and no other model: the pipeline's own re-noising score, at the same noise in every round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from rfmi.finetuning.adapter import without_adapter
from rfmi.finetuning.losses import preference_losses
from rfmi.pipelines import PipelineField
from rfmi.scoring import Method, re_noising_scores
from rfmi.scoring.methods import HIGH_NOISE

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
        _check_field(field, transformer)
        return float(re_noising_scores(field, x, labels, method, seed=seed).values.mean())

    return information


def held_out_preference(
    field: PipelineField,
    chosen: Tensor,
    rejected: Tensor,
    labels: Tensor,
    sigmas: Sequence[float] = HIGH_NOISE,
    seed: int = 0,
    *,
    noises: int = 1,
    beta: float,
) -> Validation:
    """A validation for `finetune` with the preference `dpo`: the mean of log sigmoid(beta/2 gain) over held-out pairs
    of latents chosen and rejected (n, C, h, w) of the prompts `labels` (n,), the preference's loss with its sign turned
    (arXiv 2311.12908); -log 2 where nothing is learned yet.

    The gain of a pair, on the mean squared error of an element as in training, is its mean over sigmas and `noises`
    draws. Raises ValueError for pairs of none, or of another number or shape.
    """
    if not len(chosen) or chosen.shape != rejected.shape or len(chosen) != len(labels):
        raise ValueError(
            f"chosen images {tuple(chosen.shape)} and rejected ones {tuple(rejected.shape)} are held out for "
            f"{len(labels)} labels; give at least one pair, both of one shape, one label each"
        )
    method = Method("conditional_loss", tuple(sigmas), noises=noises, against="nothing")
    base: list[tuple[Tensor, ...]] = []

    def errors() -> tuple[Tensor, ...]:
        found = (re_noising_scores(field, x, labels, method, seed=seed) for x in (chosen, rejected))
        return tuple(-scores.values / chosen[0].numel() for scores in found)

    def preference(transformer: nn.Module) -> float:
        _check_field(field, transformer)
        if not base:
            with without_adapter(transformer):
                base.append(errors())
        better, worse = zip(errors(), base[0], strict=True)
        return -float(preference_losses(better, worse, beta).mean())

    return preference


def _check_field(field: PipelineField, transformer: nn.Module) -> None:
    if transformer is not field.pipeline.transformer:
        raise ValueError("the field is of another pipeline than the one that is tuned; make it of that one")
