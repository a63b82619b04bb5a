"""Image folders: what is written is what is read, and nothing is taken for whole that is not."""

import hashlib

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

import rfmi.image_folder as module
from rfmi.files import changed_files
from rfmi.image_folder import read_images, rounded, write_images

NAMES = ["color_00000_00042.png", "color_00000_00043.png", "color_00001_00042.png"]


@pytest.fixture
def images():
    return torch.rand(3, 3, 16, 24, generator=torch.Generator().manual_seed(0))


def test_what_is_written_is_read_to_the_bit(tmp_path, images):
    write_images(tmp_path / "new", NAMES, images)
    again = read_images([tmp_path / "new" / name for name in NAMES])
    assert again.dtype == torch.float32 and again.is_contiguous()
    assert torch.equal(again, rounded(images))
    assert torch.equal(rounded(again), again)
    assert (again - images).abs().max() <= 0.5 / 255 + 1e-6


def test_every_value_of_eight_bits_comes_back(tmp_path):
    values = (torch.arange(256) / 255).reshape(1, 1, 16, 16).repeat(1, 3, 1, 1)
    write_images(tmp_path, NAMES[:1], values)
    assert np.array_equal(np.array(Image.open(tmp_path / NAMES[0]))[..., 0].ravel(), np.arange(256))
    assert torch.equal(read_images([tmp_path / NAMES[0]]), values)


def test_the_pixels_are_diffusers_own(tmp_path, images):
    write_images(tmp_path, NAMES, images)
    pictures = VaeImageProcessor.numpy_to_pil(VaeImageProcessor.pt_to_numpy(images))
    for name, picture in zip(NAMES, pictures, strict=True):
        assert np.array_equal(np.array(Image.open(tmp_path / name)), np.array(picture))


def test_the_order_is_that_of_the_names(tmp_path, images):
    write_images(tmp_path, NAMES[::-1], images)
    assert torch.equal(read_images([tmp_path / name for name in NAMES]), rounded(images).flip(0))


def test_an_image_is_there_whole_or_not_at_all(tmp_path, images, monkeypatch):
    write_images(tmp_path, NAMES[:1], images[:1])
    before = (tmp_path / NAMES[0]).read_bytes()

    def dies(path, content):
        path.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(module.Path, "write_bytes", dies)
    with pytest.raises(KeyboardInterrupt):
        write_images(tmp_path, NAMES[:1], images[1:2])
    assert (tmp_path / NAMES[0]).read_bytes() == before


def test_damaged_files_are_named(tmp_path, images):
    digests = dict(zip(NAMES, write_images(tmp_path, NAMES, images), strict=True))
    assert digests == {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in NAMES}
    assert changed_files(tmp_path, digests) == []
    whole = (tmp_path / NAMES[1]).read_bytes()
    (tmp_path / NAMES[1]).write_bytes(whole[:-1])
    (tmp_path / NAMES[2]).unlink()
    assert changed_files(tmp_path, digests) == NAMES[1:]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "a text"])
def test_what_cannot_be_read_is_said_with_its_name(tmp_path, images, damage):
    write_images(tmp_path, NAMES, images)
    path = tmp_path / NAMES[1]
    content = {"empty": b"", "cut": path.read_bytes()[:200], "a text": b"no image"}.get(damage)
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=NAMES[1]) as raised:
        read_images([tmp_path / name for name in NAMES])
    assert "\n" not in str(raised.value)


def test_other_names_than_images_are_refused(tmp_path, images):
    with pytest.raises(ValueError, match="shorter|longer"):
        write_images(tmp_path, NAMES[:2], images)
