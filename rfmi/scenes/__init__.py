"""A small world in which it is a fact whether a picture follows its prompt: scenes of one to four flat objects, prompts
from a grammar in the eight categories of T2I-CompBench, and a judge that reads pixels.
"""

from rfmi.scenes.grammar import change_one_atom, draw_prompt
from rfmi.scenes.prompt_files import prompts, sample_scenes
from rfmi.scenes.prompts import Phrase, Prompt, parse
from rfmi.scenes.rendering import SIDE, Scene, SceneObject, render
from rfmi.scenes.sampling import draw_scene
from rfmi.scenes.words import CATEGORIES

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
