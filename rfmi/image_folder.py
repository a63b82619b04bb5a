"""Images on disk in Hugging Face's imagefolder layout: PNGs of eight bits a color, and `metadata.jsonl` beside them.

`datasets.load_dataset("imagefolder", data_dir=folder)` reads such a folder with its texts and whatever else is noted.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rfmi.files import whole_file

METADATA = "metadata.jsonl"


def rounded(images: Tensor) -> Tensor:
    """Images in [0, 1] as `read_images` finds them once they are written: k / 255."""
    return (255 * images).round() / 255


def write_images(folder: Path, names: Sequence[str], images: Tensor) -> list[str]:
    """Write images (n, 3, height, width) in [0, 1] under n names, each whole or not at all; their files' sha256."""
    pixels = (255 * images).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
    digests = []
    with ThreadPoolExecutor() as threads:  # compressing takes long, and one disk is not written faster by many
        for name, content in zip(names, threads.map(_png, pixels), strict=True):
            with whole_file(folder / name) as temporary:
                temporary.write_bytes(content)
            digests.append(hashlib.sha256(content).hexdigest())
    return digests


def read_images(paths: Sequence[Path]) -> Tensor:
    """(n, 3, height, width) in [0, 1], float32, of images of one size; ValueError, naming it, for a damaged one."""
    with ThreadPoolExecutor() as threads:
        pixels = torch.stack(list(threads.map(_pixels, paths)))
    return pixels.permute(0, 3, 1, 2).contiguous() / 255


def _png(pixels: np.ndarray) -> bytes:
    content = BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def _pixels(path: Path) -> Tensor:
    try:
        with Image.open(path) as image:
            return torch.from_numpy(np.array(image.convert("RGB")))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} is missing, or no whole image; write it again, or leave it out") from error
