"""Stable Diffusion 3 and 3.5: two CLIP encoders, whose rows come first, and T5, whose rows follow."""

from collections.abc import Sequence

from diffusers import StableDiffusion3Pipeline
from torch import Tensor, nn

from rfmi.pipelines.interface import Conditioning, Family
from rfmi.pipelines.vocabulary import check_vocabulary

LONGEST = 512  # of T5's rows, the most that the pipeline's call takes


def usual_length(pipeline: StableDiffusion3Pipeline) -> int:
    """T5's rows: 256, as in the pipeline's call, or as many as T5's configuration names as enough, as `short_padding`,
    where it adds nothing but zeros."""
    return getattr(getattr(pipeline.text_encoder_3, "config", None), "short_padding", None) or 256


def encode_prompts(
    pipeline: StableDiffusion3Pipeline, prompts: Sequence[str], max_sequence_length: int
) -> Conditioning:
    """Embeddings (n, CLIP's length + T5's, d) and pooled embeddings (n, d').

    T5 has `max_sequence_length` rows, zeros where there is no T5; a single row has no room for a prompt, so T5 is then
    given none. Raises ValueError for a word outside a closed vocabulary, and for more rows than the pipeline takes.
    """
    check_vocabulary(prompts, pipeline.tokenizer)
    if max_sequence_length > LONGEST:
        raise ValueError(f"max_sequence_length is {max_sequence_length}; Stable Diffusion 3 takes up to {LONGEST}")
    for_t5 = [""] * len(prompts) if max_sequence_length == 1 else None
    options = {"do_classifier_free_guidance": False, "max_sequence_length": max_sequence_length}
    embeddings, _, pooled, _ = pipeline.encode_prompt(list(prompts), None, for_t5, **options)
    return Conditioning({"encoder_hidden_states": embeddings, "pooled_projections": pooled})


def velocity(transformer: nn.Module, x_t: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
    """v (B, C, h, w); the transformer counts time in thousandths of sigma."""
    return transformer(hidden_states=x_t, timestep=1000 * sigma, **conditioning.tensors, return_dict=False)[0]


STABLE_DIFFUSION_3 = Family(StableDiffusion3Pipeline, encode_prompts, velocity, usual_length)
