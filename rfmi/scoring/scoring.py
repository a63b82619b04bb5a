"""`rfmi.score`: any images, any prompts, any rectified-flow pipeline."""

from collections.abc import Sequence

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from rfmi.pipelines import PipelineField
from rfmi.scoring.methods import DEFAULT_METHOD, Method, method_named
from rfmi.scoring.re_noising import Scores, check_numbers, nearest_prompts, re_noising_scores


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
    """How much of its prompt each image carries, by the model itself.

    pipeline: its null branch is what the prompt is held against.
    images: (n, 3, height, width) in [0, 1].
    prompts: (n,), one an image; a method against other prompts takes them from here.
    method: a `Method` or the name of one in `rfmi.scoring.METHODS`. Exact ones are in nats (point-wise I-MMSE; RFMI,
        arXiv 2503.14358); others only rank images of one prompt.
    seed: of the noise, common to all images.
    negative_prompt, device, micro_batch: of `PipelineField`.
    Raises ValueError for an unknown method, for images of another number, size or range, and for a pipeline that is no
    rectified flow; FloatingPointError for a score that is no number.
    """
    if isinstance(prompts, str):
        raise ValueError(f"prompts is {prompts!r}; give a list, one prompt an image")
    if len(images) != len(prompts):
        raise ValueError(f"there are {len(images)} images and {len(prompts)} prompts; give one prompt an image")
    chosen = method_named(method)
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
    others = nearest_prompts(field)[labels] if chosen.against == "prompts" else None
    scores = re_noising_scores(field, x, labels, chosen, seed=seed, others=others)
    check_numbers(scores.values, "an image")
    return scores
