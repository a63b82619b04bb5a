"""What is read besides the README: the module map, docstrings of the public interface, how to cite and to join."""

import inspect
import re
import tomllib
from importlib import import_module

import pytest
import yaml
from test_direction import FILES, IMPORTS

import rfmi
from lab.paths import repository_root

ROOT = repository_root()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = [name for name, path in FILES.items() if path.name == "__init__.py" and name.startswith("rfmi")]
PUBLIC = {
    f"{package}.{name}": getattr(import_module(package), name)
    for package in PACKAGES
    for name in getattr(import_module(package), "__all__", [])
}
SAME_ARGUMENTS = {rfmi.MutualInformationEstimator: rfmi.estimate_mutual_information}


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def module_map():
    """The modules that rfmi/README.md names, by part, and the parts that each part may import."""
    modules, allowed, part = {}, {}, ""
    for line in read("rfmi/README.md").split("```")[1].strip().splitlines():
        name, _, told = line.strip().partition(" ")
        if line.startswith(" "):
            modules[f"{part}.{name}"] = told
            continue
        part = f"rfmi.{name.rstrip('/')}"
        modules[part] = told
        allowed[part] = {f"rfmi.{other}" for other in told.partition("<- ")[2].split(", ") if other}
    return modules, allowed


def part_of(module):
    return ".".join(module.split(".")[:2])


def test_every_module_is_on_the_map_with_a_line():
    modules, _ = module_map()
    assert modules.keys() == {name for name in FILES if name.startswith("rfmi.")}
    assert [name for name, told in modules.items() if not told.strip()] == []


def test_parts_import_what_the_map_allows():
    _, allowed = module_map()
    found = {part: set() for part in allowed}
    for name, others in IMPORTS.items():
        if part_of(name) in allowed:
            found[part_of(name)] |= {part_of(other) for other in others} - {part_of(name)}
    assert found == allowed


def documented(docstring):
    """The names before the colon of a line: `x: what it is`, `height, width: what they are`."""
    heads = re.findall(r"^ *(\w+(?:, \w+)*):(?: |$)", docstring, re.MULTILINE)
    return {name for head in heads for name in head.split(", ")}


def test_documented_arguments_are_found_as_said():
    assert documented("Says: no\n\n  x, y: two\n    more: of it. z: no\nRaises ValueError") == {
        "Says",
        "x",
        "y",
        "more",
    }


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if callable(value)])
def test_every_argument_has_its_line(name):
    public = PUBLIC[name]
    docstring = inspect.getdoc(SAME_ARGUMENTS.get(public, public))
    arguments = inspect.signature(public).parameters.keys()
    assert arguments - documented(docstring) == set()


def test_the_citation_is_of_this_version_and_names_the_paper():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert (citation["cff-version"], citation["version"]) == ("1.2.0", PROJECT["version"])
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    assert "arXiv:2503.14358" in [each["value"] for paper in citation["references"] for each in paper["identifiers"]]


def test_links_of_the_short_documents_lead_somewhere():
    for name in ("CONTRIBUTING.md", "CHANGELOG.md", "rfmi/README.md"):
        links = re.findall(r"\]\(([^):]+)\)", read(name))
        assert [link for link in links if not (ROOT / name).parent.joinpath(link).exists()] == []
    assert len(read("CONTRIBUTING.md").split()) <= 250


def test_commits_are_checked_by_the_locked_ruff():
    repositories = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    (ruff,) = [each["rev"] for each in repositories if each["repo"].endswith("/ruff-pre-commit")]
    assert f"ruff=={ruff.removeprefix('v')}" in read("requirements.lock").splitlines()
