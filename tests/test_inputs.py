"""Arrays as people have them: taken to the same numbers as the plain array, or refused in one sentence."""

import re
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch

from rfmi.arrays.inputs import (
    FEWEST_PAIRS,
    MOST_LABELS,
    check_settings,
    pair,
    repeated,
)
from rfmi.checks import check_device

pytestmark = pytest.mark.filterwarnings("error")

N = 60
RANDOM = np.random.default_rng(0)
FLOATS = RANDOM.standard_normal((N, 2))
HALVES = np.round(2 * FLOATS) / 2  # exact in every type of float
WHOLE = RANDOM.permutation(N)
COLOURS = np.array(["red", "green", "blue"])[np.arange(N) % 3]
NAMES = [f"person {row}" for row in range(N)]
COLOUR_NUMBERS = np.array([2, 1, 0])[np.arange(N) % 3]


def replaced(values, row, value):
    """The values as a list, with one of them replaced."""
    values = np.asarray(values).tolist()
    values[row] = value
    return values


def numbers(values):
    """The values as numbers, beside a y that can be used."""
    return pair(values, FLOATS, discrete_y=None)[0]


def are_labels(x, y, discrete_y=None):
    return tuple(side.ndim == 1 for side in pair(x, y, discrete_y=discrete_y)[:2])


def frame(**columns):
    return pd.DataFrame(columns)


# --- numbers


@pytest.mark.parametrize(
    "values",
    [
        HALVES.astype(np.float32),
        HALVES.astype(np.float16),
        HALVES.astype(np.longdouble),
        HALVES.astype(object),
        HALVES.astype(">f8"),
        np.asfortranarray(HALVES),
        np.ma.masked_array(HALVES),
        np.ma.masked_array(HALVES, mask=np.zeros((N, 2), bool)),
        HALVES.tolist(),
        tuple(map(tuple, HALVES.tolist())),
        list(HALVES),
        list(torch.tensor(HALVES)),
        [[Decimal(value) for value in row] for row in HALVES.tolist()],
        pd.DataFrame(HALVES),
        pd.DataFrame(HALVES, index=RANDOM.permutation(N), columns=["a", "b"]),
        pd.DataFrame(HALVES, columns=pd.MultiIndex.from_tuples([("a", 1), ("a", 2)])),
        pd.DataFrame(HALVES).astype("Float64"),
        pd.DataFrame(HALVES).astype({0: "float32", 1: "Float64"}),
        pd.DataFrame(HALVES).astype({0: object}),
        torch.tensor(HALVES),
        torch.tensor(HALVES, requires_grad=True),
        torch.tensor(HALVES, dtype=torch.bfloat16),
        torch.tensor(HALVES).to_sparse(),
    ],
)
def test_numbers_are_taken_from_what_people_have(values):
    taken = numbers(values)
    assert taken.dtype == np.float64
    np.testing.assert_array_equal(taken, HALVES)


@pytest.mark.parametrize(
    "values",
    [
        WHOLE,
        WHOLE.astype(np.uint8),
        WHOLE.astype(np.int16)[:, None],
        WHOLE.tolist(),
        [np.int64(value) for value in WHOLE],
        [torch.tensor(value) for value in WHOLE.tolist()],
        pd.Series(WHOLE),
        pd.Series(WHOLE).astype("Int64"),
        pd.Series(WHOLE).astype("int64[pyarrow]"),
        pd.Index(WHOLE),
        pd.Series(WHOLE).astype("Int64").array,
        frame(a=WHOLE),
        torch.tensor(WHOLE),
        memoryview(WHOLE),
    ],
)
def test_one_dimension_is_one_column(values):
    taken = numbers(values)
    np.testing.assert_array_equal(taken, WHOLE[:, None].astype(float))
    assert pair(FLOATS, values, discrete_y=None)[2] == (None, None)


