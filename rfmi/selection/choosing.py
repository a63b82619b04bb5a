"""Selections made of selections: the best or the worst image of every prompt, and several selections as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from rfmi.pipelines import Conditioning
from rfmi.selection.folder import Selection, kept_rows

CLOSE = {"rtol": 1e-3, "atol": 1e-4}  # of one text encoded in batches of other sizes


def best(selection: Selection, by: Sequence[float] | None = None) -> Selection:
    """The best kept image of every prompt.

    by: (n,) numbers, one a kept image in the order of the latents, the larger the better; None for the selection's own
    order. Raises ValueError for another number of them, or one that is no number.
    """
    return _one_a_prompt(selection, by, sign=1)


def worst(selection: Selection, by: Sequence[float] | None = None) -> Selection:
    """The worst kept image of every prompt; keep all candidates when selecting, and it is the worst of all."""
    return _one_a_prompt(selection, by, sign=-1)


def join(selections: Sequence[Selection]) -> Selection:
    """Several selections of one pipeline as one; prompts are numbered on.

    Raises ValueError for none, and where the null condition differs, as it does between pipelines.
    """
    if not selections:
        raise ValueError("no selections were given; give at least one")
    last = [each.conditioning.rows(torch.tensor([-1])) for each in selections]
    for other in last[1:]:
        if any(not torch.allclose(other.tensors[name], value, **CLOSE) for name, value in last[0].tensors.items()):
            raise ValueError("the selections' null conditions differ: they are of other pipelines or negative prompts")
    tables, numbers, rows, before = [], [], [], 0
    for each in selections:
        tables.append(each.candidates.assign(prompt_id=each.candidates.prompt_id + before))
        numbers.append(each.prompt_id + before)
        rows.append(each.conditioning.rows(torch.arange(len(each.conditioning) - 1)))
        before += len(each.conditioning) - 1
    return Selection(
        selections[0].folder.parent,
        pd.concat(tables, ignore_index=True),
        torch.cat([each.latents for each in selections]),
        torch.cat(numbers),
        Conditioning.cat([*rows, last[0]]),
    )


def _one_a_prompt(selection: Selection, by: Sequence[float] | None, sign: int) -> Selection:
    kept = kept_rows(selection.candidates)
    values = -kept["rank"].to_numpy(float) if by is None else np.asarray(by, float)
    if values.shape != (len(kept),) or not np.isfinite(values).all():
        raise ValueError(f"by has the shape {values.shape}; give {len(kept)} numbers, one a kept image")
    chosen = pd.Series(sign * values, kept.index).groupby(kept["prompt_id"]).idxmax()
    places = torch.tensor(kept.index.isin(chosen)).nonzero().flatten()
    table = selection.candidates.copy()
    table["rank"] = table["rank"].where(table.index.isin(chosen))
    latents, numbers = selection.latents[places], selection.prompt_id[places]
    return replace(selection, candidates=table, latents=latents, prompt_id=numbers)
