"""T2I-CompBench's prompts, in the form in which the benchmark has them: {category}_train.txt and {category}_val.txt, one
prompt a line, some of them twice; or its data set on the hub.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pandas as pd

CATEGORIES = ("color", "shape", "texture", "spatial", "3d_spatial", "numeracy", "non_spatial", "complex")
HUB = "NinaKarine/t2i-compbench"
MIXED = 0.05  # the share of validation prompts in the training file from which the two are no split
CHOOSING = 7  # of the training prompts, one in so many is kept to choose on


def prompts_of(category: str) -> dict[str, tuple[str, ...]]:
    """The prompts of a category by split, each once, in the files' order.

    "locked" is the benchmark's validation file. "val" is the last seventh of its training file and "train" the rest of
    it, both without the few prompts that are in the validation file as well (two of spatial).
    Raises ValueError for a mixed split, for a prompt that is in another category too, and where files are missing.
    """
    return _split(os.environ.get("RFMI_COMPBENCH") or HUB, category)


@cache
def _split(source: str, category: str) -> dict[str, tuple[str, ...]]:
    train, locked = (_lines(source, f"{category}_{part}") for part in ("train", "val"))
    twice = {*train} & {*locked}
    if len(twice) > MIXED * len(locked):
        raise ValueError(
            f"{len(twice)} of the {len(locked)} validation prompts of {category} in {source} are training prompts too; "
            "give the benchmark's own two files, a mixed split measures what was trained on"
        )
    for other in CATEGORIES:
        for part in ("train", "val"):
            shared = {*train, *locked} & {*_lines(source, f"{other}_{part}", needed=False)} if other != category else ()
            if shared:
                raise ValueError(
                    f"the prompt {min(shared)[:40]!r} in {source} is in two categories, {category} and {other}; leave "
                    "it in the one by whose metric it is judged"
                )
    own = [text for text in train if text not in twice]
    learning = len(own) - max(1, len(own) // CHOOSING)
    return {"train": tuple(own[:learning]), "val": tuple(own[learning:]), "locked": locked}


@cache
def _lines(source: str, stem: str, needed: bool = True) -> tuple[str, ...]:
    """The prompts of one file, each once; none for a file that is neither there nor needed."""
    table = f"{stem}/{stem.partition('_')[2]}-00000-of-00001.parquet"  # as the hub has them
    advice = (
        f"download T2I-CompBench's prompt files (or `hf download {HUB} --repo-type dataset --local-dir FOLDER`) and set "
        "RFMI_COMPBENCH to their folder, with one file a category for training and one for validation"
    )
    folder = Path(source).expanduser()
    if folder.is_dir():
        path = next((folder / name for name in (f"{stem}.txt", table) if (folder / name).is_file()), None)
    else:
        from transformers.utils import cached_file

        try:
            path = cached_file(source, table, repo_type="dataset")
        except (OSError, ValueError) as error:
            raise ValueError(f"the data set {source} cannot be read; {advice}") from error
    if path is None:
        if needed:
            raise ValueError(f"{source} holds no {stem}.txt; {advice}")
        return ()
    is_text = Path(path).suffix == ".txt"
    texts = Path(path).read_text("utf-8-sig").split("\n") if is_text else pd.read_parquet(path, columns=["text"]).text
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))
