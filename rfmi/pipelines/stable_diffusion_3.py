"""Stable Diffusion 3 and 3.5: two CLIP encoders, whose rows come first, and T5, whose rows follow."""

from collections.abc import Sequence

from diffusers import StableDiffusion3Pipeline
from torch import Tensor, nn

from rfmi.pipelines.interface import Conditioning, Family
from rfmi.pipelines.vocabulary import check_vocabulary

USUAL_LENGTH = 256  # of T5's rows, the default of the pipeline's call


def encode_prompts(pipeline: StableDiffusion3Pipeline, prompts: Sequence[str]) -> Conditioning:
    """Embeddings (n, CLIP's length + T5's, d) and pooled embeddings (n, d').

    T5 has 256 rows, zeros where there is no T5. Where it adds nothing but zeros, its configuration names how many are
    enough as `short_padding`; a single row has no room for a prompt, so T5 is then given none. Raises ValueError for a
    word outside a closed vocabulary.
    """
    check_vocabulary(prompts, pipeline.tokenizer)
    length = getattr(getattr(pipeline.text_encoder_3, "config", None), "short_padding", None) or USUAL_LENGTH
    for_t5 = [""] * len(prompts) if length == 1 else None
    options = {"do_classifier_free_guidance": False, "max_sequence_length": length}
    embeddings, _, pooled, _ = pipeline.encode_prompt(list(prompts), None, for_t5, **options)
    return Conditioning({"encoder_hidden_states": embeddings, "pooled_projections": pooled})


def velocity(transformer: nn.Module, x_t: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
    """v (B, C, h, w); the transformer counts time in thousandths of sigma."""
    return transformer(hidden_states=x_t, timestep=1000 * sigma, **conditioning.tensors, return_dict=False)[0]


STABLE_DIFFUSION_3 = Family(StableDiffusion3Pipeline, encode_prompts, velocity)