def test_columns_of_unlike_types_are_numbers():
    mixed = frame(a=FLOATS[:, 0], b=WHOLE, c=WHOLE > 30, d=pd.array(WHOLE > 20, dtype="boolean"))
    expected = np.column_stack([FLOATS[:, 0], WHOLE, WHOLE > 30, WHOLE > 20])
    np.testing.assert_array_equal(numbers(mixed), expected)
    np.testing.assert_array_equal(numbers(expected[:, 2:] > 0), expected[:, 2:])


@pytest.mark.parametrize("unit", [1e-300, 1e-9, 1e300])
def test_the_unit_of_a_column_does_not_matter(unit):
    """Nanometres in metres vary too, and a range of 2e308 is no overflow."""
    shifted = np.column_stack([FLOATS[:, 0] * unit, np.where(WHOLE > 30, 1.0, -1.0) * 1.7e308, 1 + WHOLE * 1e-15])
    taken, *_ = pair(shifted, FLOATS, discrete_y=None)
    np.testing.assert_array_equal(taken, shifted)


@pytest.mark.parametrize("offset", [2**53, -(2**60), 2**62, 2**70])
def test_integers_that_floats_cannot_tell_apart_are_refused(offset):
    values = [offset + value for value in WHOLE.tolist()]
    for taken in (values, frame(a=FLOATS[:, 0], b=np.array(values, dtype=object))):
        with pytest.raises(ValueError, match=r"x has integers beyond 2\^53"):
            numbers(taken)
    spread = [offset + 2**20 * value for value in WHOLE.tolist()]
    np.testing.assert_array_equal(numbers(spread), np.array(spread, dtype=object).astype(float)[:, None])


# --- labels


@pytest.mark.parametrize(
    "values",
    [
        COLOURS,
        COLOURS[:, None],
        COLOURS.astype(object),
        COLOURS.astype(bytes),
        COLOURS.astype(bytes).tolist(),
        COLOURS.astype(np.dtypes.StringDType()),
        COLOURS.tolist(),
        pd.Series(COLOURS),
        pd.Series(COLOURS, dtype=object),
        pd.Series(COLOURS, dtype="string"),
        pd.Series(COLOURS, dtype="category"),
        pd.Series(COLOURS).astype(pd.CategoricalDtype(["red", "green", "blue", "violet"], ordered=True)),
        pd.Categorical(COLOURS),
        frame(colour=COLOURS),
        frame(colour=pd.Categorical(COLOURS)),
        COLOUR_NUMBERS,
        COLOUR_NUMBERS - 1.5,
        COLOUR_NUMBERS.tolist(),
        (COLOUR_NUMBERS * 0.1).astype(np.float32),
        torch.tensor(COLOUR_NUMBERS),
        pd.Series(COLOUR_NUMBERS, dtype="category"),
        pd.Series(COLOUR_NUMBERS, dtype="Int64"),
        pd.cut(COLOUR_NUMBERS, [-1, 0.5, 1.5, 3]),
        COLOUR_NUMBERS + 2**60,
    ],
)
@pytest.mark.parametrize("discrete_y", [True, None])
def test_labels_are_taken_from_what_people_have(values, discrete_y):
    *taken, classes = pair(values, values, discrete_y=discrete_y)
    for part, names in zip(taken, classes, strict=True):
        assert part.dtype == np.int64 and len(names) == 3
        np.testing.assert_array_equal(part, COLOUR_NUMBERS)


@pytest.mark.parametrize(
    "values", [WHOLE > 30, (WHOLE > 30).tolist(), torch.tensor(WHOLE > 30), pd.Series(WHOLE > 30, dtype="boolean")]
)
def test_booleans_are_labels_unless_they_are_said_to_be_numbers(values):
    _, y, classes = pair(FLOATS, values, discrete_y=None)
    np.testing.assert_array_equal(y, WHOLE > 30)
    assert y.shape == (N,) and classes[0] is None and classes[1].tolist() == [False, True]
    _, y, classes = pair(FLOATS, values, discrete_y=False)
    np.testing.assert_array_equal(y, (WHOLE > 30)[:, None])
    assert classes == (None, None) and y.dtype == np.float64


