"""The candidates that fine-tunings choose from: drawn once, kept in full, with every number to choose by.

The first trainings of all controls take their images from one pool, so that they differ in the choice alone; later ones
take them from pools that their own model has drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lab.worlds.shapes.clip import clip_score
from lab.worlds.shapes import CATEGORIES, prompts
from lab.worlds.shapes.judging import judge
from rfmi.scoring import METHODS
from rfmi.scoring.methods import DEFAULT_METHOD
from rfmi.selection import Pruning, Selection, best, join, read_selection, select, worst
from rfmi.selection.folder import image_name, kept_rows
from lab.study.cache import Cache, digest, run_units
from lab.paths import cache_folder
from lab.study.shipped import BATCH, cache_for, loaded_clip, pipeline_with, spread

CHOICE_SEED = 0  # of random numbers and between equals, whatever the training: all of a control learn from the same
HELD_OUT = 16  # one prompt in this many is kept from training, for the early choice


@dataclass(frozen=True)
class Pool:
    """Which candidates: of the prompts of one of the `parts` into which `n_prompts` training prompts a category are
    dealt, each with seeds of its own from `seed` on, drawn by the base model or by that of the unit of training
    `start`; scored with `noises` a level. along_path: whether the published score, along the path, is computed as well.

    Raises ValueError for parts of fewer than two prompts a category.
    """

    n_prompts: int
    candidates: int
    noises: int
    guidance: float
    steps: int
    seed: int
    device: str
    compiled: bool
    precision: str
    start: dict | None = None
    parts: int = 1
    part: int = 0
    along_path: bool = True

    def __post_init__(self) -> None:
        if self.parts < 1 or self.n_prompts < 2 * self.parts:
            raise ValueError(
                f"{self.n_prompts} prompts a category cannot be dealt into {self.parts} parts, each with some to hold "
                "out; take two prompts or more for every part"
            )

    def texts(self, category: str) -> list[str]:
        """The prompts of a category."""
        return spread(prompts(category, "train"), self.n_prompts)[self.part :: self.parts]

    def seed_after(self, categories: int) -> int:
        """The first seed that so many categories leave unused."""
        return self.seed + categories * math.ceil(self.n_prompts / self.parts) * self.candidates

    def choosing(self) -> dict[str, Any]:
        """How `rfmi.select` gets the scores and nothing more: the null branch along the way costs as much as drawing,
        and only the published score asks for it."""
        ours = replace(METHODS[DEFAULT_METHOD], noises=self.noises)
        pruning = False if self.along_path else Pruning(rounds=((self.candidates, self.noises),))
        return {"method": ours, "prune": pruning}


@cache
def finetuning_cache() -> Cache:
    """The units' cache."""
    packages = ("rfmi.scoring", "rfmi.selection", "rfmi.finetuning", "rfmi.evaluation")
    return cache_for(*packages, "lab.study.finetuning_pools", "lab.study.finetuning_experiments")


def folder_of(kind: str, unit: dict) -> Path:
    """Where a unit keeps its images or weights."""
    return cache_folder() / kind / digest([kind, unit, finetuning_cache().code_version])[:16]


def pool_unit(category: str, pool: dict) -> dict:
    """The candidates of a category, all of them kept: by name, (n,) numbers to choose by, in the order of the kept
    latents. The candidates themselves are in `folder_of("pools", unit)`.
    """
    asked = Pool(**pool)
    loras = [] if asked.start is None else [folder_of("tunings", asked.start)]
    selection = select(
        pipeline_with(loras, device=asked.device, compiled=asked.compiled, precision=asked.precision),
        asked.texts(category),
        output=folder_of("pools", {"category": category, "pool": pool}),
        candidates=asked.candidates,
        keep=asked.candidates,
        guidance=asked.guidance,
        steps=asked.steps,
        seed=asked.seed_after(CATEGORIES.index(category)),
        micro_batch=2 * BATCH,
        **asked.choosing(),
    )
    rows = kept_rows(selection.candidates)
    images = read_images(selection)
    found = judge(images, rows.prompt.tolist())
    path = {"published_path": rows.path.tolist()} if asked.along_path else {}
    return path | {
        "ours": rows.score.tolist(),
        "clip_score": clip_score(*loaded_clip(), images, rows.prompt.tolist()),
        "aligned": found.aligned.astype(float).tolist(),
        "judge": (found.aligned.astype(float) + found.score).tolist(),
    }


