"""pyproject.toml, environment.yml, requirements.lock and the environment the tests run in name the same packages; the
wheel holds what it should, and runs with what it asks for.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from small_pipelines import save_stable_diffusion_3_5

from lab.paths import repository_root

ROOT = repository_root()
OWN = {"rfmi", "lab", "slow_work", *(path.stem for path in (ROOT / "tests").glob("*.py"))}
CONDA_NAMES = {"pytorch": "torch"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
ASKED = [*PROJECT["dependencies"], *EXTRAS["study"], *EXTRAS["test"]]
RANGES = {canonicalize_name(Requirement(text).name): Requirement(text).specifier for text in ASKED}
INSTALLED = {canonicalize_name(each.name): each for each in metadata.distributions()}
LOCK_LINES = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]


def read_lock() -> dict[str, str]:
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in LOCK_LINES)}


def read_environment() -> dict[str, SpecifierSet]:
    """The packages of environment.yml; conda's name=2.4 means 2.4 and its bug fixes."""
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pairs = (entry.partition("=")[::2] for entry in entries)
    return {CONDA_NAMES.get(name, name): SpecifierSet(f"=={version}.*" if version else "") for name, version in pairs}


def test_the_lock_holds_versions_only():
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][0-9A-Za-z.]*", line) for line in LOCK_LINES)
    assert read_lock()["torch"] == "2.13.0"
    assert not [name for name in read_lock() if re.match(r"nvidia|cuda|triton|rfmi", name)]


@pytest.mark.parametrize("name", sorted(RANGES))
def test_the_three_files_agree(name):
    locked, environment = Version(read_lock()[name]), read_environment()
    assert locked in RANGES[name]
    assert locked in environment[name]
    assert RANGES[name] and environment[name]  # neither is left open


def test_the_environment_names_nothing_else():
    assert set(read_environment()) - {"python", "pip"} == set(RANGES)
    assert read_environment()["python"] == SpecifierSet("==3.11.*")
    assert "3.11" in SpecifierSet(PROJECT["requires-python"])


def test_the_installed_packages_are_the_locked_ones():
    installed = {name: Version(each.version).public for name, each in INSTALLED.items()}
    assert {name: installed.get(name) for name in read_lock()} == read_lock()


def test_the_lock_is_closed():
    """Everything a locked package needs on this machine is locked, so that nothing unpinned comes in."""
    lock = read_lock()
    needed = {}
    for name in lock:
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed.setdefault(canonicalize_name(requirement.name), []).append(name)
    assert {
        name: by
        for name, by in needed.items()
        if name not in lock and not re.match(r"nvidia|cuda|triton|setuptools", name)
    } == {}


@pytest.mark.parametrize(
    ("folder", "asked"),
    [("rfmi", PROJECT["dependencies"]), ("lab", [*ASKED, *EXTRAS["compbench"], *EXTRAS["cluster"]]), ("tests", ASKED)],
)
def test_every_import_is_asked_for(folder, asked):
    """A package that comes in only with another may leave with it; rfmi alone needs nothing of the study's."""
    owners = metadata.packages_distributions()
    known = {canonicalize_name(Requirement(text).name) for text in asked}
    files = [path for path in (ROOT / folder).rglob("*.py") if "benchmarks" not in path.parts]
    missing = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            for top in {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - OWN:
                if not {canonicalize_name(owner) for owner in owners.get(top, [])} & known:
                    missing.add(f"{path.relative_to(ROOT)}: {top}")
    assert missing == set()


def test_the_version_is_stated_once():
    assert metadata.version(PROJECT["name"]) == PROJECT["version"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what it is built from."""
    pytest.importorskip("setuptools", minversion="77")
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("rfmi", "lab"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(built)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, check=True)
    (path,) = built.glob("rfmi-*.whl")
    return path


def needed_by(asked: list[str]) -> set[str]:
    """The installed distributions that these requirements need, and what those need in turn."""
    names, left = set(), [Requirement(text) for text in asked]
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and name not in names and name in INSTALLED:
            names.add(name)
            left += map(Requirement, INSTALLED[name].requires or [])
    return names


@pytest.fixture(scope="module")
def clean(wheel, tmp_path_factory):
    """A function that runs Python in an environment of the wheel and what it needs, and returns what is printed.

    The packages are links to those installed here; neither the checkout nor anything else can be imported.
    """
    packages = tmp_path_factory.mktemp("packages")
    zipfile.ZipFile(wheel).extractall(packages)
    for name in needed_by(PROJECT["dependencies"]):
        distribution = INSTALLED[name]
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(distribution.locate_file(top))

    def run(code: str, folder: Path) -> str:
        start = f"import sys; sys.path.insert(0, {str(packages)!r})\n"
        command = [sys.executable, "-I", "-S", "-c", start + code]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run


@pytest.mark.slow
def test_the_wheel_holds_rfmi_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
        (described,) = [name for name in names if name.endswith("dist-info/METADATA")]
        facts = message_from_bytes(opened.read(described))
    about = described.removesuffix("METADATA")
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rfmi").rglob("*.py")}
    assert names == modules | {
        f"{about}{name}" for name in ("METADATA", "WHEEL", "RECORD", "top_level.txt", "licenses/LICENSE")
    }
    assert facts["License-Expression"] == "MIT"
    plain = [text for text in facts.get_all("Requires-Dist") if "extra ==" not in text]
    assert sorted(map(str, map(Requirement, plain))) == sorted(
        str(Requirement(text)) for text in PROJECT["dependencies"]
    )


def import_all(part: str) -> str:
    """Python that imports every module of a part, but for those that are run and not imported."""
    paths = [path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / part).rglob("*.py"))]
    names = [".".join(path.parts).removesuffix(".__init__") for path in paths if "adaptors" not in path.parts]
    return "\n".join(f"import {name}" for name in names if not name.endswith("__main__"))


@pytest.mark.slow
def test_every_module_is_imported_in_silence_without_the_studys_packages(clean, tmp_path):
    assert clean(import_all("rfmi"), tmp_path) == ""
    for other in ("lab", "pytest"):
        with pytest.raises(AssertionError, match=f"No module named '{other}'"):
            clean(f"import {other}", tmp_path)


@pytest.mark.slow
def test_the_laboratory_is_imported_in_silence():
    command = [sys.executable, "-c", import_all("lab")]
    environment = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_VERBOSITY"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


SMALLER = """
from dataclasses import replace
from functools import partial

import rfmi
from rfmi.finetuning import FinetuningSettings, finetune

def tuned(*arguments, settings=FinetuningSettings(), **options):
    return finetune(*arguments, settings=replace(settings, steps=2, batch=2), **options)

rfmi.select, rfmi.finetune = partial(rfmi.select, candidates=4, steps=3), tuned
"""


@pytest.mark.slow
def test_the_readmes_lines_on_a_pipeline_run_from_the_wheel(clean, tmp_path):
    """On random weights of the classes of Stable Diffusion 3.5."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (lines,) = [block for block in blocks if "load_lora_weights" in block]
    (folder,) = re.findall(r'from_pretrained\("([^"]+)"\)', lines)
    save_stable_diffusion_3_5(tmp_path / folder)
    shown = "print(len(images) == len(prompts), images.shape[1:], rfmi.score(pipe, images, prompts).values)"
    said = clean(f"{SMALLER}\n{lines}\n{shown}", tmp_path)
    assert "True torch.Size([3, 16, 16])" in said
