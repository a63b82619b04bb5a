"""The families that are known, why a pipeline is of none, and which sizes it draws."""

from numbers import Integral

from diffusers import DiffusionPipeline

from rfmi.checks import shown, whole_number
from rfmi.pipelines.auraflow import AURAFLOW
from rfmi.pipelines.interface import Family
from rfmi.pipelines.stable_diffusion_3 import STABLE_DIFFUSION_3

FAMILIES = [STABLE_DIFFUSION_3, AURAFLOW]


def register(family: Family) -> None:
    """Make a family known.

    family: a pipeline that is of several is taken to be of the one registered last.
    """
    FAMILIES.insert(0, family)


def family_of(pipeline: DiffusionPipeline) -> Family:
    """The family of a pipeline.

    pipeline: loaded. Raises ValueError, with the reason, for one that is no velocity field or not known.
    """
    if not isinstance(pipeline, DiffusionPipeline):
        raise ValueError(f"pipeline is {shown(pipeline)}; load it, as DiffusionPipeline.from_pretrained(...) does")
    name, scheduler = type(pipeline).__name__, getattr(pipeline, "scheduler", None)
    if getattr(pipeline, "unet", None) is not None:
        raise ValueError(f"{name} has a UNet, which predicts noise and no velocity; take a rectified-flow pipeline")
    prediction = getattr(getattr(scheduler, "config", None), "prediction_type", None)
    by_name = type(scheduler).__name__.startswith("FlowMatch")
    if not (by_name if prediction is None else prediction == "flow_prediction"):
        said = f"{name} samples with {type(scheduler).__name__}, which is made for predictions of noise"
        raise ValueError(f"{said}; take a rectified-flow pipeline, or give it a FlowMatchEulerDiscreteScheduler")
    if getattr(pipeline.transformer.config, "guidance_embeds", False):
        raise ValueError(f"{name} has its guidance distilled and no null branch; take one with a negative prompt")
    for family in FAMILIES:
        if isinstance(pipeline, family.pipeline_class):
            return family
    known = " and ".join(family.pipeline_class.__name__ for family in FAMILIES)
    said = f"{name} is of no family known, which are {known}"
    raise ValueError(f"{said}; `rfmi.pipelines.register` takes a new one of about 30 lines, as auraflow.py has them")


def sizes_of(
    pipeline: DiffusionPipeline,
    height: int | None = None,
    width: int | None = None,
    max_sequence_length: int | None = None,
) -> dict[str, int | None]:
    """height, width and max_sequence_length by name, as images are drawn with them.

    pipeline: of a known family.
    height, width, max_sequence_length: None for the pipeline's own; a length stays None where its family has none.
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
