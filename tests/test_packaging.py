"""pyproject.toml, environment.yml, requirements.lock and the environment the tests run in name the same packages."""

import ast
import re
import sys
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from lab.paths import repository_root

ROOT = repository_root()
OWN = {"rfmi", "lab", "slow_work", *(path.stem for path in (ROOT / "tests").glob("*.py"))}
CONDA_NAMES = {"pytorch": "torch"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
ASKED = [*PROJECT["dependencies"], *EXTRAS["study"], *EXTRAS["test"]]
RANGES = {canonicalize_name(Requirement(text).name): Requirement(text).specifier for text in ASKED}
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
    installed = {canonicalize_name(each.name): Version(each.version).public for each in metadata.distributions()}
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


def test_the_wheel_is_rfmi_alone():
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert found["include"] == ["rfmi*"]
