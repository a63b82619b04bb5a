"""Columns of numbers or of text, from arrays as people have them.

What is read: arrays of numpy and of libraries that convert to it, lists and tuples, masked arrays without masked
entries, data frames and series of pandas, tensors of torch on any device. Rows keep their order; a one-dimensional
argument is one column. Objects are looked at one by one: a column of them is text, booleans, or numbers, in which what
is missing is NaN. A category that is neither number nor text, such as an interval, goes by its string.
"""

import sys
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral, Real

import numpy as np
import torch

EXACT_INTEGER = 2**53
MISSING = ("NoneType", "NAType", "NaTType")
MISSING_TEXT = ("nan", "<NA>", "NaT")  # what numpy and pandas write for it among text


@dataclass(frozen=True)
class Table:
    """What was read.

    values: (n, d) booleans, integers or floats, or one column of text as numpy's StringDType
    named: whether it is one column of text, booleans or categories
    heads: d names of columns, or their numbers
    """

    values: np.ndarray
    named: bool
    heads: list


def read_table(values, name: str, *, one_row: bool = False) -> Table:
    """The values as a table.

    values: (n, d) or (n,), of any of the kinds above
    name: of the argument, for messages
    one_row: whether a single row is taken, and not for a transposed column
    Raises TypeError for what is neither numbers nor text; ValueError for shapes, masked entries and missing labels.
    """
    if np.ma.is_masked(values) and values.ndim:
        bad = int(np.ma.getmaskarray(values).reshape(len(values), -1).any(1).sum())
        raise ValueError(f"{name} has masked entries in {counted(bad, 'row')}; remove or impute those pairs")
    try:
        array, heads, categories = _converted(values)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise TypeError(f"{name} is {kind_of(values)} that does not turn into an array") from error
    if array.ndim == 0:
        raise TypeError(f"{name} is {kind_of(values)}; pass an array or data frame, with a row for each pair")
    if array.ndim > 2:
        raise ValueError(f"{name} has shape {array.shape}; flatten what belongs to one pair, to shape (n, d)")
    if array.size == 0:
        raise ValueError(f"{name} is empty, of shape {array.shape}; pass a row for each pair")
    array = array.reshape(len(array), -1)
    rows, columns = array.shape
    if rows == 1 < columns and not one_row:
        raise ValueError(transposed(name, rows, columns))
    heads = heads or list(range(columns))
    if array.dtype.kind in "OUST":
        array = _settled_columns(array.astype(object), heads, name)
    if array.dtype.kind not in "biufT":
        advice = {"c": "its real and imaginary parts as columns", "M": "seconds since the first, or text"}
        wanted = advice.get(array.dtype.kind, "numbers or text")
        raise TypeError(f"{name} holds {array.dtype.type.__name__}; pass {wanted}")
    return Table(array, columns == 1 and (categories or array.dtype.kind in "bT"), heads)


def floats(array: np.ndarray, place: str) -> np.ndarray:
    """Numbers as float64.

    array: (n,) or (n, d) booleans, integers, floats or objects that are numbers
    place: the argument or its column, for messages
    Raises ValueError where distinct integers would become equal, or a number is too large.
    """
    try:
        converted = array.astype(np.float64)
    except OverflowError as error:
        raise ValueError(f"{place} has numbers larger than float64 holds; rescale them") from error
    if array.dtype.kind in "iuO" and (np.abs(converted) >= EXACT_INTEGER).any():
        for column in array.reshape(len(array), -1).T:
            whole = {int(one) for one in column.tolist() if isinstance(one, Integral)}
            if len({float(one) for one in whole}) < len(whole):
                lost = f"{place} has integers beyond 2^53 that would become equal as float64"
                raise ValueError(f"{lost}; subtract their smallest, or pass them as text where they are labels")
    return converted


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def kind_of(value) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def shown(value) -> str:
    """A value in a message: plain, short and on one line."""
    value = value.item() if isinstance(value, np.generic) else value
    text = repr(value) if isinstance(value, str | int | float) else kind_of(value)
    return text if len(text) <= 40 else text[:37] + "..."


def transposed(name: str, rows: int, columns: int) -> str:
    looks = f"{name} has {counted(rows, 'row')} of {columns} values and looks transposed"
    return f"{looks}; pass a row for each pair, {name} of shape ({columns}, {rows})"


