"""Judges and feature networks: what they must answer, and what tells one from another.

A folder never holds the answers of two judges. One that declares who it is, by an attribute `identity` (str), is told
from others by that alone. Any other is told by its name, by what it is made of (a function's code, defaults and
closure, the arguments of a `partial`, the attributes of an instance, the weights of a network), and by what it says of
a grey image and one of noise, to three digits. Declare an identity where answers vary more than that from call to call,
or where a mended judge shall go on in the folder of the former.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, MutableSet, Sequence
from functools import partial
from types import CodeType, ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from rfmi.files import plain, short_hash
from rfmi.pipelines import fingerprint

Judge = Callable[[Tensor, Sequence[str], str], pd.DataFrame]
Features = Callable[[Tensor], Tensor]
SIMPLE = bool | int | float | str
GROWING = MutableMapping | MutableSequence | MutableSet  # in a closure, where a judge may note its calls
DEEPEST = 8  # of what a judge is made of


def ask(
    judge: Judge, features: Features | None, images: Tensor, texts: Sequence[str], category: str, batch: int
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """(the judge's table, the features by that name where they are asked for), of `batch` images at once."""
    parts = [slice(first, first + batch) for first in range(0, len(texts), batch)]
    table = pd.concat([_judged(judge, images[part], texts[part], category) for part in parts], ignore_index=True)
    if features is None:
        return table, {}
    embedded = torch.cat([_embedded(features, images[part]) for part in parts])
    if not bool(embedded.isfinite().all()):
        raise ValueError("the features of an image are no numbers; look at the network, or take another precision")
    return table, {"features": embedded}


def identities(
    judge: Judge, features: Features | None, prompts: Mapping[str, str], height: int, width: int
) -> dict[str, dict[str, str] | None]:
    """What tells `judge` and `features` from others, by these names; prompts: one of each category, to be asked about.

    Raises ValueError, or TypeError for a column that JSON cannot hold, where an answer does not fit.
    """
    noise = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    probe = torch.cat([torch.full_like(noise, 0.5), noise])
    tables = {name: _judged(judge, probe, [text] * 2, name).to_dict("records") for name, text in prompts.items()}
    of_judge = _identity(judge, tables)  # after the call, which may load what the judge is made of
    if features is None:
        return {"judge": of_judge, "features": None}
    embedded = _embedded(features, probe).double()
    moments = [embedded.mean(1).tolist(), embedded.std(1, correction=0).tolist()]
    return {"judge": of_judge, "features": _identity(features, moments)}


def _judged(judge: Judge, images: Tensor, texts: Sequence[str], category: str) -> pd.DataFrame:
    """The judge's table; ValueError for one that does not fit, TypeError for a column that JSON cannot hold."""
    table = judge(images, list(texts), category)
    if not isinstance(table, pd.DataFrame) or len(table) != len(texts):
        shown = f"{len(table)} rows" if isinstance(table, pd.DataFrame) else f"a {type(table).__name__}"
        raise ValueError(f"the judge answered {len(texts)} images with {shown}; it must give a table, one row an image")
    columns = ", ".join(map(str, table))[:60]
    missing = [name for name in ("aligned", "score") if name not in table]
    if missing:
        raise ValueError(f"the judge's table lacks {' and '.join(missing)}; it has {columns}")
    if not table.columns.is_unique:
        raise ValueError(f"the judge's table names a column twice; it has {columns}")
    numbers = table[["aligned", "score"]].apply(pd.to_numeric, errors="coerce").to_numpy(float, na_value=np.nan)
    if not np.isfinite(numbers).all():
        raise ValueError("the judge gave an image an `aligned` or a `score` that is no number; give one to each")
    for name in table:
        try:
            json.dumps(table[name].tolist(), default=plain)
        except TypeError as error:
            raise TypeError(f"the judge's column {str(name)[:60]!r} cannot be kept: {error}") from error
    return table.reset_index(drop=True)


def _embedded(features: Features, images: Tensor) -> Tensor:
    """The images' features; ValueError for those that do not fit."""
    embedded = torch.as_tensor(features(images)).detach().cpu()
    n, shape = len(images), tuple(embedded.shape)
    if len(shape) != 2 or shape[0] != n:
        raise ValueError(f"the features of {n} images have the shape {shape}; give one row an image")
    return embedded


def _identity(function: Callable, answers: Any) -> dict[str, str]:
    """What tells a judge or a feature network from others, as the top of this module has it."""
    if isinstance(declared := getattr(function, "identity", None), str):
        return {"identity": declared}
    said = json.loads(json.dumps(answers, default=plain), parse_float=lambda x: f"{round(float(x), 6) + 0.0:.3g}")
    inner = function
    while isinstance(inner, partial):
        inner = inner.func
    name = _name(inner if hasattr(inner, "__qualname__") else type(inner))
    return {"name": name, "made_of": short_hash(_made_of(function)), "answers": short_hash(said)}


def _made_of(value: Any, depth: int = 0) -> Any:
    """What a judge or a feature network is made of, as JSON can hold it and without addresses: of an instance its
    attributes, and of what is found deeper and is not plain no more than the class."""
    within = partial(_made_of, depth=depth + 1)
    if value is None or isinstance(value, SIMPLE):
        return value
    if isinstance(value, type | ModuleType) or depth == DEEPEST:
        return _name(value if hasattr(value, "__name__") else type(value))
    if depth == 0 and isinstance(declared := getattr(value, "identity", None), str):
        return declared
    if isinstance(value, partial):
        return [_made_of(value.func, depth), within(value.args), within(value.keywords)]
    if inspect.ismethod(value):
        return [within(value.__func__), _made_of(value.__self__, depth)]
    if isinstance(value, Mapping):
        return {str(name): within(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [within(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, map(within, value)))
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return [str(value.dtype), plain(value)]
    if isinstance(value, nn.Module):
        return [_name(type(value)), fingerprint(value), {k: v for k, v in vars(value).items() if isinstance(v, SIMPLE)}]
    if isinstance(value, CodeType):
        return within([value.co_code.hex(), value.co_consts, value.co_names])
    if inspect.isfunction(value):
        named = inspect.getclosurevars(value)
        seen = {name: each for name, each in named.globals.items() if isinstance(each, SIMPLE | tuple)}
        seen |= {name: each for name, each in named.nonlocals.items() if not isinstance(each, GROWING)}
        return [_name(value), *map(within, (value.__code__, value.__defaults__, value.__kwdefaults__, seen))]
    if depth == 0 and hasattr(value, "__dict__"):
        return [_name(type(value)), within(vars(value)), within(getattr(type(value), "__call__", None))]  # noqa: B004
    shown = repr(value)
    return _name(type(value)) if re.search(r"\b0x[0-9a-f]", shown, re.IGNORECASE) else shown


def _name(thing: Any) -> str:
    return f"{getattr(thing, '__module__', None)}.{getattr(thing, '__qualname__', None) or thing.__name__}"
