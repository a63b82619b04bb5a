"""The 40 tasks: their truths against closed forms, their samples against stored statistics of reference samples.

The comparison of samples is a family of exact or asymptotic tests (lab/benchmarks/make_bmi_reference.py says which
statistics), with Bonferroni's correction over all of them. At the level used here a correct port would fail one of
the 40 at most once in 1,000 seeds.
"""

import importlib.util
import json
import pickle
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats
from scipy.special import ndtr

from lab.oracles import digits, tasks
from lab.oracles.tasks import BIMODAL_X, BIMODAL_Y, WAVES_X, WAVES_Y, families, maps

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location(
    "make_bmi_reference", ROOT / "lab" / "benchmarks" / "make_bmi_reference.py"
)
make_bmi_reference = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_bmi_reference)

N_DRAWN = 20_000
LEVEL = 1e-3 / 40
FACTS = ("size", "centre", "scale", "order_statistics", "moments")


@lru_cache
def stored(name):
    with np.load(ROOT / "data" / "bmi" / "reference_statistics.npz") as arrays:
        return {fact: arrays[f"{name}/{fact}"] for fact in FACTS}


@lru_cache
def order_p_values(n, size):
    """Two-sided p-values (ranks, n + 1) of the number of n new values below each stored order statistic."""
    rows = []
    for rank in make_bmi_reference.ranks(size):
        mass = stats.betabinom.pmf(np.arange(n + 1), n, rank, size + 1 - rank)
        rows.append(2 * np.minimum(np.cumsum(mass), np.cumsum(mass[::-1])[::-1]))
    return np.array(rows)


def p_value(x, y, reference):
    """The smallest p-value over all statistics, times their number: a bound on the chance of a false alarm."""
    n, size = len(x), int(reference["size"])
    columns = np.sort(make_bmi_reference.columns_of(x, y), axis=0)
    marks = reference["order_statistics"].astype(float)
    counts = np.stack([np.searchsorted(column, mark) for column, mark in zip(columns.T, marks.T, strict=True)], axis=1)
    of_orders = order_p_values(n, size)[np.arange(len(marks))[:, None], counts].ravel()
    means, variances = make_bmi_reference.moments(x, y, reference["centre"], reference["scale"])
    rounding = 1 / (12 * make_bmi_reference.STEPS**2)
    error = np.sqrt(variances * (1 / n + 1 / size) + rounding)
    of_moments = 2 * stats.norm.sf(np.abs(means - reference["moments"] / make_bmi_reference.STEPS) / error)
    both = np.concatenate([of_orders, of_moments])
    return both.min() * len(both)


# Truths


def test_names_and_truths_are_those_of_the_package():
    truth = json.loads((ROOT / "data" / "bmi" / "mutual_information.json").read_text())
    assert list(tasks.TASKS) == list(truth)
    assert all(name == task.name for name, task in tasks.TASKS.items())
    ours = [task.mutual_information for task in tasks.TASKS.values()]
    # One of the package's truths, additive-0.1, is a single-precision number.
    np.testing.assert_allclose(ours, list(truth.values()), rtol=1e-7)


def _normal(correlation):
    return families.gaussian_pair_task(f"1v1-normal-{correlation}", families.dense_covariance(1, 1, correlation), 1)


@pytest.mark.parametrize("correlation", [-0.9, 0.0, 0.3, 0.99])
def test_bivariate_normal_truth(correlation):
    assert _normal(correlation).mutual_information == pytest.approx(-np.log(1 - correlation**2) / 2)


def test_sparse_truth_counts_the_pairs():
    task = families.gaussian_pair_task("own", families.sparse_covariance(4, 6, pairs=3, strength=1.5), dim_x=4)
    correlation = 1.5**2 / (1 + 1.5**2)
    assert (task.dim_x, task.dim_y) == (4, 6)
    assert task.mutual_information == pytest.approx(-1.5 * np.log(1 - correlation**2), rel=1e-12)


@pytest.mark.parametrize("epsilon", [0.05, 0.3, 0.5, 0.8, 3.0])
def test_additive_truth_by_quadrature(epsilon):
    def density(y):
        return (min(y + epsilon, 1.0) - max(y - epsilon, 0.0)) / (2 * epsilon)

    corners = sorted({epsilon, 1 - epsilon})
    entropy = integrate.quad(
        lambda y: -density(y) * np.log(density(y)) if density(y) > 0 else 0.0, -epsilon, 1 + epsilon, points=corners
    )[0]
    assert families.additive_task(epsilon).mutual_information == pytest.approx(entropy - np.log(2 * epsilon), abs=1e-7)


