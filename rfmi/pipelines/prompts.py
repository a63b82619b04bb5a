"""Prompts as they are handed in, and as messages show them."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch

from rfmi.checks import shown
from rfmi.pipelines.interface import Conditioning


def prompt_list(prompts: Iterable[str], once: bool = False) -> list[str]:
    """The prompts of a collection as a list.

    prompts: of one dimension, as a pandas Series, a generator or the keys of a dictionary.
    once: whether none may be listed twice.
    Raises ValueError for a single text, a table or a dictionary, and for a prompt that is empty or no text.
    """
    single = isinstance(prompts, str | bytes | Mapping) or getattr(prompts, "ndim", 1) != 1
    if single or not isinstance(prompts, Iterable):
        raise ValueError(f"prompts is {shown(prompts)}; give a list of at least one prompt")
    listed = list(prompts)
    if not listed:
        raise ValueError("prompts is empty; give a list of at least one prompt")
    for each in listed:
        if not isinstance(each, str):
            raise ValueError(f"a prompt is {shown(each)}, which is no text; give texts alone")
        if not each.strip():
            raise ValueError("a prompt is empty, which is the null condition itself; say what to draw")
    prompt, times = Counter(listed).most_common(1)[0]
    if once and times > 1:
        raise ValueError(f"the prompt {shown(prompt)} is listed {times} times; list every prompt once")
    return [str(each) for each in listed]


def check_told_apart(texts: Sequence[str], conditioning: Conditioning) -> None:
    """Raises ValueError for two texts, one row each, whose rows are the same."""
    first = {}
    for row, text in enumerate(texts):
        hashed = hashlib.sha256()
        for tensor in conditioning.tensors.values():
            hashed.update(tensor[row].flatten().view(torch.uint8).numpy())
        other = first.setdefault(hashed.digest(), text)
        if other is not text:
            said = f"the text encoders make the same of the prompts {shown(other)} and {shown(text)}"
            raise ValueError(f"{said}, which they cut or spell alike; leave one out, or shorten both")
