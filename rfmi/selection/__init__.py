"""Many images of a prompt, scored by the model's own information, and the best of them."""

from rfmi.selection.candidates import CHEAP, Pruning
from rfmi.selection.folder import Selection, best, read_selection, worst
from rfmi.selection.selecting import select

__all__ = ["CHEAP", "Pruning", "Selection", "best", "read_selection", "select", "worst"]
