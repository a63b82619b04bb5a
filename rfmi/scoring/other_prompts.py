"""Which other prompts a prompt is held against: those whose pooled embeddings are nearest to its own.

No linguistic analysis: the text encoder alone says what is near.
"""

import torch
from torch import Tensor
from torch.nn import functional

from rfmi.pipelines import PipelineField

NEIGHBOURS = 2


@torch.no_grad()
def nearest_prompts(field: PipelineField, k: int = NEIGHBOURS) -> Tensor:
    """(P, k) labels: of every prompt of the field the k nearest others, by the cosine of embeddings less their mean.

    Raises ValueError where there are fewer than k others.
    """
    n = len(field.prompts)
    if n <= k:
        raise ValueError(f"{n} prompts have no {k} others each; give more prompts, or a method that needs none")
    tensors = field.conditioning.tensors
    embeddings = tensors.get("pooled_projections", tensors["encoder_hidden_states"]).float().flatten(1)[:n]
    unit = functional.normalize(embeddings - embeddings.mean(0), dim=1)
    return (unit @ unit.T).fill_diagonal_(-torch.inf).topk(k, dim=1).indices.cpu()
