"""The committed prompts drawn, and the prompts that the base model's training may show: none of those of a report."""

from functools import cache
from itertools import islice
from pathlib import Path
from random import Random

from lab.worlds.shapes import prompts
from lab.worlds.shapes.grammar import draw_prompt
from lab.worlds.shapes.phrases import Prompt
from lab.worlds.shapes.words import CATEGORIES, RARE

SPLITS = {"val": 120, "train": 240, "locked": 30}  # prompts of a category, in the order in which they are drawn
RARE_SHARE = 0.4  # of a split's prompts name a rare pair
SKIPPED = {"val": 240}  # common prompts drawn before those of a split, which an earlier version used
SEED = 0


@cache
def reported_prompts() -> frozenset[str]:
    """Every validation and locked prompt: what the base model's training must not see."""
    return frozenset(
        text for category in CATEGORIES for split in ("val", "locked") for text in prompts(category, split)
    )


def draw_training_prompt(category: str, random: Random) -> Prompt:
    """A random prompt for the base model's training, rare pairs as rarely as `RARE` says."""
    while True:
        prompt = draw_prompt(category, random)
        if str(prompt) not in reported_prompts():
            return prompt


def draw_split(category: str, split: str, taken: set[str]) -> list[str]:
    """Prompts of a category, in the alphabet's order, none of which is in `taken`."""
    seed = f"prompts {category} {SEED}" if split == "val" else f"prompts {category} {split} {SEED}"
    random, n = Random(seed), SPLITS[split]
    n_rare = 0 if category == "shape" else round(RARE_SHARE * n)  # no size is rare
    wanted = {True: n_rare, False: n - n_rare + SKIPPED.get(split, 0)}
    drawn = {True: [], False: []}
    while any(len(drawn[kind]) < wanted[kind] for kind in wanted):
        prompt = draw_prompt(category, random, even=True)
        kind = drawn[bool(prompt.pairs & RARE.keys())]
        if str(prompt) not in taken and str(prompt) not in kind:
            kind.append(str(prompt))
    common = islice(drawn[False], SKIPPED.get(split, 0), wanted[False])
    return sorted([*drawn[True][:n_rare], *common])


def write_prompt_files(folder: Path) -> None:
    """Draw the committed prompts anew, no prompt in two files."""
    folder.mkdir(parents=True, exist_ok=True)
    for category in CATEGORIES:
        taken = set()
        for split in SPLITS:
            texts = draw_split(category, split, taken)
            taken |= {*texts}
            (folder / f"{category}_{split}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
