"""The units of work of notebook 03: the judge on scenes, the model's knowledge, its own images judged and measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache

import torch
from diffusers import StableDiffusion3Pipeline
from diffusers.utils import logging
from torch import Tensor
from transformers import CLIPModel

from rfmi.base_model.clip import image_features, load_clip
from rfmi.base_model.folders import CHECKSUMS, base_clip, base_pipeline
from rfmi.base_model.measure import changed_pairs, generate, knowledge, scaled_latents
from rfmi.scenes import CATEGORIES, parse, prompts, render, sample_scenes
from rfmi.scenes.judging import judge
from rfmi.scenes.words import COLORS, HELD_OUT, RELATIONS, SIZES, TEXTURES
from rfmi.study.cache import Cache, code_version, digest

DRAWN = 16  # images a batch; one size throughout, since a compiled transformer is compiled for each


@cache
def loaded_pipeline(device: str = "cpu", compiled: bool = False) -> StableDiffusion3Pipeline:
    """The shipped pipeline; `compiled` needs a C++ compiler, takes a minute the first time, and draws faster."""
    logging.disable_progress_bar()
    pipeline = StableDiffusion3Pipeline.from_pretrained(base_pipeline()).to(device)
    if compiled:
        pipeline.transformer.compile(dynamic=False)
    return pipeline


@cache
def loaded_clip() -> CLIPModel:
    """The shipped CLIP."""
    return load_clip(base_clip())[0]


def experiments_cache() -> Cache:
    """The units' cache: its key names the code they depend on and the shipped weights."""
    folders = [base_pipeline(), base_clip()]
    weights = digest([(folder / CHECKSUMS).read_text(encoding="utf-8") for folder in folders])
    modules = ("rfmi.scenes", "rfmi.base_model.measure", "rfmi.study.base_model_experiments")
    return Cache(code_version=f"{code_version(*modules)} {weights[:16]}")


@torch.no_grad()
def reconstructed(pipeline: StableDiffusion3Pipeline, pictures: Tensor) -> Tensor:
    """Pictures in [0, 1] after the autoencoder, there and back, as the pipeline decodes."""
    config = pipeline.vae.config
    latents = scaled_latents(pipeline, pictures) / config.scaling_factor + config.shift_factor
    decoded = [pipeline.vae.decode(part.to(pipeline.device)).sample.cpu() for part in latents.split(64)]
    return (torch.cat(decoded) / 2 + 0.5).clamp(0, 1)


def judge_unit(category: str, n: int, seed: int, device: str) -> dict:
    """The judge's atoms held against the truth on `n` scenes of validation prompts, as they are and after the
    autoencoder, and on scenes with one atom of their prompt changed.

    Returns numbers of atoms `right` and `asked` under `rendered` and `reconstructed`, and of changes `right` (caught)
    and `asked` under `changed`.
    """
    scenes = sample_scenes(category, n, seed)
    pictures, texts = render(scenes), [scene.prompt for scene in scenes]
    counts = {}
    for name, seen in (("rendered", pictures), ("reconstructed", reconstructed(loaded_pipeline(device), pictures))):
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
) -> dict:
    """`candidates` images of each of the first `n_prompts` validation prompts, drawn, judged and embedded.

    Returns `rows` (prompt, candidate, unseen, aligned, score, failed: the atoms that do not hold) and `features`, the
    CLIP features of every image.
    """
    texts = [text for text in spread(prompts(category, "val"), n_prompts) for _ in range(candidates)]
    seeds = [seed + i % candidates for i in range(len(texts))]
    pipeline = loaded_pipeline(device, compiled)
    images = generate(pipeline, texts, seeds, guidance=guidance, steps=steps, batch=DRAWN)
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
    return {"rows": rows, "features": image_features(loaded_clip(), images).round(decimals=5)}


def scene_features(category: str, n: int, seed: int, device: str) -> list[list[float]]:
    """CLIP features of rendered scenes of a category's validation prompts, after the autoencoder."""
    pictures = render(sample_scenes(category, n, seed))
    return image_features(loaded_clip(), reconstructed(loaded_pipeline(device), pictures)).round(decimals=5)


def sample_sheet(
    category: str, n: int, guidance: float, steps: int, seed: int, device: str
) -> tuple[Tensor, list[str], list[bool]]:
    """(pictures, prompts, the judge's verdicts): the first image of `n` validation prompts."""
    texts = spread(prompts(category, "val"), n)
    images = generate(loaded_pipeline(device), texts, [seed] * len(texts), guidance=guidance, steps=steps)
    return images, texts, judge(images, texts)["aligned"].tolist()


def speed_unit(n: int, guidance: float, steps: int, seed: int, device: str, compiled: bool) -> dict:
    """How many seconds this process takes to draw `n` images, after a warm-up."""
    texts = [prompts(CATEGORIES[i % len(CATEGORIES)], "val")[i % 100] for i in range(n)]
    seeds = [seed + i for i in range(n)]
    pipeline = loaded_pipeline(device, compiled)
    generate(pipeline, texts, seeds, guidance=guidance, steps=2, batch=DRAWN)
    start = time.perf_counter()
    generate(pipeline, texts, seeds, guidance=guidance, steps=steps, batch=DRAWN)
    return {"images": n, "seconds": time.perf_counter() - start}


def spread(texts: Sequence[str], n: int) -> list[str]:
    """`n` texts spread evenly over a sorted list, all where `n` is larger."""
    n = min(n, len(texts))
    return [texts[i * len(texts) // n] for i in range(n)]


def atom_kind(name: str) -> str:
    """The kind of an atom of the judge: present, color, texture, size, number or relation."""
    if name in RELATIONS.values():
        return "relation"
    last = name.split()[2] if len(name.split()) > 2 else name
    kinds = {"color": COLORS, "texture": TEXTURES, "size": SIZES, "number": ("number",)}
    return next((kind for kind, words in kinds.items() if last in words), "present")


