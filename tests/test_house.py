"""The repository as a newcomer finds it: no pickles, no traces of one machine, nothing large, modules that can be
read.
"""

import re
import subprocess
from pathlib import Path

import pytest

from lab.paths import repository_root

ROOT = repository_root()
BINARY = {".png", ".npz", ".safetensors", ".parquet"}
PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib", ".npy"}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:root|work|farm|home|tmp|opt|Users)/\w+")
REGISTRY_HOST = re.compile(r"(?:pypi|pythonhosted)[.]org|npmjs[.]|deb[.]debian[.]|(?:anaconda|conda)[.](?:org|com)")
LARGEST_FILE = 3_000_000


def repository_files() -> list[Path]:
    """The files that are tracked, or would be."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


def texts() -> dict[str, str]:
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for path in repository_files()
        if path.suffix not in BINARY
    }


def test_nothing_is_pickled():
    assert [path.name for path in repository_files() if path.suffix in PICKLES] == []
    calls = re.compile(r"\b(?:torch|pickle|joblib)\.load\(|allow_pickle\s*=\s*True")
    assert [name for name, text in texts().items() if name.endswith((".py", ".ipynb")) and calls.search(text)] == []


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY_HOST], ids=["machine path", "registry host"])
def test_no_file_names_a_machine(pattern):
    assert {name: found[0] for name, text in texts().items() if (found := pattern.search(text))} == {}


def test_the_patterns_find_what_they_are_for():
    slash = "/"
    assert MACHINE_PATH.search(f'open("{slash}home{slash}someone")') and not MACHINE_PATH.search("notebooks/home/page")
    assert REGISTRY_HOST.search("https:" + slash * 2 + "pypi" + ".org")


def test_no_file_is_large():
    large = {path.name: path.stat().st_size for path in repository_files() if path.stat().st_size > LARGEST_FILE}
    # tests/test_shipped_model.py holds the weights to a limit of their own
    assert {name: size for name, size in large.items() if not name.endswith(".safetensors")} == {}


def test_modules_can_be_read():
    modules = {
        name: text for name, text in texts().items() if name.startswith(("rfmi/", "lab/")) and name.endswith(".py")
    }
    assert [name for name, text in modules.items() if text.count("\n") > 250] == []
    bad = re.compile(r"except Exception|except:|filterwarnings\(|simplefilter\(|\b(?:TODO|FIXME|XXX)\b")
    assert [name for name, text in modules.items() if bad.search(text)] == []


def test_the_top_level_is_taken_in_at_a_look():
    top = {path.relative_to(ROOT).parts[0] for path in repository_files()}
    folders = {name for name in top if (ROOT / name).is_dir() and not name.startswith(".")}
    assert folders == {"data", "lab", "notebooks", "reports", "rfmi", "tests"}
