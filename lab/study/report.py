"""What a notebook hands to the report: named results as JSON, figures with caption and alt text.

`output` is the notebook's parameter of that name: the report folder, or "" to write nothing (as the tested profile
does). A figure is shown as HTML (<figure>, <img alt=...>, <figcaption>), which nbconvert's templates keep as it is.
"""

import base64
import io
import json
from html import escape
from typing import Any

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.figure import Figure

from lab.paths import output_folder
from lab.study.code import canonical
from lab.study.figures import RESOLUTION
from lab.study.units import check_kind
from rfmi.files import whole_file, write_atomically


def save_results(name: str, results: dict[str, Any], output: str | None) -> None:
    """Write `results` to {output}/results/{name}.json, keys sorted; an empty `output` writes nothing."""
    check_kind(name)
    known = json.loads(canonical(results), parse_constant=lambda _: None)  # JSON knows no NaN and no infinity
    text = json.dumps(known, indent=1, sort_keys=True, ensure_ascii=False)
    folder = output_folder(output)
    if folder:
        write_atomically(folder / "results" / f"{name}.json", text + "\n")


def show(figure: Figure, *, name: str, caption: str, alt: str, output: str | None) -> None:
    """Show a figure with its caption and alt text, keep it as {output}/figures/{name}.png, and close it.

    caption: what is seen; alt: what a reader who cannot see it needs; both plain text
    """
    check_kind(name)
    if not caption.strip() or not alt.strip():
        raise ValueError(f"figure {name!r} needs a caption and an alt text; write one sentence for each")
    buffer, look = io.BytesIO(), {"dpi": RESOLUTION, "bbox_inches": "tight", "facecolor": "white"}
    figure.savefig(buffer, format="png", metadata={"Software": None}, **look)
    plt.close(figure)
    folder = output_folder(output)
    if folder:
        with whole_file(folder / "figures" / f"{name}.png") as file:
            file.write_bytes(buffer.getvalue())
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    image = f'<img src="{source}" alt="{escape(alt)}" style="max-width: 100%; height: auto;">'
    page = f'<figure id="{name}" style="margin: 1em 0;">{image}<figcaption>{escape(caption)}</figcaption></figure>'
    display({"text/html": page, "text/plain": alt}, raw=True)
