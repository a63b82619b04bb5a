"""Images as files: written on threads, each whole or not at all."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rfmi.runs import whole_file


def write_images(folder: Path, names: Sequence[str], images: Tensor) -> None:
    """Write images (n, 3, h, w) in [0, 1] to a folder as PNG files of these names; OSError for a full disk."""

    def write(name: str, image: Tensor) -> None:
        pixels = (255 * image).round().to(torch.uint8).permute(1, 2, 0)
        with whole_file(folder / name) as temporary:
            Image.fromarray(pixels.numpy()).save(temporary, format="PNG")

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, names, images.cpu()))


def read_images(paths: Sequence[Path]) -> Tensor:
    """Images (n, 3, h, w) in [0, 1], float32, of these files, in order."""

    def read(path: Path) -> Tensor:
        with Image.open(path) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)

    with ThreadPoolExecutor() as pool:
        return torch.stack(list(pool.map(read, paths))) / 255
