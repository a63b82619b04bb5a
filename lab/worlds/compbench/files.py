"""T2I-CompBench's prompts as the benchmark has them: {category}_train.txt and {category}_val.txt, one prompt a line,
some of them twice; or its data set on the hub.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pandas as pd

CATEGORIES = ("color", "shape", "texture", "spatial", "3d_spatial", "numeracy", "non_spatial", "complex")
HUB = "NinaKarine/t2i-compbench"
MIXED = 0.05  # the share of validation prompts in the training file from which on the two are no split
CHOOSING = 7  # of the training prompts, one in so many is kept to choose on


def source() -> str:
    """The folder of the prompts, or the hub's name of the data set."""
    return os.environ.get("RFMI_COMPBENCH") or HUB


def paths(place: str) -> tuple[Path, ...]:
    """The files of a folder that hold prompts; none for a data set on the hub."""
    files = (_local(place, category, part) for category in CATEGORIES for part in ("train", "val"))
    return tuple(path for path in files if path)


@cache
def splits(place: str, category: str) -> dict[str, tuple[str, ...]]:
    """The prompts of a category by split, each once, in the files' order.

    "locked" is the benchmark's validation file. "val" is the last seventh of its training file and "train" the rest of
    it, both without the few prompts that are in the validation file as well (two of spatial).
    Raises ValueError for a mixed split, for a prompt that is in another category too, and where files are missing.
    """
    train, locked = _prompts(place, category, "train"), _prompts(place, category, "val")
    twice = {*train} & {*locked}
    if len(twice) > MIXED * len(locked):
        raise ValueError(
            f"{len(twice)} of the {len(locked)} validation prompts of {category} in {place} are training prompts too; "
            "give the benchmark's own two files: on a mixed split what was trained on is measured"
        )
    for other in CATEGORIES:
        for part in ("train", "val") if other != category else ():
            if shared := {*train, *locked} & {*_prompts(place, other, part, needed=False)}:
                raise ValueError(
                    f"the prompt {min(shared)[:40]!r} in {place} is in two categories, {category} and {other}; leave "
                    "it in the one by whose metric it is to be judged"
                )
    own = [text for text in train if text not in twice]
    learning = len(own) - max(1, len(own) // CHOOSING)
    return {"train": tuple(own[:learning]), "val": tuple(own[learning:]), "locked": locked}


@cache
def _prompts(place: str, category: str, part: str, needed: bool = True) -> tuple[str, ...]:
    """The prompts of one file, each once; none for a file that is neither there nor needed."""
    path = _local(place, category, part)
    if path is None and not Path(place).expanduser().is_dir():
        from transformers.utils import cached_file

        try:
            path = Path(cached_file(place, _table(category, part), repo_type="dataset"))
        except (OSError, ValueError) as error:
            raise ValueError(f"the data set {place} cannot be read; {_ADVICE}") from error
    if path is None and needed:
        raise ValueError(f"{place} holds no {category}_{part}.txt; {_ADVICE}")
    if path is None:
        return ()
    is_text = path.suffix == ".txt"
    texts = path.read_text("utf-8-sig").split("\n") if is_text else pd.read_parquet(path, columns=["text"]).text
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))


def _local(place: str, category: str, part: str) -> Path | None:
    found = (Path(place).expanduser() / name for name in (f"{category}_{part}.txt", _table(category, part)))
    return next((path.resolve() for path in found if path.is_file()), None)


def _table(category: str, part: str) -> str:
    """Where the hub's data set has a file: "3d_spatial_val/spatial_val-00000-of-00001.parquet"."""
    stem = f"{category}_{part}"
    return f"{stem}/{stem.partition('_')[2]}-00000-of-00001.parquet"


_ADVICE = (
    f"download T2I-CompBench's prompt files, or `hf download {HUB} --repo-type dataset --local-dir FOLDER`, and set "
    "RFMI_COMPBENCH to the folder: it must hold a file of training and one of validation prompts for each category"
)
