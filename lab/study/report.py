"""What a notebook hands to the report: named results as JSON, figures with caption and alt text.

`output` is the notebook's parameter of that name: the report folder, or "" to write nothing (as the tested profile
does). A figure is shown as HTML (<figure>, <img alt=...>, <figcaption>), which nbconvert's templates keep as it is.
"""

from __future__ import annotations

import base64
import io
import json
import math
from html import escape
from typing import Any

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.figure import Figure

from lab.paths import output_folder
from lab.study.figures import RESOLUTION
from lab.study.units import check_kind
from rfmi.runs import plain, write_atomically


def without_nan(value: Any) -> Any:
    """The same value with null in place of NaN and infinities, which JSON does not know."""
    if isinstance(value, dict):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return without_nan(plain(value))


def save_results(name: str, results: dict[str, Any], output: str | None) -> None:
    """Write `results` to {output}/results/{name}.json, keys sorted; an empty `output` writes nothing."""
    check_kind(name)
    text = json.dumps(without_nan(results), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    folder = output_folder(output)
    if folder:
        write_atomically(folder / "results" / f"{name}.json", text + "\n")


def show(figure: Figure, *, name: str, caption: str, alt: str, output: str | None) -> None:
    """Show a figure with its caption and alt text, keep it as {output}/figures/{name}.png, and close it.

    caption: what is seen, as plain text
    alt: what a reader who cannot see it needs, as plain text
    """
    check_kind(name)
    if not caption.strip() or not alt.strip():
        raise ValueError(f"figure {name!r} needs a caption and an alt text; write one sentence for each")
    buffer, look = io.BytesIO(), {"dpi": RESOLUTION, "bbox_inches": "tight", "facecolor": "white"}
    figure.savefig(buffer, format="png", metadata={"Software": None}, **look)
    plt.close(figure)
    folder = output_folder(output)
    if folder:
        path = folder / "figures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(buffer.getvalue())
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    image = f'<img src="{source}" alt="{escape(alt)}" style="max-width: 100%; height: auto;">'
    page = f'<figure id="{name}" style="margin: 1em 0;">{image}<figcaption>{escape(caption)}</figcaption></figure>'
    display({"text/html": page, "text/plain": alt}, raw=True)
