"""Results and figures as a notebook hands them over: names and alt texts kept, nothing written where no report is
asked for.
"""

import json
import re

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from lab.paths import notebooks_folder, output_folder
from lab.study import figures, numbers, pages, report
from lab.study.profiles import numbered_notebooks


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
    table = pd.read_csv(tmp_path / "results" / "small.csv", index_col="key")
    assert table.value.to_dict()["a/5000"] == "0.1" and table.value["estimates/1/2"] == "2.5"
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"small.csv", "small.json"}


def test_every_number_has_its_row_and_its_interval():
    rows = numbers.flat(
        {
            "gain": {"value": 1, "low": 0, "high": 2, "n": 5, "base": 0.5},
            "area": {"path": 0.4, "all": 0.5},
            "area_interval": {"path": [0.3, 0.6]},
            "share": 0.2,
            "share_interval": [0.1, 0.3],
            "fit": {"mae": 3, "mae_low": 2, "mae_high": 4},
            "table": [
                {"form": "a", "bias": 0.1, "time": 0.05, "low": 0.0, "high": 0.2, "n": 7},
                {"form": "a", "bias": 0.1, "time": 0.9, "low": 0.0, "high": 0.2, "n": 7},
            ],
            "outside": [{"value": 5.0, "low": 0.0, "high": 1.0}],
            "seeds": [3, 4],
            "none": None,
        }
    )
    assert {row.key: tuple(row)[1:] for row in rows} == {
        "gain/value": (1, 0, 2, 5),
        "gain/base": (0.5, None, None, None),
        "area/path": (0.4, 0.3, 0.6, None),
        "area/all": (0.5, None, None, None),
        "share": (0.2, 0.1, 0.3, None),
        "fit/mae": (3, 2, 4, None),
        "table/a 1/bias": (0.1, 0.0, 0.2, 7),
        "table/a 1/time": (0.05, None, None, None),
        "table/a 2/bias": (0.1, 0.0, 0.2, 7),
        "table/a 2/time": (0.9, None, None, None),
        "outside/1/value": (5.0, 0.0, 1.0, None),
        "seeds/1": (3, None, None, None),
        "seeds/2": (4, None, None, None),
        "none": (None, None, None, None),
    }


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        ((1.0,), (1.0 + 1e-9,), "equal"),
        ((1.0,), (1.1,), "differs"),
        ((1.0, 0.9, 1.1), (1.2, 1.05, 1.3), "within"),
        ((1.0, 0.9, 1.1), (1.2, 1.15, 1.3), "beyond"),
        ((1.0, 0.9, 1.1), (1.05,), "within"),
        ((1.15,), (1.0, 0.9, 1.1), "beyond"),
        (("a",), ("b",), "differs"),
        ((None,), (1.0,), "differs"),
        ((True,), (False,), "differs"),
    ],
)
def test_two_numbers_agree_where_their_intervals_meet(one, other, verdict):
    assert numbers.verdict(numbers.Row("x", *one), numbers.Row("x", *other)) == verdict


def test_times_are_no_results():
    assert numbers.verdict(numbers.Row("fit/seconds", 1.0), numbers.Row("fit/seconds", 2.0)) == "time"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("| a | $|x|_1$ |\n|---|---|\n| b | $\\|y\\|$ |", ["<table>", "<td>b</td>"]),
        ("a sum\n$x\n- \\sigma$ over two lines", ["over two lines"]),
        ("$$L = \\big\\| u - v \\big\\|^2$$", ['display="block"', "‖"]),
        ("## The form $u$", ['id="The-form-"', 'href="#The-form-"']),
    ],
)
def test_formulas_are_mathml_wherever_they_stand(text, left):
    page = pages.markdown(text)
    assert "<math" in page and not re.search(r"[\\$]|zformula", page)
    assert all(part in page for part in left) and "<ul>" not in page


@pytest.mark.parametrize("path", numbered_notebooks(notebooks_folder()).values(), ids=lambda path: path.stem)
def test_every_formula_of_the_notebooks_is_mathml(path):
    cells = nbformat.read(path, as_version=4).cells
    text = "\n\n".join(pages.markdown(cell.source) for cell in cells if cell.cell_type == "markdown")
    assert "<math" in text
    assert not re.findall(r".*(?:\\|\$).*", re.sub(r"<(pre|code)>.*?</\1>", "", text, flags=re.DOTALL))


def test_code_and_sums_of_money_are_no_formulas():
    page = pages.markdown("`$x$` costs $5 or $6\n\n```\n$y$\n```")
    assert "<math" not in page and "$x$" in page and "$5 or $6" in page and "$y$" in page


def test_fields_of_several_words_are_told_from_numbers():
    row = {"what": "likelihood, 8 noises", "gain": -0.012, "low": np.nan, "found": True, "share": "0.03 (0.02 to 0.04)"}
    table = pd.DataFrame([row]).to_html()
    assert table.count("<td>") == len(row)
    assert pages.WORDS.sub("words: ", table).count("words: likelihood") == len(pages.WORDS.findall(table)) == 1


def test_a_formula_without_mathml_is_refused():
    with pytest.raises(ValueError, match="unheardof.* has no MathML"):
        pages.markdown("$\\unheardof x$")


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
    assert (tmp_path / "figures" / "small.svg").read_text().startswith("<?xml")
    assert not plt.fignum_exists(figure.number)


def test_no_figure_is_large_and_pictures_are_no_svg(tmp_path, shown, monkeypatch):
    noise = torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    grid = figures.picture_grid(noise, [""] * 12, columns=4, inch=2.0)
    report.show(grid, name="grid", caption="Noise.", alt="Noise.", output=str(tmp_path))
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["grid.png"]
    assert (tmp_path / "figures" / "grid.png").stat().st_size <= report.LARGEST
    monkeypatch.setattr(report, "LARGEST", 5000)
    report.show(draw_figure(), name="small", caption="A line.", alt="A falling line.", output=str(tmp_path))
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"grid.png", "small.png"}


def test_the_same_figure_gives_the_same_bytes(tmp_path, shown):
    drawn = []
    for _ in range(2):
        report.show(draw_figure(), name="small", caption="A line.", alt="A falling line.", output=str(tmp_path))
        drawn.append((tmp_path / "figures" / "small.svg").read_bytes())
    assert shown[0] == shown[1] and drawn[0] == drawn[1]


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
