"""The two text encoders, pre-trained by reading: from the tokens of a prompt, what it says of every noun.

Stable Diffusion 3 takes its text encoders ready-made; these are made ready on text alone. Every noun's token must tell
its own phrase (shape, color, texture, size, count), and the end of the text all phrases and the relation, each through
one linear map; so which attribute belongs to which object can be read off linearly. The encoders stay as they are
while the flow is trained.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from lab.making.prompt_files import draw_training_prompt
from lab.worlds.shapes.phrases import Prompt
from lab.worlds.shapes.words import CATEGORIES, COLORS, COUNTS, PLURALS, RELATIONS, SHAPES, SIZES, TEXTURES
from rfmi.training import StepRandomness

WIDTH, PROJECTION = 128, 64
_VALUES = (SHAPES, ("", *COLORS), ("", *TEXTURES), ("", *SIZES), COUNTS)
_RELATIONS = ("", *RELATIONS)
_NOUNS = {*SHAPES, *PLURALS.values()}
MAX_PHRASES = 3


def make_text_encoder(tokenizer: CLIPTokenizer, *, layers: int, activation: str) -> CLIPTextModelWithProjection:
    """A small CLIP text encoder for the tokenizer's words."""
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=PROJECTION,
        num_hidden_layers=layers,
        num_attention_heads=4,
        hidden_act=activation,
        max_position_embeddings=tokenizer.model_max_length,
        **ids,
    )
    return CLIPTextModelWithProjection(config)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """(n, model_max_length) token numbers, as the diffusers pipeline makes them."""
    return tokenizer(
        texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids


def encode(encoders: list[CLIPTextModelWithProjection], tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(prompt embeddings, pooled embeddings) of tokens (n, length), as StableDiffusion3Pipeline joins them:
    (n, length, sum of widths), the layer before the last; (n, sum of projections).
    """
    read = [encoder(tokens, output_hidden_states=True) for encoder in encoders]
    hidden = torch.cat([each.hidden_states[-2] for each in read], dim=-1)
    return hidden, torch.cat([each.text_embeds for each in read], dim=-1)


class Reader(nn.Module):
    """The encoders with the linear maps that they are pre-trained with, and that are then thrown away."""

    def __init__(self, encoders: list[CLIPTextModelWithProjection]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        n_phrase = sum(len(values) for values in _VALUES)
        self.of_noun = nn.ModuleList(nn.Linear(WIDTH, n_phrase) for _ in encoders)
        n_all = MAX_PHRASES * (n_phrase + 1) + len(_RELATIONS)
        self.of_end = nn.ModuleList(nn.Linear(WIDTH, n_all) for _ in encoders)
        self.of_pooled = nn.ModuleList(nn.Linear(PROJECTION, n_all) for _ in encoders)


def reading_loss(reader: Reader, tokenizer: CLIPTokenizer, randomness: StepRandomness, batch: int) -> Tensor:
    """Mean binary cross-entropy of all that is to be read, over nouns, ends and pooled embeddings of both encoders."""
    random = randomness.random
    prompts = [draw_training_prompt(random.choice(CATEGORIES), random) for _ in range(batch)]
    tokens = tokenize(tokenizer, [str(prompt) for prompt in prompts]).to(next(reader.parameters()).device)
    noun_tokens = [tokenizer.convert_tokens_to_ids(f"{noun}</w>") for noun in sorted(_NOUNS)]
    nouns = torch.isin(tokens, tokens.new_tensor(noun_tokens))
    of_noun = torch.stack([_of_phrase(phrase) for prompt in prompts for phrase in prompt.phrases]).to(tokens.device)
    of_all = torch.stack([_of_prompt(prompt) for prompt in prompts]).to(tokens.device)
    end = (tokens == tokenizer.eos_token_id).int().argmax(1)
    losses = []
    for i, encoder in enumerate(reader.encoders):
        read = encoder(tokens, output_hidden_states=True)
        hidden = read.hidden_states[-2]
        said = reader.of_end[i](hidden[torch.arange(len(tokens)), end])
        noun, pooled = reader.of_noun[i](hidden[nouns]), reader.of_pooled[i](read.text_embeds)
        pairs = ((noun, of_noun), (said, of_all), (pooled, of_all))
        losses += [nn.functional.binary_cross_entropy_with_logits(logits, truth) for logits, truth in pairs]
    return torch.stack(losses).mean()


@cache
def _of_phrase(phrase) -> Tensor:
    """What is said of one object, as ones and zeros."""
    said = (phrase.shape, phrase.color, phrase.texture, phrase.size, COUNTS[phrase.count - 1])
    return torch.tensor(
        [float(value == word) for values, word in zip(_VALUES, said, strict=True) for value in values]
    )


def _of_prompt(prompt: Prompt) -> Tensor:
    """What is said in a prompt: its phrases in order, each with whether it is there, and the relation."""
    empty = torch.zeros(1 + sum(len(values) for values in _VALUES))
    phrases = [torch.cat([torch.ones(1), _of_phrase(phrase)]) for phrase in prompt.phrases]
    relation = torch.tensor([float(prompt.relation == relation) for relation in _RELATIONS])
    return torch.cat([*phrases, *[empty] * (MAX_PHRASES - len(phrases)), relation])