def test_few_values_that_all_are_frequent_are_labels():
    cycle = np.repeat(np.arange(MOST_LABELS), FEWEST_PAIRS)
    n = len(cycle)
    noise = RANDOM.standard_normal(n)
    for scale in (1, 0.1):
        assert are_labels(noise, cycle * scale) == (False, True)
        assert are_labels(cycle * scale, noise) == (True, False)
    assert are_labels(noise, cycle, discrete_y=False) == (False, False)
    assert are_labels(np.column_stack([cycle, cycle % 3]), noise) == (False, False)
    one_is_rare, one_too_many = np.where(np.arange(n) == 0, 1, cycle), np.append(cycle, [-1] * FEWEST_PAIRS)
    assert are_labels(noise, one_is_rare) == (False, False)
    assert are_labels(np.append(noise, noise[:10] + 1), one_too_many) == (False, False)


# --- pairs


def test_rounded_data_are_taken_and_equal_pairs_are_known():
    """Iris has one repeated row; leaving it out would change what is sampled."""
    x, y = np.round(FLOATS, 0), np.round(FLOATS[::-1] * 0.5, 0)
    taken_x, taken_y, classes = pair(x, y, discrete_y=None)
    assert classes == (None, None)
    groups = repeated(taken_x, taken_y)
    both = np.hstack([x, y])
    equal = (both[:, None] == both[None]).all(2)
    np.testing.assert_array_equal(groups[:, None] == groups[None], equal)
    assert groups.dtype == np.int64 and 1 < groups.max() + 1 < N
    assert set(groups) == set(range(groups.max() + 1))
    assert len(set(repeated(FLOATS, FLOATS))) == N
    assert repeated(np.array([[0.0], [-0.0]]), np.zeros((2, 1))).tolist() == [0, 0]


def test_rows_are_paired_in_the_order_given():
    x, y = pd.DataFrame(FLOATS, index=WHOLE), pd.Series(FLOATS[:, 0], index=WHOLE)
    taken_x, taken_y, *_ = pair(x, y, discrete_y=None)
    np.testing.assert_array_equal(taken_x[:, :1], taken_y)
    for index in (np.arange(N) + 1000, np.zeros(N, int)):
        np.testing.assert_array_equal(pair(x, y.set_axis(index), discrete_y=None)[1], taken_y)
        np.testing.assert_array_equal(pair(x.set_axis(index), y, discrete_y=None)[1], taken_y)
    np.testing.assert_array_equal(pair(x, y.sample(frac=1, random_state=0).to_numpy(), discrete_y=None)[0], taken_x)


def spoiled(value):
    values = FLOATS.copy()
    values[3, 1] = value
    return values