def read_images(selection: Selection) -> Tensor:
    """The kept images (n, 3, height, width) in [0, 1], in the order of the latents."""
    folder = selection.folder / "images"
    files = [folder / image_name(row.prompt_id, row.seed) for row in kept_rows(selection.candidates).itertuples()]
    return torch.stack([torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files]) / 255


def draw_pools(pools: Sequence[Pool], workers: int) -> tuple[list[dict], list[dict]]:
    """The units of several pools and their records; what is missing is drawn, all workers busy to the end."""
    units = [{"category": category, "pool": asdict(pool)} for pool in pools for category in CATEGORIES]
    return units, run(pool_unit, units, "finetuning_pools", workers, "candidates")


def pool_of(pool: Pool, workers: int) -> tuple[Selection, dict[str, np.ndarray]]:
    """All candidates as one selection, and the numbers to choose by. What is missing is drawn first."""
    units, found = draw_pools([pool], workers)
    selection = join([read_selection(folder_of("pools", unit)) for unit in units])
    return selection, {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def round_name(control: str, number: int) -> str:
    """What a control is called after a round, counted from 1: "ours", "ours_round_2"."""
    return control if number == 1 else f"{control}_round_{number}"


def control_and_round(name: str) -> tuple[str, int]:
    """The control and the round that `round_name` has put together, of a variation what stands before the comma."""
    control, _, number = name.split(",")[0].partition("_round_")
    return control, int(number or 1)


def numbers_of(control: str, numbers: dict[str, np.ndarray], seed: int) -> np.ndarray:
    """(n,) what a control chooses by, the larger the better: `random` by the seed alone, `worst` by our score turned
    round, the others by the score of their name; among equals the seed decides."""
    if control == "worst":
        return -numbers_of("ours", numbers, seed)
    noise = np.random.default_rng(seed).random(len(next(iter(numbers.values()))))
    if control == "random":
        return noise
    return numbers[control] + 1e-9 * noise


def chosen_by(control: str, selection: Selection, numbers: dict[str, np.ndarray], seed: int) -> Selection:
    """The image of every prompt that a control finds best."""
    return best(selection, numbers_of(control, numbers, seed))


def rejected_by(control: str, selection: Selection, numbers: dict[str, np.ndarray], seed: int) -> Selection:
    """The image of every prompt that a control finds worst."""
    return worst(selection, numbers_of(control, numbers, seed))


def scored_by(control: str, selection: Selection, numbers: dict[str, np.ndarray], seed: int) -> Selection:
    """All images, with the numbers of a control for their scores."""
    table = selection.candidates.copy()
    table.loc[kept_rows(table).index, "score"] = numbers_of(control, numbers, seed)
    return replace(selection, candidates=table)


def without_held_out(selection: Selection, held_out: bool) -> Selection:
    """The images of the prompts kept for the early choice, or of all others."""
    places = (selection.prompt_id % HELD_OUT == HELD_OUT - 1) == held_out
    table = selection.candidates.copy()
    kept = kept_rows(table).index.to_numpy()
    table.loc[kept[~places.numpy()], "rank"] = np.nan
    return replace(
        selection, candidates=table, latents=selection.latents[places], prompt_id=selection.prompt_id[places]
    )


def run(function: Callable[..., dict], units: list[dict], kind: str, workers: int, description: str) -> list[dict]:
    """`run_units` with the cache of these notebooks."""
    return run_units(
        function, units, kind=kind, cache=finetuning_cache(), workers=workers, description=description
    )
