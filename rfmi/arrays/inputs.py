"""x and y as people have them, made ready for the estimator, or refused in one sentence before any training.

`rfmi.arrays.tables` says what is read. What becomes labels, where `discrete_y` does not say so of y:
1. one column of text, of booleans or of pandas' categories;
2. one column of numbers, whole or not, of 2 to MOST_LABELS values, each of which FEWEST_PAIRS pairs or more have.
All else is numbers; several columns of booleans are 0 and 1. `discrete_y` is about y alone: x goes by the two rules.

Labels are numbered from 0 in their sorted order; there must be PAIRS_A_LABEL pairs a label in the mean. None, NaN,
pandas' NA and NaT, infinity, and the text "nan", "<NA>" and "NaT" that some of them turn into, are no labels.

Numbers become float64. Their values are compared and never computed with, so that their unit does not matter; distinct
integers that float64 would make equal are refused. Equal pairs are no fault: `repeated` says which they are.
"""

import numpy as np
import pandas as pd
from pandas.api.types import is_any_real_numeric_dtype

from rfmi.arrays.tables import counted, floats, read_table
from rfmi.checks import shown, whole_number

SMALLEST_N = 50
MOST_LABELS = 20
FEWEST_PAIRS, PAIRS_A_LABEL = 10, 5

Classes = np.ndarray | None  # (k,) labels in their order, None for numbers


def pair(x, y, *, discrete_y: bool | None) -> tuple[np.ndarray, np.ndarray, tuple[Classes, Classes]]:
    """x and y ready for the estimator, each float64 (n, d) or class numbers int64 (n,), and the classes of both.

    x: (n, d_x) or (n,); labels by the rules of the module
    y: (n, d_y) or (n,)
    discrete_y: whether y is labels, None for the rules of the module
    Raises TypeError for what holds neither numbers nor labels; ValueError for shapes, rows that do not pair or are too
    few, NaN, infinity, constant columns, too many labels and a single one.
    """
    if not isinstance(discrete_y, bool | np.bool_ | None):
        raise ValueError(f"discrete_y is {shown(discrete_y)}; choose True, False or None")
    if all(isinstance(side, pd.DataFrame | pd.Series) for side in (x, y)):
        if not x.index.equals(y.index) and set(x.index) == set(y.index):
            advice = "align them with y.loc[x.index], or pass y.to_numpy() where row by row they are pairs"
            raise ValueError(f"x and y have the same index in another order; {advice}")
    x, y = read_table(x, "x"), read_table(y, "y")
    _check_rows(x.shape, y.shape)
    (x, x_classes), (y, y_classes) = _ready(x, "x", None), _ready(y, "y", discrete_y)
    return x, y, (x_classes, y_classes)


def new_rows(values, name: str, classes: Classes, columns: int) -> np.ndarray:
    """Rows that come after those that were fitted: float64 (m, columns), or class numbers (m,).

    values: as in `pair`
    name: of the argument, for messages
    classes: those that were fitted
    columns: how many columns of numbers were fitted
    Raises ValueError for another number of columns, NaN and labels that were not fitted.
    """
    table = read_table(values, name)
    rows = _numbers(table, name) if classes is None else table.to_numpy(dtype=object)
    fitted = columns if classes is None else 1
    if rows.shape[1] != fitted:
        raise ValueError(f"{name} has {counted(rows.shape[1], 'column')} and was fitted with {fitted}")
    if classes is None:
        return rows
    numbers = pd.Index(classes, dtype=object).get_indexer(rows[:, 0])
    if (numbers < 0).any():
        raise ValueError(f"label {shown(rows[numbers.argmin(), 0])} of {name} is none of those that were fitted")
    return numbers


