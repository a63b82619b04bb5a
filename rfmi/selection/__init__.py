"""The best of many images of a prompt, by the model's own information."""

from rfmi.selection.folder import Selection, read_selection
from rfmi.selection.pruning import Pruning
from rfmi.selection.selecting import select

__all__ = ["Pruning", "Selection", "read_selection", "select"]
