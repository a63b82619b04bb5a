"""Tokenizers with a closed vocabulary: saved with `closed_vocabulary`, they take only words that are one token each,
since what they would make of any other word their text encoder has never read.
"""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

CLOSED = "closed_vocabulary"  # in the tokenizer's saved settings


def check_vocabulary(prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ValueError for a word that is not one token of a closed vocabulary, and for a prompt that would be cut.

    prompts: texts; word order and grammar are not looked at
    tokenizer: of a text encoder; one whose vocabulary is not closed takes every prompt
    """
    if not tokenizer.init_kwargs.get(CLOSED, False):
        return
    special = set(tokenizer.all_special_tokens)
    for prompt in prompts:
        for word in re.findall(r"[^\s,]+|,+", prompt):
            tokens = tokenizer.tokenize(word)
            if len(tokens) != 1 or tokens[0] in special:
                raise ValueError(
                    f"the model does not know the word {word[:40]!r}, since its vocabulary is closed; "
                    "pipeline.tokenizer.get_vocab() holds its words"
                )
        length = len(tokenizer(prompt).input_ids)
        if length > tokenizer.model_max_length:
            raise ValueError(
                f"the prompt {prompt[:40]!r}... has {length - 2} words and commas and would be cut; "
                f"the text encoders take {tokenizer.model_max_length - 2}"
            )
