"""Fine-tuning a pipeline on images of its own: a low-rank adapter, and an early choice by what held-out images say."""

from rfmi.finetuning.results import Finetuned, read_finetuned
from rfmi.finetuning.settings import PAPER, FinetuningSettings
from rfmi.finetuning.tuning import finetune

__all__ = ["PAPER", "Finetuned", "FinetuningSettings", "finetune", "read_finetuned"]