@pytest.mark.parametrize(("dim_x", "dim_y", "dof"), [(1, 1, 1), (2, 3, 4.5), (5, 2, 0.7), (3, 3, 30)])
def test_student_truth_is_the_mean_log_density_ratio(dim_x, dim_y, dof):
    task = families.student_task(dim_x, dim_y, dof)
    x, y = task.sample(20_000, seed=3)

    def log_density(values):
        return stats.multivariate_t.logpdf(values, shape=np.eye(values.shape[1]), df=dof)

    ratio = log_density(np.concatenate([x, y], axis=1)) - log_density(x) - log_density(y)
    assert abs(ratio.mean() - task.mutual_information) < 4 * ratio.std() / np.sqrt(len(ratio))


# Samples


@pytest.mark.parametrize("name", tasks.TASKS)
def test_samples_follow_the_reference(name):
    task = tasks.get(name)
    x, y = task.sample(N_DRAWN, seed=1)
    assert x.shape == (N_DRAWN, task.dim_x) and y.shape == (N_DRAWN, task.dim_y)
    assert x.dtype == y.dtype == np.float64 and np.isfinite(x).all() and np.isfinite(y).all()
    assert p_value(x, y, stored(name)) > LEVEL


def _both(task, map_x, map_y=None):
    return families.transformed(task, map_x, map_y or map_x, "wrong")


def _sparse(dim, pairs=2, strength=2.0):
    return families.gaussian_pair_task("wrong", families.sparse_covariance(dim, dim, pairs, strength), dim)


def _dense(dim, correlation):
    return families.gaussian_pair_task("wrong", families.dense_covariance(dim, dim, correlation), dim)


def _turned(task, plane_x, plane_y):
    speeds = 1 / task.dim_x, 1 / task.dim_y
    turns = (
        partial(maps.spiral, plane=plane, speed=speed) for plane, speed in zip((plane_x, plane_y), speeds, strict=True)
    )
    return _both(task, *turns)


def _unpaired(task):
    def sampler(n, generator):
        return task.sampler(n, generator)[0], task.sampler(n, generator)[1]

    return families.Task("wrong", task.dim_x, task.dim_y, 0.0, sampler)


def _swapped(task):
    return families.Task("wrong", task.dim_y, task.dim_x, 0.0, lambda n, generator: task.sampler(n, generator)[::-1])


def _one_sided_noise(n, generator):
    x = generator.random((n, 1))
    return x, x + generator.uniform(0, 0.2, (n, 1))


NORMAL = _normal(0.75)
UNIFORM = _both(NORMAL, ndtr)
SPARSE, UNIFORM_SPARSE = _sparse(3), _both(_sparse(3), ndtr)
SPIRAL, UNIFORM_SPIRAL = "spiral-multinormal-sparse-3-3-2-2.0", "spiral-normal_cdf-multinormal-sparse-3-3-2-2.0"
SPIRAL_25, UNIFORM_SPIRAL_25 = SPIRAL.replace("3-3", "25-25"), UNIFORM_SPIRAL.replace("3-3", "25-25")
ROLL = "swissroll_x-normal_cdf-1v1-normal-0.75"
MIXTURES = [partial(maps.normal_to_mixture, **mixture) for mixture in (BIMODAL_X, BIMODAL_Y)]
WIGGLES = [partial(maps.wiggly, waves=waves) for waves in (WAVES_X, WAVES_Y)]

