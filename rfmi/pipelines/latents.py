"""The space a pipeline's transformer works in: its shape, its grid of times, and the way from images and back.

A scaled latent is (E - shift) scale, with E the mean of the autoencoder's posterior for an image, and t = 1 - sigma.
"""

from copy import deepcopy

import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift
from torch import Tensor

from rfmi.pipelines.micro_batches import MicroBatches

Shape = tuple[int, int, int]


def latent_shape(pipeline: DiffusionPipeline, height: int | None = None, width: int | None = None) -> Shape:
    """(C, h, w) of the latent of an image, in pixels the pipeline's own size by default. Raises ValueError where the
    transformer's patches do not divide it."""
    config, factor = pipeline.transformer.config, pipeline.vae_scale_factor
    height, width = (config.sample_size * factor if side is None else side for side in (height, width))
    multiple = factor * config.patch_size
    if min(height, width) < multiple or height % multiple or width % multiple:
        raise ValueError(f"an image of {height} by {width} pixels was asked for; give multiples of {multiple}")
    return config.in_channels, height // factor, width // factor


def scheduler_times(pipeline: DiffusionPipeline, shape: Shape, steps: int) -> Tensor:
    """t = 1 - sigma (steps + 1,), float64, as the pipeline's call sets its scheduler for latents of this shape.

    Raises ValueError for a scheduler whose noise does not fall from step to step, as Heun's.
    """
    scheduler, patch = deepcopy(pipeline.scheduler), pipeline.transformer.config.patch_size
    config, options = scheduler.config, {}
    if config.get("use_dynamic_shifting"):
        length = (shape[1] // patch) * (shape[2] // patch)
        options["mu"] = calculate_shift(
            length, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
        )
    scheduler.set_timesteps(steps, **options)
    times = 1 - scheduler.sigmas.double().cpu()
    if bool((times.diff() <= 0).any()):
        raise ValueError(
            f"the noise of {type(scheduler).__name__} does not fall from step to step; give the pipeline a "
            "FlowMatchEulerDiscreteScheduler"
        )
    return times


@torch.no_grad()
def encode_images(pipeline: DiffusionPipeline, images: Tensor, shape: Shape, batches: MicroBatches) -> Tensor:
    """Scaled latents (n, *shape), float32, of images (n, 3, height, width) in [0, 1]; ValueError for others."""
    vae, device = pipeline.vae, pipeline._execution_device
    size = (3, *(pipeline.vae_scale_factor * side for side in shape[1:]))
    if images.ndim != 4 or tuple(images.shape[1:]) != size or not images.is_floating_point() or not len(images):
        raise ValueError(f"images are {images.dtype} of shape {tuple(images.shape)}; give floats (n, {_listed(size)})")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("images hold values outside [0, 1], or no numbers; scale them to [0, 1]")
    shift, scale = _shift_and_scale(vae)

    def encoded(part: slice) -> Tensor:
        return vae.encode((2 * images[part] - 1).to(device, vae.dtype)).latent_dist.mean.float()

    return (torch.cat(batches(encoded, len(images))) - shift) * scale


@torch.no_grad()
def decode_latents(pipeline: DiffusionPipeline, latents: Tensor, shape: Shape, batches: MicroBatches) -> Tensor:
    """Images (n, 3, height, width) in [0, 1], float32 on the CPU, of scaled latents (n, *shape); ValueError for other
    latents, and for images that are no numbers."""
    vae, device = pipeline.vae, pipeline._execution_device
    if latents.ndim != 4 or tuple(latents.shape[1:]) != shape or not len(latents):
        raise ValueError(f"latents have the shape {tuple(latents.shape)}; give (n, {_listed(shape)})")
    shift, scale = _shift_and_scale(vae)

    def decoded(part: slice) -> Tensor:
        images = vae.decode((latents[part] / scale + shift).to(device, vae.dtype), return_dict=False)[0]
        return pipeline.image_processor.postprocess(images, output_type="pt").float().cpu()

    images = torch.cat(batches(decoded, len(latents)))
    if not bool(images.isfinite().all()):
        raise ValueError(
            f"images came out as no numbers: the latents are none, or {vae.dtype} overflows in the autoencoder, which "
            "pipeline.vae.to(torch.float32) cures"
        )
    return images


def _shift_and_scale(vae: torch.nn.Module) -> tuple[float, float]:
    return vae.config.get("shift_factor") or 0.0, vae.config.scaling_factor


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
