"""What the tests and the notebooks' checks (nbval) share: a cache that starts empty, so that nothing is compared with
itself, and notebooks at their smallest size.
"""

import os
import tempfile

import pytest

from lab.__main__ import REPRODUCIBLE

CACHE = pytest.StashKey[tempfile.TemporaryDirectory]()
INJECTED = "injected-parameters"


def pytest_configure(config: pytest.Config) -> None:
    """Point the cache, also that of the kernels nbval starts, at an empty folder; equal calls give equal bits.

    Kernels have one thread each: processes that run side by side would wait for each other's threads.
    """
    os.environ.update(REPRODUCIBLE | {"OMP_NUM_THREADS": "1"} | os.environ)
    config.stash[CACHE] = tempfile.TemporaryDirectory()
    os.environ["RFMI_CACHE"] = config.stash[CACHE].name


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove that folder."""
    config.stash[CACHE].cleanup()


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Progress bars and warnings differ between two equal runs: nbval does not compare what a notebook writes to
    stderr.
    """
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A notebook holds the outputs of the full run; without the cell of that run's parameters its defaults hold."""
    items[:] = [item for item in items if INJECTED not in getattr(item, "cell", {}).get("metadata", {}).get("tags", [])]
