"""x and y as people have them, made ready for the estimator, or refused in one sentence before any training.

`rfmi.arrays.tables` says what is read. What becomes labels, where `discrete_y` does not say so of y:
1. one column of text, of booleans or of pandas' categories;
2. one column of numbers, whole or not, of 2 to MOST_LABELS values, each of which FEWEST_PAIRS pairs or more have.
All else is numbers; several columns of booleans are 0 and 1. `discrete_y` is about y alone: x goes by the two rules.

Labels are numbered from 0 in the order of np.unique, and each needs FEWEST_PAIRS pairs. None, NaN, pandas' NA and NaT,
infinity, and the text "nan", "<NA>" and "NaT" that some of them turn into, are no labels.

Numbers become float64. Their values are compared and never computed with, so that their unit does not matter; distinct
integers that float64 would make equal are refused. Equal pairs are no fault: `repeated` says which they are.
"""

import sys

import numpy as np
import torch

from rfmi.arrays.tables import Table, counted, floats, read_table, shown, transposed

SMALLEST_N = 50
MOST_LABELS = 20
FEWEST_PAIRS = 10


def numbers(values, name: str) -> np.ndarray:
    """The values as float64 (n, d).

    values: (n, d) or (n,), anything that `rfmi.arrays.tables` reads
    name: of the argument, for messages
    Raises TypeError for what holds no numbers; ValueError for shapes, for NaN or infinity and for constant columns.
    """
    return _as_numbers(read_table(values, name), name)


def labels(values, name: str = "y") -> np.ndarray:
    """The values as class numbers, int64 (n,) from 0.

    values: (n,) or (n, 1), anything that `rfmi.arrays.tables` reads
    name: of the argument, for messages
    Raises TypeError for what cannot be labels; ValueError for several columns, for NaN and for a rare or only label.
    """
    return _as_labels(read_table(values, name), name)


def pair(x, y, *, discrete_y: bool | None) -> tuple[np.ndarray, np.ndarray, bool, bool]:
    """x and y ready for the estimator, each float64 (n, d) or int64 labels (n,), and whether x and y are labels.

    x: (n, d_x) or (n,); labels by the rules of the module
    y: (n, d_y) or (n,)
    discrete_y: whether y is labels, None for the rules of the module
    Raises what `numbers` and `labels` raise; ValueError for rows that do not pair or are too few.
    """
    if not isinstance(discrete_y, bool | np.bool_ | None):
        raise ValueError(f"discrete_y is {shown(discrete_y)}; choose True, False or None")
    _check_index(x, y)
    x, y = read_table(x, "x"), read_table(y, "y")
    _check_rows(x.values.shape, y.values.shape)
    x_is_labels = _is_labels(x)
    y_is_labels = _is_labels(y) if discrete_y is None else bool(discrete_y)
    ready_x = _as_labels(x, "x") if x_is_labels else _as_numbers(x, "x")
    ready_y = _as_labels(y, "y") if y_is_labels else _as_numbers(y, "y")
    return ready_x, ready_y, x_is_labels, y_is_labels


def classes(values) -> np.ndarray:
    """The distinct labels (k,) of values that `pair` took as labels, in the order of their numbers."""
    return np.unique(read_table(values, "labels").values[:, 0])


def new_rows(values, name: str, classes: np.ndarray | None, columns: int) -> np.ndarray:
    """Rows that come after those that were fitted: float64 (m, columns), or class numbers (m,).

    values: as in `pair`
    name: of the argument, for messages
    classes: (k,) the labels that were fitted, None for numbers
    columns: how many columns of numbers were fitted
    Raises ValueError for another number of columns, NaN and labels that were not fitted.
    """
    table = read_table(values, name, one_row=True)
    if classes is not None:
        if table.values.shape[1] > 1:
            raise ValueError(f"{name} has {table.values.shape[1]} columns; one column of labels was fitted")
        column = table.values[:, 0]
        alike = (column.dtype.kind == "T") == (classes.dtype.kind == "T")  # text has no order among numbers
        place = np.searchsorted(classes, column if alike else classes[:1]).clip(max=len(classes) - 1)
        unknown = column[column != classes[place]] if alike else column
        if len(unknown):
            raise ValueError(f"label {shown(unknown[0])} of {name} is none of those that were fitted")
        return place
    if table.values.dtype.kind == "T":
        raise ValueError(f"{name} holds text; numbers were fitted")
    if table.values.shape[1] != columns:
        raise ValueError(f"{name} has {counted(table.values.shape[1], 'column')} and was fitted with {columns}")
    rows = floats(table.values, name)
    if not np.isfinite(rows).all():
        raise ValueError(f"{name} has NaN or infinite values; remove or impute those pairs")
    return rows


