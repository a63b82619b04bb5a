"""What the moving average of the weights is judged by while it trains: information on pairs that were held out.

No judge and no other model: the pipeline's own re-noising score, at the same noise in every round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

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
        if transformer is not field.pipeline.transformer:
            raise ValueError("the field is of another pipeline than the one that is tuned; make it of that one")
        return float(re_noising_scores(field, x, labels, method, seed=seed).values.mean())

    return information
