"""Where things are: every path is taken from the laboratory's own place, so a notebook or a command may start in any
folder.

root/
    notebooks/    numbered notebooks, profiles/ beside them
    data/cache/   one file per finished unit of work (the environment variable RFMI_CACHE names another folder)
    reports/      what a reader opens
"""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def repository_root() -> Path:
    """The checkout that holds this package.

    Raises FileNotFoundError where the package was installed away from its checkout.
    """
    root = PACKAGE.parent
    if not (root / "pyproject.toml").is_file():
        raise FileNotFoundError(
            "the study needs its checkout around the package; install it there with `pip install --no-deps -e .`"
        )
    return root


def notebooks_folder() -> Path:
    """The folder of the numbered notebooks."""
    return repository_root() / "notebooks"


def profiles_folder() -> Path:
    """The folder of the profiles, one YAML file each."""
    return notebooks_folder() / "profiles"


def data_folder() -> Path:
    """The folder of the small committed data."""
    return repository_root() / "data"


def cache_folder() -> Path:
    """Where finished units of work are kept: RFMI_CACHE where it is set, else data/cache of the checkout."""
    chosen = os.environ.get("RFMI_CACHE")
    return Path(chosen).expanduser() if chosen else data_folder() / "cache"


def output_folder(output: str | None) -> Path | None:
    """The report folder that a notebook's `output` parameter names; None, "write nothing", where it is empty.

    A relative folder is meant from where the kernel runs: with plain papermill the folder that it was started in.
    """
    return Path(output).expanduser().resolve() if output else None
