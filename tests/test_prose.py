"""Decimals of a notebook's prose stand in its code, outputs, results or a recorded table; discussions are short."""

import csv
import html
import json
import re

import nbformat
import pytest

from lab.paths import data_folder, notebooks_folder, repository_root

NOTEBOOKS = {path.stem: path for path in sorted(notebooks_folder().glob("[0-9][0-9]_*.ipynb"))}
DECIMAL = re.compile(r"(?<![\w./^])[-+]?\d+\.\d+(?![\w/]|\.\d)")
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
NOT_PROSE = re.compile(r"\$\$.*?\$\$|\$[^$\n]+\$|`[^`]*`|\]\([^)]*\)|arXiv[: ]\S+|<[^>]+>|version \S+", re.DOTALL)
RESULTS = {
    "01": "closed_form", "02": "mi_benchmark", "03": "base_model", "04": "scoring",
    "05": "finetuning", "06": "evaluation", "07": "sd35",
}  # fmt: skip


def numbers_in(value):
    """All numbers of what JSON holds, those in texts too."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in numbers_in(item)]
    if isinstance(value, str):
        return [float(number) for number in NUMBER.findall(value)]
    return [float(value)] if isinstance(value, int | float) else []


def recorded():
    numbers = []
    for folder in ("recorded", "published", "peers"):
        for path in sorted((data_folder() / folder).glob("*")):
            if path.suffix == ".json":
                numbers += numbers_in(json.loads(path.read_text(encoding="utf-8")))
            elif path.suffix == ".csv":
                with path.open(encoding="utf-8", newline="") as file:
                    numbers += numbers_in(list(csv.reader(file)))
    return numbers


def held_by(name):
    """All numbers of a notebook's code, outputs and results."""
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    numbers = []
    for cell in (each for each in notebook.cells if each.cell_type == "code"):
        numbers += numbers_in(cell.source)
        for output in cell.outputs:
            texts = [output.get("text", "")] + [
                text for kind, text in output.get("data", {}).items() if kind in ("text/plain", "text/html")
            ]
            numbers += numbers_in([re.sub(r"src=\S+|<[^>]+>", " ", html.unescape(text)) for text in texts])
    path = repository_root() / "reports" / "results" / f"{RESULTS[name[:2]]}.json"
    return numbers + numbers_in(json.loads(path.read_text(encoding="utf-8")))


def prose_of(name):
    notebook = nbformat.read(NOTEBOOKS[name], as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def unheld(decimals, numbers):
    """The decimals that no number rounds to, neither as it is nor as a percentage, whatever its sign."""
    missing = []
    for text in decimals:
        digits, wanted = len(text.partition(".")[2]), abs(float(text))
        half = 0.5001 * 10.0**-digits
        if not any(abs(abs(number) * scale - wanted) <= half for number in numbers for scale in (1, 100)):
            missing.append(text)
    return missing


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_decimal_of_the_prose_is_held_by_a_cell_or_a_table(name):
    decimals = [found for cell in prose_of(name) for found in DECIMAL.findall(NOT_PROSE.sub(" ", cell))]
    assert unheld(decimals, held_by(name) + recorded()) == []


def test_a_decimal_that_nothing_holds_is_found():
    assert unheld(["0.25", "12.3", "-0.4", "7.77"], [0.2499, 0.123, 0.41]) == ["7.77"]
    assert DECIMAL.findall("0.25 (-0.1 to +3.5), 2.13.0, SD3.5, 1.5e3 and x0.7") == ["0.25", "-0.1", "+3.5"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_discussion_is_short(name):
    readings = [cell for cell in prose_of(name) if re.match(r"#+ Reading", cell)]
    assert len(readings) == 1 and len(readings[0].split()) <= 250
