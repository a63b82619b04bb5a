"""A diffusers pipeline as a velocity field over its scaled latents.

With sigma = 1 - t and the transformer's prediction v = E[eps - x | x_t, prompt], the field is

    u(x_t, t | label) = -v(x_t, 1 - t, prompts[label]),        u(x_t, t) = -v(x_t, 1 - t, negative prompt),

and Euler's rule along it is diffusers' own step: x + (t' - t) u = x + (sigma' - sigma) v. A seed gives the noise that
the pipeline draws from it, so that both reach the same image. A scaled latent is (E - shift) scale, with E the mean of
the autoencoder's posterior for an image.

The transformer computes in its own dtype, and x_t keeps the caller's, float32 from noise to image, as does time.
Diffusers keeps the latents, and for AuraFlow the time, in the dtype of the prompts' embeddings, so the own call of a
bfloat16 pipeline rounds them at every step.
"""

import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor

from rfmi.checks import check_device, shown, whole_number
from rfmi.pipelines.families import family_of, sizes_of
from rfmi.pipelines.images import as_tensor
from rfmi.pipelines.interface import Conditioning, computing_dtype
from rfmi.pipelines.memory import MicroBatches
from rfmi.pipelines.prompts import check_told_apart, prompt_list

PROMPTS_AT_ONCE, IMAGES_AT_ONCE = 32, 16


