"""Worlds: prompts, and a judge that says which images follow them. `load_world(name)` gives one, whoever wrote it."""

from lab.worlds.world import World, load_world

__all__ = ["World", "load_world"]
