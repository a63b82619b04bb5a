"""The cost of scoring and of pruning as ratios of seconds, each pair timed in turn within one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from rfmi.sampling import path_scores
from rfmi.pipelines import PipelineField, sample
from rfmi.scoring import method_named
from rfmi.scoring.methods import DEFAULT_METHOD
from rfmi.selection.candidates import Recipe, draw_candidates
from rfmi.selection.pruning import Pruning


def overhead_of_scoring(
    field: PipelineField, *, candidates: int, steps: int, repeats: int, guidance: float = 4.0
) -> dict[str, float]:
    """Seconds of generation with the scores along its path over seconds without, guidance in both, less 1: the median
    of `repeats` ratios, and the least and largest.
    """
    noise, times = field.noise(range(candidates)), field.times(steps)
    labels = torch.zeros(candidates, dtype=torch.long)
    return _ratio(
        lambda: path_scores(field, noise, labels, times=times, guidance=guidance),
        lambda: sample(field, noise, labels, times=times, guidance=guidance),
        repeats,
        offset=1.0,
    )


def pruned_against_full(
    field: PipelineField, *, candidates: int, steps: int, repeats: int, guidance: float = 4.0
) -> dict[str, float]:
    """Seconds of the choice among `candidates` with pruning over seconds without."""
    method = method_named(DEFAULT_METHOD)

    def choice(pruning: Pruning | None) -> Callable[[], object]:
        recipe = Recipe(candidates, 1, method, guidance, steps, seed=0, pruning=pruning)
        return lambda: draw_candidates(field, 0, recipe)

    return _ratio(choice(Pruning()), choice(None), repeats)


def _ratio(
    first: Callable[[], object], second: Callable[[], object], repeats: int, offset: float = 0.0
) -> dict[str, float]:
    ratios = []
    for i in range(repeats + 1):
        pair = (first, second) if i % 2 else (second, first)
        seconds = {each: _seconds(each) for each in pair}
        ratios.append(seconds[first] / seconds[second] - offset)
    ratios = ratios[1:]  # the first pair warms up
    return {"median": statistics.median(ratios), "least": min(ratios), "largest": max(ratios), "n": repeats}


def _seconds(call: Callable[[], object]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
