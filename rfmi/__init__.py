"""RFMI: how much of a condition a rectified-flow model puts into its sample, in nats, from nothing but the model (arXiv
2503.14358).
"""

from importlib import import_module

from rfmi import scenes, tasks
from rfmi.base_model.folders import base_pipeline
from rfmi.estimate import Estimate
from rfmi.learned.mutual_information import MutualInformation, estimate_mutual_information
from rfmi.scenes.judging import judge

_ON_PIPELINES = {  # on demand: diffusers takes seconds
    "evaluate": "rfmi.evaluation",
    "finetune": "rfmi.finetuning",
    "score": "rfmi.scoring",
    "select": "rfmi.selection",
}

__all__ = [
    "Estimate",
    "MutualInformation",
    "base_pipeline",
    "estimate_mutual_information",
    "evaluate",
    "finetune",
    "judge",
    "scenes",
    "score",
    "select",
    "tasks",
]


def __getattr__(name: str) -> object:
    if name not in _ON_PIPELINES:
        raise AttributeError(f"module 'rfmi' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_ON_PIPELINES[name]), name)
