"""How well a pipeline follows prompts, in T2I-CompBench's form, and how two pipelines compare."""

from rfmi.evaluation.comparing import compare, mean_of_categories, prompt_means
from rfmi.evaluation.evaluating import Evaluation, evaluate

__all__ = ["Evaluation", "compare", "evaluate", "mean_of_categories", "prompt_means"]
