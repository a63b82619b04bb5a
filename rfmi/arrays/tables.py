"""Columns of numbers or of text, from arrays as people have them.

What is read: arrays of numpy and of libraries that convert to it, masked arrays, lists and tuples, data frames and
series of pandas, tensors of torch on any device. Rows keep their order; a one-dimensional argument is one column.
Objects are looked at one by one: a column of them is text, booleans, or numbers, in which what is missing is NaN.
A category that is neither number nor text, such as an interval, goes by its string.
"""

from contextlib import suppress
from decimal import Decimal
from numbers import Integral, Real

import numpy as np
import pandas as pd
import torch

from rfmi.checks import shown

EXACT_INTEGER = 2**53
MISSING_TEXT = ("nan", "<NA>", "NaT")  # what numpy and pandas write among text for what is missing
ADVICE = {"c": "its real and imaginary parts as columns", "M": "seconds since the first, or text"}


def read_table(values, name: str) -> pd.DataFrame:
    """The values as one column of text, booleans or categories, or as d columns of numbers of one type.

    values: (n, d) or (n,), of any of the kinds above
    name: of the argument, for messages
    Raises TypeError for what is neither numbers nor text; ValueError for shapes and for what is missing or infinite.
    """
    try:
        array, heads, categories = _converted(values)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise TypeError(f"{name} is a {type(values).__name__} that does not turn into an array") from error
    if array.ndim == 0:
        raise TypeError(f"{name} is a {type(values).__name__}; pass an array or data frame, with a row for each pair")
    if array.ndim > 2:
        raise ValueError(f"{name} has shape {array.shape}; flatten what belongs to one pair, to shape (n, d)")
    if array.size == 0:
        raise ValueError(f"{name} is empty, of shape {array.shape}; pass a row for each pair")
    array = array.reshape(len(array), -1)
    heads = list(range(array.shape[1])) if heads is None else heads
    if array.dtype.kind in "OUST":
        objects = np.frompyfunc(_plain, 1, 1)(array.astype(object))
        places = [f"column {shown(head)} of {name}" for head in heads] if len(heads) > 1 else [name]
        array = np.column_stack([_settled(*each, len(heads)) for each in zip(objects.T, places, strict=True)])
    if array.dtype.kind not in "biufO":
        wanted = ADVICE.get(array.dtype.kind, "numbers or text")
        raise TypeError(f"{name} holds {array.dtype.type.__name__}; pass {wanted}")
    missing = pd.isna(array) if array.dtype.kind == "O" else ~np.isfinite(array)
    if missing.any():
        where = counted(missing.any(1).sum(), "row")
        raise ValueError(f"{name} has NaN, None, masked or infinite values in {where}; remove or impute those pairs")
    return pd.DataFrame(array, columns=heads, dtype="category" if categories else None)


def floats(array: np.ndarray, place: str) -> np.ndarray:
    """Numbers (n,) or (n, d) as float64; `place` is the argument or its column, for messages.

    Raises ValueError where distinct integers would become equal, or a number is too large.
    """
    try:
        with np.errstate(over="ignore"):  # of longer floats; infinity is refused in its place
            converted = array.astype(np.float64)
    except OverflowError as error:
        raise ValueError(f"{place} has numbers larger than float64 holds; rescale them") from error
    if array.dtype.kind in "iuO" and (np.abs(converted) >= EXACT_INTEGER).any():
        if (pd.DataFrame(converted).nunique() < pd.DataFrame(array).nunique()).any():
            lost = f"{place} has integers beyond 2^53 that would become equal as float64"
            raise ValueError(f"{lost}; subtract their smallest, or pass them as text where they are labels")
    return converted


def counted(count: int, noun: str) -> str:
    return f"{count} {noun if count == 1 else noun + 's'}"


def _converted(values) -> tuple[np.ndarray, list | None, bool]:
    """The values as an array of any kind, the names of their columns, and whether they are one of categories."""
    heads, categories = None, False
    if isinstance(values, pd.DataFrame):
        heads = [" ".join(map(str, head)) if isinstance(head, tuple) else head for head in values.columns]
        values = (values if len(set(values.dtypes)) == 1 else values.astype(object)).squeeze("columns")
    elif isinstance(values, pd.Index | pd.api.extensions.ExtensionArray):
        values = pd.Series(values)
    elif isinstance(values, torch.Tensor):
        values = (values.double() if values.is_floating_point() else values).to_dense().numpy(force=True)
    elif isinstance(values, np.ma.MaskedArray):
        values = values.astype(object).filled(np.nan)
    elif isinstance(values, list | tuple):
        plain = [one.tolist() if isinstance(one, np.ndarray | torch.Tensor) else one for one in values]
        values = np.array(plain, dtype=object)  # numpy's own choice writes numbers and NaN beside text as text
    if isinstance(values, pd.Series) and isinstance(values.dtype, pd.CategoricalDtype):
        categories = True
        named = all(isinstance(one, Real) for one in values.cat.categories)
        values = (values if named else values.cat.rename_categories(str)).astype(object)
    array = np.asarray(values)
    return (floats(array, "") if array.dtype.kind == "f" else array), heads, categories


def _plain(one):
    """An object with bytes as text, and None for what numpy and pandas write for what is missing."""
    one = one.decode(errors="backslashreplace") if isinstance(one, bytes) else one
    return None if isinstance(one, str) and one in MISSING_TEXT else one


def _settled(column: np.ndarray, place: str, columns: int) -> np.ndarray:
    """Objects (n,) as text, booleans, integers or floats; as floats where there are several columns."""
    missing = pd.isna(column)
    kinds = {type(one) for one in column[~missing]}

    def all_are(*wanted: type) -> bool:
        return all(issubclass(kind, wanted) and kind is not np.timedelta64 for kind in kinds)

    if kinds and all_are(str):
        if columns == 1:
            return column
        wanted = "make it a column of 0 and 1 for each value, or combine all columns into one label"
        raise TypeError(f"{place} is text; {wanted}")
    if not all_are(bool, np.bool_, Real, Decimal):
        held = " and ".join(sorted(kind.__name__ for kind in kinds)[:3])
        unequal = ", its rows being of unequal length" * bool(kinds & {list, tuple})
        raise TypeError(f"{place} holds values of type {held}{unequal}; pass numbers alone or text alone")
    if columns == 1 and not missing.any():
        if all_are(bool, np.bool_):
            return column.astype(bool)
        if all_are(Integral):
            with suppress(OverflowError):
                return column.astype(np.int64)
    return floats(np.where(missing, np.nan, column), place)
