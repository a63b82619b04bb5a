"""RFMI: how much of a condition a rectified-flow model puts into its sample, in nats, from nothing but the model (arXiv
2503.14358).

    estimate_mutual_information(x, y)            I(X; Y) of two arrays
    MutualInformationEstimator().fit(x, y)       the same in the form of scikit-learn, which scores new pairs too
    score(pipeline, images, prompts)             how much of its prompt each image carries
    choose_score(pipeline, prompts, output=...)  which score tells its failures, without a judge
    select(pipeline, prompts, output=...)        many images of every prompt, scored
    finetune(pipeline, selection, output=...)    a LoRA from all these images, by their scores
    evaluate(pipeline, prompts, judge, ...)      how well prompts are followed, before and after
    judge_folder(folder, judge, output=...)      the same images judged again, without a model
    Reward(pipeline, ...)                        the score as a reward for trainers of others
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rfmi.arrays.mutual_information import (
        MutualInformation,
        MutualInformationEstimator,
        estimate_mutual_information,
    )
    from rfmi.evaluation import evaluate, judge_folder
    from rfmi.finetuning import finetune
    from rfmi.reward import Reward
    from rfmi.scoring import choose_score, score
    from rfmi.selection import select

_HOMES = {  # imported when they are asked for: torch and diffusers take seconds
    "choose_score": "rfmi.scoring",
    "MutualInformation": "rfmi.arrays.mutual_information",
    "MutualInformationEstimator": "rfmi.arrays.mutual_information",
    "estimate_mutual_information": "rfmi.arrays.mutual_information",
    "evaluate": "rfmi.evaluation",
    "finetune": "rfmi.finetuning",
    "judge_folder": "rfmi.evaluation",
    "Reward": "rfmi.reward",
    "score": "rfmi.scoring",
    "select": "rfmi.selection",
}

__all__ = [*_HOMES]

# Diffusers imports image processors that nothing here uses; without torchvision each says so.
logging.getLogger("transformers.utils.import_utils").addFilter(lambda said: "torchvision" not in said.getMessage())


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'rfmi' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
