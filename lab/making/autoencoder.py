"""The autoencoder between pictures (3, 64, 64) in [-1, 1] and latents (6, 8, 8)."""

from functools import partial

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from lab.making.prompt_files import draw_training_prompt
from lab.making.workshop import Workshop
from lab.worlds.shapes.grammar import draw_prompt
from lab.worlds.shapes.rendering import SIDE, Scene, render
from lab.worlds.shapes.sampling import draw_scene
from lab.worlds.shapes.words import CATEGORIES
from rfmi.training import StepRandomness

LATENT_CHANNELS = 6
SQUARED_WEIGHT = 5.0  # of the mean squared error; the mean absolute error alone leaves small objects out for long
KL_WEIGHT = 1e-4  # of the mean over a latent's elements, beside the mean absolute error over pixels


def make_autoencoder(channels: tuple[int, ...]) -> AutoencoderKL:
    """A convolutional autoencoder that halves the side at every level but the last."""
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        block_out_channels=channels,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIDE,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def training_scenes(n: int, randomness: StepRandomness, categories: tuple[str, ...] = CATEGORIES) -> list[Scene]:
    """Scenes of training prompts, the entries of `categories` with equal chance."""
    random = randomness.random
    return [draw_scene(draw_training_prompt(random.choice(categories), random), random) for _ in range(n)]


def varied_scenes(n: int, randomness: StepRandomness) -> list[Scene]:
    """Scenes for the autoencoder, which knows no prompts: every pair of attributes, and overlaps more often."""
    random = randomness.random
    categories = [*CATEGORIES, "3d_spatial", "3d_spatial", "3d_spatial"]
    return [draw_scene(draw_prompt(random.choice(categories), random, even=True), random) for _ in range(n)]


def autoencoder_loss(autoencoder: AutoencoderKL, randomness: StepRandomness, batch: int) -> Tensor:
    """Absolute and squared error of the pixels on [-1, 1], and a little Kullback-Leibler divergence of the latents."""
    pictures = (2 * render(varied_scenes(batch, randomness)) - 1).to(autoencoder.device)
    posterior = autoencoder.encode(pictures).latent_dist
    error = autoencoder.decode(posterior.sample(randomness.generator)).sample - pictures
    divergence = posterior.kl().mean() / posterior.mean[0].numel()
    return error.abs().mean() + SQUARED_WEIGHT * error.square().mean() + KL_WEIGHT * divergence


def trained_autoencoder(shop: Workshop) -> AutoencoderKL:
    """The first stage."""
    schedule = shop.recipe.autoencoder
    torch.manual_seed(schedule.seed)
    model = make_autoencoder(shop.recipe.autoencoder_channels).to(shop.device)
    optimizer = torch.optim.AdamW(model.parameters(), schedule.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    shop.train("autoencoder", model, schedule, partial(autoencoder_loss, model), [optimizer])
    return model