DATES = pd.Series(pd.date_range("2024-01-01", periods=N))
REFUSED = {
    "NaN": (spoiled(np.nan), "1 row"),
    "longer than a float": (FLOATS * np.longdouble("1e4000"), "60 rows"),
    "infinity": (spoiled(-np.inf), "1 row"),
    "None among numbers": (replaced(WHOLE, 3, None), "1 row"),
    "NA among numbers": (pd.Series(replaced(WHOLE, 3, None), dtype="Int64"), "1 row"),
    "None among booleans": (replaced(WHOLE > 30, 3, None), "1 row"),
    "masked": (np.ma.masked_array(FLOATS, mask=FLOATS > 2.0), "masked"),
    "masked rows": (np.ma.masked_less(FLOATS, -1), f"{(FLOATS < -1).any(1).sum()} rows"),
    "constant": (FLOATS * [1.0, 0.0], "constant"),
    "constant everywhere": (np.full(N, 0.1), "constant"),
    "a constant column of a frame": (frame(a=FLOATS[:, 0], weight=1.5), "'weight'"),
    "many constant columns": (np.hstack([FLOATS, np.zeros((N, 400))]), "columns 2, 3, 4, 5, ..."),
    "empty": (FLOATS[:0], "empty"),
    "an empty list": ([], "empty"),
    "no columns": (FLOATS[:, :0], "empty"),
    "three dimensions": (FLOATS[:, :, None], "flatten"),
    "one row": (WHOLE[None], "transposed"),
    "a list of one row": ([WHOLE.tolist()], "transposed"),
    "columns for rows": (FLOATS.T, "transposed"),
    "too few": (FLOATS[:40], "rows"),
    "rows of unequal length": ([[1.0], [1.0, 2.0]] * (N // 2), "unequal length"),
    "arrays of unequal length": ([np.zeros((2, 2)), np.zeros((2, 3))] * (N // 2), "unequal length"),
    "complex": (FLOATS * 1j, "real and imaginary"),
    "complex tensor": (torch.tensor(FLOATS * 1j).conj(), "real and imaginary"),
    "dates": (DATES.to_numpy(), "seconds"),
    "a series of dates": (DATES, "seconds"),
    "dates with a zone": (DATES.dt.tz_localize("UTC"), "Timestamp"),
    "durations": (DATES - DATES[0], "numbers"),
    "a list of durations": ([np.timedelta64(row, "s") for row in range(N)], "timedelta64"),
    "a dict": ({"a": FLOATS}, "a dict"),
    "a generator": ((row for row in FLOATS), "a generator"),
    "None": (None, "None"),
    "a word": ("red", "a str"),
    "a number": (3.5, "a float"),
    "a masked number": (np.ma.masked_array(3.5, mask=True), "a MaskedArray"),
    "dicts": ([{"a": 1}] * N, "dict"),
    "a record": (np.zeros(N, dtype=[("a", float)]), "void"),
    "text beside numbers": (frame(size=FLOATS[:, 0], colour=COLOURS), "'colour'"),
    "text and numbers in a column": (replaced(COLOURS, 3, 5), "int and str"),
    "columns of text": (np.column_stack([COLOURS, COLOURS]), "combine"),
    "names": (NAMES, "merge"),
    "long names": ([f"{row} " + "long " * 100 for row in range(N)], "merge"),
    "numbers as text": (FLOATS[:, 0].astype(str), "turn"),
    "None among text": (replaced(COLOURS, 3, None), "1 row"),
    "NaN among text": (replaced(COLOURS, 3, np.nan), "1 row"),
    "NaN turned into text": (np.array(replaced(COLOURS, 3, np.nan)), "1 row"),
    "NA among text": (pd.Series(replaced(COLOURS, 3, None), dtype="string"), "1 row"),
    "NaN among categories": (pd.Categorical(replaced(COLOURS, 3, None)), "1 row"),
    "all is None": ([None] * N, f"{N} rows"),
    "a name for each pair": ([f"pair {row}" for row in range(N)], f"{N} labels"),
    "one text": (["red"] * N, "single label"),
    "too large for a float": (replaced(WHOLE, 3, 10**400), "rescale"),
    "integers that floats make equal": (WHOLE + 2**62, "2^53"),
}  # fmt: skip


def refusal(call, *arguments, **options):
    """The message with which a call refuses its arguments, after a look at its manners."""
    with pytest.raises((ValueError, TypeError)) as caught:
        call(*arguments, **options)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 200
    assert "np." not in said and "dtype=" not in said and "array(" not in said
    return said


@pytest.mark.parametrize("name", ["x", "y"])
@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_used_is_refused_in_a_sentence(fault, name):
    values, words = REFUSED[fault]
    x, y = (values, FLOATS) if name == "x" else (FLOATS, values)
    said = refusal(pair, x, y, discrete_y=None)
    assert words in said
    assert re.search(rf"\b{name}\b", said)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros(N, int), "single label"),
        (np.arange(N) % 13, "13 labels and 60 pairs"),
        (FLOATS[:, 0], "discrete_y=False"),
        (COLOUR_NUMBERS[:, None] + [[0, 1]], "combine"),
        ((WHOLE > 30)[:, None] ^ [[False, True]], "combine"),
        (np.where(WHOLE == 3, np.nan, WHOLE % 3), "1 row"),
        (replaced(WHOLE % 3, 3, None), "1 row"),
        (np.where(WHOLE == 3, np.inf, WHOLE % 3), "1 row"),
        (DATES, "text"),
        ([f"pair {row}" for row in range(N)], "merge"),
    ],
)
def test_labels_that_are_none_are_refused(values, words):
    said = refusal(pair, FLOATS, values, discrete_y=True)
    assert words in said and "y " in said


def test_advice_fits_what_was_passed():
    assert "floats" not in refusal(pair, FLOATS, [f"pair {row}" for row in range(N)], discrete_y=True)
    assert "discrete_y=True" in refusal(pair, FLOATS, COLOURS, discrete_y=False)
    assert "astype" not in refusal(pair, FLOATS.tolist(), {"a": FLOATS}, discrete_y=None)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (FLOATS, FLOATS[:50], "60 rows and y has 50"),
        (FLOATS[:40], FLOATS[:40], "40 pairs"),
        (FLOATS[:1], FLOATS[:1], "transposed"),
        (FLOATS[:1, 0], FLOATS[:1, 0], "1 pair,"),
        (FLOATS.T, FLOATS.T, "x has 2 rows of 60 values and looks transposed"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "empty"),
        (pd.DataFrame(FLOATS), pd.Series(WHOLE)[::-1], "align"),
        (pd.Series(WHOLE, NAMES), pd.DataFrame(FLOATS, NAMES[::-1]), "align"),
    ],
)
def test_rows_that_do_not_pair_are_refused(x, y, words):
    assert words in refusal(pair, x, y, discrete_y=None)


