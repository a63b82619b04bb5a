"""AuraFlow: one T5 encoder, whose padding is set to zero, and time as sigma itself."""

from collections.abc import Sequence

from diffusers import AuraFlowPipeline
from torch import Tensor, nn

from rfmi.pipelines.interface import Conditioning, Family


def usual_length(pipeline: AuraFlowPipeline) -> int:
    """T5's rows, as in the pipeline's call."""
    return 256


def encode_prompts(pipeline: AuraFlowPipeline, prompts: Sequence[str], max_sequence_length: int) -> Conditioning:
    """Embeddings (n, max_sequence_length, d)."""
    options = {"do_classifier_free_guidance": False, "max_sequence_length": max_sequence_length}
    embeddings, *_ = pipeline.encode_prompt(list(prompts), **options)
    return Conditioning({"encoder_hidden_states": embeddings})


def velocity(transformer: nn.Module, x_t: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
    """v (B, C, h, w), for sigma as it is: the pipeline's own call rounds it to the dtype of the latents."""
    return transformer(x_t, timestep=sigma, **conditioning.tensors, return_dict=False)[0]


AURAFLOW = Family(AuraFlowPipeline, encode_prompts, velocity, usual_length)
