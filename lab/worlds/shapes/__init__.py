"""A small world in which it is a fact whether a picture follows its prompt: scenes of one to four flat objects, prompts
from a grammar in the eight categories of T2I-CompBench, and a judge that reads pixels.
"""

from lab.worlds.shapes.grammar import change_one_atom, draw_prompt
from lab.worlds.shapes.prompt_files import prompts, sample_scenes
from lab.worlds.shapes.prompts import Phrase, Prompt, parse
from lab.worlds.shapes.rendering import SIDE, Scene, SceneObject, render
from lab.worlds.shapes.sampling import draw_scene
from lab.worlds.shapes.words import CATEGORIES

__all__ = [
    "CATEGORIES",
    "SIDE",
    "Phrase",
    "Prompt",
    "Scene",
    "SceneObject",
    "change_one_atom",
    "draw_prompt",
    "draw_scene",
    "parse",
    "prompts",
    "render",
    "sample_scenes",
]
