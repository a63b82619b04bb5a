"""What a run is asked for, checked before anything runs: notebooks, a profile, parameters.

A profile is a YAML file of what differs from the notebooks' own defaults, nothing else:

    shared:                   for every notebook that has the parameter
      parameter: value
    05_fine_tuning:           for this one, before what is shared
      parameter: value

The defaults in the parameter cells are the profile `smoke`. Papermill only logs a parameter that a notebook does not
have and goes on, so names and types are compared here with what stands in the cell. A refusal is a ValueError of one
sentence that names the near matches.
"""

from __future__ import annotations

import ast
import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

RESERVED = "output"  # the parameter that the runner itself sets: the report folder
SHARED = "shared"


class Refusal(ValueError):
    """What was asked for cannot be run as it is; nothing has been run.

    The message is one sentence that says what to do.
    """


@dataclass(frozen=True)
class Job:
    """One notebook to run: its file, the profile's name and the parameters to inject, already checked."""

    notebook: Path
    profile: str
    parameters: dict[str, Any]

    @property
    def name(self) -> str:
        """The notebook's name, "02_benchmark" of "02_benchmark.ipynb"."""
        return self.notebook.stem


def unknown(what: str, name: str, known: Iterable[str]) -> Refusal:
    """The error for a name that is not known: its near matches, or all there are."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    advice = f"did you mean {' or '.join(near)}?" if near else f"choose from: {', '.join(known) or 'none there'}"
    return Refusal(f"there is no {what} {name!r}; {advice}")


def numbered_notebooks(folder: Path) -> dict[str, Path]:
    """The notebooks of the study in their order, by name."""
    return {path.stem: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}


def choose_notebooks(names: Sequence[str], folder: Path) -> list[Path]:
    """The notebooks asked for, in the study's order; all of them for an empty list.

    A name is "02_benchmark", "02_benchmark.ipynb", a path to it, or its number "02".
    """
    known = numbered_notebooks(folder)
    numbers = {stem[:2]: stem for stem in known}
    chosen = set()
    for name in names:
        stem = Path(name).name.removesuffix(".ipynb")
        stem = numbers.get(stem.zfill(2), stem)
        if stem not in known:
            raise unknown("notebook", name, known)
        chosen.add(stem)
    return [path for stem, path in known.items() if stem in chosen or not names]


def load_profile(name: str, folder: Path) -> dict[str, dict[str, Any]]:
    """The profile's parameters by notebook.

    Raises Refusal for an unknown profile and for a file that is not such a mapping.
    """
    files = {path.stem: path for path in folder.glob("*.yaml")}
    if name not in files:
        raise unknown("profile", name, files)
    content = yaml.safe_load(files[name].read_text(encoding="utf-8")) or {}
    if not isinstance(content, dict) or not all(isinstance(values or {}, dict) for values in content.values()):
        raise Refusal(
            f"profile {name} is not a mapping of notebook to parameters; write `notebook:` (or `{SHARED}:`) and its "
            "parameters below"
        )
    return {str(notebook): dict(values or {}) for notebook, values in content.items()}


def default_parameters(notebook: Path) -> dict[str, Any]:
    """The parameters of a notebook and their defaults, from the cell tagged `parameters`.

    Raises Refusal for a default that is derived from something else.
    """
    defaults = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if "parameters" not in cell["metadata"].get("tags", []):
            continue
        for statement in ast.parse("".join(cell["source"])).body:
            if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
                wrong = ast.unparse(statement)
                raise Refusal(f"{notebook.stem} has {wrong!r} among its parameters; assign values only")
            name = statement.targets[0].id
            try:
                defaults[name] = ast.literal_eval(statement.value)
            except ValueError:
                raise Refusal(
                    f"parameter {name} of {notebook.stem} has the default {ast.unparse(statement.value)!r}; make it a "
                    "plain value, as derived ones are not recomputed when a parameter is injected"
                ) from None
    return defaults


def of_same_type(value: Any, default: Any) -> bool:
    """Whether a value may stand in for a default: the same type, an integer for a float, anything for None."""
    if default is None:
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    if isinstance(default, list | tuple):
        return isinstance(value, list | tuple) and all(of_same_type(item, default[0]) for item in value if default)
    return isinstance(value, type(default))


def parse_value(text: str, default: Any) -> Any:
    """A value as written on the command line, read as the default's type is: texts as they are, the rest as YAML."""
    if isinstance(default, str):
        return text
    if isinstance(default, float) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text):
        return float(text)
    return yaml.safe_load(text)


def check_parameters(notebook: Path, parameters: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Raises Refusal for a parameter that the notebook does not have, or of another type than its default."""
    for name, value in parameters.items():
        if name not in defaults:
            raise unknown(f"parameter of {notebook.stem} called", name, defaults)
        if not of_same_type(value, defaults[name]):
            raise Refusal(
                f"parameter {name} of {notebook.stem} is of type {type(defaults[name]).__name__} "
                f"(default {defaults[name]!r}), got {value!r} of type {type(value).__name__}; give one like the default"
            )


def plan(
    notebooks: Path,
    *,
    profile: str,
    names: Sequence[str] = (),
    overrides: Sequence[tuple[str, str]] = (),
    output: str = "",
) -> list[Job]:
    """The jobs of a run, every name and value checked; profiles are in `notebooks`/profiles.

    overrides: (name, value as text) pairs that replace the profile's, each for every chosen notebook that has the
    parameter.
    """
    values = load_profile(profile, notebooks / "profiles")
    shared = values.pop(SHARED, {})
    known = numbered_notebooks(notebooks)
    for name in values:
        if name not in known:
            raise unknown(f"notebook (profile {profile} names it)", name, known)
    defaults = {name: default_parameters(path) for name, path in known.items()}
    for name in shared:
        everywhere = {parameter for own in defaults.values() for parameter in own}
        if name not in everywhere - {RESERVED}:
            raise unknown(f"parameter of any notebook (profile {profile} shares it) called", name, everywhere)
    values = {
        name: {each: value for each, value in shared.items() if each in own} | values.get(name, {})
        for name, own in defaults.items()
    }
    for name, parameters in values.items():
        check_parameters(known[name], parameters, defaults[name])
    chosen = choose_notebooks(names, notebooks)
    for name, _ in overrides:
        if name == RESERVED:
            raise Refusal(f"parameter {RESERVED} is set by the runner; use --output to choose the report folder")
        if not any(name in defaults[path.stem] for path in chosen):
            everything = {parameter for path in chosen for parameter in defaults[path.stem]}
            raise unknown("parameter", name, everything - {RESERVED})
    jobs = []
    for path in chosen:
        own = defaults[path.stem]
        if RESERVED not in own:
            raise Refusal(f'{path.stem} has no parameter {RESERVED}; add `{RESERVED} = ""` to its parameter cell')
        given = {name: parse_value(text, own[name]) for name, text in overrides if name in own}
        check_parameters(path, given, own)
        jobs.append(Job(path, profile, {**values[path.stem], **given, RESERVED: output}))
    return jobs
