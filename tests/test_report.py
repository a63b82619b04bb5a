"""Results and figures as a notebook hands them over: names and alt texts kept, nothing written where no report is
asked for.
"""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from lab.paths import output_folder
from lab.study import figures, report


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
    report.show(draw_figure(), name="small", caption="A line.", alt="A falling line.", output=output)
    assert not list(tmp_path.rglob("*.*")) and len(shown) == 1


def test_a_figure_keeps_its_caption_and_alt_text(tmp_path, shown):
    figure = draw_figure()
    report.show(figure, name="small", caption="A < B.", alt='Falls from "1" to 0.', output=str(tmp_path))
    page = shown[0]["text/html"]
    assert '<figure id="small"' in page and 'alt="Falls from &quot;1&quot; to 0."' in page
    assert page.index("<img") < page.index("<figcaption>A &lt; B.</figcaption>")
    assert shown[0]["text/plain"] == 'Falls from "1" to 0.'
    assert (tmp_path / "figures" / "small.png").read_bytes().startswith(b"\x89PNG")
    assert not plt.fignum_exists(figure.number)


def test_the_same_figure_gives_the_same_bytes(shown):
    for _ in range(2):
        report.show(draw_figure(), name="small", caption="A line.", alt="A falling line.", output="")
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
        report.show(draw_figure(), **texts, output=str(tmp_path))
    assert not shown and not list(tmp_path.iterdir())
    plt.close("all")


def test_a_relative_report_folder_is_meant_from_where_the_kernel_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert output_folder("reports") == tmp_path / "reports"
    assert output_folder(str(tmp_path / "other")) == tmp_path / "other"


def test_colours_and_markers_are_fixed_by_the_list_of_names():
    names = [f"estimator {position}" for position in range(8)]
    assert figures.colours(names) == figures.colours(list(names))
    assert len(set(figures.colours(names).values())) == len(set(figures.markers(names).values())) == 8


@pytest.fixture
def table():
    """Two series in two categories, with intervals."""
    value = np.array([0.1, 0.2, 0.3, 0.4])
    names = {"category": ["a", "a", "b", "b"], "series": ["one", "two"] * 2, "step": [1, 1, 2, 2]}
    return pd.DataFrame(names | {"value": value, "low": value - 0.05, "high": value + 0.1})


@pytest.mark.parametrize("horizontal", [False, True])
def test_points_stand_at_their_values_with_their_intervals(table, horizontal):
    (axes,) = figures.points(table, horizontal=horizontal).axes
    for k, container in enumerate(axes.containers):
        line, _, (bars,) = container
        values, places = (line.get_xdata(), line.get_ydata()) if horizontal else (line.get_ydata(), line.get_xdata())
        assert values.tolist() == [[0.1, 0.3], [0.2, 0.4]][k]
        assert [round(place) for place in places] == [0, 1]  # beside each other, in the place of the category
        ends = [bar[:, 0 if horizontal else 1] for bar in bars.get_segments()]
        assert np.allclose(ends, table[table.series == ["one", "two"][k]][["low", "high"]])
    labels = axes.get_yticklabels() if horizontal else axes.get_xticklabels()
    assert [label.get_text() for label in labels] == ["a", "b"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one", "two"]
    plt.close("all")


def test_points_of_one_row_a_name_stand_in_the_middle_and_take_the_index(table):
    gains = table.assign(category=list("abcd")).set_index("category")
    (axes,) = figures.points(gains, horizontal=True, bars=[(0.0, "")]).axes
    assert sorted(place for each in axes.containers for place in each[0].get_ydata()) == [0, 1, 2, 3]
    assert axes.get_ylim() == (3.5, -0.5)  # the first on top
    plt.close("all")


def test_lines_go_from_left_to_right_with_their_bands(table):
    shuffled = table.assign(category=table.series.replace("two", "mean")).iloc[[3, 0, 2, 1]]
    (axes,) = figures.lines(shuffled, x="step", by="category", zero=0.0).axes
    black, other, _ = axes.lines
    assert black.get_ydata().tolist() == [0.2, 0.4] and black.get_color() == "k"
    assert other.get_ydata().tolist() == [0.1, 0.3] and len(axes.collections) == 2
    plt.close("all")


def test_figures_draw_into_a_panel(table):
    figure, axes = figures.panels(1, 2)
    assert figures.points(table, axes=axes[0]) is figures.lines(table, x="step", by="series", axes=axes[1]) is figure
    assert all(each.lines for each in axes)
    plt.close("all")


def test_a_missing_column_is_named(table):
    with pytest.raises(ValueError, match="no column 'method'; it has .*category, series"):
        figures.points(table, by="method")


def test_a_grid_shows_every_picture_with_its_mark():
    pictures = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    figure = figures.picture_grid(pictures, ["a", "b", "c"], columns=2, marks=[True, False, True])
    assert [axes.get_title() for axes in figure.axes] == ["✓ a", "✗ b", "✓ c", ""]
    assert np.allclose(figure.axes[1].images[0].get_array(), pictures[1].permute(1, 2, 0))
    plt.close("all")
