"""What a place to measure a model in has to answer: the interface, which knows no world.

A world is a module with

    name, categories                              str; tuple of str
    prompts(category, split)                      sequence of str; split "train", "val", to choose on, or "locked", on
                                                  which nothing is chosen
    judge(images, prompts, category)              DataFrame, one row an image: `aligned`, `score`, what they are made
                                                  of; and if known `group` and `frequency` (in training) of the prompt
    changed(prompt, seed)                         the prompt with one thing changed, or None where nobody can say
    features(images)                              (n, d), for image quality
    references(prompts, category, n, seed)        (len(prompts) * n, 3, H, W), n true images of each prompt in turn, or
                                                  None: then the base model's own images are the yardstick
    auxiliary_score(images, prompts)              (n,), what needs a second model, or None
    pipeline(device, dtype)                       the model that comes with it, or None: then the user names one

and, where its answers depend on more than its own code, `sources`: names of modules, paths of files; and `identity()`:
plain values by name, as the models that the environment names.
Images are tensors (n, 3, H, W) in [0, 1]; a seed is a number or a text. `load_world` finds the module and checks every
answer.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lab.paths import repository_root

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

HERE = "lab.worlds"
SPLITS = ("train", "val", "locked")
FUNCTIONS = ("prompts", "judge", "changed", "features", "references", "auxiliary_score", "pipeline")
COLUMNS = ("aligned", "score")


def load_world(name: str) -> World:
    """The world of a name, checked.

    name: a world of `lab.worlds`, an importable "package.module", or the path of a .py file, a relative one meant from
        the checkout

    Raises ValueError for a world that is not there, or that lacks what a world answers.
    """
    if name.endswith(".py") or "/" in name:
        return _checked((repository_root() / Path(name).expanduser()).resolve())
    return _checked(name if "." in name else f"{HERE}.{name}")


@dataclass(frozen=True)
class World:
    """A world whose answers are checked; equal, hashed and pickled by its address.

    address: the module's name, or the path of its file
    """

    address: str
    module: ModuleType = field(compare=False, repr=False)

    def __reduce__(self) -> tuple:
        return load_world, (self.address,)

    @property
    def name(self) -> str:
        return self.module.name

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(self.module.categories)

    @property
    def sources(self) -> tuple[str, ...]:
        """What the answers depend on: modules, packages with all that is in them, and files of the checkout."""
        return tuple(getattr(self.module, "sources", (self.module.__name__,)))

    @property
    def identity(self) -> dict[str, Any]:
        """Plain values on which the answers depend besides code and files."""
        return getattr(self.module, "identity", dict)()

    def prompts(self, category: str, split: str = "val") -> tuple[str, ...]:
        """The prompts of a category. Raises ValueError for another category or split, and where there are none."""
        if category not in self.categories or split not in SPLITS:
            raise ValueError(
                f"the world {self.name} has no prompts {category!r}, {split!r}: a category is one of "
                f"{', '.join(self.categories)}, a split one of {', '.join(SPLITS)}"
            )
        texts = self.module.prompts(category, split)
        if isinstance(texts, str) or not len(texts) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{self._says('prompts')} no list of texts for {category!r}, {split!r}; give at least one")
        return tuple(texts)

    def judge(self, images: Tensor, prompts: Sequence[str], category: str) -> pd.DataFrame:
        """One row an image: `aligned` (bool), `score` (finite), and what they were made of."""
        table = self.module.judge(images, prompts, category)
        if not isinstance(table, pd.DataFrame):
            raise ValueError(f"{self._says('judge')} a {type(table).__name__}; give a DataFrame, one row an image")
        if len(table) != len(images):
            raise ValueError(f"{self._says('judge')} {len(table)} rows for {len(images)} images; give one row an image")
        missing = [column for column in COLUMNS if column not in table]
        if missing:
            raise ValueError(f"{self._says('judge')} no column {' and no '.join(missing)}; give {', '.join(COLUMNS)}")
        if len(table) and not pd.api.types.is_bool_dtype(table["aligned"]):
            raise ValueError(
                f"{self._says('judge')} a column aligned of {table['aligned'].dtype}; give true or false an image"
            )
        scores = pd.to_numeric(table["score"], errors="coerce").to_numpy(float, na_value=np.nan)
        wrong = np.flatnonzero(~np.isfinite(scores))
        if len(wrong):
            raise ValueError(f"{self._says('judge')} no finite score in row {wrong[0]} of {category!r}; give a number")
        return table.reset_index(drop=True)

    def changed(self, prompt: str, seed: int | str) -> str | None:
        """The same prompt with one thing changed; None where nobody can say."""
        return self.module.changed(prompt, seed)

    def features(self, images: Tensor) -> Tensor:
        """(n, d), finite."""
        return self._numbers("features", self.module.features(images), images, dims=2)

    def references(self, prompts: Sequence[str], category: str, n: int, seed: int | str) -> Tensor | None:
        """(len(prompts) * n, 3, H, W), n true images of each prompt in turn, from one random stream; None for none."""
        images = self.module.references(prompts, category, n, seed)
        if images is not None and (images.ndim != 4 or len(images) != len(prompts) * n):
            raise ValueError(
                f"{self._says('references')} shape {tuple(images.shape)} for {n} images of each of {len(prompts)} "
                f"prompts; give ({len(prompts) * n}, 3, height, width), or None"
            )
        return images

    def auxiliary_score(self, images: Tensor, prompts: Sequence[str]) -> Tensor | None:
        """(n,), finite; None where there is no second model."""
        scores = self.module.auxiliary_score(images, prompts)
        return None if scores is None else self._numbers("auxiliary_score", scores, images, dims=1)

    def pipeline(
        self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> DiffusionPipeline | None:
        """The model that comes with the world; None where the user names one."""
        return self.module.pipeline(device, dtype)

    def _numbers(self, function: str, answer: object, images: Tensor, dims: int) -> Tensor:
        """An answer of finite numbers, a row an image."""
        numbers = torch.as_tensor(answer)
        if numbers.ndim != dims or len(numbers) != len(images) or not bool(numbers.isfinite().all()):
            raise ValueError(
                f"{self._says(function)} shape {tuple(numbers.shape)}, or what is no number, for {len(images)} images; "
                f"give {'one finite number' if dims == 1 else 'one row of finite numbers'} an image"
            )
        return numbers

    def _says(self, function: str) -> str:
        return f"{function} of the world {self.name} answers with"


@cache
def _checked(address: str | Path) -> World:
    module = _from_file(address) if isinstance(address, Path) else _imported(address)
    missing = [name for name in ("name", "categories") if not hasattr(module, name)]
    missing += [name for name in FUNCTIONS if not callable(getattr(module, name, None))]
    if missing:
        raise ValueError(f"{address} is no world: it lacks {', '.join(missing)}; see lab/worlds/world.py")
    if isinstance(module.categories, str) or not len(module.categories):
        raise ValueError(f"the categories of {address} are {module.categories!r}; give at least one, in a tuple")
    return World(str(address), module)


def _imported(address: str) -> ModuleType:
    try:
        return importlib.import_module(address)
    except ModuleNotFoundError as error:
        if not f"{address}.".startswith(f"{error.name}."):
            raise  # the world is there, and what it needs is not
    name = address.removeprefix(f"{HERE}.")
    shipped = [each.name for each in pkgutil.iter_modules(importlib.import_module(HERE).__path__) if each.ispkg]
    near = get_close_matches(name, shipped)
    advice = f"did you mean {near[0]!r}" if near else f"there are {', '.join(shipped)}"
    raise ValueError(f"there is no world {name!r}; {advice}, or name a module of your own or the path of its .py file")


def _from_file(path: Path) -> ModuleType:
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"there is no world in {path}; give the path of a .py file, or a name")
    spec = importlib.util.spec_from_file_location(f"world_{sha256(str(path).encode()).hexdigest()[:16]}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module
