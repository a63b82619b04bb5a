"""The committed prompts drawn, and the prompts that training may show: no held-out pair, no validation prompt."""

from functools import cache
from pathlib import Path
from random import Random

from lab.worlds.shapes import prompts
from lab.worlds.shapes.grammar import draw_prompt
from lab.worlds.shapes.phrases import Prompt
from lab.worlds.shapes.words import CATEGORIES, HELD_OUT

N_TRAIN, N_VAL, UNSEEN_SHARE, SEED = 240, 120, 0.4, 0


@cache
def validation_prompts() -> frozenset[str]:
    """Every validation prompt: what the base model's training must not see."""
    return frozenset(text for category in CATEGORIES for text in prompts(category, "val"))


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
