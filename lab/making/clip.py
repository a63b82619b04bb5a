"""A CLIP of this world: pictures against their prompts, and against the same prompts with one atom changed.

The loss is CLIP's (Radford et al. 2021, arXiv 2103.00020): with unit-length features f_i of picture i and g_j of text j
and a learned scale s, the mean of the cross-entropies of softmax_j(s f_i g_j) and softmax_i(s f_i g_j) at j = i. The
softmax over texts has more columns than pictures: every prompt again with one atom changed, so that telling words apart
is not enough (Yuksekgonul et al. 2023, arXiv 2210.01936). Changed prompts that name a pair kept for validation, or are
validation prompts, are left out: a text that occurs only as a negative would be learned as always wrong.
"""

import math
from functools import partial
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from lab.making.autoencoder import training_scenes
from lab.making.prompt_files import reported_prompts
from lab.making.text_encoders import PROJECTION, tower, vocabulary
from lab.making.tokenizers import make_tokenizer
from lab.making.workshop import Workshop, muon_and_adamw
from lab.worlds.shapes.clip import features_of_pictures, features_of_texts
from lab.worlds.shapes.grammar import change_one_atom
from lab.worlds.shapes.phrases import Prompt, parse
from lab.worlds.shapes.rendering import SIDE, render
from lab.worlds.shapes.words import RARE
from rfmi.training import StepRandomness

PATCH, IMAGE_LAYERS, TEXT_LAYERS = 8, 4, 3
LARGEST_SCALE = 100.0  # of the logits, as in CLIP
LARGEST_BLUR, LARGEST_NOISE = 0.7, 0.03  # of the training pictures: standard deviations, in pixels and in [0, 1]
ATTEMPTS = 4  # at a changed prompt that may be shown in training


def make_clip(tokenizer: CLIPTokenizer, seed: int = 0) -> CLIPModel:
    """An untrained CLIP for pictures (3, 64, 64) and the texts of `tokenizer`; the same seed, the same weights."""
    config = CLIPConfig(
        text_config=tower(TEXT_LAYERS, "gelu") | vocabulary(tokenizer),
        vision_config=tower(IMAGE_LAYERS, "gelu") | {"image_size": SIDE, "patch_size": PATCH},
        projection_dim=PROJECTION,
        logit_scale_init_value=math.log(10),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPModel(config)


def changed_prompt(prompt: Prompt, random: Random) -> str | None:
    """The prompt with one atom changed, as a text that training may show; None where a few draws give none."""
    for _ in range(ATTEMPTS):
        changed = change_one_atom(prompt, random)
        if changed is not None and not changed.pairs & RARE.keys() and str(changed) not in reported_prompts():
            return str(changed)
    return None


def clip_loss(clip: CLIPModel, tokenizer: CLIPTokenizer, randomness: StepRandomness, batch: int) -> Tensor:
    """The contrastive loss of `batch` fresh scenes, in nats; chance is about log(batch) + log(2) / 2."""
    scenes = training_scenes(batch, randomness)
    texts = [scene.prompt for scene in scenes]
    changed = [changed_prompt(parse(text), randomness.random) for text in texts]
    pictures = blurred_and_noised(render(scenes), randomness.generator)
    image = functional.normalize(features_of_pictures(clip, pictures), dim=1)
    text = functional.normalize(features_of_texts(clip, tokenizer, texts + [each for each in changed if each]), dim=1)
    logits = clip.logit_scale.exp().clamp(max=LARGEST_SCALE) * image @ text.T
    right = torch.arange(batch, device=logits.device)
    return (functional.cross_entropy(logits, right) + functional.cross_entropy(logits[:, :batch].T, right)) / 2


def save_clip(clip: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write what `CLIPModel.from_pretrained` and `CLIPProcessor.from_pretrained` read; pictures become 2 x - 1."""
    side = {"height": SIDE, "width": SIDE}
    half = [0.5, 0.5, 0.5]
    processor = CLIPImageProcessorPil(size=side, do_center_crop=False, image_mean=half, image_std=half)
    clip.save_pretrained(folder)
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)


def blurred_and_noised(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures as an imperfect generator might draw them: each with its own Gaussian blur, and then noise."""
    n = len(pictures)
    blur, noise = torch.rand(2, n, generator=generator)
    offsets = torch.arange(-2, 3)
    weights = torch.softmax(-0.5 * (offsets / (LARGEST_BLUR * blur[:, None]).clamp(min=1e-3)).square(), dim=1)
    for dim, padding in ((3, (2, 2, 0, 0)), (2, (0, 0, 2, 2))):
        padded = functional.pad(pictures, padding, mode="replicate")
        shifted = [padded.narrow(dim, k, pictures.shape[dim]) for k in range(5)]
        pictures = sum(weights[:, k, None, None, None] * part for k, part in enumerate(shifted))
    draws = torch.randn(pictures.shape, generator=generator)
    return (pictures + LARGEST_NOISE * noise[:, None, None, None] * draws).clamp(0, 1)


def train_clip(shop: Workshop, output: Path) -> None:
    """The CLIP, which the pipeline does not need, into the folder `output`."""
    schedule, tokenizer = shop.recipe.clip, make_tokenizer()
    clip = make_clip(tokenizer, schedule.seed).to(shop.device)
    muon = {"lr": 20 * schedule.learning_rate, "weight_decay": 0.01}
    adamw = {"lr": schedule.learning_rate, "betas": (0.9, 0.98), "weight_decay": 0.01}
    optimizers = muon_and_adamw(clip, [".layers."], muon, adamw)  # in the first steps twice as fast as AdamW alone
    shop.train("clip", clip, schedule, partial(clip_loss, clip, tokenizer), optimizers)
    save_clip(clip, tokenizer, output)
    shop.write_log(output, ["clip"])