def repeated(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Group numbers, int64 (n,) from 0 in order of appearance: one number for pairs that are equal in x and in y.

    x: (n, d_x) floats without NaN
    y: (n, d_y) floats without NaN
    """
    groups: dict[bytes, int] = {}
    rows = np.column_stack([x, y]) + 0.0  # no negative zeros: equal values have equal bytes
    return np.array([groups.setdefault(row.tobytes(), len(groups)) for row in rows], dtype=np.int64)


def check_settings(n: int, seed: int, folds: int, steps: int) -> None:
    """Raises ValueError for settings that are not whole, too small or too large.

    n: pairs
    seed: 0 to 2^63 - 1
    folds: 2 to n / 10
    steps: 20 or more
    """
    for name, value, least in (("seed", seed, 0), ("folds", folds, 2), ("steps", steps, 20)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool | np.timedelta64) or value < least:
            raise ValueError(f"{name} is {shown(value)}; choose a whole number, {least} or more")
    if seed >= 2**63:
        raise ValueError(f"seed is {shown(seed)}; choose a whole number below 2^63")
    if folds > n // 10:
        raise ValueError(f"folds is {shown(folds)}; choose at most n / 10, which is {n // 10}")


def check_device(device: str | torch.device) -> torch.device:
    """The device, if this machine has it and numbers can be read from it.

    device: the device, or its name
    Raises ValueError for one that is not there.
    """
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        named = str(device) if isinstance(device, torch.device) else device
        raise ValueError(f"device {shown(named)} is not to be had here; pass device='cpu'") from error
    return found


def _as_numbers(table: Table, name: str) -> np.ndarray:
    if table.values.dtype.kind == "T":
        hint = ", or pass discrete_y=True where it is labels" if name == "y" else ""
        raise TypeError(f"{name} holds text; turn it into numbers{hint}")
    array = floats(table.values, name)
    bad = int((~np.isfinite(array)).any(1).sum())
    if bad:
        raise ValueError(f"{name} has NaN or infinite values in {counted(bad, 'row')}; remove or impute those pairs")
    constant = [head for head, same in zip(table.heads, (array == array[0]).all(0), strict=True) if same]
    if len(constant) == array.shape[1]:
        raise ValueError(f"{name} is constant; nothing is to be estimated, the mutual information is 0")
    if constant:
        listed = ", ".join(map(shown, constant[:4])) + ", ..." * (len(constant) > 4)
        which = f"columns {listed} of {name} are" if len(constant) > 1 else f"column {listed} of {name} is"
        raise ValueError(f"{which} constant; drop what is constant, it carries no information")
    return array


def _as_labels(table: Table, name: str) -> np.ndarray:
    if table.values.shape[1] > 1:
        several = f"{name} has {table.values.shape[1]} columns where labels need one"
        raise ValueError(f"{several}; combine the labels of a pair into one")
    column = table.values[:, 0]
    bad = int((~np.isfinite(column)).sum()) if column.dtype.kind == "f" else 0
    if bad:
        raise ValueError(f"{name} has NaN or infinite labels in {counted(bad, 'row')}; remove those pairs")
    classes, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise ValueError(f"{name} has a single label; nothing is to be estimated, the mutual information is 0")
    if counts.min() < FEWEST_PAIRS:
        rare = f"label {shown(classes[counts.argmin()])} of {name} has {counted(int(counts.min()), 'pair')}"
        advice = "get more pairs" if len(classes) == 2 else "merge labels, remove the pairs of rare ones or get more"
        if name == "y" and column.dtype.kind in "iuf":
            advice += ", or pass discrete_y=False where y is numbers"
        elif column.dtype.kind == "T" and all(_is_number(text) for text in classes):
            advice += f", or turn {name} into numbers where it is numbers written as text"
        raise ValueError(f"{rare} and each of the {len(classes)} labels needs {FEWEST_PAIRS}; {advice}")
    return inverse.astype(np.int64)


def _is_labels(table: Table) -> bool:
    """Whether a table is labels by the rules of the module."""
    if table.named or table.values.shape[1] > 1 or not np.isfinite(table.values).all():
        return table.named
    counts = np.unique(table.values, return_counts=True)[1]
    return 2 <= len(counts) <= MOST_LABELS and bool(counts.min() >= FEWEST_PAIRS)


def _check_index(x, y) -> None:
    pandas = sys.modules.get("pandas")
    if pandas is None or not all(isinstance(part, pandas.DataFrame | pandas.Series) for part in (x, y)):
        return
    one, other = x.index, y.index
    if one.nlevels == other.nlevels and not one.equals(other) and one.isin(other).all() and other.isin(one).all():
        advice = "align them with y.loc[x.index], or pass y.to_numpy() where row by row they are pairs"
        raise ValueError(f"x and y have the same index in another order; {advice}")


def _check_rows(x_shape: tuple[int, int], y_shape: tuple[int, int]) -> None:
    (n, d_x), (n_y, d_y) = x_shape, y_shape
    both_turned = d_x == d_y >= SMALLEST_N > max(n, n_y)
    for name, rows, columns, other_rows in (("x", n, d_x, n_y), ("y", n_y, d_y, n)):
        if both_turned or rows < columns == other_rows:
            raise ValueError(transposed(name, rows, columns))
    if n != n_y:
        raise ValueError(f"x has {counted(n, 'row')} and y has {n_y}; they must be pairs, row by row")
    if n < SMALLEST_N:
        raise ValueError(f"x and y are {counted(n, 'pair')}, too few to fit and score on; get {SMALLEST_N} or more")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
