"""The units of work of notebook 03: the judge on scenes, the model's knowledge, its own images judged and measured."""

from __future__ import annotations

import time
from functools import partial

import torch
from torch import Tensor

from lab.worlds.shapes.clip import image_features
from lab.worlds.shapes.knowledge import changed_pairs, knowledge
from rfmi.pipelines import PipelineField, sample
from lab.worlds.shapes import CATEGORIES, parse, prompts, render, sample_scenes
from lab.worlds.shapes.judging import judge
from lab.worlds.shapes.words import COLORS, HELD_OUT, RELATIONS, SIZES, TEXTURES
from lab.study.cache import Cache
from lab.study.shipped import BATCH, cache_for, loaded_clip, loaded_pipeline, spread, validation_field


def experiments_cache() -> Cache:
    """The units' cache."""
    return cache_for("lab.worlds.shapes.knowledge", "rfmi.scoring", "lab.study.base_model_experiments")


def reconstructed(field: PipelineField, pictures: Tensor) -> Tensor:
    """Pictures in [0, 1] after the autoencoder, there and back."""
    return field.decode(field.encode(pictures))


def judge_unit(category: str, n: int, seed: int, device: str) -> dict:
    """The judge's atoms held against the truth on `n` scenes of validation prompts, as they are and after the
    autoencoder, and on scenes with one atom of their prompt changed.

    Returns numbers of atoms `right` and `asked` under `rendered` and `reconstructed`, and of changes `right` (caught)
    and `asked` under `changed`.
    """
    scenes = sample_scenes(category, n, seed)
    pictures, texts = render(scenes), [scene.prompt for scene in scenes]
    field, counts = validation_field(category, device), {}
    for name, seen in (("rendered", pictures), ("reconstructed", reconstructed(field, pictures))):
        atoms = [held for row in judge(seen, texts)["atoms"] for held in row.values()]
        counts[name] = {"right": sum(atoms), "asked": len(atoms)}  # in a scene every atom of its prompt holds
    pairs = changed_pairs(category, n, seed)
    found = judge(torch.stack([picture for *_, picture in pairs]), [changed for _, changed, _ in pairs])
    counts["changed"] = {"right": int((~found["aligned"]).sum()), "asked": len(found)}
    return counts


def knowledge_unit(category: str, n: int, seed: int, noises: int, device: str) -> list[dict]:
    """`knowledge` of one category, as records."""
    pipeline = loaded_pipeline(device)
    return knowledge(pipeline, n=n, seed=seed, noises=noises, categories=[category]).to_dict("records")


def alignment_unit(
    category: str,
    n_prompts: int,
    candidates: int,
    guidance: float,
    steps: int,
    seed: int,
    device: str,
    compiled: bool,
    precision: str,
) -> dict:
    """`candidates` images of each of the first `n_prompts` validation prompts, drawn, judged and embedded.

    Returns `rows` (prompt, candidate, unseen, aligned, score, failed: the atoms that do not hold) and `features`, the
    CLIP features of every image.
    """
    field = validation_field(category, device, compiled, precision)
    texts = [text for text in spread(field.prompts, n_prompts) for _ in range(candidates)]
    seeds = [seed + i % candidates for i in range(len(texts))]
    images = drawn(field, texts, seeds, guidance, steps)
    found = judge(images, texts)
    rows = [
        {
            "prompt": row.prompt,
            "candidate": i % candidates,
            "unseen": bool(parse(row.prompt).pairs & HELD_OUT),
            "aligned": bool(row.aligned),
            "score": float(row.score),
            "failed": [name for name, held in row.atoms.items() if not held],
        }
        for i, row in enumerate(found.itertuples())
    ]
    return {"rows": rows, "features": image_features(loaded_clip()[0], images).round(decimals=5)}


def scene_features(category: str, n: int, seed: int, device: str) -> list[list[float]]:
    """CLIP features of rendered scenes of a category's validation prompts, after the autoencoder."""
    pictures = reconstructed(validation_field(category, device), render(sample_scenes(category, n, seed)))
    return image_features(loaded_clip()[0], pictures).round(decimals=5)


def sample_sheet(
    category: str, n: int, guidance: float, steps: int, seed: int, device: str
) -> tuple[Tensor, list[str], list[bool]]:
    """(pictures, prompts, the judge's verdicts): one image of each of `n` validation prompts, seeds counted up."""
    field = validation_field(category, device)
    texts = spread(field.prompts, n)
    images = drawn(field, texts, [seed + i for i in range(n)], guidance, steps)
    return images, texts, judge(images, texts)["aligned"].tolist()


def drawn(field: PipelineField, texts: list[str], seeds: list[int], guidance: float, steps: int) -> Tensor:
    """Images (n, 3, height, width) of prompts of the field, each from its own seed."""
    labels = torch.tensor([field.prompts.index(text) for text in texts])
    times = field.times(steps)
    return field.decode(sample(field, field.noise(seeds), labels, times=times, guidance=guidance, batch=BATCH))


def speed_unit(
    n: int, guidance: float, steps: int, seed: int, device: str, compiled: bool, precision: str
) -> dict:
    """How many seconds this process takes to draw `n` images, after a warm-up."""
    texts = [prompts(CATEGORIES[i % len(CATEGORIES)], "val")[i % 100] for i in range(n)]
    field = PipelineField(loaded_pipeline(device, compiled, precision), texts)
    draw = partial(drawn, field, texts, [seed + i for i in range(n)], guidance)
    draw(2)
    start = time.perf_counter()
    draw(steps)
    return {"images": n, "seconds": time.perf_counter() - start}


def atom_kind(name: str) -> str:
    """The kind of an atom of the judge: present, color, texture, size, number or relation."""
    if name in RELATIONS.values():
        return "relation"
    last = name.split()[2] if len(name.split()) > 2 else name
    kinds = {"color": COLORS, "texture": TEXTURES, "size": SIZES, "number": ("number",)}
    return next((kind for kind, words in kinds.items() if last in words), "present")


