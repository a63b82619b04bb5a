"""The two text encoders, pre-trained by reading: from the tokens of a prompt, what it says of every noun.

Every noun's token must tell its own phrase (shape, color, texture, size, count), and the end of the text all phrases
and the relation, each through one linear map; so which attribute belongs to which object can be read off linearly. The
encoders stay as they are while the flow is trained.
"""

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from lab.making.prompt_files import draw_training_prompt
from lab.making.tokenizers import make_tokenizer
from lab.making.workshop import Workshop
from lab.worlds.shapes.phrases import Phrase, Prompt
from lab.worlds.shapes.words import CATEGORIES, COLORS, COUNTS, PLURALS, RELATIONS, SHAPES, SIZES, TEXTURES
from rfmi.training import StepRandomness

WIDTH, HEADS, PROJECTION = 128, 4, 64
VALUES = (SHAPES, ("", *COLORS), ("", *TEXTURES), ("", *SIZES), COUNTS)
N_VALUES = sum(len(values) for values in VALUES)
MAX_PHRASES = 3


def tower(layers: int, activation: str) -> dict[str, Any]:
    """The sizes of a small transformer, as CLIP's configurations name them."""
    return {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "projection_dim": PROJECTION,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "hidden_act": activation,
    }


def vocabulary(tokenizer: CLIPTokenizer) -> dict[str, int]:
    """What a text encoder's configuration says of its tokenizer."""
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length, **ids}


def make_text_encoder(tokenizer: CLIPTokenizer, *, layers: int, activation: str) -> CLIPTextModelWithProjection:
    """An untrained text encoder."""
    return CLIPTextModelWithProjection(CLIPTextConfig(**tower(layers, activation), **vocabulary(tokenizer)))


def make_reader(encoders: list[CLIPTextModelWithProjection]) -> nn.ModuleDict:
    """The encoders with the linear maps that they are pre-trained with, and that are then thrown away."""
    n_all = MAX_PHRASES * (1 + N_VALUES) + 1 + len(RELATIONS)
    sizes = ((WIDTH, N_VALUES), (WIDTH, n_all), (PROJECTION, n_all))  # from nouns, ends of text, pooled embeddings
    maps = [nn.Linear(*size) for size in sizes for _ in encoders]
    return nn.ModuleDict({"encoders": nn.ModuleList(encoders), "maps": nn.ModuleList(maps)})


def reading_loss(reader: nn.ModuleDict, tokenizer: CLIPTokenizer, randomness: StepRandomness, batch: int) -> Tensor:
    """Mean binary cross-entropy of all that is to be read, over nouns, ends and pooled embeddings of both encoders."""
    random, device = randomness.random, next(reader.parameters()).device
    prompts = [draw_training_prompt(random.choice(CATEGORIES), random) for _ in range(batch)]
    texts = [str(prompt) for prompt in prompts]
    tokens = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids.to(device)
    noun_tokens = [tokenizer.convert_tokens_to_ids(f"{noun}</w>") for noun in (*SHAPES, *PLURALS.values())]
    nouns = torch.isin(tokens, tokens.new_tensor(noun_tokens))
    ends = torch.arange(batch, device=device), (tokens == tokenizer.eos_token_id).int().argmax(1)
    of_nouns = torch.stack([told_of_object(phrase) for prompt in prompts for phrase in prompt.phrases]).to(device)
    of_all = torch.stack([told_by_prompt(prompt) for prompt in prompts]).to(device)
    losses = []
    for i, encoder in enumerate(reader["encoders"]):
        from_noun, from_end, from_pooled = reader["maps"][i :: len(reader["encoders"])]
        read = encoder(tokens, output_hidden_states=True)
        hidden = read.hidden_states[-2]  # what the pipeline takes
        said = from_noun(hidden[nouns]), from_end(hidden[ends]), from_pooled(read.text_embeds)
        for logits, truth in zip(said, (of_nouns, of_all, of_all), strict=True):
            losses.append(nn.functional.binary_cross_entropy_with_logits(logits, truth))
    return torch.stack(losses).mean()


@cache
def told_of_object(phrase: Phrase) -> Tensor:
    """What is said of one object, as ones and zeros."""
    said = (phrase.shape, phrase.color, phrase.texture, phrase.size, COUNTS[phrase.count - 1])
    return torch.tensor([float(value == word) for values, word in zip(VALUES, said, strict=True) for value in values])


def told_by_prompt(prompt: Prompt) -> Tensor:
    """What is said in a prompt: its phrases in order, each with whether it is there, and the relation."""
    phrases = [torch.cat([torch.ones(1), told_of_object(phrase)]) for phrase in prompt.phrases]
    missing = torch.zeros((MAX_PHRASES - len(phrases)) * (1 + N_VALUES))
    relation = torch.tensor([float(prompt.relation == relation) for relation in ("", *RELATIONS)])
    return torch.cat([*phrases, missing, relation])


def trained_text_encoders(shop: Workshop) -> list[CLIPTextModelWithProjection]:
    """The second stage: both encoders, of CLIP's two kinds of activation."""
    schedule, tokenizer = shop.recipe.text, make_tokenizer()
    torch.manual_seed(schedule.seed)
    kinds = ("quick_gelu", "gelu")
    encoders = [make_text_encoder(tokenizer, layers=shop.recipe.text_layers, activation=kind) for kind in kinds]
    reader = make_reader(encoders).to(shop.device)
    optimizer = torch.optim.AdamW(reader.parameters(), schedule.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    shop.train("text_encoders", reader, schedule, partial(reading_loss, reader, tokenizer), [optimizer])
    return encoders
