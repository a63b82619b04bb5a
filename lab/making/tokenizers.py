"""The tokenizer of the text encoders: a `transformers.CLIPTokenizer` to which every word of the world is one token.

Its vocabulary is CLIP's in small: the 256 bytes inside and at the end of a word, the merges that build the world's
words from them, and three special tokens. A word the world does not know therefore becomes several tokens, never an
end of text. The end of text has the largest id, so that readers that pool at the largest id find it as well as those
that look for `eos_token_id`; padding has a token of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import CLIPTokenizer

from lab.worlds.shapes.words import WORDS
from rfmi.pipelines.vocabulary import CLOSED

MAX_TOKENS = 16  # begin and end of text included; the longest prompt of the grammar has 13 words
PADDING, BEGIN, END = "<|padding|>", "<|startoftext|>", "<|endoftext|>"
_END_OF_WORD = "</w>"


def make_tokenizer() -> CLIPTokenizer:
    """The tokenizer, always the same: one token a word, lower-cased, `model_max_length` 16."""
    symbols = _byte_symbols()
    merges = _merges(sorted(WORDS))
    tokens = [*symbols, *(symbol + _END_OF_WORD for symbol in symbols), *(left + right for left, right in merges)]
    tokens = [*dict.fromkeys(tokens), PADDING, BEGIN, END]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PADDING,
        unk_token=END,
        model_max_length=MAX_TOKENS,
        padding_side="right",
        **{CLOSED: True},
    )


def _byte_symbols() -> list[str]:
    """The characters that stand for the 256 bytes: the printable ones for themselves, then U+0100 and on for the rest,
    as in GPT-2 and CLIP.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, the first with the highest rank, under which every word becomes one token.

    Each word is split by the merges so far, and what is left is joined from left to right. New merges rank below all
    earlier ones, so the words that are already one token stay so.
    """
    merges: list[tuple[str, str]] = []
    for word in words:
        symbols = [*word[:-1], word[-1] + _END_OF_WORD]
        for pair in merges:
            symbols = _join(symbols, pair)
        while len(symbols) > 1:
            merges.append((symbols[0], symbols[1]))
            symbols = _join(symbols, merges[-1])
    return merges


def _join(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """The symbols with every occurrence of the pair made one."""
    joined: list[str] = []
    for symbol in symbols:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return joined
