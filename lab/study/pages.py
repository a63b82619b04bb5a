"""Executed notebooks as pages, and the index that a reader opens first.

A page is nbconvert's `basic` body, which keeps alt texts, in a page of our own that loads nothing: formulas are MathML,
figures are in it. The index takes from each notebook its title and answer (the first cell), its question and its
verdict (the cells tagged so), and of every <figure> shown that of the cell tagged "main", else the first.
"""

import re
from collections.abc import Sequence
from html import unescape
from pathlib import Path
from typing import Any

import jinja2
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from nbformat import NotebookNode
from PIL import Image

from lab.study.report import palette
from rfmi.files import whole_file, write_atomically

TEMPLATES = Path(__file__).parent / "templates"
PLACE_OF_PACKAGES = re.compile(r"\S*/site-packages/")  # before the file that a warning names
PROGRESS_BAR = re.compile(r"\r?[^\r\n]*\d+%\|[^\r\n]*?\[[^\r\n\]]*\] *\n?|\n?\x1b\[A|\r")
INJECTED = "injected-parameters"  # the tag of the cell of a run's own parameters
PLACE_OF_REPORT = re.compile(r"^output = .*\n?", re.MULTILINE)
FIGURE = re.compile(r'<figure id="([^"]+)".*?<img [^>]*?alt="([^"]*)"', re.DOTALL)
CODE, BLOCK = r"```.*?```|`[^`]*`", r"\$\$(?P<block>.+?)\$\$"
FORMULA = re.compile(rf"{CODE}|{BLOCK}|(?<!\\)\$(?=\S)(?P<inline>[^$`]+?)(?<=\S)\$(?!\d)", re.DOTALL)
PLACE = re.compile(r"zformula(\d+)z")  # of a formula, while Markdown becomes HTML
NAMED = re.compile(r'(?:id|href)="[^"]*"')
WORDS = re.compile(r"<td>(?=[^<]*[A-Za-z]{3},? \w)")  # a field of several words, which reads from the left
TIDY = {  # what latex2mathml leaves undone: \| after \big, the operator \sim, the space after \log
    r">\\\|<": ">‖<",
    "<mi>&#x0007E;</mi>": "<mo>&#x0223C;</mo>",
    "<mi>log</mi>(?=<m[isf])": '<mi>log</mi><mspace width="0.17em"/>',
}
QUESTION = "## Question"  # what a cell begins with that is not tagged so
THUMBNAIL = 480  # pixels across
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


def told_by(cells: Sequence[NotebookNode]) -> str:
    """What cells tell a reader, headings left out: their text, or what their code printed."""
    texts = []
    for cell in cells:
        if cell.cell_type == "markdown":
            texts.append(cell.source)
        for output in cell.get("outputs", []):
            if output.get("name") == "stdout":
                texts.append(output.text.strip().replace("\n", "  \n"))
    return re.sub(r"^#+ .*\n?", "", "\n\n".join(texts), flags=re.MULTILINE).strip()


def summarise(notebook: NotebookNode, name: str) -> dict[str, Any]:
    """Title, answer, question and verdict (Markdown) and figures (name, alt text, the main one first) of a notebook."""
    cells = notebook.cells
    titled = [cell for cell in cells if cell.cell_type == "markdown" and re.search("^# ", cell.source, re.MULTILINE)]
    title = re.search(r"^# (.+)$", titled[0].source, re.MULTILINE)[1].strip() if titled else name
    figures = []
    for cell in sorted(cells, key=lambda cell: not tagged(cell, "main")):
        shown = [output.get("data", {}).get("text/html", "") for output in cell.get("outputs", [])]
        figures += [{"name": unescape(each), "alt": unescape(alt)} for each, alt in FIGURE.findall("".join(shown))]
    return {
        "title": title,
        "answer": told_by(titled[:1]),
        "question": told_by([each for each in cells if tagged(each, "question") or each.source.startswith(QUESTION)]),
        "verdict": told_by([cell for cell in cells if tagged(cell, "verdict")]),
        "figures": figures,
    }


def tagged(cell: NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def mathml(formula: str, display: str) -> str:
    """A formula of TeX as MathML, "block" or "inline". Raises ValueError for one that has no MathML."""
    written = convert(formula, display=display)
    for pattern, better in TIDY.items():
        written = re.sub(pattern, better, written)
    if "\\" in written:
        raise ValueError(f"the formula {formula!r} has no MathML; write it with other commands")
    return f'<span class="formula">{written}</span>' if display == "block" else written


def markdown(text: str) -> str:
    """Markdown as HTML, formulas ($, $$) as MathML: they are taken out first, since their signs mean other things."""
    formulas: list[str] = []

    def taken_out(match: re.Match[str]) -> str:
        kind = match.lastgroup
        if not kind:
            return match[0]  # code
        formulas.append(mathml(match[kind], kind))
        return f"zformula{len(formulas) - 1}z"

    html = markdown2html(FORMULA.sub(taken_out, text))
    html = NAMED.sub(lambda match: PLACE.sub("", match[0]), html)
    return PLACE.sub(lambda match: formulas[int(match[1])], html)


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
    environment.filters["markdown"] = lambda text: jinja2.filters.do_mark_safe(markdown(text))
    environment.filters["time"] = readable_time
    return environment.get_template(template).render(**content)


def write_page(path: Path, notebook: NotebookNode, record: dict[str, Any]) -> None:
    """Write an executed notebook as a page, with its provenance above it."""
    options = {"exclude_input_prompt": True, "exclude_output_prompt": True, "filters": {"markdown2html": markdown}}
    exporter = HTMLExporter(template_name="basic", **options)
    body = WORDS.sub('<td class="words">', exporter.from_notebook_node(notebook)[0])
    write_atomically(path, render("page.html", body=jinja2.filters.do_mark_safe(body), record=record))


def write_index(output: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write the index of a report folder, and a small picture of each notebook's main figure."""
    for record in records:
        figures = {each["name"]: output / "figures" / f"{each['name']}.png" for each in record["figures"]}
        for path in [path for path in figures.values() if path.is_file()][:1]:
            with Image.open(path) as picture:
                small = picture.convert("RGB").resize((THUMBNAIL, THUMBNAIL * picture.height // picture.width))
            with whole_file(output / "thumbnails" / f"{record['name']}.png") as file:
                file.write_bytes(palette(small, 64))
    write_atomically(output / "index.html", render("index.html", records=records))
