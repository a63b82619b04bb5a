"""Images as they are handed in: what diffusers' pipelines give, and what files are read as."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

WANTED = "give a tensor (n, 3, height, width), an array (n, height, width, 3) or a list of PIL images"


def as_tensor(images: Tensor | np.ndarray | Sequence[Image.Image]) -> Tensor:
    """Images (n, 3, height, width) in [0, 1], float32.

    images: a tensor of that shape, or an array (n, height, width, 3), of floats in [0, 1]; an array of uint8; or PIL
        images of one size. Raises ValueError for anything else, a single image included.
    """
    if isinstance(images, Image.Image):
        raise ValueError("images is a single PIL image; put it into a list")
    if isinstance(images, list | tuple):
        if not images or not all(isinstance(image, Image.Image) for image in images):
            raise ValueError(f"images is a list of {type(images[0]).__name__ if images else 'nothing'}; {WANTED}")
        sizes = sorted({image.size for image in images})
        if len(sizes) > 1:
            said = f"images have {len(sizes)} sizes, from {sizes[0]} to {sizes[-1]}"
            raise ValueError(f"{said}; give those of one at once")
        images = np.stack([np.asarray(image.convert("RGB")) for image in images])
    if isinstance(images, np.ndarray):
        bytes_ = images.dtype == np.uint8
        images = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1) if images.ndim == 4 else images))
        images = images / 255 if bytes_ else images
    if not isinstance(images, Tensor):
        raise ValueError(f"images is {type(images).__name__}; {WANTED}")
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point() or not len(images):
        single = ", images[None] where it is a single one" if images.ndim == 3 else ""
        raise ValueError(f"images are {images.dtype} of shape {tuple(images.shape)}; {WANTED}, of floats{single}")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("images hold values outside [0, 1], or no numbers; scale them to [0, 1]")
    return images.float()
