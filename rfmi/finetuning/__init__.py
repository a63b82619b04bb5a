"""Fine-tuning a pipeline on images of its own: a low-rank adapter, and an early choice by what held-out images say."""

from rfmi.finetuning.settings import PAPER, FinetuningSettings
from rfmi.finetuning.tuning import Finetuned, finetune, read_finetuned

__all__ = ["PAPER", "Finetuned", "FinetuningSettings", "finetune", "read_finetuned"]
