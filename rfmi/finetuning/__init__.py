"""Fine-tuning a pipeline on images of its own: a low-rank adapter, and an early choice by what held-out images say."""

from rfmi.finetuning.folder import Finetuned, read_finetuned
from rfmi.finetuning.settings import FULL_SIZE, PAPER, FinetuningSettings
from rfmi.finetuning.tuning import finetune

__all__ = ["FULL_SIZE", "PAPER", "Finetuned", "FinetuningSettings", "finetune", "read_finetuned"]
