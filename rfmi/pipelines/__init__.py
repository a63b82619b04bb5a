"""Text-to-image pipelines of diffusers as velocity fields."""

from rfmi.pipelines.families import family_of, register, sizes_of
from rfmi.pipelines.field import PipelineField
from rfmi.pipelines.identity import fingerprint, identity_of
from rfmi.pipelines.interface import Conditioning, Family
from rfmi.pipelines.prompts import prompt_list

__all__ = [
    "Conditioning", "Family", "PipelineField", "family_of", "fingerprint", "identity_of", "prompt_list", "register",
    "sizes_of",
]  # fmt: skip