@pytest.mark.parametrize("value", ["auto", 1, np.array([True, False]), 0.0])
def test_discrete_y_is_checked(value):
    assert refusal(pair, FLOATS, FLOATS, discrete_y=value).startswith("discrete_y is ")
    assert are_labels(FLOATS, COLOURS, discrete_y=np.bool_(True)) == (False, True)


# --- settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("folds", 0), ("folds", 1), ("folds", 2.5), ("folds", 30), ("folds", np.int64(30)), ("folds", np.float64(2.0)),
        ("folds", True), ("folds", np.array([2])), ("folds", torch.tensor(2)), ("folds", [2] * 1000), ("steps", 3),
        ("steps", True), ("steps", np.bool_(True)), ("steps", None), ("seed", None), ("seed", -1), ("seed", True),
        ("seed", np.int64(-1)), ("seed", np.timedelta64(3, "s")), ("seed", 2**63), ("seed", "0" * 1000),
    ],
)  # fmt: skip
def test_settings_are_checked(name, value):
    settings = {"n": 200, "seed": 0, "folds": 5, "steps": 300} | {name: value}
    said = refusal(check_settings, **settings)
    assert said.startswith(f"{name} is ") and "; give " in said


def test_whole_settings_of_any_type_are_taken():
    check_settings(200, 2**63 - 1, 20, 20)
    check_settings(np.int64(200), np.uint64(2**63 - 1), np.int32(2), np.int64(20))


@pytest.mark.parametrize("device", ["nowhere", "cuda:99", "meta", torch.device("meta"), None, 3.5, ["cpu"]])
def test_a_device_that_is_not_there_is_refused(device):
    assert "which is not here" in refusal(check_device, device)
    assert check_device("cpu") == check_device(torch.device("cpu")) == torch.device("cpu")
