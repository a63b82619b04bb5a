"""RFMI: how much of a condition a rectified-flow model puts into its sample, in nats, from nothing but the model (arXiv
2503.14358).
"""

from rfmi import scenes, tasks
from rfmi.base_model.folders import base_pipeline
from rfmi.estimate import Estimate
from rfmi.learned.mutual_information import MutualInformation, estimate_mutual_information
from rfmi.scenes.judging import judge

__all__ = [
    "Estimate",
    "MutualInformation",
    "base_pipeline",
    "estimate_mutual_information",
    "judge",
    "scenes",
    "tasks",
]
