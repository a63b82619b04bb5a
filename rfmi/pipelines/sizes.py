"""What images are drawn with that a pipeline has a default for."""

from numbers import Integral

from diffusers import DiffusionPipeline

from rfmi.pipelines.families import family_of
from rfmi.sampling import whole_number


def sizes_of(
    pipeline: DiffusionPipeline,
    height: int | None = None,
    width: int | None = None,
    max_sequence_length: int | None = None,
) -> dict[str, int | None]:
    """height, width and max_sequence_length by name, as images are drawn with them: the pipeline's own where None was
    asked for, and None for a length that its family does not have.

    Raises ValueError for a size or length that it cannot take.
    """
    family, config, factor = family_of(pipeline), pipeline.transformer.config, pipeline.vae_scale_factor
    own = getattr(pipeline, "default_sample_size", config.sample_size) * factor
    height, width = (own if side is None else side for side in (height, width))
    multiple = factor * config.patch_size
    if not all(isinstance(side, Integral) and side > 0 and side % multiple == 0 for side in (height, width)):
        raise ValueError(f"an image of {height} by {width} pixels was asked for; give multiples of {multiple}")
    if family.usual_length is None and max_sequence_length is not None:
        raise ValueError(f"prompts of {type(pipeline).__name__} have no max_sequence_length; leave it out")
    length = max_sequence_length
    if family.usual_length is not None:
        length = family.usual_length(pipeline) if length is None else whole_number("max_sequence_length", length, 1)
    return {"height": int(height), "width": int(width), "max_sequence_length": length}