class PipelineField:
    """The velocity field of a pipeline for a list of prompts; a condition is a prompt's number in it.

    pipeline: of a family that `family_of` knows. After its `enable_model_cpu_offload()` the device holds nothing but
        the network at work: no text encoder while images are drawn, no autoencoder while none is decoded.
    prompts: any collection of texts, encoded here, each once however often it is listed; their rows stay on the CPU.
    negative_prompt: the null condition.
    height, width, max_sequence_length: in pixels, and of the embeddings; None for the pipeline's own.
    device: where to move the pipeline, None to leave it where it is.
    micro_batch: most rows in one forward pass, None for as many as are asked for; halved for good where memory runs
        out.

    `evaluations` counts the rows that went through the transformer, `shape` is a latent's (C, h, w), `sizes` is what
    `sizes_of` gives, `conditioning` has one row a prompt, in order, and the negative prompt's last. Gradients flow
    through velocities alone.
    Raises ValueError for a pipeline that is no velocity field, no prompts or an empty one, two that the text encoders
    cannot tell apart, a size that it cannot draw, and a device that is not there.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        prompts: Iterable[str],
        *,
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        max_sequence_length: int | None = None,
        device: torch.device | str | None = None,
        micro_batch: int | None = None,
    ) -> None:
        self.family, self.sizes = family_of(pipeline), sizes_of(pipeline, height, width, max_sequence_length)
        self.prompts, self.negative_prompt = tuple(prompt_list(prompts)), negative_prompt
        if not isinstance(negative_prompt, str):
            raise ValueError(f"negative_prompt is {shown(negative_prompt)}; give one text, empty for none")
        if device is not None:
            pipeline = pipeline.to(check_device(device))
        self.pipeline, factor = pipeline, pipeline.vae_scale_factor
        height, width = self.sizes["height"], self.sizes["width"]
        self.shape = (pipeline.transformer.config.in_channels, height // factor, width // factor)
        self.evaluations = 0
        self._rows, self._images = MicroBatches(micro_batch), MicroBatches(IMAGES_AT_ONCE)
        texts = [*self.prompts, negative_prompt]
        row_of_text = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        rows = torch.tensor([row_of_text[text] for text in texts])
        self.conditioning = self._encoded_prompts(list(row_of_text)).rows(rows)

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes."""
        return self.pipeline._execution_device

    def __call__(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """u (B, C, h, w) at x_t (B, C, h, w) and t (B,), for labels (B,), or None for the negative prompt."""
        return self.velocities(x_t, t, [condition])[0]

    def both(self, x_t: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(u(x_t, t | label), u(x_t, t)), from one batched forward pass of 2 B rows."""
        return tuple(self.velocities(x_t, t, [labels, None]))

    def velocities(self, x_t: Tensor, t: Tensor, branches: Sequence[Tensor | None]) -> list[Tensor]:
        """u(x_t, t | branch) for every branch, from one batched forward pass of len(branches) B rows.

        x_t: (B, C, h, w), whose shape, dtype and device each u has; t: (B,) in [0, 1].
        branches: labels (B,), or None for the negative prompt.
        Raises ValueError for other shapes and labels, MemoryError where memory runs out at a single row.
        """
        if not len(x_t) or tuple(x_t.shape[1:]) != self.shape or t.shape != x_t.shape[:1]:
            wanted = f"x_t (B, {_listed(self.shape)}) and t (B,)"
            raise ValueError(f"x_t is {tuple(x_t.shape)} and t {tuple(t.shape)}; give {wanted}")
        transformer, device, dtype = self.pipeline.transformer, self.device, computing_dtype(self.pipeline.transformer)
        index = torch.cat([self._rows_of(labels, len(x_t)) for labels in branches])
        sigma = (1 - t.to(torch.promote_types(t.dtype, torch.float32))).to(device, torch.float32)
        x_t, sigma = x_t.repeat(len(branches), 1, 1, 1), sigma.repeat(len(branches))

        def velocity(part: slice) -> Tensor:
            named, places = index[part].unique(return_inverse=True)  # the rows that move to the device: each once
            conditioning = self.conditioning.rows(named).to(device, dtype).rows(places)
            return -self.family.velocity(transformer, x_t[part].to(device, dtype), sigma[part], conditioning).to(x_t)

        velocities = torch.cat(self._rows(velocity, len(index)))
        self.evaluations += len(index)
        return list(velocities.chunk(len(branches)))

    def times(self, steps: int) -> Tensor:
        """The grid t = 1 - sigma (steps + 1,), float64, as the pipeline's call sets its scheduler for this image size.

        Raises ValueError where noise does not fall from step to step, as Heun's. Warns of a scheduler whose steps are
        not Euler's, as UniPC's, or draw noise on the way: images are then not those of the pipeline's own call.
        """
        times = self.family.times(self.pipeline, whole_number("steps", steps, 1), self.shape)
        scheduler, advice = self.pipeline.scheduler, "give the pipeline a FlowMatchEulerDiscreteScheduler"
        if bool((times.diff() <= 0).any()):
            raise ValueError(f"the noise of {type(scheduler).__name__} does not fall from step to step; {advice}")
        if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler) or scheduler.config.get("stochastic_sampling"):
            said = f"{type(scheduler).__name__} steps otherwise than by Euler's rule, which is taken here on its grid"
            warnings.warn(f"{said}: images are not those of the pipeline's own call; {advice}", stacklevel=2)
        return times

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """x_0 (n, C, h, w), float32: row i is where `pipeline(prompt, generator=generator)` starts for a CPU generator
        with seeds[i]. It is drawn in the dtype of the embeddings, as there: another dtype draws another noise."""
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        (channels, height, width), factor = self.shape, self.pipeline.vae_scale_factor
        shape = (len(generators), channels, height * factor, width * factor)
        return self.pipeline.prepare_latents(*shape, self.conditioning.dtype, self.device, generators).float()

    @torch.no_grad()
    def encode(self, images: Tensor | np.ndarray | Sequence[Image.Image]) -> Tensor:
        """Scaled latents (n, C, h, w), float32, of images in any form that `as_tensor` takes; ValueError for another
        size, FloatingPointError where the autoencoder overflows."""
        vae, images, (height, width) = self.pipeline.vae, as_tensor(images), (self.sizes["height"], self.sizes["width"])
        if images.shape[2:] != (height, width):
            given = " by ".join(map(str, images.shape[2:]))
            raise ValueError(f"images have {given} pixels; give {height} by {width}, or a field of their size")
        shift, scale = self._shift_and_scale

        def encoded(part: slice) -> Tensor:
            return vae.encode((2 * images[part] - 1).to(self.device, vae.dtype)).latent_dist.mean.float()

        latents = torch.cat(self._images(encoded, len(images)))
        if not bool(latents.isfinite().all()):
            said = f"the autoencoder overflows in {vae.dtype}: latents of images came out as no numbers"
            raise FloatingPointError(f"{said}; take pipeline.vae.to(torch.float32), or torch.bfloat16")
        return (latents - shift) * scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images (n, 3, height, width) in [0, 1], float32 on the CPU, of scaled latents (n, C, h, w); ValueError for
        latents of another shape, and for images that are no numbers."""
        vae, (shift, scale) = self.pipeline.vae, self._shift_and_scale
        if latents.ndim != 4 or tuple(latents.shape[1:]) != self.shape or not len(latents):
            raise ValueError(f"latents have the shape {tuple(latents.shape)}; give (n, {_listed(self.shape)})")

        def decoded(part: slice) -> Tensor:
            images = vae.decode((latents[part] / scale + shift).to(self.device, vae.dtype), return_dict=False)[0]
            return self.pipeline.image_processor.postprocess(images, output_type="pt").float().cpu()

        images = torch.cat(self._images(decoded, len(latents)))
        if not bool(images.isfinite().all()):
            said = f"images came out as no numbers: the latents are none, or {vae.dtype} overflows in the autoencoder"
            raise ValueError(f"{said}, which pipeline.vae.to(torch.float32) cures")
        return images

    @property
    def _shift_and_scale(self) -> tuple[float, float]:
        config = self.pipeline.vae.config
        return config.get("shift_factor") or 0.0, config.scaling_factor

    @torch.no_grad()
    def _encoded_prompts(self, texts: list[str]) -> Conditioning:
        length = self.sizes["max_sequence_length"]
        options = {} if length is None else {"max_sequence_length": length}

        def encoded(part: slice) -> Conditioning:
            return self.family.encode_prompts(self.pipeline, texts[part], **options).to("cpu")

        conditioning = Conditioning.cat(MicroBatches(PROMPTS_AT_ONCE)(encoded, len(texts)))
        check_told_apart(texts, conditioning)
        return conditioning

    def _rows_of(self, labels: Tensor | None, n: int) -> Tensor:
        """Which rows (n,) of the conditioning n labels name, None the negative prompt's."""
        if labels is None:
            return torch.full((n,), len(self.prompts))
        labels = torch.as_tensor(labels).cpu()
        if labels.shape != (n,) or labels.is_floating_point() or labels.dtype == torch.bool:
            raise ValueError(f"labels are {labels.dtype} of shape {tuple(labels.shape)}; give {n} integers, one a row")
        if labels.min() < 0 or labels.max() >= len(self.prompts):
            raise ValueError(f"labels run from {labels.min()} to {labels.max()}; give 0 to {len(self.prompts) - 1}")
        return labels.long()


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
