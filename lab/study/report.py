"""What a notebook hands to the report: named results as JSON and CSV, figures with caption and alt text.

`output` is the notebook's parameter of that name: the report folder, or "" to write nothing (as the tested profile
does). A figure is shown as HTML (<figure>, <img alt=...>, <figcaption>), which nbconvert's templates keep as it is.
"""

import base64
import io
import json
from html import escape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

from lab.paths import output_folder
from lab.study.code import canonical
from lab.study.figures import RESOLUTION
from lab.study.numbers import Row, flat
from lab.study.units import check_kind
from rfmi.files import whole_file, write_atomically

LARGEST = 150_000  # bytes of a figure's file
COLOURS = (256, 128, 64, 32)


def save_results(name: str, results: dict[str, Any], output: str | None) -> None:
    """Write `results` to {output}/results/{name}.json, keys sorted, and to {name}.csv in flat rows, as
    `lab.study.numbers` makes them; an empty `output` writes nothing.
    """
    check_kind(name)
    known = json.loads(canonical(results), parse_constant=lambda _: None)  # JSON knows no NaN and no infinity
    text = json.dumps(known, indent=1, sort_keys=True, ensure_ascii=False)
    folder = output_folder(output)
    if folder:
        write_atomically(folder / "results" / f"{name}.json", text + "\n")
        write_table(folder / "results" / f"{name}.json")


def write_table(results: Path) -> None:
    """Write a JSON file of results once more, as CSV beside it."""
    table = pd.DataFrame(flat(json.loads(results.read_text(encoding="utf-8"))), columns=Row._fields)
    write_atomically(results.with_suffix(".csv"), table.to_csv(index=False, lineterminator="\n"))


def palette(picture: Image.Image, colours: int) -> bytes:
    """A picture as PNG, of at most so many colours."""
    buffer = io.BytesIO()
    picture.convert("RGB").quantize(colours).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def drawn(figure: Figure, kind: str, name: str) -> bytes:
    """A figure as a file of a kind, the same bytes for the same figure."""
    buffer, look = io.BytesIO(), {"dpi": RESOLUTION, "bbox_inches": "tight", "facecolor": "white"}
    with plt.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format=kind, metadata={"svg": {"Date": None}, "png": {"Software": None}}[kind], **look)
    return buffer.getvalue()


def show(figure: Figure, *, name: str, caption: str, alt: str, output: str | None) -> None:
    """Show a figure with its caption and alt text, keep it as {output}/figures/{name}.png, and close it.

    It is kept as {name}.svg too where it holds no pictures. No file is larger than LARGEST: a PNG gets fewer colours
    until it is, a larger SVG is left out.

    caption: what is seen; alt: what a reader who cannot see it needs; both plain text
    """
    check_kind(name)
    if not caption.strip() or not alt.strip():
        raise ValueError(f"figure {name!r} needs a caption and an alt text; write one sentence for each")
    picture = Image.open(io.BytesIO(drawn(figure, "png", name)))
    fitting = (png for colours in COLOURS if len(png := palette(picture, colours)) <= LARGEST or colours == COLOURS[-1])
    kept = {"png": next(fitting)}
    if not any(axes.images for axes in figure.axes) and len(svg := drawn(figure, "svg", name)) <= LARGEST:
        kept["svg"] = svg
    plt.close(figure)
    folder = output_folder(output)
    for kind, content in kept.items() if folder else ():
        with whole_file(folder / "figures" / f"{name}.{kind}") as file:
            file.write_bytes(content)
    source = f"data:image/png;base64,{base64.b64encode(kept['png']).decode()}"
    image = f'<img src="{source}" alt="{escape(alt)}" style="max-width: 100%; height: auto;">'
    page = f'<figure id="{name}" style="margin: 1em 0;">{image}<figcaption>{escape(caption)}</figcaption></figure>'
    display({"text/html": page, "text/plain": alt}, raw=True)
