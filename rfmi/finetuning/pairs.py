"""What a fine-tuning learns from: kept latents with their prompts and advantages, and the batch of every step.

The batch of a step, its noise included, is a function of (seed, step) alone. Images are taken in a new order every time
that all have been seen, and the noise levels of a batch are stratified: one in each of B equal parts of their density.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rfmi.finetuning.settings import FinetuningSettings
from rfmi.pipelines import Conditioning
from rfmi.scoring.methods import PASSING_QUANTILE
from rfmi.selection import Selection
from rfmi.training import StepRandomness


@dataclass(frozen=True)
class Pairs:
    """n images with their prompts.

    latents: (n, C, h, w).
    rows: (n,) of the conditioning, whose last is the null prompt's.
    advantages: (n,) of mean 0 within each prompt, or None where all images count alike.
    """

    latents: Tensor
    rows: Tensor
    conditioning: Conditioning
    advantages: Tensor | None = None

    def digest(self) -> str:
        """A short hash of all of it."""
        tensors = [self.latents, self.rows, *self.conditioning.tensors.values()]
        tensors += [] if self.advantages is None else [self.advantages]
        hashed = hashlib.sha256()
        for tensor in tensors:
            hashed.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
        return hashed.hexdigest()[:16]


class Batch(NamedTuple):
    """x and noise (B, C, h, w), sigma (B,), rows of the conditioning (B,), advantages (B,) or None."""

    x: Tensor
    noise: Tensor
    sigma: Tensor
    rows: Tensor
    advantages: Tensor | None = None


def training_pairs(selection: Selection, settings: FinetuningSettings, by: str) -> Pairs:
    """A selection's images, with advantages from its column `by`; ValueError for what cannot be learned from."""
    latents, rows = selection.latents.float(), selection.prompt_id.long()
    if not len(latents):
        raise ValueError("the selection holds no images; select some first")
    if latents.ndim != 4 or len(rows) != len(latents) or not bool(latents.isfinite().all()):
        said = f"the selection's latents, of shape {tuple(latents.shape)} for {len(rows)} prompts"
        raise ValueError(f"{said}, are not finite (n, C, h, w), one a prompt; select again")
    n, last = len(selection.conditioning) - 1, int(rows.max())
    if int(rows.min()) < 0 or last >= n:
        raise ValueError(f"the selection names prompt {last} and has {n} prompts; select again")
    if not isinstance(by, str):
        raise ValueError(f"by is {by!r:.60}; name a column of the selection, such as 'score'")
    scores = selection.scores(by) if settings.signed or by not in selection.kept else None
    advantages = _advantages(scores, rows, settings) if settings.signed else None
    return Pairs(latents, rows, selection.conditioning, advantages)


def draw_batch(pairs: Pairs, settings: FinetuningSettings, step: int) -> Batch:
    """The batch of a step: settings.images_a_step images."""
    n, size = len(pairs.latents), settings.images_a_step
    epochs = range(step * size // n, ((step + 1) * size - 1) // n + 1)
    # steps below 0 are nobody's, and name the epochs' orders
    order = torch.cat([torch.randperm(n, generator=StepRandomness(settings.seed, -1 - e).generator) for e in epochs])
    index = order[step * size - epochs[0] * n :][:size]
    generator = StepRandomness(settings.seed, step).generator
    sigma = noise_levels(size, *settings.noise_level, generator)
    noise = torch.randn(size, *pairs.latents.shape[1:], generator=generator)
    advantages = None if pairs.advantages is None else pairs.advantages[index]
    return Batch(pairs.latents[index], noise, sigma, pairs.rows[index], advantages)


def noise_levels(n: int, mean: float, deviation: float, generator: torch.Generator) -> Tensor:
    """(n,) stratified sigmas in (0, 1), float32, in random order: logit(sigma) ~ N(mean, deviation^2)."""
    uniform = (torch.arange(n) + torch.rand(n, generator=generator, dtype=torch.float64)) / n
    levels = torch.sigmoid(mean + deviation * torch.special.ndtri(uniform.clamp(1e-7, 1 - 1e-7)))
    return levels[torch.randperm(n, generator=generator)].float()


def _advantages(scores: Tensor, prompts: Tensor, settings: FinetuningSettings) -> Tensor:
    """(n,) of mean 0 within each prompt, from scores (n,) and the prompt of each (n,)."""
    groups = [prompts == prompt for prompt in prompts.unique()]
    scaled = _scaled(_centred(scores, groups))
    if not bool(scaled.any()):
        raise ValueError("no prompt has two images of different scores; keep more than one candidate of each")
    if settings.weighting == "verdict":
        scaled = _scaled(_centred(passing(scaled, groups, settings.failing).to(scaled), groups))
    cut = scaled.clamp(-settings.largest_deviation, settings.largest_deviation)
    return (_centred(cut, groups) / settings.temperature).float()


def passing(scaled: Tensor, groups: list[Tensor], failing: float) -> Tensor:
    """(n,) whether each image passes, from scores (n,) in deviations within prompts. Raises ValueError where all do."""
    threshold = _by_group(scaled, groups, lambda own: own.quantile(PASSING_QUANTILE)) - failing
    passes = scaled >= threshold
    if bool(passes.all()):
        said = f"no image is {failing:g} deviations below its prompt's upper quartile, so none is worse"
        raise ValueError(f"{said}; keep more candidates of each prompt, or take a smaller `failing`")
    return passes


def _scaled(centred: Tensor) -> Tensor:
    """Values in their deviation from 0."""
    return centred / centred.square().mean().sqrt().clamp_min(1e-12)


def _centred(values: Tensor, groups: list[Tensor]) -> Tensor:
    """Values less the mean of their group."""
    return values - _by_group(values, groups, torch.mean)


def _by_group(values: Tensor, groups: list[Tensor], function: Callable[[Tensor], Tensor]) -> Tensor:
    """The function of the values of each group, one or as many as they are; the groups are masks of all."""
    results = torch.empty_like(values)
    for group in groups:
        results[group] = function(values[group])
    return results
