"""Executed notebooks as pages, and the index that a reader opens first.

A page is nbconvert's `basic` body, which keeps alt texts, in a page of our own. The index takes from each notebook its
title (the first first-level heading), its question and its verdict (the cells tagged so) and every <figure> shown.
"""

import re
from html import unescape
from pathlib import Path
from typing import Any

import jinja2
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from nbformat import NotebookNode

from rfmi.files import write_atomically

TEMPLATES = Path(__file__).parent / "templates"
PLACE_OF_PACKAGES = re.compile(r"\S*/site-packages/")  # before the file that a warning names
PROGRESS_BAR = re.compile(r"\r?[^\r\n]*\d+%\|[^\r\n]*?\[[^\r\n\]]*\] *\n?|\r")
INJECTED = "injected-parameters"  # the tag of the cell of a run's own parameters
PLACE_OF_REPORT = re.compile(r"^output = .*\n?", re.MULTILINE)
FIGURE = re.compile(r'<figure id="([^"]+)".*?<img [^>]*?alt="([^"]*)"', re.DOTALL)
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def clean(notebook: NotebookNode) -> NotebookNode:
    """Strip, in place, what differs between equal runs: times, machine paths, the report's place, progress bars."""
    notebook.metadata = NotebookNode(
        kernelspec=NotebookNode(KERNEL), language_info=NotebookNode(name="python", pygments_lexer="ipython3")
    )
    for position, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        cell.metadata = NotebookNode(tags=tags) if tags else NotebookNode()
        if INJECTED in tags:
            cell.id = f"{INJECTED}-{position}"
            cell.source = PLACE_OF_REPORT.sub("", cell.source).rstrip()
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                output.text = PLACE_OF_PACKAGES.sub("", PROGRESS_BAR.sub("", output.text))
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("text", "-").strip()]
    return notebook


def tagged_text(notebook: NotebookNode, tag: str) -> str:
    """What the cells of a tag tell a reader, headings left out: their text, or what their code printed."""
    texts = []
    for cell in (each for each in notebook.cells if tag in each.metadata.get("tags", [])):
        if cell.cell_type == "markdown":
            texts.append(cell.source)
        for output in cell.get("outputs", []):
            if output.get("name") == "stdout":
                texts.append(output.text.strip().replace("\n", "  \n"))
    return re.sub(r"^#+ .*\n?", "", "\n\n".join(texts), flags=re.MULTILINE).strip()


def summarise(notebook: NotebookNode, name: str) -> dict[str, Any]:
    """Title, question and verdict (Markdown) and figures (name, alt text) of an executed notebook."""
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    title = re.search(r"^# (.+)$", "\n".join(texts), re.MULTILINE)
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    figures = [figure for data in shown for figure in FIGURE.findall(data.get("text/html", ""))]
    return {
        "title": title[1].strip() if title else name,
        "question": tagged_text(notebook, "question"),
        "verdict": tagged_text(notebook, "verdict"),
        "figures": [{"name": unescape(name), "alt": unescape(alt)} for name, alt in figures],
    }


def readable_time(seconds: float) -> str:
    """A duration for people: "42 s", "3 min 5 s", "1 h 2 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
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
