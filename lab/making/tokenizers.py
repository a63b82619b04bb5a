"""The tokenizer of the text encoders: a `transformers.CLIPTokenizer` to which every word of the world is one token.

Its vocabulary is CLIP's in small: the 256 bytes inside and at the end of a word, the merges that build the world's
words from them, and three special tokens. A word the world does not know therefore becomes several tokens, never an
end of text. The end of text has the largest id, so that readers that pool at the largest id find it as well as those
that look for `eos_token_id`; padding has a token of its own.
"""

from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from lab.worlds.shapes.words import WORDS
from rfmi.pipelines.vocabulary import CLOSED

MAX_TOKENS = 16  # begin and end of text included; the longest prompt of the grammar has 13 words
PADDING, BEGIN, END = "<|padding|>", "<|startoftext|>", "<|endoftext|>"
END_OF_WORD = "</w>"


def make_tokenizer() -> CLIPTokenizer:
    """The tokenizer, always the same: one token a word, lower-cased, `model_max_length` 16.

    A word is split by the merges so far, and what is left is joined from left to right. New merges rank below all
    earlier ones, so the words that are already one token stay so.
    """
    symbols = sorted(ByteLevel.alphabet())
    tokens = [*symbols, *(symbol + END_OF_WORD for symbol in symbols)]
    merges: list[tuple[str, str]] = []
    for word in sorted(WORDS):
        ids = {token: i for i, token in enumerate(tokens)}
        first, *rest = (part.value for part in BPE(ids, merges, end_of_word_suffix=END_OF_WORD).tokenize(word))
        for part in rest:
            merges.append((first, part))
            first += part
            tokens.append(first)
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate([*tokens, PADDING, BEGIN, END])},
        merges=merges,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PADDING,
        unk_token=END,
        model_max_length=MAX_TOKENS,
        padding_side="right",
        **{CLOSED: True},
    )
