"""Executed notebooks as pages, and the index that a reader opens first.

A page is nbconvert's `basic` body, which keeps alt texts, in a page of our own; formulas are set by MathJax. The index
takes from each notebook its title, its question, its verdict and its figures:

- title: the first first-level heading;
- question, verdict: the cell tagged so (of a code cell what it printed or displayed), else what stands under that
  heading;
- figures: every <figure> that `lab.study.show` displayed, with its alt text.
"""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from nbformat import NotebookNode

from rfmi.runs import write_atomically

TEMPLATES = Path(__file__).parent / "templates"
PLACE_OF_PACKAGES = re.compile(r"\S*/site-packages/")  # before the file that a warning names
PROGRESS_BAR = re.compile(r"\r?[^\r\n]*\d+%\|[^\r\n]*?\[[^\r\n\]]*\] *\n?|\r")
INJECTED = "injected-parameters"  # the tag of the cell of a run's own parameters
PLACE_OF_REPORT = re.compile(r"^output = .*\n?", re.MULTILINE)
KEPT_CELL_METADATA = ("tags", "alt")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


class FigureFinder(HTMLParser):
    """Collects (name, alt text) of every <figure id=name> that holds an <img alt=...>."""

    def __init__(self) -> None:
        super().__init__()
        self.figures: list[dict[str, str]] = []
        self.name = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Remember the figure's name; its image makes the entry."""
        values = dict(attributes)
        if tag == "figure":
            self.name = values.get("id") or ""
        elif tag == "img" and self.name:
            self.figures.append({"name": self.name, "alt": values.get("alt") or ""})

    def handle_endtag(self, tag: str) -> None:
        """A figure ends with its tag."""
        if tag == "figure":
            self.name = ""


def clean(notebook: NotebookNode) -> NotebookNode:
    """Strip what differs between two equal runs (times, machine paths, the place of the report, progress bars), in
    place; returns it.
    """
    notebook.metadata = NotebookNode(
        kernelspec=NotebookNode(KERNEL), language_info=NotebookNode(name="python", pygments_lexer="ipython3")
    )
    for position, cell in enumerate(notebook.cells):
        cell.metadata = NotebookNode(
            {name: cell.metadata[name] for name in KEPT_CELL_METADATA if cell.metadata.get(name)}
        )
        if INJECTED in cell.metadata.get("tags", []):
            cell.id = f"{INJECTED}-{position}"
            cell.source = PLACE_OF_REPORT.sub("", cell.source).rstrip()
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                output.text = PLACE_OF_PACKAGES.sub("", PROGRESS_BAR.sub("", output.text))
        if "outputs" in cell:
            cell.outputs = [
                output for output in cell.outputs if output.get("text", "-").strip() or output.output_type != "stream"
            ]
    return notebook


def shown_text(cell: NotebookNode) -> str:
    """What a cell tells a reader, as Markdown: a Markdown cell's text, or what a code cell printed (line by line) or
    displayed.
    """
    if cell.cell_type == "markdown":
        return cell.source
    parts = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream" and output.name == "stdout":
            parts.append(output.text.strip().replace("\n", "  \n"))
        elif "text/markdown" in output.get("data", {}):
            parts.append(output.data["text/markdown"])
    return "\n\n".join(parts)


def find_section(notebook: NotebookNode, name: str) -> str:
    """The text of the cells tagged `name`, else all that is shown below a heading with that word, up to the next
    heading.
    """
    tagged = [shown_text(cell) for cell in notebook.cells if name in cell.metadata.get("tags", [])]
    if tagged:
        return re.sub(r"^#+ .*\n?", "", "\n\n".join(tagged), flags=re.MULTILINE).strip()
    text = "\n\n".join(shown_text(cell) for cell in notebook.cells)
    section = re.search(
        rf"^##+ [^\n]*\b{name}\b[^\n]*\n(.*?)(?=^#+ |\Z)", text, re.IGNORECASE | re.MULTILINE | re.DOTALL
    )
    return section[1].strip() if section else ""


def summarise(notebook: NotebookNode, name: str) -> dict[str, Any]:
    """Title, question and verdict (Markdown) and figures (name, alt text) of an executed notebook."""
    headings = (
        re.search(r"^# (.+)$", cell.source, re.MULTILINE) for cell in notebook.cells if cell.cell_type == "markdown"
    )
    title = next((heading[1].strip() for heading in headings if heading), name)
    finder = FigureFinder()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            finder.feed(output.get("data", {}).get("text/html", ""))
    return {
        "title": title,
        "question": find_section(notebook, "question"),
        "verdict": find_section(notebook, "verdict"),
        "figures": finder.figures,
    }


def readable_time(seconds: float) -> str:
    """A duration for people: "42 s", "3 min 5 s", "1 h 2 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def render(template: str, **content: Any) -> str:
    """A page from its template, everything escaped but what the filter `markdown` made."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["markdown"] = lambda text: jinja2.filters.do_mark_safe(markdown2html(text))
    environment.filters["time"] = readable_time
    return environment.get_template(template).render(**content)


def write_page(path: Path, notebook: NotebookNode, record: dict[str, Any]) -> None:
    """Write an executed notebook as a page, with its provenance above it."""
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(notebook)
    write_atomically(path, render("page.html", body=jinja2.filters.do_mark_safe(body), record=record))


def write_index(path: Path, records: list[dict[str, Any]]) -> None:
    """Write the index of these notebooks' records, in their order."""
    write_atomically(path, render("index.html", records=records))
