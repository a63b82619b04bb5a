"""Scores of any sample, by adding noise to it and asking the field for the way back.

With x_t = (1 - t) eps + t x, v = x - eps, e(.) = ||v - u(x_t, t | .)||^2 and Delta = u(x_t|y) - u(x_t), a score is

    sum over levels j of w_j  mean over eps of  f(x_t_j),   f = e(null) - e(y)      re-noising
                                                              = ||Delta||^2          squared
                                                              = u(x_t|y) . Delta     inner product
                                                              = Delta . (v - u(x_t)) residual
                                                              = mean e(y') - e(y)    against other prompts y'
                                                              = -e(y)                the conditional loss alone
                                                              = e(null) - 2 e(y)     information and likelihood

in nats where w_j is a quadrature rule times t/(1-t), and then the re-noising score is the point-wise information
log p(x|y)/p(x) (`rfmi.estimators`). With the same weights -e(y) is log p(x|y) up to a constant, by the bound of the
likelihood that diffusion models train on (Kingma et al. 2021, arXiv 2107.00630), so the last form is i(x; y) + log
p(x|y). Other weights rank by another mixture of noise levels and are no nats.

Levels and noises are functions of the seed alone, common to all samples and prompts: a sample's score does not depend
on what is scored beside it, and what the noise adds to all candidates of a prompt alike does not reach their order.
Noises come in pairs, eps and -eps, which takes out of the mean what is odd in eps: nothing more to evaluate, and less
variance. The first noises of many are those of few.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from torch.nn import functional

from rfmi.fields import interpolate
from rfmi.pipelines import PipelineField
from rfmi.scoring.methods import DEFAULT_METHOD, FORMS, Method, method_named

STREAM = 0x52464D49  # added to seeds: the image of a seed starts from that seed's noise, and is not scored by it


@dataclass(frozen=True)
class Scores:
    """Scores (n,) in float64, the larger the better, their standard errors from the noise drawn (n,), and the network
    evaluations spent on all of them."""

    values: Tensor
    standard_errors: Tensor
    evaluations: int


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
    if isinstance(prompts, str) or len(images) != len(prompts):
        raise ValueError(f"there are {len(images)} images and {len(prompts)} prompts; give a list, one prompt an image")
    chosen, distinct = method_named(method), list(dict.fromkeys(prompts))
    height, width = images.shape[-2:]
    options = {"negative_prompt": negative_prompt, "device": device, "micro_batch": micro_batch}
    field = PipelineField(pipeline, distinct, height=height, width=width, **options)
    labels = torch.tensor([distinct.index(prompt) for prompt in prompts])
    x = field.encode(images)
    others = nearest_prompts(field)[labels] if chosen.against == "prompts" else None
    scores = re_noising_scores(field, x, labels, chosen, seed=seed, others=others)
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
    """The scores of samples x (n, *) for the prompts `labels` (n,), by a method that needs no trajectory.

    others: (n, k) labels of the prompts held against, for a method that asks for them. batch: samples at once; it
    changes nothing but the time. Raises ValueError where such prompts are asked for and not given, or the reverse.
    """
    if (method.against == "prompts") != (others is not None):
        raise ValueError(f"the method asks for {method.against!r}; give `others` for 'prompts', and for nothing else")
    before, (times, weights) = field.evaluations, method.times_and_weights()
    options = {"times": times, "noises": method.noises, "seed": seed, "batch": batch}
    found = re_noising_draws(field, x, labels, [method.form], against=method.held_against(others), **options)
    return weighted(found[method.form], weights, field.evaluations - before)


def paired_noise(levels: int, noises: int, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Standard normal eps and its negative in turn: (levels, noises, *shape)."""
    drawn = [torch.randn(levels, *shape, generator=generator) for _ in range((noises + 1) // 2)]
    return torch.stack([signed for eps in drawn for signed in (eps, -eps)][:noises], 1)


@torch.no_grad()
def re_noising_draws(
    field: PipelineField,
    x: Tensor,
    labels: Tensor,
    forms: Sequence[str],
    *,
    times: Tensor,
    noises: int | range,
    seed: int,
    against: Tensor | str | None = "null",
    batch: int = 32,
) -> dict[str, Tensor]:
    """f (n, levels, noises) of several forms, from the same velocities.

    noises: how many, in turn eps and -eps, or which of them, from a pair on.
    against: "null", (n, k) labels of other prompts, or None for the conditional branch alone.
    """
    which = range(noises) if isinstance(noises, int) else noises
    drawn = paired_noise(len(times), which.stop, x.shape[1:], torch.Generator().manual_seed(STREAM + seed))
    noise = drawn[:, which.start :].to(x)
    parts = []
    for part in torch.arange(len(x)).split(batch):
        branches = [labels[part]]
        if isinstance(against, Tensor):
            branches += list(against[part].unbind(1))
        elif against is not None:
            branches.append(None)
        found = x.new_zeros(len(forms), len(part), *noise.shape[:2], dtype=torch.float64)
        for j, t in enumerate(times):
            for k, eps in enumerate(noise[j]):
                x_t = interpolate(x[part], eps, t)
                u_c, *rest = (u.double() for u in field.velocities(x_t, t.expand(len(part)), branches))
                v = (x[part] - eps).double()
                for i, form in enumerate(forms):
                    found[i, :, j, k] = FORMS[form](v, u_c, rest)
        parts.append(found)
    return dict(zip(forms, torch.cat(parts, 1), strict=True))


@torch.no_grad()
def nearest_prompts(field: PipelineField, k: int = 2) -> Tensor:
    """(P, k) labels: of every prompt of the field the k nearest others, by the cosine of embeddings less their mean;
    ValueError where there are fewer. The text encoder alone says what is near."""
    n = len(field.prompts)
    if n <= k:
        raise ValueError(f"{n} prompts have no {k} others each; give more prompts, or a method that needs none")
    tensors = field.conditioning.tensors
    embeddings = tensors.get("pooled_projections", tensors["encoder_hidden_states"]).float().flatten(1)[:n]
    unit = functional.normalize(embeddings - embeddings.mean(0), dim=1)
    return (unit @ unit.T).fill_diagonal_(-torch.inf).topk(k, dim=1).indices.cpu()


def weighted(found: Tensor, weights: Tensor, evaluations: int) -> Scores:
    """Scores from f (n, levels, noises) and the levels' weights; standard errors from two pairs on, or else NaN."""
    weights, n_pairs = weights.to(found.device), found.shape[2] // 2
    pairs = found[..., : 2 * n_pairs].unflatten(2, (-1, 2)).mean(3)
    spread = pairs.var(2) if n_pairs > 1 else torch.full_like(found[:, :, 0], torch.nan)
    error = (spread / n_pairs * weights.square()).sum(1).sqrt()
    return Scores((found.mean(2) * weights).sum(1), error, evaluations)


def check_numbers(scores: Tensor, what: str) -> None:
    """Raises FloatingPointError where a score is no number."""
    if not bool(scores.isfinite().all()):
        advice = "load the pipeline in another precision (dtype=torch.float32, or torch.bfloat16 in place of float16)"
        raise FloatingPointError(f"{what} has a score that is no number; {advice}")
