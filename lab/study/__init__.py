"""What the notebooks share: `from lab import study`."""

import os
from importlib import import_module

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # of a notebook's kernel: read when transformers is imported

HOMES = {  # imported when they are asked for: torch, diffusers and seaborn take seconds
    "code": ("code_version",),  # the hash of modules' code
    "units": ("run", "together"),  # units of work: computed once, in several processes
    "models": ("pipeline", "spread", "weights_of", "work_folder"),  # models, prompts, folders of what resumes by itself
    "figures": ("colours", "lines", "markers", "panels", "picture_grid", "points"),
    "report": ("save_results", "show"),  # what goes into the report
}

__all__ = sorted(name for names in HOMES.values() for name in names)


def __getattr__(name: str) -> object:
    for module, names in HOMES.items():
        if name in names:
            return getattr(import_module(f"lab.study.{module}"), name)
    raise AttributeError(f"module 'lab.study' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
