"""`rfmi.score`: any images, any prompts, any rectified-flow pipeline."""

from collections.abc import Sequence

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from rfmi.estimators import log_ratios
from rfmi.pipelines import PipelineField
from rfmi.scoring.methods import DEFAULT_METHOD, Method, method_named
from rfmi.scoring.other_prompts import nearest_prompts
from rfmi.scoring.re_noising import Scores, re_noising_scores

CHANGE_OF_VARIABLES = "change_of_variables"
ODE_STEPS, PROBES, LATEST = 16, 1, 0.98


def score(
    pipeline: DiffusionPipeline,
    images: Tensor,
    prompts: Sequence[str],
    *,
    method: str | Method = DEFAULT_METHOD,
    seed: int = 0,
    negative_prompt: str = "",
    device: torch.device | str | None = None,
    micro_batch: int | None = None,
) -> Scores:
    """How much of its prompt each image carries, by the model itself: images (n, 3, height, width) in [0, 1] against
    `prompts` (n,).

    method: a `Method` or the name of one in `rfmi.scoring.METHODS`, or "change_of_variables", which follows the
    sampling ODE backwards from each image (RFMI, arXiv 2503.14358; 2 x 8 x 16 evaluations an image). Exact methods are
    in nats; others only rank images of one prompt. seed: of the noise, common to all images. A method against other
    prompts takes them from `prompts`. Raises ValueError for an unknown method, for images of another number, size or
    range, and for a pipeline that is no rectified flow.
    """
    if isinstance(prompts, str):
        raise ValueError(f"prompts is {prompts!r}; give a list, one prompt an image")
    if len(images) != len(prompts):
        raise ValueError(f"there are {len(images)} images and {len(prompts)} prompts; give one prompt an image")
    chosen = None if method == CHANGE_OF_VARIABLES else method_named(method)
    distinct = list(dict.fromkeys(prompts))
    height, width = images.shape[-2:]
    field = PipelineField(
        pipeline,
        distinct,
        negative_prompt=negative_prompt,
        height=height,
        width=width,
        device=device,
        micro_batch=micro_batch,
    )
    labels = torch.tensor([distinct.index(prompt) for prompt in prompts])
    x = field.encode(images)
    if chosen is None:
        return _along_the_ode(field, x, labels, seed)
    others = nearest_prompts(field)[labels] if chosen.against == "prompts" else None
    return re_noising_scores(field, x, labels, chosen, seed=seed, others=others)


def _along_the_ode(field: PipelineField, x: Tensor, labels: Tensor, seed: int) -> Scores:
    """The exact form with Hutchinson's divergence; its standard error is not known from one probe."""
    before, generator = field.evaluations, torch.Generator().manual_seed(seed)
    found = [
        log_ratios(field, x[part], labels[part], steps=ODE_STEPS, t_max=LATEST, probes=PROBES, generator=generator)[0]
        for part in torch.arange(len(x)).split(16)
    ]
    values = torch.cat(found)
    return Scores(values, torch.full_like(values, torch.nan), field.evaluations - before)
