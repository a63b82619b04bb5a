"""How well a pipeline follows prompts, in T2I-CompBench's form, and how two pipelines compare."""

from rfmi.evaluation.comparing import MEAN, by_image, compare, mean_of_categories, share_of_the_way
from rfmi.evaluation.evaluating import Evaluation, evaluate

__all__ = [
    "MEAN",
    "Evaluation",
    "by_image",
    "compare",
    "evaluate",
    "mean_of_categories",
    "share_of_the_way",
]
