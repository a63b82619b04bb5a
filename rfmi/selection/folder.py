"""The folder of a selection: one file a prompt while it grows, one table and one image folder when it is whole.

    settings.json            what was asked for, and of which weights
    units/00012.safetensors  every candidate of prompt 12, the latents of those kept, the sha256 of their images
    images/00012_00007.png   a kept image, named by prompt and seed, in Hugging Face's imagefolder layout
    images/metadata.jsonl    its prompt, seed and score
    candidates.parquet       seed, scores, standard error and fate of every candidate
    latents.safetensors      the kept latents (n, C, h, w), by prompt and then by rank
    embeddings.safetensors   one row a prompt, in order, and the null prompt's last
    manifest.json            the sha256 of all files but settings.json: written last, it vouches for them

Every file is written whole or not at all, and a damaged one is noticed: it is named where the folder is read, and
`rfmi.select` draws its prompt again, or finishes the folder again from its prompts' files.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from rfmi.image_folder import read_images, write_images
from rfmi.pipelines import Conditioning
from rfmi.files import (
    changed_files,
    digests,
    read_record,
    read_tensors,
    whole_file,
    write_atomically,
    write_parts,
    write_record,
    write_tensors,
)
from rfmi.runs import SETTINGS, deal, read_settings
from rfmi.selection.candidates import Candidates

TABLE, METADATA, MANIFEST = "candidates.parquet", "images/metadata.jsonl", "manifest.json"
LATENTS, EMBEDDINGS = "latents.safetensors", "embeddings.safetensors"
PARTS = (TABLE, LATENTS, EMBEDDINGS, METADATA)


@dataclass(frozen=True)
class Selection:
    """A finished selection.

    folder: where it is kept.
    candidates: one row a candidate: prompt_id, prompt, seed, fate, the scores by name, evaluations, and rank, NaN for
        those that were not kept.
    latents: (n, C, h, w) of those kept, by prompt and then by rank; read from the folder, they stay on the disk until
        they are used.
    prompt_id: (n,) the number of each one's prompt.
    conditioning: one row a prompt, in order, and the null prompt's last.
    origin: `rfmi.pipelines.identity_of` the pipeline that drew them, None where that is not known.
    """

    folder: Path
    candidates: pd.DataFrame
    latents: Tensor
    prompt_id: Tensor
    conditioning: Conditioning
    origin: Mapping[str, str | None] | None = None

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
        """(n, 3, height, width) in [0, 1] of those kept, in the order of `latents`; ValueError for a damaged file."""
        listed = read_record(self.folder / MANIFEST)
        names = [str(file.relative_to(self.folder)) for file in self.files]
        _check_whole(self.folder, {name: listed[name] for name in names})
        return read_images(self.files)

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
    """The image of every prompt with the largest value.

    selection: of at least one image a prompt.
    by: a column of it; ValueError as `Selection.scores`.
    """
    return _one_a_prompt(selection, by, "idxmax")


def worst(selection: Selection, by: str = "score") -> Selection:
    """The image of every prompt with the smallest value.

    selection: of at least one image a prompt.
    by: a column of it; ValueError as `Selection.scores`.
    """
    return _one_a_prompt(selection, by, "idxmin")


def _one_a_prompt(selection: Selection, by: str, which: str) -> Selection:
    values = pd.Series(selection.scores(by).numpy(), selection.kept.index)
    chosen = values.groupby(selection.kept["prompt_id"]).agg(which)
    return selection.keeping(torch.tensor(selection.kept.index.isin(chosen)))


def unit_path(folder: Path, prompt_id: int) -> Path:
    return folder / "units" / f"{prompt_id:05d}.safetensors"


def image_path(folder: Path, prompt_id: int, seed: int) -> Path:
    return folder / "images" / f"{prompt_id:05d}_{seed:05d}.png"


def unit_is_whole(path: Path) -> bool:
    """Whether the file of a prompt is there as it was written, and its images are."""
    try:
        _, facts = read_tensors(path)
    except (FileNotFoundError, ValueError):
        return False
    return not changed_files(path.parents[1], facts["record"]["images"])


def write_unit(folder: Path, prompt_id: int, prompt: str, drawn: Candidates, images: Tensor, seed: int) -> None:
    """Keep a finished prompt: first its images (k, 3, height, width), then its file, which vouches for them."""
    (folder / MANIFEST).unlink(missing_ok=True)  # it does not vouch for what follows
    names = [str(image_path(Path(), prompt_id, seed + candidate)) for candidate in drawn.kept]
    files = dict(zip(names, write_images(folder, names, images), strict=True))
    tensors = {f"columns.{name}": values for name, values in drawn.columns.items()}
    tensors |= {"kept": torch.tensor(drawn.kept), "latents": drawn.latents}
    record = {"prompt": prompt, "fates": drawn.fates, "seed": seed, "images": files}
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


def finish_folder(folder: Path, n: int, conditioning: Callable[[], Conditioning]) -> Selection:
    """The selection of n prompts, whose folder whichever process comes first finishes; conditioning: theirs come first,
    the null prompt's last."""
    for whole in deal({folder: folder / MANIFEST}, "selection", lambda path: is_finished(path.parent)):
        _finish(whole, range(n), conditioning())
    return read_selection(folder)