def repeated(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Group numbers, int64 (n,) from 0 in order of appearance: one number for pairs that are equal in x and in y.

    x, y: (n, d_x) and (n, d_y) floats without NaN, or labels (n,)
    """
    rows = np.column_stack([x, y]) + 0.0  # no negative zeros: equal values have equal bytes
    return pd.factorize(np.array([row.tobytes() for row in rows], dtype=object))[0]


def check_settings(n: int, seed: int, folds: int, steps: int) -> None:
    """Raises ValueError for settings that are not whole, too small, or too large for n pairs."""
    whole_number("seed", seed, 0, 2**63 - 1)
    whole_number("folds", folds, 2, n // 10)
    whole_number("steps", steps, 20)


def _ready(table: pd.DataFrame, name: str, discrete: bool | None) -> tuple[np.ndarray, Classes]:
    """The values as float64 (n, d) and None, or as class numbers (n,) and the classes."""
    numbers, classes = pd.factorize(table.iloc[:, 0].to_numpy(), sort=True)
    counts = np.bincount(numbers)
    if discrete is None:
        few = 2 <= len(classes) <= MOST_LABELS and counts.min() >= FEWEST_PAIRS
        discrete = table.shape[1] == 1 and (few or not is_any_real_numeric_dtype(table.dtypes.iloc[0]))
    if not discrete:
        return _varying(table, name), None
    if table.shape[1] > 1:
        raise ValueError(f"{name} has {table.shape[1]} columns where labels need one; combine those of a pair into one")
    if len(classes) < 2:
        raise ValueError(f"{name} has a single label; nothing is to be estimated, the mutual information is 0")
    if len(numbers) < PAIRS_A_LABEL * len(classes):
        many = f"{name} has {len(classes)} labels and {len(numbers)} pairs, fewer than {PAIRS_A_LABEL} pairs a label"
        advice = "merge labels or get more pairs"
        if pd.to_numeric(pd.Series(classes), errors="coerce").notna().all():
            advice += f", or turn {name} into floats" + " and pass discrete_y=False" * (name == "y")
        raise ValueError(f"{many}; {advice}")
    return numbers, classes


def _varying(table: pd.DataFrame, name: str) -> np.ndarray:
    """The values as float64 (n, d), of which no column is constant."""
    array = _numbers(table, name)
    constant = [shown(head) for head, same in zip(table.columns, (array == array[0]).all(0), strict=True) if same]
    if len(constant) == array.shape[1]:
        raise ValueError(f"{name} is constant; nothing is to be estimated, the mutual information is 0")
    if constant:
        columns = "columns" if len(constant) > 1 else "column"
        listed = ", ".join(constant[:4]) + ", ..." * (len(constant) > 4)
        raise ValueError(f"{name} is constant in {columns} {listed}; drop what is constant, it carries no information")
    return array


def _numbers(table: pd.DataFrame, name: str) -> np.ndarray:
    array = table.to_numpy()
    if array.dtype.kind == "O":
        hint = ", or pass discrete_y=True where it is labels" * (name == "y")
        raise ValueError(f"{name} holds text; turn it into numbers{hint}")
    return floats(array, name)


def _check_rows(x_shape: tuple[int, int], y_shape: tuple[int, int]) -> None:
    (n, d_x), (n_y, d_y) = x_shape, y_shape
    both_turned = d_x == d_y >= SMALLEST_N > max(n, n_y)
    for name, rows, columns, other_rows in (("x", n, d_x, n_y), ("y", n_y, d_y, n)):
        if both_turned or (rows < columns and (rows == 1 or columns == other_rows)):
            looks = f"{name} has {counted(rows, 'row')} of {columns} values and looks transposed"
            raise ValueError(f"{looks}; pass a row for each pair, {name} of shape ({columns}, {rows})")
    if n != n_y:
        raise ValueError(f"x has {counted(n, 'row')} and y has {n_y}; they must be pairs, row by row")
    if n < SMALLEST_N:
        raise ValueError(f"x and y are {counted(n, 'pair')}, too few to fit and score on; get {SMALLEST_N} or more")
