"""The folder of a selection: one file a prompt while it grows, one table and one image folder when it is whole.

    settings.json            what was asked for, and of which weights
    units/00012.safetensors  every candidate of prompt 12, the latents of those kept: written whole or not at all
    images/00012_00007.png   a kept image, named by prompt and seed, in Hugging Face's imagefolder layout
    images/metadata.jsonl    its prompt, seed and score
    candidates.parquet       seed, scores, standard error and fate of every candidate
    latents.safetensors      the kept latents (n, C, h, w), and the number of each one's prompt
    embeddings.safetensors   one row a prompt, in order, and the null prompt's last
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from rfmi.pipelines import Conditioning, PipelineField
from rfmi.runs import SETTINGS, read_tensors, whole_file, write_atomically, write_tensors
from rfmi.selection.candidates import Candidates

TABLE, METADATA = "candidates.parquet", "metadata.jsonl"
LATENTS, EMBEDDINGS = "latents.safetensors", "embeddings.safetensors"


@dataclass(frozen=True)
class Selection:
    """A finished selection.

    folder: where it is kept.
    candidates: one row a candidate: prompt_id, prompt, seed, fate, the scores by name, evaluations, and rank, NaN for
        those that were not kept.
    latents: (n, C, h, w) of those kept, by prompt and then by rank.
    prompt_id: (n,) the number of each one's prompt.
    conditioning: one row a prompt, in order, and the null prompt's last.
    """

    folder: Path
    candidates: pd.DataFrame
    latents: Tensor
    prompt_id: Tensor
    conditioning: Conditioning

    def __repr__(self) -> str:
        prompts = self.candidates.prompt_id.nunique()
        return f"Selection of {len(self.latents)} of {len(self.candidates)} candidates for {prompts} prompts"

    @cached_property
    def kept(self) -> pd.DataFrame:
        """The rows of those kept, in the order of `latents`."""
        return kept_rows(self.candidates)

    @cached_property
    def prompts(self) -> list[str]:
        """The prompts, by number."""
        return self.candidates.drop_duplicates("prompt_id").sort_values("prompt_id").prompt.tolist()

    @cached_property
    def files(self) -> list[Path]:
        """The images of those kept, in the order of `latents`."""
        return [image_path(self.folder, row.prompt_id, row.seed) for row in self.kept.itertuples()]

    def images(self) -> Tensor:
        """(n, 3, height, width) in [0, 1] of those kept, in the order of `latents`."""
        pixels = torch.stack([torch.from_numpy(np.array(Image.open(file))) for file in self.files])
        return pixels.permute(0, 3, 1, 2).contiguous() / 255

    def scores(self, by: str) -> Tensor:
        """The column `by` (n,), float64, of those kept; ValueError for one that is not there, or holds no numbers."""
        if by not in self.kept:
            numbers = self.kept.select_dtypes("number").columns.drop(["prompt_id", "seed", "rank"], errors="ignore")
            raise ValueError(f"the selection has no column {by!r}; it has {', '.join(numbers)}")
        values = torch.tensor(pd.to_numeric(self.kept[by], errors="coerce").to_numpy(float))
        if not bool(values.isfinite().all()):
            raise ValueError(f"the column {by!r} holds what is no number; fill it for every kept image")
        return values

    def with_column(self, name: str, values: Sequence[float] | Tensor) -> Self:
        """The same selection with a number more for each kept image, in the order of `latents`; ValueError for less."""
        if len(values) != len(self.kept):
            raise ValueError(f"{len(values)} values for {len(self.kept)} kept images; give one for each")
        column = pd.Series(np.asarray(values, dtype=float), self.kept.index)
        return replace(self, candidates=self.candidates.assign(**{name: column}))

    def keeping(self, places: Tensor) -> Self:
        """The same selection with some of its kept images alone; places: (n,) whether each stays."""
        table = self.candidates.copy()
        table.loc[self.kept.index[~places.numpy()], "rank"] = np.nan
        return replace(self, candidates=table, latents=self.latents[places], prompt_id=self.prompt_id[places])

    def of_prompts(self, numbers: Sequence[int]) -> Self:
        """The same selection with the images of these prompts alone."""
        return self.keeping(torch.isin(self.prompt_id, torch.tensor(numbers)))


def best(selection: Selection, by: str = "score") -> Selection:
    """The image of every prompt with the largest value in the column `by`; ValueError as `Selection.scores`."""
    return _one_a_prompt(selection, by, "idxmax")


def worst(selection: Selection, by: str = "score") -> Selection:
    """The image of every prompt with the smallest value in the column `by`; ValueError as `Selection.scores`."""
    return _one_a_prompt(selection, by, "idxmin")


def _one_a_prompt(selection: Selection, by: str, which: str) -> Selection:
    values = pd.Series(selection.scores(by).numpy(), selection.kept.index)
    chosen = values.groupby(selection.kept["prompt_id"]).agg(which)
    return selection.keeping(torch.tensor(selection.kept.index.isin(chosen)))


def unit_path(folder: Path, prompt_id: int) -> Path:
    return folder / "units" / f"{prompt_id:05d}.safetensors"


def image_path(folder: Path, prompt_id: int, seed: int) -> Path:
    return folder / "images" / f"{prompt_id:05d}_{seed:05d}.png"


def write_unit(folder: Path, prompt_id: int, prompt: str, drawn: Candidates, images: Tensor, seed: int) -> None:
    """Keep a finished prompt: first its images (k, 3, height, width), then its file, which vouches for them."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    pictures = VaeImageProcessor.numpy_to_pil(VaeImageProcessor.pt_to_numpy(images))
    for candidate, picture in zip(drawn.kept, pictures, strict=True):
        picture.save(image_path(folder, prompt_id, seed + candidate))
    tensors = {f"columns.{name}": values for name, values in drawn.columns.items()}
    tensors |= {"kept": torch.tensor(drawn.kept), "latents": drawn.latents}
    record = {"prompt": prompt, "fates": drawn.fates, "seed": seed}
    write_tensors(unit_path(folder, prompt_id), tensors, record=record)