WRONG = {
    "normal: correlation 0.70": ("1v1-normal-0.75", _normal(0.70)),
    "normal: y mirrored": ("1v1-normal-0.75", _both(NORMAL, np.positive, np.negative)),
    "uniform: not made uniform": ("normal_cdf-1v1-normal-0.75", NORMAL),
    "additive: epsilon 5% wide": ("1v1-additive-0.1", families.additive_task(0.105)),
    "additive: noise on (0, 2 epsilon)": ("1v1-additive-0.1", families.Task("wrong", 1, 1, 0.0, _one_sided_noise)),
    "additive: x and y exchanged": ("1v1-additive-0.1", _swapped(families.additive_task(0.1))),
    "bimodal: x and y exchanged": ("1v1-bimodal-0.75", _both(NORMAL, *MIXTURES[::-1])),
    "bimodal: decreasing in y": ("1v1-bimodal-0.75", _both(NORMAL, MIXTURES[0], lambda y: MIXTURES[1](-y))),
    "wiggly: x and y exchanged": ("wiggly-1v1-normal-0.75", _both(NORMAL, *WIGGLES[::-1])),
    "half-cube: power 1.75": ("half_cube-1v1-normal-0.75", _both(NORMAL, lambda x: np.sign(x) * np.abs(x) ** 1.75)),
    "roll: axes exchanged": (ROLL, _both(UNIFORM, lambda u: maps.swissroll_x(u)[:, ::-1], np.positive)),
    "roll: wound from outside": (ROLL, _both(UNIFORM, lambda u: maps.swissroll_x(1 - u), np.positive)),
    "roll: 5% too large": (ROLL, _both(UNIFORM, lambda u: 1.05 * maps.swissroll_x(u), np.positive)),
    "roll: y not made uniform": (ROLL, _both(NORMAL, lambda x: maps.swissroll_x(ndtr(x)), np.positive)),
    "dense: correlation 0.4": ("multinormal-dense-5-5-0.5", _dense(5, 0.4)),
    "sparse: strength 1.7": ("multinormal-sparse-25-25-2-2.0", _sparse(25, strength=1.7)),
    "sparse: one pair": ("multinormal-sparse-25-25-2-2.0", _sparse(25, pairs=1)),
    "student: dof 3 for 2": ("student-identity-2-2-2", families.student_task(2, 2, 3)),
    "student: dof 4 for 3": ("student-identity-5-5-3", families.student_task(5, 5, 4)),
    "student: Gaussian": ("student-identity-5-5-3", families.student_task(5, 5, 1e6)),
    "student: x and y unpaired": ("student-identity-3-3-2", _unpaired(families.student_task(3, 3, 2))),
    "asinh: dof 2 for 1": ("asinh-student-identity-2-2-1", _both(families.student_task(2, 2, 2), np.arcsinh)),
    "asinh: forgotten": ("asinh-student-identity-3-3-2", families.student_task(3, 3, 2)),
    "spiral: forgotten": (SPIRAL, SPARSE),
    "spiral: speed 1.2": (SPIRAL, families.spiralled(SPARSE, speed=1.2)),
    "spiral: speed not divided by the dimension": (SPIRAL, families.spiralled(SPARSE, speed=3.0)),
    "spiral: y in the plane of x": (SPIRAL, _turned(SPARSE, (0, 1), (0, 1))),
    "spiral: backwards in y": (SPIRAL, _turned(SPARSE, (0, 1), (2, 1))),
    "spiral: backwards in both": (SPIRAL, _turned(SPARSE, (1, 0), (2, 1))),
    "uniform spiral: speed 1.2": (UNIFORM_SPIRAL, families.spiralled(UNIFORM_SPARSE, speed=1.2)),
    "uniform spiral: x in the plane of y": (UNIFORM_SPIRAL, _turned(UNIFORM_SPARSE, (1, 2), (1, 2))),
    "spiral in 25 dimensions: speed 1.2": (SPIRAL_25, families.spiralled(_sparse(25), speed=1.2)),
    "spiral in 25 dimensions: backwards in both": (SPIRAL_25, _turned(_sparse(25), (1, 0), (2, 1))),
    "uniform spiral in 25 dimensions: speed 1.2": (
        UNIFORM_SPIRAL_25,
        families.spiralled(_both(_sparse(25), ndtr), speed=1.2),
    ),
}


@pytest.mark.parametrize(("name", "wrong"), WRONG.values(), ids=WRONG)
def test_a_wrong_task_is_rejected(name, wrong):
    assert p_value(*wrong.sample(N_DRAWN, seed=1), stored(name)) < LEVEL


def test_samples_depend_on_name_size_and_seed_only():
    task = tasks.get("student-identity-2-2-1")
    x, y = task.sample(100, seed=5)
    again = families.student_task(2, 2, 1).sample(np.int64(100), seed=np.int32(5))
    np.testing.assert_array_equal(x, again[0])
    np.testing.assert_array_equal(y, again[1])
    assert not np.intersect1d(x, task.sample(100, seed=6)[0]).size
    assert not np.intersect1d(x, task.sample(200, seed=5)[0]).size