def _finish(folder: Path, numbers: range, conditioning: Conditioning) -> None:
    """Write table, metadata, latents, embeddings and at last the manifest, from all prompts' files, one at a time."""
    table = pd.concat([read_unit(folder, i)[0] for i in numbers], ignore_index=True)
    kept = kept_rows(table)
    files = [image_path(Path(), row.prompt_id, row.seed) for row in kept.itertuples()]
    named = kept.assign(file_name=[file.name for file in files], text=kept.prompt)
    rows = named[["file_name", "text", "prompt_id", "seed", "score"]].to_dict("records")
    write_atomically(folder / METADATA, "".join(json.dumps(row) + "\n" for row in rows))
    write_parts(folder / LATENTS, "latents", (read_unit(folder, i)[1] for i in numbers))
    of_prompts = torch.tensor([*numbers, len(conditioning) - 1])  # the null prompt's is the last
    write_tensors(folder / EMBEDDINGS, conditioning.rows(of_prompts).to("cpu").tensors)
    with whole_file(folder / TABLE) as temporary:
        table.to_parquet(temporary)
    units = [unit_path(Path(), i) for i in numbers]
    write_record(folder / MANIFEST, digests(folder, [*PARTS, *map(str, units), *map(str, files)]))


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a selection that is whole: table, latents, embeddings, prompts' files and images."""
    try:
        return not changed_files(folder, read_record(folder / MANIFEST))
    except (FileNotFoundError, ValueError):
        return False


def read_selection(folder: str | Path) -> Selection:
    """A finished selection, whose images are looked at when they are read.

    folder: of `rfmi.select`. Raises FileNotFoundError where a part is missing, ValueError where one is damaged.
    """
    folder = Path(folder)
    for name in (SETTINGS, MANIFEST, *PARTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no finished selection: {name} is missing; run `rfmi.select` again")
    settings, listed = read_settings(folder), read_record(folder / MANIFEST)
    _check_whole(folder, {name: listed[name] for name in PARTS})
    names = list(settings)
    origin = {name: settings[name] for name in names[names.index("pipeline") :]}  # written behind all the rest
    table, latents = pd.read_parquet(folder / TABLE), load_file(folder / LATENTS)["latents"]
    conditioning, numbers = Conditioning(read_tensors(folder / EMBEDDINGS)[0]), kept_rows(table).prompt_id.to_numpy()
    selection = Selection(folder, table, latents, torch.tensor(numbers), conditioning, origin)
    for file in selection.files:
        if not file.is_file():
            raise FileNotFoundError(f"{folder} has lost the image {file.name}; run `rfmi.select` again")
    return selection


def _check_whole(folder: Path, listed: Mapping[str, str]) -> None:
    for name in changed_files(folder, listed):
        raise ValueError(f"{folder / name} is damaged; run `rfmi.select` again, which makes it anew")
