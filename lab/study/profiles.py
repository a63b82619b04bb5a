"""What a run is asked for, checked before anything runs: notebooks, a profile, parameters.

A profile is a YAML file of what differs from the notebooks' own defaults, nothing else:

    shared:                   for every notebook that has the parameter
      parameter: value
    05_fine_tuning:           for this one, before what is shared
      parameter: value

The defaults in the parameter cells are the profile `smoke`. Papermill only logs a parameter that a notebook does not
have and goes on, so names and types are compared here with what stands in the cell.
"""

import ast
import difflib
import importlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

RESERVED = "output"  # the parameter that the runner itself sets: the report folder
SHARED = "shared"


class Refusal(ValueError):
    """What was asked for cannot be run as it is; nothing has been run. One sentence says what to do."""


@dataclass(frozen=True)
class Job:
    """One notebook to run: its file, the profile's name and the parameters to inject, already checked."""

    notebook: Path
    profile: str
    parameters: dict[str, Any]

    @property
    def name(self) -> str:
        return self.notebook.stem


def check_known(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raises Refusal for a name that is not known, with its near matches, or all there are."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5)
            all_there = f"choose from: {', '.join(sorted(known)) or 'none there'}"
            advice = f"did you mean {' or '.join(near)}?" if near else all_there
            raise Refusal(f"there is no {what} {name!r}; {advice}")


def needed(module: str, what: str) -> ModuleType:
    """A module that only some runs need. Raises Refusal where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise Refusal(f"{what} needs the package {package}, which is not installed; `pip install {package}`") from None


def read_yaml(text: str, what: str) -> Any:
    """What a text says in YAML; `what` names it. Raises Refusal for one that does not parse."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Refusal(f"{what} cannot be read as YAML: {' '.join(str(error).split())}") from None


def numbered_notebooks(folder: Path) -> dict[str, Path]:
    """The notebooks of the study in their order, by name."""
    return {path.stem: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}


def choose_notebooks(names: Sequence[str], folder: Path) -> list[Path]:
    """The notebooks named, as "02_benchmark", by a path or as "02", in the study's order; all for an empty list."""
    known = numbered_notebooks(folder)
    numbers = {stem[:2]: stem for stem in known}
    stems = [numbers.get(Path(name).stem.zfill(2), Path(name).stem) for name in names]
    check_known("notebook", stems, known)
    return [path for stem, path in known.items() if stem in stems or not stems]


def load_profile(name: str, folder: Path) -> dict[str, dict[str, Any]]:
    """The profile's parameters by notebook. Raises Refusal for an unknown one, or for one that is no such mapping."""
    files = {path.stem: path for path in folder.glob("*.yaml")}
    check_known("profile", [name], files)
    content = read_yaml(files[name].read_text(encoding="utf-8"), f"profile {name}") or {}
    if not isinstance(content, dict) or not all(isinstance(values or {}, dict) for values in content.values()):
        raise Refusal(
            f"profile {name} is not a mapping of notebook to parameters; write `notebook:` (or `{SHARED}:`) and its "
            "parameters below"
        )
    return {str(notebook): dict(values or {}) for notebook, values in content.items()}


def default_parameters(notebook: Path) -> dict[str, Any]:
    """The parameters in a notebook's cell of that tag, and their defaults. Raises Refusal for a derived default."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    defaults = {}
    for statement in ast.parse("\n".join(sources)).body:
        try:
            defaults[statement.targets[0].id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError):
            raise Refusal(
                f"{notebook.stem} has {ast.unparse(statement)!r} among its parameters; assign plain values, as derived "
                "ones are not recomputed when a parameter is injected"
            ) from None
    return defaults


def of_same_type(value: Any, default: Any) -> bool:
    """Whether a value may stand in for a default: of the same type, or an integer for a float."""
    if isinstance(default, list | tuple):
        return isinstance(value, list | tuple) and all(of_same_type(item, default[0]) for item in value if default)
    return type(value) in ((int, float) if isinstance(default, float) else (type(default),))


def parse_value(text: str, default: Any) -> Any:
    """A value as written on the command line, read as the default's type is: texts as they are, the rest as YAML."""
    if isinstance(default, str):
        return text
    if isinstance(default, float) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text):
        return float(text)
    return read_yaml(text, f"the value {text!r}")


def check_parameters(notebook: str, parameters: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Raises Refusal for a parameter that the notebook does not have, or of another type than its default."""
    check_known(f"parameter of {notebook} called", parameters, defaults)
    for name, value in parameters.items():
        if not of_same_type(value, defaults[name]):
            raise Refusal(
                f"parameter {name} of {notebook} is of type {type(defaults[name]).__name__} "
                f"(default {defaults[name]!r}), got {value!r} of type {type(value).__name__}; give one like the default"
            )


def plan(
    notebooks: Path, *, profile: str, names: Sequence[str] = (), overrides: Sequence[tuple[str, str]] = ()
) -> list[Job]:
    """The jobs of a run, every name and value checked; profiles are in `notebooks`/profiles.

    names: as `choose_notebooks` takes them
    overrides: (parameter, value as text), before the profile's, for every chosen notebook that has the parameter
    """
    known, chosen = numbered_notebooks(notebooks), choose_notebooks(names, notebooks)
    defaults = {name: default_parameters(path) for name, path in known.items()}
    values = load_profile(profile, notebooks / "profiles")
    shared = values.pop(SHARED, {})
    check_known(f"notebook (profile {profile} names it)", values, known)
    everywhere = {parameter for own in defaults.values() for parameter in own} - {RESERVED}
    check_known(f"parameter of any notebook (profile {profile} shares it) called", shared, everywhere)
    if RESERVED in dict(overrides):
        raise Refusal(f"parameter {RESERVED} is set by the runner; use --output to choose the report folder")
    check_known("parameter", dict(overrides), {parameter for path in chosen for parameter in defaults[path.stem]})
    jobs = []
    for name, path in known.items():
        own = defaults[name]
        if RESERVED not in own:
            raise Refusal(f'{name} has no parameter {RESERVED}; add `{RESERVED} = ""` to its parameter cell')
        parameters = {each: value for each, value in shared.items() if each in own} | values.get(name, {})
        check_parameters(name, parameters, own)
        if path in chosen:
            given = {each: parse_value(text, own[each]) for each, text in overrides if each in own}
            check_parameters(name, given, own)
            jobs.append(Job(path, profile, parameters | given))
    return jobs
