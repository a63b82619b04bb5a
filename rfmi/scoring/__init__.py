"""How much of its prompt an image carries, by the model's own velocity field."""

from rfmi.scoring.choice import Choice, choose_score
from rfmi.scoring.methods import METHODS, PATH_METHODS, Method, method_named
from rfmi.scoring.re_noising import Scores, re_noising_scores, score

__all__ = [
    "METHODS",
    "PATH_METHODS",
    "Choice",
    "Method",
    "Scores",
    "choose_score",
    "method_named",
    "re_noising_scores",
    "score",
]
