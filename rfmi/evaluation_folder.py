"""The folder of an evaluation: one file a unit, and the images beside them where they are kept.

    settings.json                  what was asked for, and of which pipeline, judge and features
    images/color_00012_00042.png   an image of a category, prompt number and seed, in Hugging Face's imagefolder layout
    images/metadata.jsonl          its text, the same three, and all that the judge said
    color_00012.safetensors        the images of a few prompts, judged

A unit's file is written last and vouches for the files of its images.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from rfmi.image_folder import METADATA
from rfmi.files import changed_files, read_tensors, write_atomically, write_record, write_tensors
from rfmi.runs import SETTINGS, read_settings, remove_leftovers

IMAGES = "images"
KEYS = ["category", "prompt", "seed"]
Units = Mapping[tuple[str, int], Path]  # by category and the number of the first prompt


@dataclass(frozen=True)
class Evaluation:
    """Judged images.

    images: one row an image: category, prompt, seed, aligned, score, and whatever else the judge said.
    features: (n, d) of the same images in the same order, or None where no feature network was given.
    folder: where the judgements are kept. files: the images, in the same order; empty where they were not kept.
    """

    images: pd.DataFrame
    features: Tensor | None
    folder: Path | None = None
    files: Sequence[Path] = ()

    def __repr__(self) -> str:
        prompts = len(self.images[["category", "prompt"]].drop_duplicates())
        return f"Evaluation of {len(self.images)} images of {prompts} prompts"

    def by_prompt(self, column: str = "aligned") -> pd.Series:
        """The mean of a column over the images of each prompt, by category and prompt."""
        return self.images.groupby(["category", "prompt"], sort=False)[column].mean()

    def by_category(self, column: str = "aligned") -> pd.Series:
        """The mean over the prompts of each category."""
        return self.by_prompt(column).groupby("category", sort=False).mean()


def unit_paths(folder: Path, counts: Mapping[str, int], prompts_a_unit: int) -> Units:
    """The file of every unit."""
    return {
        (category, first): folder / f"{category}_{first:05d}.safetensors"
        for category, n in counts.items()
        for first in range(0, n, prompts_a_unit)
    }


def write_unit(
    path: Path, keys: Mapping[str, Any], files: Mapping[str, str], table: pd.DataFrame, tensors: Mapping[str, Tensor]
) -> None:
    """keys: columns that are ours. files: the sha256 of every image by its name, in order; empty where none is kept."""
    tensors = {"aligned": torch.tensor(table.aligned.to_numpy(float))} | tensors
    write_tensors(path, tensors, rows=table.assign(**keys).to_dict("records"), images=files)


def read_evaluation(units: Units, folder: Path, images: Path) -> Evaluation:
    """From the files of all units; folder: of the judgements."""
    found = [read_tensors(path) for path in units.values()]
    table = pd.concat([pd.DataFrame(facts["rows"]) for _, facts in found], ignore_index=True)
    table = table[list(dict.fromkeys([*KEYS, "aligned", "score", *table]))]  # ours first, then what else the judge said
    features = [tensors["features"] for tensors, _ in found if "features" in tensors]
    files = [images / name for _, facts in found for name in facts["images"]]
    return Evaluation(table, torch.cat(features) if features else None, folder, files)


def write_metadata(evaluation: Evaluation) -> None:
    """One line an image, as Hugging Face's imagefolder layout asks for."""
    names, table = [file.name for file in evaluation.files], evaluation.images
    numbers = [int(name.split("_")[-2]) for name in names]
    table = table.assign(file_name=names, text=table["prompt"], prompt_id=numbers).drop(columns="prompt")
    text = table.to_json(orient="records", lines=True, double_precision=15, force_ascii=False)
    write_atomically(evaluation.folder / IMAGES / METADATA, text)


def check_images(folder: Path, units: Iterable[Path]) -> None:
    """Raises ValueError for an image that is not as these units' files have it."""
    for path in units:
        for name in changed_files(folder / IMAGES, read_tensors(path)[1]["images"]):
            said = f"the image {name} in {folder / IMAGES} is missing, cut or changed"
            raise ValueError(f"{said}; remove {path.name} in {folder} and run `rfmi.evaluate` again")


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings of an evaluation that kept its images; ValueError for any other folder."""
    there = read_settings(folder) if (folder / SETTINGS).is_file() else {}
    if not there.get("keep_images"):
        raise ValueError(f"{folder} holds no evaluation with images; run `rfmi.evaluate` with keep_images=True first")
    return there


def forget_judge(folder: Path, settings: Mapping[str, Any], units: Units) -> None:
    """Let another judge, such as one that is mended, begin in a folder where none has answered yet."""
    for part in (folder, folder / IMAGES):
        remove_leftovers(part)
    if any(path.exists() for path in units.values()) or any(folder.glob("*.claim")):
        return
    with suppress(FileNotFoundError):
        there = read_settings(folder)
        if there.keys() == settings.keys():
            write_record(folder / SETTINGS, there | {name: settings[name] for name in ("judge", "features")})
