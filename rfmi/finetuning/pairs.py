"""What a fine-tuning learns from: kept latents with their prompts, and the batch of every step.

The batch of a step, its noise included, is a function of (seed, step) alone. Pairs are taken in a new order every time
that all have been seen, and the noise levels of a batch are stratified: one in each of B equal parts of their density.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rfmi.training import StepRandomness
from rfmi.finetuning.settings import FinetuningSettings
from rfmi.pipelines import Conditioning
from rfmi.selection import Selection
from rfmi.selection.folder import kept_rows


@dataclass(frozen=True)
class Pairs:
    """n images with their prompts: latents (n, C, h, w); rows (n,) of the conditioning, whose last is the null
    prompt's; weights (n,) of mean 1, or advantages of mean 0 within each prompt; the rejected image of each pair
    (n, C, h, w), or None.
    """

    latents: Tensor
    rows: Tensor
    conditioning: Conditioning
    weights: Tensor
    rejected: Tensor | None = None

    def digest(self) -> str:
        """A short hash of all of it."""
        tensors = [self.latents, self.rows, self.weights, *self.conditioning.tensors.values()]
        tensors += [] if self.rejected is None else [self.rejected]
        found = hashlib.sha256()
        for tensor in tensors:
            found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
        return found.hexdigest()[:16]


@dataclass(frozen=True)
class Batch:
    """x and noise (B, C, h, w), sigma (B,), rows of the conditioning (B,), weights (B,), rejected like x or None."""

    x: Tensor
    noise: Tensor
    sigma: Tensor
    rows: Tensor
    weights: Tensor
    rejected: Tensor | None = None

    def part(self, rows: slice) -> Batch:
        """These rows of it."""
        return Batch(*(None if value is None else value[rows] for value in vars(self).values()))

    def to(self, device: torch.device | str) -> Batch:
        """All of it on a device."""
        return Batch(*(None if value is None else value.to(device) for value in vars(self).values()))


def training_pairs(
    selected: Selection, settings: FinetuningSettings, rejected: Selection | Tensor | None = None
) -> Pairs:
    """The pairs of a selection, weighted as the settings say; ValueError for what cannot be learned from.

    rejected: for the preference `dpo`; a selection of the same prompts, or latents (n, C, h, w), one for each of those
    selected.
    """
    latents, rows = selected.latents.float(), selected.prompt_id.long()
    if not len(latents):
        raise ValueError("the selection holds no images; select some first")
    if latents.ndim != 4 or len(rows) != len(latents) or not bool(latents.isfinite().all()):
        raise ValueError(
            f"the selection's latents, of shape {tuple(latents.shape)} for {len(rows)} prompts, are not finite (n, C, "
            "h, w), one a prompt; select again"
        )
    if int(rows.min()) < 0 or int(rows.max()) >= len(selected.conditioning) - 1:
        raise ValueError(
            f"the selection names prompt {int(rows.max())} and has {len(selected.conditioning) - 1} prompts; select "
            "again"
        )
    if (settings.preference == "dpo") != (rejected is not None):
        raise ValueError(
            f"the preference is {settings.preference!r} and rejected images are "
            f"{'missing' if rejected is None else 'given'}; give both 'dpo' and `rejected`, or neither"
        )
    other = None if rejected is None else _rejected(selected, rejected)
    return Pairs(latents, rows, selected.conditioning, _weights(selected, settings), other)


def draw_batch(pairs: Pairs, settings: FinetuningSettings, step: int) -> Batch:
    """The batch of a step: settings.pairs_a_step pairs."""
    n, size = len(pairs.latents), settings.pairs_a_step
    epochs = range(step * size // n, ((step + 1) * size - 1) // n + 1)
    # steps below 0 are nobody's, and name the epochs' orders
    order = torch.cat([torch.randperm(n, generator=StepRandomness(settings.seed, -1 - e).generator) for e in epochs])
    index = order[step * size - epochs[0] * n :][:size]
    generator = StepRandomness(settings.seed, step).generator
    sigma = noise_levels(size, *settings.noise_level, generator)
    noise = torch.randn(size, *pairs.latents.shape[1:], generator=generator)
    null = torch.rand(size, generator=generator) < settings.null_share
    rows = torch.where(null, len(pairs.conditioning) - 1, pairs.rows[index])
    rejected = None if pairs.rejected is None else pairs.rejected[index]
    return Batch(pairs.latents[index], noise, sigma, rows, pairs.weights[index], rejected)


def noise_levels(n: int, mean: float, deviation: float, generator: torch.Generator) -> Tensor:
    """(n,) stratified sigmas in (0, 1), float32, in random order: logit(sigma) ~ N(mean, deviation^2)."""
    uniform = (torch.arange(n) + torch.rand(n, generator=generator, dtype=torch.float64)) / n
    levels = torch.sigmoid(mean + deviation * torch.special.ndtri(uniform.clamp(1e-7, 1 - 1e-7)))
    return levels[torch.randperm(n, generator=generator)].float()


def _weights(selected: Selection, settings: FinetuningSettings) -> Tensor:
    """(n,) of mean 1; with `information_within_prompt`, of mean 1 within every prompt; advantages have mean 0 there."""
    n = len(selected.latents)
    if settings.weighting == "top":
        return torch.ones(n)
    scores = torch.tensor(kept_rows(selected.candidates).score.to_numpy(), dtype=torch.float64)
    if len(scores) != n or not bool(scores.isfinite().all()):
        raise ValueError("the selection's images do not all have a score to be weighted by; weight them by 'top'")
    within = settings.weighting != "information"
    groups = [selected.prompt_id == p for p in selected.prompt_id.unique()] if within else [torch.ones(n).bool()]
    around = _centred(scores, groups)
    scaled = _scaled(around)
    if settings.signed:
        if not bool(scaled.any()):
            raise ValueError("no prompt has two images of different scores; keep more than one candidate of each")
        if settings.weighting == "verdict":
            threshold = _by_group(scaled, groups, lambda own: own.quantile(0.75)) - settings.failing
            passes = scaled >= threshold
            if bool(passes.all()):
                raise ValueError(
                    f"no image is {settings.failing:g} deviations below its prompt's upper quartile, so none is worse; "
                    "keep more candidates of each prompt (or hold out more prompts), or take a smaller `failing`"
                )
            scaled = _scaled(_centred(passes.to(scaled), groups))
        cut = scaled.clamp(-settings.largest_deviation, settings.largest_deviation)
        return (_centred(cut, groups) / settings.temperature).float()
    return _by_group(scaled, groups, lambda own: torch.softmax(own / settings.temperature, 0) * len(own)).float()


def _scaled(centred: Tensor) -> Tensor:
    """Values in their deviation from 0."""
    return centred / centred.square().mean().sqrt().clamp_min(1e-12)


def _centred(values: Tensor, groups: list[Tensor]) -> Tensor:
    """Values less the mean of their group."""
    return values - _by_group(values, groups, torch.mean)


def _by_group(values: Tensor, groups: list[Tensor], function: Callable[[Tensor], Tensor]) -> Tensor:
    """The function of the values of each group, one or as many as they are; the groups are masks of all."""
    found = torch.empty_like(values)
    for group in groups:
        found[group] = function(values[group])
    return found


def _rejected(selected: Selection, rejected: Selection | Tensor) -> Tensor:
    """The rejected latents (n, C, h, w), one for each of those selected."""
    latents = rejected if isinstance(rejected, Tensor) else _of_the_same_prompts(selected, rejected)
    latents = latents.float()
    if latents.shape != selected.latents.shape or not bool(latents.isfinite().all()):
        raise ValueError(
            f"the rejected latents, of shape {tuple(latents.shape)}, are not finite numbers of shape "
            f"{tuple(selected.latents.shape)}; give one image for each of those selected"
        )
    if bool((latents == selected.latents).flatten(1).all(1).any()):
        raise ValueError("an image is both chosen and rejected; keep more than one candidate of every prompt")
    return latents


def _of_the_same_prompts(selected: Selection, rejected: Selection) -> Tensor:
    asked, there = (dict(zip(s.candidates.prompt_id, s.candidates.prompt, strict=True)) for s in (selected, rejected))
    taken: dict[int, int] = {}
    places = []
    for number in selected.prompt_id.tolist():
        rows = (rejected.prompt_id == number).nonzero().flatten()
        if asked.get(number) != there.get(number) or not len(rows):
            raise ValueError(f"there is no rejected image for the prompt {asked.get(number)!r}; select one for each")
        places.append(rows[taken.get(number, 0) % len(rows)])
        taken[number] = taken.get(number, 0) + 1
    return rejected.latents[torch.stack(places)]