def _converted(values) -> tuple[np.ndarray, list | None, bool]:
    """The values as an array of any kind, the names of their columns, and whether they are pandas' categories."""
    heads, categories = None, False
    if pandas := sys.modules.get("pandas"):  # whose objects only those have who imported it
        if isinstance(values, pandas.Index | pandas.api.extensions.ExtensionArray):
            values = pandas.Series(values)
        if isinstance(values, pandas.DataFrame):
            heads = [" ".join(map(str, head)) if isinstance(head, tuple) else head for head in values.columns]
            kinds = set(values.dtypes)
            alike = len(kinds) == 1 and isinstance(*kinds, np.dtype)
            values = values.iloc[:, 0] if len(heads) == 1 else (values if alike else values.astype(object)).to_numpy()
        if isinstance(values, pandas.Series):
            categories = isinstance(values.dtype, pandas.CategoricalDtype)
            if categories:
                names = list(values.cat.categories)
                names = names if all(isinstance(one, Real) for one in names) else list(map(str, names))
                values = np.array([*names, None], dtype=object)[values.cat.codes.to_numpy()]  # -1 where it is missing
            else:
                values = values.to_numpy()
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().to_dense().resolve_conj().resolve_neg()
        values = (values.double() if values.is_floating_point() else values).numpy()
    if isinstance(values, list | tuple):
        plain = [one.tolist() if isinstance(one, np.ndarray | torch.Tensor) else one for one in values]
        values = np.array(plain, dtype=object)  # numpy's own choice writes numbers and NaN beside text as text
    array = np.asarray(values)
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # of longer floats; infinity is refused in its place
            array = array.astype(np.float64)
    return array, heads, categories


def _settled_columns(array: np.ndarray, heads: list, name: str) -> np.ndarray:
    """Objects (n, d) as one column of text, booleans or numbers, or as d columns of floats."""
    if len(heads) == 1:
        return _settled(array[:, 0], name)[:, None]
    places = [f"column {shown(head)} of {name}" for head in heads]
    columns = [_settled(column, place) for column, place in zip(array.T, places, strict=True)]
    text = [place for column, place in zip(columns, places, strict=True) if column.dtype.kind == "T"]
    if len(text) == len(columns):
        raise ValueError(f"{name} has {len(columns)} columns of text; combine those of a pair into one label")
    if text:
        raise TypeError(f"{text[0]} is text beside numbers; make it a column of 0 and 1 for each of its values")
    return np.column_stack([floats(column, place) for column, place in zip(columns, places, strict=True)])


def _settled(column: np.ndarray, place: str) -> np.ndarray:
    """Objects (n,) as text, booleans, integers or floats."""
    if any(isinstance(one, bytes) for one in column):
        plain = [one.decode(errors="backslashreplace") if isinstance(one, bytes) else one for one in column]
        column = np.array(plain, dtype=object)
    missing = np.array([_is_missing(one) for one in column])
    kinds = {type(one) for one in column[~missing]}

    def all_are(*wanted: type) -> bool:
        return all(issubclass(kind, wanted) and kind is not np.timedelta64 for kind in kinds)

    if all_are(str):
        if missing.any():
            unnamed = f"{place} has None or NaN in {counted(int(missing.sum()), 'row')}"
            raise ValueError(f"{unnamed}, which is neither label nor number; remove those pairs")
        return column.astype(np.dtypes.StringDType())
    if not all_are(bool, np.bool_, Real, Decimal):
        held = " and ".join(sorted(kind.__name__ for kind in kinds)[:3])
        unequal = ", its rows being of unequal length" * bool(kinds & {list, tuple})
        raise TypeError(f"{place} holds values of type {held}{unequal}; pass numbers alone or text alone")
    if missing.any():
        return floats(np.where(missing, np.nan, column), place)
    if all_are(bool, np.bool_):
        return column.astype(bool)
    small = all_are(Integral) and all(abs(int(one)) < 2**63 for one in column)
    return column.astype(np.int64) if small else floats(column, place)


def _is_missing(one) -> bool:
    absent = type(one).__name__ in MISSING or (isinstance(one, str) and one in MISSING_TEXT)
    return absent or (isinstance(one, Real | Decimal) and one != one)
