"""`rfmi.select`: many candidates for every prompt, scored by the model's own information.

Every prompt is one unit: drawn, scored, and written whole. A killed run goes on at the next prompt, and several
processes on one folder share the prompts, however they were started.
"""

from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from rfmi.checks import check_guidance, whole_number
from rfmi.pipelines import PipelineField, identity_of, prompt_list, sizes_of
from rfmi.runs import own_device, work_on
from rfmi.scoring import PATH_METHODS, Method, method_named
from rfmi.scoring.methods import DEFAULT_METHOD
from rfmi.scoring.re_noising import Negatives, field_and_others, texts_against
from rfmi.selection.candidates import Pruning, Recipe, draw_candidates
from rfmi.selection.folder import Selection, finish_folder, unit_is_whole, unit_path, write_unit


def select(
    pipeline: DiffusionPipeline,
    prompts: Iterable[str],
    *,
    output: str | Path,
    candidates: int = 16,
    keep: int | None = None,
    method: str | Method = DEFAULT_METHOD,
    negatives: Negatives | None = None,
    prune: Pruning | bool = False,
    guidance: float = 4.0,
    steps: int = 28,
    seed: int = 0,
    negative_prompt: str = "",
    height: int | None = None,
    width: int | None = None,
    max_sequence_length: int | None = None,
    device: torch.device | str | None = None,
    micro_batch: int | None = None,
) -> Selection:
    """Draw `candidates` images of every prompt, score them, and keep them in the folder `output`.

    pipeline, prompts: each prompt once.
    output: a folder of its own. A killed call goes on at the next prompt, a finished one is only read.
    candidates: images of a prompt. Candidate i of prompt j starts from the noise of the seed `seed + j * candidates +
        i`, as `pipeline(prompt, generator=torch.Generator().manual_seed(...))` does.
    keep: how many of them, the best, keep image and latent; None for all, or for one where drafts are dropped.
    method: a `Method`, or a name of `rfmi.scoring.METHODS` or of a score along the path (`PATH_METHODS`).
    negatives: for a method against other prompts, those that each prompt is held against; None for the nearest of
        `prompts`.
    prune: True, or a `Pruning`, to finish only the candidates that score best on the way; `CHEAP` to finish all, and to
        spend noises on those that score best. Scores have the noises of the last round that each was in, and what later
        rounds changed in the mean.
    guidance, steps, seed: of the drawing; scores are without guidance.
    negative_prompt, height, width, max_sequence_length, device, micro_batch: of `PipelineField`.
    Raises ValueError, before anything is drawn, for prompts that are repeated, numbers that do not fit, an unknown
    method, one along the path with pruning, too few negatives, and a folder that holds something else;
    FloatingPointError for a score that is no number; OSError for a full disk.
    """
    if not isinstance(prune, bool | Pruning):
        raise ValueError(f"prune is {prune!r}; give True, False, or a `Pruning`")
    pruning = Pruning() if prune is True else prune or None
    check_guidance(guidance)
    candidates = whole_number("candidates", candidates, 1)
    if pruning and method in PATH_METHODS:
        raise ValueError(f"{method!r} scores whole paths and leaves nothing out; do not prune, or take a `Method`")
    if keep is None:
        keep = 1 if pruning and pruning.drops_drafts(candidates, 1) else candidates
    recipe = Recipe(
        candidates=candidates,
        keep=whole_number("keep", keep, 1, candidates),
        method=method if method in PATH_METHODS else method_named(method),
        guidance=float(guidance),
        steps=whole_number("steps", steps, 3),
        seed=whole_number("seed", seed, 0),
        pruning=pruning,
    )
    prompts, folder = prompt_list(prompts, once=True), Path(output)
    against = texts_against(prompts, recipe.method, negatives)
    sizes = sizes_of(pipeline, height, width, max_sequence_length)
    settings = asdict(recipe) | sizes | {"prompts": prompts, "negative_prompt": negative_prompt, "negatives": against}
    settings |= identity_of(pipeline)
    options = sizes | {"negative_prompt": negative_prompt, "device": own_device(device), "micro_batch": micro_batch}

    @cache
    def encoded() -> tuple[PipelineField, Tensor | None]:
        return field_and_others(pipeline, prompts, recipe.method, against, **options)

    units = {i: unit_path(folder, i) for i in range(len(prompts))}
    if not all(path.is_file() for path in units.values()):
        encoded()  # what cannot be encoded is refused before the folder is opened; a finished call encodes nothing
    for i in work_on(folder, settings, units, "selection", unit_is_whole):
        field, others = encoded()
        own = replace(recipe, seed=recipe.seed + i * recipe.candidates)
        drawn = draw_candidates(field, i, own, None if others is None else others[i])
        write_unit(folder, i, prompts[i], drawn, field.decode(drawn.latents), own.seed)
    return finish_folder(folder, len(prompts), lambda: encoded()[0].conditioning)
