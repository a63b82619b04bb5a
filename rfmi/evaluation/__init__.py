"""How well a pipeline follows prompts, in T2I-CompBench's form, and how two pipelines compare."""

from rfmi.evaluation.comparing import MEAN, compare, mean_of_categories, prompt_means, share_of_the_way
from rfmi.evaluation.evaluating import Evaluation, evaluate

__all__ = [
    "MEAN",
    "Evaluation",
    "compare",
    "evaluate",
    "mean_of_categories",
    "prompt_means",
    "share_of_the_way",
]
