"""The committed prompts, one a line in `data/prompts/{category}_{train,val}.txt` as T2I-CompBench lays them out."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from random import Random

from lab.worlds.shapes.grammar import draw_prompt
from lab.worlds.shapes.prompts import Prompt, parse
from lab.worlds.shapes.rendering import Scene
from lab.worlds.shapes.sampling import draw_scene
from lab.worlds.shapes.words import CATEGORIES, HELD_OUT
from lab.paths import repository_root

N_TRAIN, N_VAL, UNSEEN_SHARE, SEED = 240, 120, 0.4, 0


def prompt_folder() -> Path:
    return repository_root() / "data" / "prompts"


def read_prompts(path: str | Path) -> tuple[str, ...]:
    """The prompts of a file, one a line; T2I-CompBench's own files read as well.

    Windows line ends, a missing final newline and repeated prompts are fine: blank lines are left out, and of
    repeated prompts the first stays. Raises ValueError for a file without a prompt, FileNotFoundError for none.
    """
    lines = [" ".join(line.split()) for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    found = tuple(dict.fromkeys(line for line in lines if line))
    if not found:
        raise ValueError(f"{path} holds no prompt; it should hold one a line")
    return found


@cache
def prompts(category: str, split: str = "val") -> tuple[str, ...]:
    """The committed prompts of a category, `split` "train" or "val". Raises ValueError for another name."""
    if category not in CATEGORIES or split not in ("train", "val"):
        raise ValueError(
            f"no prompts {category!r}, {split!r}: a category is one of {', '.join(CATEGORIES)}, a split train or val"
        )
    return read_prompts(prompt_folder() / f"{category}_{split}.txt")


@cache
def validation_prompts() -> frozenset[str]:
    """Every validation prompt: what the base model's training must not see."""
    return frozenset(text for category in CATEGORIES for text in prompts(category, "val"))


def sample_scenes(category: str, n: int, seed: int, split: str = "val") -> list[Scene]:
    """`n` random scenes for the committed prompts of a category, in turn; the same seed gives the same scenes."""
    random = Random(f"{category} {split} {seed}")
    parsed = [parse(text) for text in prompts(category, split)]
    return [draw_scene(parsed[i % len(parsed)], random) for i in range(n)]


def draw_training_prompt(category: str, random: Random) -> Prompt:
    """A random prompt for the base model's training: no held-out pair, no validation prompt."""
    while True:
        prompt = draw_prompt(category, random)
        if str(prompt) not in validation_prompts():
            return prompt


def write_prompt_files(folder: Path) -> None:
    """Draw the committed prompts anew: per category N_TRAIN without and N_VAL partly with held-out pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    for category in CATEGORIES:
        random = Random(f"prompts {category} {SEED}")
        unseen, seen = [], []
        n_unseen = 0 if category == "shape" else round(UNSEEN_SHARE * N_VAL)  # no size is held out
        while len(seen) < N_TRAIN + N_VAL - n_unseen or len(unseen) < n_unseen:
            prompt = draw_prompt(category, random, held_out=True)
            kept, enough = (unseen, n_unseen) if prompt.pairs & HELD_OUT else (seen, N_TRAIN + N_VAL - n_unseen)
            if str(prompt) not in kept and len(kept) < enough:
                kept.append(str(prompt))
        for split, texts in (("train", seen[:N_TRAIN]), ("val", sorted(unseen + seen[N_TRAIN:]))):
            (folder / f"{category}_{split}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
