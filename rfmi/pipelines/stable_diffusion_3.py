"""Stable Diffusion 3 and 3.5: two CLIP encoders, whose rows come first, and T5, whose rows follow."""

from collections.abc import Sequence

from diffusers import StableDiffusion3Pipeline
from torch import Tensor, nn

from rfmi.pipelines.interface import Conditioning, Family
from rfmi.pipelines.vocabulary import check_vocabulary

USUAL_LENGTH = 256  # of T5's rows, the default of the pipeline's call


def encode_prompts(
    pipeline: StableDiffusion3Pipeline, prompts: Sequence[str], max_sequence_length: int | None = None
) -> Conditioning:
    """Embeddings (n, CLIP's length + max_sequence_length, d) and pooled embeddings (n, d').

    max_sequence_length: T5's rows. None: what its configuration names as `short_padding`, for a T5 that is silent and
    adds nothing but rows of zeros, else 256. A single row has no room for a prompt, so T5 is then given none. Without
    a T5, diffusers puts as many rows of zeros. Raises ValueError for a word outside a closed vocabulary.
    """
    check_vocabulary(prompts, pipeline.tokenizer)
    if max_sequence_length is None:
        config = getattr(pipeline.text_encoder_3, "config", None)
        max_sequence_length = getattr(config, "short_padding", None) or USUAL_LENGTH
    embeddings, _, pooled, _ = pipeline.encode_prompt(
        list(prompts),
        None,
        [""] * len(prompts) if max_sequence_length == 1 else None,
        do_classifier_free_guidance=False,
        max_sequence_length=max_sequence_length,
    )
    return Conditioning({"encoder_hidden_states": embeddings, "pooled_projections": pooled})


def velocity(transformer: nn.Module, x_t: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
    """v (B, C, h, w); the transformer counts time in thousandths of sigma."""
    return transformer(hidden_states=x_t, timestep=1000 * sigma, **conditioning.tensors, return_dict=False)[0]


STABLE_DIFFUSION_3 = Family(
    pipeline_class=StableDiffusion3Pipeline,
    encode_prompts=encode_prompts,
    velocity=velocity,
    lora_targets=("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
)
