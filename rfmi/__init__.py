"""RFMI: how much of a condition a rectified-flow model puts into its sample, in nats, from nothing but the model (arXiv
2503.14358).
"""

from rfmi import tasks
from rfmi.estimate import Estimate
from rfmi.learned.mutual_information import MutualInformation, estimate_mutual_information

__all__ = ["Estimate", "MutualInformation", "estimate_mutual_information", "tasks"]
