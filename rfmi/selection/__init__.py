"""The best of many images of a prompt, by the model's own information."""

from rfmi.selection.choosing import best, join, worst
from rfmi.selection.folder import Selection, read_selection
from rfmi.selection.pruning import Pruning
from rfmi.selection.selecting import select

__all__ = ["Pruning", "Selection", "best", "join", "read_selection", "select", "worst"]
