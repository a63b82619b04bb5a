"""Scores of any sample, by adding noise to it and asking the field for the way back.

With x_t = (1 - t) eps + t x and v = x - eps, the error of a condition is e(.) = ||v - u(x_t, t | .)||^2, and

    S(.) = sum over levels j of w_j  mean over eps of  e(.)

is -log p(x|.) up to a constant where w_j is a quadrature rule times t/(1-t), by the bound of the likelihood that
diffusion models train on (Kingma et al. 2021, arXiv 2107.00630); S(null) - S(y) is then the point-wise information
log p(x|y)/p(x) (`rfmi.estimators`). Other weights rank by another mixture of noise levels and are no nats.
`rfmi.scoring.methods` says how scores are made of S.

Levels and noises are functions of the seed alone, common to all samples and prompts: a sample's score does not depend
on what is scored beside it, and what the noise adds to all candidates of a prompt alike does not reach their order.
Noises come in pairs, eps and -eps, which takes out of the mean what is odd in eps: nothing more to evaluate, and less
variance. The first noises of many are those of few.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor
from torch.nn import functional

from rfmi.checks import shown, whole_number
from rfmi.fields import guided, interpolate
from rfmi.pipelines import PipelineField, prompt_list
from rfmi.pipelines.images import as_tensor
from rfmi.scoring.methods import DEFAULT_METHOD, Method, method_named

STREAM = 0x52464D49  # added to seeds: the image of a seed starts from that seed's noise, and is not scored by it
Negatives = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Scores:
    """Scores of n samples.

    values: (n,) in float64, the larger the better.
    standard_errors: (n,) from the noise drawn.
    evaluations: of the network, spent on all of them.
    """

    values: Tensor
    standard_errors: Tensor
    evaluations: int


def score(
    pipeline: DiffusionPipeline,
    images: Tensor | np.ndarray | Sequence[Image.Image],
    prompts: Iterable[str],
    *,
    method: str | Method = DEFAULT_METHOD,
    negatives: Negatives | None = None,
    seed: int = 0,
    negative_prompt: str = "",
    height: int | None = None,
    width: int | None = None,
    max_sequence_length: int | None = None,
    device: torch.device | str | None = None,
    micro_batch: int | None = None,
) -> Scores:
    """How much of its prompt each image carries, by the model itself.

    pipeline: its null branch is what the prompt is held against.
    images: as the pipeline gives them, PIL, "np" or "pt": n of one size, in [0, 1] where they are floats.
    prompts: (n,), one an image.
    method: a `Method` or the name of one in `rfmi.scoring.METHODS`. Exact ones are in nats (point-wise I-MMSE; RFMI,
        arXiv 2503.14358); others only rank images of one prompt.
    negatives: for a method against other prompts, those that each prompt is held against; None for the nearest of
        `prompts`.
    seed: of the noise, common to all images.
    height, width: which the images must have; None for whichever they have.
    negative_prompt, max_sequence_length, device, micro_batch: of `PipelineField`.
    Raises ValueError for an unknown method, for images of another number, size or range, for negatives that are too
    few, and for a pipeline that is no rectified flow; FloatingPointError where autoencoder or transformer overflows.
    """
    prompts, images, chosen = prompt_list(prompts), as_tensor(images), method_named(method)
    if len(images) != len(prompts):
        raise ValueError(f"there are {len(images)} images and {len(prompts)} prompts; give one prompt an image")
    seed, distinct = whole_number("seed", seed, 0), list(dict.fromkeys(prompts))
    own = zip((height, width), images.shape[2:], strict=True)
    height, width = (of_images if asked is None else asked for asked, of_images in own)
    options = {"height": height, "width": width, "max_sequence_length": max_sequence_length}
    options |= {"negative_prompt": negative_prompt, "device": device, "micro_batch": micro_batch}
    against = texts_against(distinct, chosen, negatives)
    field, others = field_and_others(pipeline, distinct, chosen, against, **options)
    labels = torch.tensor([distinct.index(prompt) for prompt in prompts])
    others = None if others is None else others[labels]
    scores = re_noising_scores(field, field.encode(images), labels, chosen, seed=seed, others=others)
    check_numbers(scores.values, "an image")
    return scores


def re_noising_scores(
    field: PipelineField,
    x: Tensor,
    labels: Tensor,
    method: Method,
    *,
    seed: int,
    others: Tensor | None = None,
    batch: int = 32,
) -> Scores:
    """The scores of samples for their prompts, by a method that needs no trajectory.

    field: whose errors are taken.
    x, labels: (n, *) samples and (n,) prompts of the field.
    method: which score.
    seed: of the noises.
    others: (n, k) labels of the prompts held against, for a method that asks for them.
    batch: samples at once; it changes nothing but the time.
    Raises ValueError where other prompts are asked for and not given, or the reverse.
    """
    before, (times, _) = field.evaluations, method.times_and_weights()
    options = {"times": times, "noises": method.noises, "seed": seed, "batch": batch}
    errors = re_noising_errors(field, x, method.branches(labels, others), guidance=method.guidance, **options)
    return scores_of(errors, method, field.evaluations - before)


def paired_noise(levels: int, noises: int, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Standard normal eps and its negative in turn: (levels, noises, *shape)."""
    drawn = [torch.randn(levels, *shape, generator=generator) for _ in range((noises + 1) // 2)]
    return torch.stack([signed for eps in drawn for signed in (eps, -eps)][:noises], 1)


@torch.no_grad()
def re_noising_errors(
    field: PipelineField,
    x: Tensor,
    branches: Sequence[Tensor | None],
    *,
    times: Tensor,
    noises: int | range,
    seed: int,
    guidance: float = 1.0,
    batch: int = 32,
) -> Tensor:
    """e(.) of several conditions on the same noises, (branches, n, levels, noises), float64, and last, where guidance
    is not 1, that of the field guided from the second branch to the first.

    x: (n, *) samples. branches: labels (n,), or None for the null branch.
    noises: how many, in turn eps and -eps, or which of them, from a pair on.
    """
    which = range(noises) if isinstance(noises, int) else noises
    drawn = paired_noise(len(times), which.stop, x.shape[1:], torch.Generator().manual_seed(STREAM + seed))
    noise = drawn[:, which.start :].to(x)
    parts = []
    for part in torch.arange(len(x)).split(batch):
        conditions = [None if labels is None else labels[part] for labels in branches]
        rows = len(branches) + (guidance != 1)
        errors = x.new_zeros(rows, len(part), *noise.shape[:2], dtype=torch.float64)
        for j, t in enumerate(times):
            for k, eps in enumerate(noise[j]):
                x_t, v = interpolate(x[part], eps, t), (x[part] - eps).double()
                velocities = field.velocities(x_t, t.expand(len(part)), conditions)
                if guidance != 1:
                    velocities.append(guided(*velocities[:2], guidance))
                for b, u in enumerate(velocities):
                    errors[b, :, j, k] = (v - u.double()).square().flatten(1).sum(1)
        parts.append(errors)
    return torch.cat(parts, 1)


def scores_of(errors: Tensor, method: Method, evaluations: int = 0) -> Scores:
    """Scores from e (branches, n, levels, noises), as `re_noising_errors` gives them; standard errors from two pairs
    on, or else NaN.

    The standard error is that of the score with each other branch's share in the mean of likelihoods held fixed.
    """
    weights = method.times_and_weights()[1].to(errors.device)
    own, *others = (errors * weights[:, None]).sum(2)  # (n, noises)
    of_likelihood = others.pop() if method.guidance != 1 else own
    others = others[method.asks_null and not method.null :]
    draws = -method.likelihood * of_likelihood - bool(others) * own
    values = draws.mean(1)
    if others:
        held = torch.stack(others)
        means = held.mean(2)  # S(y_k), (k, n)
        values = values + math.log(len(others)) - torch.logsumexp(-means, 0)
        draws = draws + (torch.softmax(-means, 0)[..., None] * held).sum(0)
    n_pairs = draws.shape[1] // 2
    pairs = draws[:, : 2 * n_pairs].unflatten(1, (-1, 2)).mean(2)
    spread = pairs.var(1) if n_pairs > 1 else torch.full_like(values, torch.nan)
    return Scores(values, (spread / n_pairs).sqrt(), evaluations)


def texts_against(prompts: Sequence[str], method: Method | str, negatives: Negatives | None) -> list[str]:
    """The k texts that a method holds each prompt against, prompt by prompt; none where the nearest prompts are taken.

    Raises ValueError for a prompt with fewer negatives than k.
    """
    k, texts = _held_against(method), []
    if negatives is not None and not isinstance(negatives, Mapping):
        raise ValueError(f"negatives is {shown(negatives)}; give a dictionary of lists, by prompt")
    for prompt in prompts if k and negatives is not None else ():
        own = prompt_list(negatives[prompt]) if prompt in negatives else []
        if len(own) < k:
            raise ValueError(f"{shown(prompt)} has {len(own)} negatives and is to be held against {k}; give more")
        texts += own[:k]
    return texts


def field_and_others(
    pipeline: DiffusionPipeline, prompts: Sequence[str], method: Method | str, against: Sequence[str], **options: object
) -> tuple[PipelineField, Tensor | None]:
    """A field whose prompts begin with these, and the labels (n, k) that a method holds each of them against.

    method: a `Method`, or the name of a score along the path, which has no such labels: None.
    against: what `texts_against` gives. options: of `PipelineField`.
    """
    n, k = len(prompts), _held_against(method)
    field = PipelineField(pipeline, [*prompts, *against], **options)
    if not k:
        return field, None
    return field, torch.arange(n, n + n * k).reshape(n, k) if against else nearest_prompts(field, k)


def _held_against(method: Method | str) -> int:
    """Against how many other prompts."""
    return method.prompts if isinstance(method, Method) else 0


@torch.no_grad()
def nearest_prompts(field: PipelineField, k: int = 2) -> Tensor:
    """(P, k) labels: of every prompt of the field the k nearest others, by the cosine of embeddings less their mean;
    ValueError where there are fewer. The text encoder alone says what is near."""
    n = len(field.prompts)
    if n <= k:
        raise ValueError(f"{n} prompts have no {k} others each; give more prompts, or a method that needs none")
    tensors = field.conditioning.tensors
    embeddings = tensors.get("pooled_projections", next(iter(tensors.values()))).float().flatten(1)[:n]
    unit = functional.normalize(embeddings - embeddings.mean(0), dim=1)
    return (unit @ unit.T).fill_diagonal_(-torch.inf).topk(k, dim=1).indices.cpu()


def check_numbers(scores: Tensor, what: str) -> None:
    """Raises FloatingPointError where a score is no number."""
    if not bool(scores.isfinite().all()):
        advice = "load the pipeline in another precision (dtype=torch.float32, or torch.bfloat16 in place of float16)"
        raise FloatingPointError(f"{what} has a score that is no number, since the transformer overflows; {advice}")
