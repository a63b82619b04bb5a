"""Results and figures as a notebook hands them over: names and alt texts kept, nothing written where no report is
asked for.
"""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from lab.study import figures, report
from lab.paths import output_folder, repository_root


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, in order."""
    displayed = []
    monkeypatch.setattr(report, "display", lambda data, raw: displayed.append(data))
    return displayed


def draw_figure():
    figure, axes = figures.panels(size=figures.SMALL)
    axes.plot([0, 1], [1, 0])
    return figure


def test_results_are_written_sorted_and_readable(tmp_path):
    results = {"b": torch.arange(2), "a": {"5000": np.float64(0.1), "none": float("nan")}, "estimates": [(1, 2.5, "x")]}
    report.save_results("small", results, str(tmp_path))
    text = (tmp_path / "results" / "small.json").read_text()
    assert json.loads(text) == {"a": {"5000": 0.1, "none": None}, "b": [0, 1], "estimates": [[1, 2.5, "x"]]}
    assert text.index('"a"') < text.index('"b"') < text.index('"estimates"')
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["small.json"]


@pytest.mark.parametrize("output", ["", None])
def test_without_a_report_nothing_is_written(tmp_path, monkeypatch, shown, output):
    monkeypatch.chdir(tmp_path)
    report.save_results("small", {"a": 1}, output)
    report.show_figure(draw_figure(), name="small", caption="A line.", alt="A falling line.", output=output)
    assert not list(tmp_path.rglob("*.*")) and len(shown) == 1


def test_a_figure_keeps_its_caption_and_alt_text(tmp_path, shown):
    figure = draw_figure()
    report.show_figure(figure, name="small", caption="A < B.", alt='Falls from "1" to 0.', output=str(tmp_path))
    page = shown[0]["text/html"]
    assert '<figure id="small"' in page and 'alt="Falls from &quot;1&quot; to 0."' in page
    assert page.index("<img") < page.index("<figcaption>A &lt; B.</figcaption>")
    assert shown[0]["text/plain"] == 'Falls from "1" to 0.'
    assert (tmp_path / "figures" / "small.png").read_bytes().startswith(b"\x89PNG")
    assert not plt.fignum_exists(figure.number)


def test_the_same_figure_gives_the_same_bytes(shown):
    for _ in range(2):
        report.show_figure(draw_figure(), name="small", caption="A line.", alt="A falling line.", output="")
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../small"}, "use letters, digits"),
        ({"name": ""}, "use letters, digits"),
        ({"caption": " "}, "needs a caption and an alt text"),
        ({"alt": ""}, "needs a caption and an alt text"),
    ],
)
def test_a_figure_without_name_caption_or_alt_is_refused(tmp_path, shown, change, message):
    texts = {"name": "small", "caption": "A line.", "alt": "A falling line.", **change}
    with pytest.raises(ValueError, match=message):
        report.show_figure(draw_figure(), **texts, output=str(tmp_path))
    assert not shown and not list(tmp_path.iterdir())
    plt.close("all")


def test_a_relative_report_folder_is_meant_from_the_checkout(tmp_path):
    assert output_folder("reports") == repository_root() / "reports"
    assert output_folder(str(tmp_path)) == tmp_path


def test_colours_and_markers_are_fixed_by_the_list_of_names():
    names = [f"estimator {position}" for position in range(8)]
    assert figures.colours(names) == figures.colours(list(names))
    assert len(set(figures.colours(names).values())) == len(set(figures.markers(names).values())) == 8