@pytest.mark.parametrize("other", ["normal_cdf-1v1-normal-0.75", "half_cube-1v1-normal-0.75", "1v1-bimodal-0.75"])
def test_tasks_share_no_random_numbers(other):
    n = 10_000
    first, second = (tasks.get(name).sample(n, seed=0)[0][:, 0] for name in ("1v1-normal-0.75", other))
    assert abs(stats.spearmanr(first, second).statistic) < 4 / np.sqrt(n)


def test_tasks_can_be_sent_to_another_process():
    task = tasks.get("spiral-normal_cdf-multinormal-sparse-5-5-2-2.0")
    x, y = pickle.loads(pickle.dumps(task)).sample(50, seed=2)
    np.testing.assert_array_equal(x, task.sample(50, seed=2)[0])
    np.testing.assert_array_equal(y, task.sample(50, seed=2)[1])


# Maps


def test_spiral_turns_by_the_squared_norm_and_is_undone_by_the_opposite_speed():
    quarter = maps.spiral(np.array([[2.0, 0.0, 0.0]]), plane=(0, 2), speed=np.pi / 8)
    np.testing.assert_allclose(quarter, [[0.0, 0.0, 2.0]], atol=1e-15)
    x = np.random.default_rng(0).standard_normal((100, 4))
    turned = maps.spiral(x, plane=(1, 3), speed=0.7)
    np.testing.assert_array_equal(turned[:, [0, 2]], x[:, [0, 2]])
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(x, axis=1), rtol=1e-14)
    np.testing.assert_allclose(maps.spiral(turned, plane=(1, 3), speed=-0.7), x, atol=1e-13)


def test_mixture_map_keeps_the_probability_far_into_both_tails():
    x = np.linspace(-12, 12, 101)[:, None]
    mapped = maps.normal_to_mixture(x, **BIMODAL_X)
    for side in (1, -1):
        mixture = sum(w * ndtr(side * (mapped - m)) for w, m in zip(*BIMODAL_X.values(), strict=True))
        half = side * x <= 0
        np.testing.assert_allclose(mixture[half], ndtr(side * x)[half], rtol=1e-10)


def test_swiss_roll_is_read_off_its_radius():
    u = np.linspace(0, 1, 50)[:, None]
    roll = maps.swissroll_x(u)
    t = 21 * np.linalg.norm(roll, axis=1, keepdims=True)
    np.testing.assert_allclose((t / (1.5 * np.pi) - 1) / 2, u, atol=1e-14)
    np.testing.assert_allclose(roll[[0, -1]], [[0, -1.5 * np.pi / 21], [0, 4.5 * np.pi / 21]], atol=1e-15)


@pytest.mark.parametrize("map_", [maps.half_cube, *WIGGLES, *MIXTURES], ids=["cube", *"xyXY"])
def test_maps_of_one_coordinate_increase_and_leave_their_argument_alone(map_):
    x = np.linspace(-6, 6, 2001)[:, None]
    before = x.copy()
    assert (np.diff(map_(x), axis=0) > 0).all()
    np.testing.assert_array_equal(x, before)


def test_own_tasks_keep_the_information_of_what_they_are_made_of():
    base = families.gaussian_pair_task("own", families.sparse_covariance(3, 4, pairs=1, strength=1.0), dim_x=3)
    turned = families.spiralled(base, speed=0.5)
    assert turned.name == "spiral-own"
    assert (turned.dim_x, turned.dim_y, turned.mutual_information) == (3, 4, base.mutual_information)
    assert turned.sample(7, seed=0)[1].shape == (7, 4)


# Bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tasks.get("multinormal-dense-3-3"), "did you mean multinormal-dense-3-3-0.5"),
        (lambda: tasks.get("#"), "lab.oracles.tasks.TASKS lists them"),
        (lambda: NORMAL.sample(0, seed=0), "positive integer"),
        (lambda: NORMAL.sample(10.0, seed=0), "positive integer"),
        (lambda: NORMAL.sample(10, seed=None), "seed must be an integer"),
        (lambda: families.sparse_covariance(2, 3, pairs=3, strength=1.0), "choose at most 2"),
        (lambda: families.gaussian_pair_task("own", np.eye(3), dim_x=3), "leave one to each side"),
        (lambda: families.gaussian_pair_task("own", np.ones((2, 3)), dim_x=1), "not symmetric"),
        (lambda: families.gaussian_pair_task("own", np.array([[1.0, 0.5], [0.2, 1.0]]), dim_x=1), "not symmetric"),
        (lambda: _normal(1.0), "not positive definite"),
        (lambda: families.student_task(2, 2, 0), "dof in"),
        (lambda: families.student_task(0, 2, 1), "dimensions >= 1"),
        (lambda: families.additive_task(0.0), "positive number"),
        (lambda: maps.wiggly(np.zeros((2, 1)), [(1.0, 1.0, 0.0)]), "one-to-one"),
        (lambda: maps.normal_to_mixture(np.zeros((2, 1)), [0.5, 0.6], [0, 1]), "sum 1"),
        (lambda: maps.swissroll_x(np.zeros((2, 2))), "one column"),
        (lambda: maps.swissroll_x(np.full((2, 1), 1.5)), "make it uniform first"),
        (lambda: maps.spiral(np.zeros((2, 2)), plane=(1, 2), speed=1.0), "choose two of its columns"),
        (lambda: families.spiralled(NORMAL), "choose two of its columns"),
        (lambda: families.transformed(NORMAL, np.ravel, np.positive, "flat"), r"\(n, d\) arrays"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as refusal:
        call()
    assert "\n" not in str(refusal.value)


# Digits


@pytest.mark.parametrize(
    ("test", "of_y"), [("dependence", 2), ("independence", 3), ("processing", 6), ("additivity", 6), ("label", None)]
)
def test_digit_pairs_are_rows_of_the_digits(test, of_y):
    x, y = digits.digit_pairs(test, 2, components=3, seed=1)
    halved = test == "additivity"
    assert x.shape == (898 if halved else 1797, 6 if halved else 3) and len(x) == len(y)
    assert y.shape[1:] == (() if of_y is None else (of_y,))
    np.testing.assert_array_equal(x, digits.digit_pairs(test, 2, components=3, seed=1)[0])


def test_the_laws_of_the_digits_hold_where_intervals_allow():
    values = {"dependence": 1.0, "independence": 0.05, "processing": 1.1, "additivity": 1.5, "label": 2.5}
    means = pd.DataFrame([{"test": t, "level": 3 * (t == "dependence"), "value": v} for t, v in values.items()])
    means = means.assign(low=means.value - 0.1, high=means.value + 0.1)
    table = digits.against_laws(means, components=3).set_index("test")
    assert table.holds.to_dict() == {
        "dependence": None, "independence": True, "processing": True, "additivity": False, "label": False
    }  # fmt: skip
    assert table.expected["additivity"] == 2.0 and table.expected["label"] == pytest.approx(np.log(10), abs=1e-3)


def test_another_test_of_digits_is_refused():
    with pytest.raises(ValueError, match="choose dependence"):
        digits.digit_pairs("other", 1, components=2, seed=0)


# The script that makes the statistics


def test_reference_script_reduces_a_folder_of_samples(tmp_path):
    names = ["1v1-additive-0.75", "student-identity-2-2-2"]
    for name in names:
        x, y = tasks.get(name).sample(3000, seed=9)
        np.savez(tmp_path / f"{name}.npz", x=x.astype(np.float32), y=y.astype(np.float32))
    listing = {name: {"mutual_information": tasks.get(name).mutual_information} for name in names}
    (tmp_path / "tasks.json").write_text(json.dumps(listing))
    make_bmi_reference.main([str(tmp_path), str(tmp_path / "out")])
    assert list(json.loads((tmp_path / "out" / "mutual_information.json").read_text())) == names
    with np.load(tmp_path / "out" / "reference_statistics.npz") as arrays:
        for name in names:
            made = {fact: arrays[f"{name}/{fact}"] for fact in FACTS}
            assert made["size"] == 2500 and made["moments"].shape == stored(name)["moments"].shape
            assert p_value(*tasks.get(name).sample(N_DRAWN, seed=1), made) > LEVEL


@pytest.mark.parametrize(
    ("listing", "message"), [(None, "tasks.json is not"), ({"absent": {"mutual_information": 1}}, "absent.npz is not")]
)
def test_reference_script_refuses_an_incomplete_folder(tmp_path, capsys, listing, message):
    if listing:
        (tmp_path / "tasks.json").write_text(json.dumps(listing))
    with pytest.raises(SystemExit):
        make_bmi_reference.main([str(tmp_path), str(tmp_path / "out")])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
