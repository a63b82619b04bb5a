"""Prompts with what their images must show, in the benchmarks' own files, one JSON object a line.

GenEval (`prompts/evaluation_metadata.jsonl` of djghosh13/geneval), of which are read

    tag, prompt   the task, and the text
    include       [{class, count, color?, position?: [relation, place of a clause before it]}]: all must hold
    exclude       [{class, count}]: none may be there `count` times; may be missing

and GenEval 2 (`geneval2_data.jsonl` of facebookresearch/GenEval2, CC BY-NC 4.0, so that it is loaded, never shipped):

    prompt        the text
    vqa_list      [[question, answer]], one an atom
    skills        what each atom is about; may be missing
    atom_count    the atoms without those of "a"; may be missing
"""

import json
import os
from functools import cache
from pathlib import Path
from textwrap import shorten

from lab.paths import repository_root

FILES = {"train": "RFMI_GENEVAL_TRAIN", "val": "RFMI_GENEVAL_VAL", "locked": "RFMI_GENEVAL"}  # environment variables
SOURCE = "GenEval's evaluation_metadata.jsonl or GenEval 2's geneval2_data.jsonl, which their repositories hold"
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
SECOND = "geneval2"
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")


def files() -> dict[str, Path]:
    """The files that the environment names, by split; a relative path is meant from the checkout."""
    named = {split: os.environ.get(variable) for split, variable in FILES.items()}
    return {split: repository_root() / Path(path).expanduser() for split, path in named.items() if path}


def entries() -> dict[str, dict[str, dict]]:
    """By split, then by prompt.

    Raises FileNotFoundError for a file that is not there; ValueError for a line in neither form, or a prompt that is in
    two splits (nothing is chosen on what is locked), in two categories, or there with two demands.
    """
    named = [(split, path, path.stat() if path.is_file() else None) for split, path in files().items()]
    return _read(tuple((split, path, stat and (stat.st_mtime_ns, stat.st_size)) for split, path, stat in named))


def category_of(entry: dict) -> str:
    return SECOND if "vqa_list" in entry else entry["tag"]


@cache
def _read(named: tuple[tuple[str, Path, tuple[int, int] | None], ...]) -> dict[str, dict[str, dict]]:
    """named: split, path, and when it was written and its size, None where it is not there."""
    read: dict[str, dict[str, dict]] = {}
    for split, path, state in named:
        if state is None:
            raise FileNotFoundError(f"there is no file {path}; take {SOURCE}, and set {FILES[split]} to its path")
        read[split] = _entries_of(path)
        for other in read.keys() - {split}:
            for prompt in read[split].keys() & read[other].keys():
                raise ValueError(
                    f"the prompt {shorten(prompt, 60)!r} is in the files of {FILES[other]} and {FILES[split]}; keep one"
                )
    return read


def _entries_of(path: Path) -> dict[str, dict]:
    read: dict[str, dict] = {}
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    entry = _parsed(line)
                    _check_same(read.setdefault(entry["prompt"], entry), entry)
                except ValueError as error:
                    raise ValueError(f"line {number} of {path}, {shorten(line, 60)}: {error}") from error
    if not read:
        raise ValueError(f"{path} holds no entries; take {SOURCE}")
    return read


def _check_same(first: dict, entry: dict) -> None:
    categories = dict.fromkeys([category_of(first), category_of(entry)])
    if len(categories) == 2:
        raise ValueError(f"its prompt is in two categories, {' and '.join(categories)}; keep one")
    if first != entry:
        raise ValueError("its prompt is there before, and with other demands; keep one")


def _parsed(line: str) -> dict:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON ({error}); take the file anew, or mend the line") from error
    if not isinstance(entry, dict) or not isinstance(entry.get("prompt"), str) or not entry["prompt"].strip():
        raise ValueError("it has no prompt; give an object with one")
    if "vqa_list" in entry:
        _check_atoms(entry["vqa_list"], entry.get("skills"))
        return entry
    if entry.get("tag") not in TASKS:
        raise ValueError(f"its tag is {_said(entry.get('tag'))}; give one of {', '.join(TASKS)}, or a vqa_list")
    if not isinstance(entry.get("include"), list) or not entry["include"]:
        raise ValueError("it includes no classes; give a list, include, of {class, count}")
    for place, clause in enumerate(entry["include"]):
        _check_clause(clause, place)
    for clause in entry.get("exclude") or ():
        _check_clause(clause, 0)
    return entry


def _check_atoms(atoms: object, skills: list | None) -> None:
    pairs = atoms if isinstance(atoms, list) else []
    if not pairs or not all(isinstance(pair, list) and [*map(type, pair)] == [str, str] for pair in pairs):
        raise ValueError(f"its vqa_list is {_said(atoms)}; give a list of [question, answer]")
    if skills is not None and len(skills) != len(pairs):
        raise ValueError(f"it has {len(skills)} skills for {len(pairs)} questions; give one a question, or none")


def _check_clause(clause: object, place: int) -> None:
    """place: how many clauses stand before it."""
    if not isinstance(clause, dict) or not isinstance(clause.get("class"), str):
        raise ValueError(f"{_said(clause)} names no class; give {{class, count}}")
    count, color, position = clause.get("count"), clause.get("color", COLORS[0]), clause.get("position")
    if type(count) is not int or count < 1:
        raise ValueError(f"the count of {clause['class']} is {_said(count)}; give a whole number from 1")
    if color not in COLORS:
        raise ValueError(f"the color of {clause['class']} is {_said(color)}; give one of {', '.join(COLORS)}")
    if "position" in clause and position not in [[relation, i] for relation in RELATIONS for i in range(place)]:
        raise ValueError(
            f"the position of {clause['class']} is {_said(position)}; give one of {', '.join(RELATIONS)}, and the "
            "place, from 0, of a clause before it"
        )


def _said(value: object) -> str:
    return shorten(repr(value), 60)
