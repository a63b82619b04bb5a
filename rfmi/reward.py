"""`rfmi.score` as the reward of a trainer that takes any callable of images and prompts, often by its import path."""

from typing import Any

import numpy as np
from diffusers import DiffusionPipeline
from torch import Tensor

from rfmi.pipelines import family_of, identity_of
from rfmi.scoring import Method, method_named, score
from rfmi.scoring.methods import DEFAULT_METHOD


class Reward:
    """How much of its prompt each image carries, (n,) in float64, the larger the better.

    pipeline: scored by, as it is at each call; give it weights of its own where the trained ones are not meant.
    method, seed: of `rfmi.score`; the same seed gives an image the same reward, whatever it is scored beside.
    options: of `rfmi.score` as well.

    `identity` names weights, method and seed. Raises ValueError for a pipeline that is no rectified flow and an unknown
    method, and when it is called as `rfmi.score` does.
    """

    def __init__(
        self, pipeline: DiffusionPipeline, *, method: str | Method = DEFAULT_METHOD, seed: int = 0, **options: Any
    ) -> None:
        family_of(pipeline)
        method_named(method)
        self.pipeline, self.options = pipeline, options | {"method": method, "seed": seed}
        self.identity = f"rfmi.score {identity_of(pipeline)['transformer']} {method} {seed}"
        self.__name__ = "rfmi"  # under which trainers log it

    def __call__(self, images: Tensor, prompts: list[str], *_: Any, **unused: Any) -> np.ndarray:
        """images: as `rfmi.score` takes them. prompts: (n,), one an image. What else a trainer tells is not used."""
        return score(self.pipeline, images, list(prompts), **self.options).values.cpu().numpy()
