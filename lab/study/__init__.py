"""What the notebooks share: `from lab import study`.

    run, together                      units of work: computed once, in several processes
    pipeline, spread, work_folder      models, prompts and the folders of what resumes by itself
    points, lines, picture_grid        three general figures; panels, colours, markers for others
    show, save_results                 what goes into the report
    code_version                       the hash of modules' code
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.study.figures import colours, lines, markers, panels, picture_grid, points
    from lab.study.models import pipeline, spread, work_folder
    from lab.study.report import save_results, show
    from lab.study.units import code_version, run, together

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # of a notebook's kernel: read when transformers is imported

_HOMES = {  # imported when they are asked for: torch, diffusers and seaborn take seconds
    "code_version": "units",
    "colours": "figures",
    "lines": "figures",
    "markers": "figures",
    "panels": "figures",
    "picture_grid": "figures",
    "pipeline": "models",
    "points": "figures",
    "run": "units",
    "save_results": "report",
    "show": "report",
    "spread": "models",
    "together": "units",
    "work_folder": "models",
}

__all__ = [
    "code_version",
    "colours",
    "lines",
    "markers",
    "panels",
    "picture_grid",
    "pipeline",
    "points",
    "run",
    "save_results",
    "show",
    "spread",
    "together",
    "work_folder",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'lab.study' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"lab.study.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
