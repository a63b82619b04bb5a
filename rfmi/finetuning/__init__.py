"""Fine-tuning a pipeline on images of its own: a low-rank adapter, the flow-matching loss, an early choice by
what the model itself says of held-out images."""

from rfmi.finetuning.results import Finetuned, read_finetuned
from rfmi.finetuning.settings import PRESETS, FinetuningSettings
from rfmi.finetuning.tuning import finetune
from rfmi.finetuning.validation import held_out_information, held_out_loss

__all__ = [
    "PRESETS",
    "FinetuningSettings",
    "Finetuned",
    "finetune",
    "held_out_information",
    "held_out_loss",
    "read_finetuned",
]
