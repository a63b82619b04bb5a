"""The best or the worst image of every prompt of a selection."""

import pandas as pd
import torch

from rfmi.selection.folder import Selection


def best(selection: Selection, by: str = "score") -> Selection:
    """The image of every prompt with the largest value in the column `by`.

    Raises ValueError for a column that is not there, or holds what is no number.
    """
    return _one_a_prompt(selection, by, sign=1)


def worst(selection: Selection, by: str = "score") -> Selection:
    """The image of every prompt with the smallest value in the column `by`; ValueError as `best`."""
    return _one_a_prompt(selection, by, sign=-1)


def _one_a_prompt(selection: Selection, by: str, sign: int) -> Selection:
    values = pd.Series(sign * selection.scores(by).numpy(), selection.kept.index)
    chosen = values.groupby(selection.kept["prompt_id"]).idxmax()
    return selection.keeping(torch.tensor(selection.kept.index.isin(chosen)))