def read_unit(folder: Path, prompt_id: int) -> tuple[pd.DataFrame, Tensor]:
    """(one row a candidate, the kept latents best first)."""
    tensors, facts = read_tensors(unit_path(folder, prompt_id))
    latents, kept, record = tensors.pop("latents"), tensors.pop("kept").tolist(), facts["record"]
    seeds = record["seed"] + np.arange(len(record["fates"]))
    table = pd.DataFrame({"prompt_id": prompt_id, "prompt": record["prompt"], "seed": seeds, "fate": record["fates"]})
    scores = {name.removeprefix("columns."): values.numpy() for name, values in tensors.items()}
    ranks = pd.Series({candidate: rank for rank, candidate in enumerate(kept)})
    return table.assign(**scores, rank=ranks), latents


def kept_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the kept candidates, in the order of their latents."""
    return table[table["rank"].notna()].sort_values(["prompt_id", "rank"])


def finish_folder(folder: Path, prompts: Sequence[str], field: PipelineField) -> None:
    """Write metadata, latents, embeddings and at last the table from all prompts' files; the field's prompts begin with
    these."""
    n = len(prompts)
    tables, latents = zip(*(read_unit(folder, i) for i in range(n)), strict=True)
    table = pd.concat(tables, ignore_index=True)
    kept = kept_rows(table)
    files = [image_path(folder, row.prompt_id, row.seed).name for row in kept.itertuples()]
    named = kept.assign(file_name=files, text=kept.prompt)[["file_name", "text", "prompt_id", "seed", "score"]]
    lines = [json.dumps(row) for row in named.to_dict("records")]
    write_atomically(folder / "images" / METADATA, "\n".join(lines) + "\n")
    numbers = torch.tensor(kept.prompt_id.to_numpy())
    write_tensors(folder / LATENTS, {"latents": torch.cat(latents), "prompt_id": numbers})
    rows = torch.tensor([*range(n), len(field.conditioning) - 1])  # the null prompt's is the last
    write_tensors(folder / EMBEDDINGS, field.conditioning.rows(rows).to("cpu").tensors)
    with whole_file(folder / TABLE) as temporary:
        table.to_parquet(temporary)


def read_selection(folder: str | Path) -> Selection:
    """A finished selection. Raises FileNotFoundError for a folder that lacks a part of it, its images included."""
    folder = Path(folder)
    for name in (SETTINGS, TABLE, LATENTS, EMBEDDINGS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no finished selection: {name} is missing; run `rfmi.select` again")
    kept, conditioning = load_file(folder / LATENTS), Conditioning(load_file(folder / EMBEDDINGS))
    selection = Selection(folder, pd.read_parquet(folder / TABLE), kept["latents"], kept["prompt_id"], conditioning)
    for prompt_id, file in zip(selection.kept.prompt_id, selection.files, strict=True):
        if not file.is_file():
            said = f"{folder} has lost the image {file.name}; remove {unit_path(folder, prompt_id).name} from its units"
            raise FileNotFoundError(f"{said} and run `rfmi.select` again")
    return selection
