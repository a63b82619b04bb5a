"""The committed prompts, one a line in `data/prompts/{category}_{train,val}.txt` as T2I-CompBench lays them out."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lab.paths import data_folder


def read_prompts(path: str | Path) -> tuple[str, ...]:
    """The prompts of a file, one a line; T2I-CompBench's own files read as well.

    Windows line ends, a missing final newline and repeated prompts are fine: blank lines are left out, and of
    repeated prompts the first stays. Raises ValueError for a file without a prompt, FileNotFoundError for none.
    """
    lines = [" ".join(line.split()) for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    texts = tuple(dict.fromkeys(line for line in lines if line))
    if not texts:
        raise ValueError(f"{path} holds no prompt; it should hold one a line")
    return texts


@cache
def read_category(category: str, split: str) -> tuple[str, ...]:
    """The committed prompts of a category, `split` "train" or "val"."""
    return read_prompts(data_folder() / "prompts" / f"{category}_{split}.txt")
