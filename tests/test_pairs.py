"""The pairs of ten kinds: their truths against log density ratios of what is drawn, and against other sums.

A ratio is computed from the columns as they are seen, through the inverse of every map, with densities of scipy.stats:
its mean over many draws is the information. The draws of a series are not independent, so errors are those of the
means of blocks.
"""

import pickle
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, signal, stats
from scipy.optimize.elementwise import find_root
from scipy.special import entr, k0, ndtr, ndtri

from lab.oracles import pairs
from lab.oracles.pairs import (
    counted,
    geometric,
    labelled,
    later_scales,
    later_shapes,
    samplers,
    scaled,
    series,
    truths,
    vectors,
)

N_DRAWN, BLOCKS = 200_000, 100
TURN = 2 * np.pi
GIVEN = {
    "circle": 1.623,
    "circle with radial noise": 1.623,
    "circle as angles": 1.623,
    "sphere, concentration 5": 1.303,
    "sphere, concentration 20": 2.689,
    "compositions": 1.609,
    "normal with its square": 0.511,
    "number of the cluster": 1.054,
    "six clusters": 1.524,
    "exclusive signs": 0.368,
    "Cauchy in Cauchy noise": 1.099,
    "checkerboard": 0.693,
    "one period of a sine": 1.154,
    "saw tooth": 1.107,
    "product with noise": 0.420,
}
NOTHING = ["tails that never met", "series that never met"]


# Structure


def test_ten_kinds_of_at_least_nine_pairs_the_last_three_kept_aside():
    assert len(pairs.KINDS) == 10 and len(pairs.PAIRS) >= 100
    assert sum(map(len, pairs.KINDS.values())) == len(pairs.PAIRS) == len(pairs.KIND_OF)
    assert pairs.PAIRS.keys() >= pairs.KEPT_ASIDE
    for kind, tasks in pairs.KINDS.items():
        assert len(tasks) >= 9 and pairs.KEPT_ASIDE.intersection(tasks) == set(list(tasks)[-3:])
        assert all(pairs.PAIRS[name] is task and pairs.KIND_OF[name] == kind for name, task in tasks.items())
    assert RATIOS.keys() == pairs.PAIRS.keys()


@pytest.mark.parametrize(("name", "truth"), GIVEN.items(), ids=GIVEN)
def test_truths_that_are_known_beforehand(name, truth):
    assert pairs.PAIRS[name].mutual_information == pytest.approx(truth, abs=1e-3)
    assert name not in pairs.KEPT_ASIDE


@pytest.mark.parametrize("name", pairs.PAIRS)
def test_draws_are_finite_columns_or_labels_and_the_same_again(name):
    task = pickle.loads(pickle.dumps(pairs.PAIRS[name]))
    x, y = task.sample(501, seed=3)
    assert x.shape == (501, task.dim_x) and x.dtype == np.float64 and np.isfinite(x).all()
    if pairs.has_labels(task):
        assert y.shape == (501,) and y.dtype.kind == "i" and y.min() >= 0
    else:
        assert y.shape == (501, task.dim_y) and y.dtype == np.float64 and np.isfinite(y).all()
    again = pairs.PAIRS[name].sample(501, seed=3)
    np.testing.assert_array_equal(x, again[0])
    np.testing.assert_array_equal(y, again[1])
    assert not np.array_equal(x, task.sample(501, seed=4)[0])
    assert type(task.mutual_information) is float and task.mutual_information >= 0
    assert (task.mutual_information == 0) == (name in NOTHING)


# Log density ratios, as functions of x and y


def normals(x, y, correlations):
    """Log ratio (n,) of standard normals that are correlated column by column."""
    r = np.asarray(correlations)
    quadratic = r**2 * (x**2 + y**2) - 2 * r * x * y
    return (-np.log(1 - r**2) / 2 - quadratic / (2 * (1 - r**2))).sum(axis=1)


@lru_cache
def wrapped_table(deviation):
    """Angles, and the log ratio of wrapped normal noise there and a uniform angle, by its Fourier series."""
    table = np.linspace(-np.pi, np.pi, 20_001)
    order = np.arange(1, 80)[:, None]
    density = 1 + 2 * (np.exp(-((order * deviation) ** 2) / 2) * np.cos(order * table)).sum(axis=0)
    return table, np.log(density.clip(1e-13))


def wrapped(difference, deviation):
    return np.interp((difference + np.pi) % TURN - np.pi, *wrapped_table(deviation))


def around(points):
    """The angles (n, k) of points (n, 2 k) near k circles."""
    cosines, sines = np.split(points, 2, axis=1)
    return np.arctan2(sines, cosines)


def angles(x, y, winding, noise):
    differences = y - x @ np.array(winding).T
    return sum(wrapped(column, deviation) for column, deviation in zip(differences.T, noise, strict=True))


def fisher(cosine, dim, concentration):
    """Log density of the cosine's unit vectors against that of the even sphere."""
    centre = np.eye(dim)[0]
    points = np.outer(cosine, centre) + np.outer(np.sqrt(np.clip(1 - cosine**2, 0, None)), np.eye(dim)[1])
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    even = stats.uniform_direction(dim).rvs(2, random_state=0)
    law = stats.vonmises_fisher(centre, concentration)
    return law.logpdf(points) - stats.vonmises_fisher(centre, 1e-9).logpdf(even)[0]


def axes(x, y, concentration):
    rows, columns = np.triu_indices(3)
    cosine = np.sqrt((np.where(rows == columns, 1, 2) * x * y).sum(axis=1).clip(0, 1))
    return np.logaddexp(fisher(cosine, 3, concentration), fisher(-cosine, 3, concentration)) - np.log(2)


def contrasts(composition):
    one, two, three = np.log(composition).T
    return np.stack([(one - two) / np.sqrt(2), (one + two - 2 * three) / np.sqrt(6)], axis=1)


def unrolled(x):
    u = (21 * np.linalg.norm(x[:, :2], axis=1) / (1.5 * np.pi) - 1) / 2
    return np.stack([ndtri(u), x[:, 2]], axis=1)


def labels(log_likelihood, y, chances):
    """Log ratio for log p(x | k) (n, K), labels y (n,) and their chances (K,)."""
    chances = np.broadcast_to(chances, log_likelihood.shape[1])
    whole = np.log(np.exp(log_likelihood) @ chances)
    return log_likelihood[np.arange(len(y)), y] - whole


def near(x, means, deviations=1.0):
    return stats.norm.logpdf(x[:, None], means, deviations).sum(axis=2)


def coin(chance, y):
    """Log ratio of a label that is 1 with `chance` (n,), and fair before."""
    return np.log(np.where(y == 1, chance, 1 - chance)) + np.log(2)


def sectors(x, y):
    position = labelled.SECTORS * (around(x)[:, 0] / TURN % 1)
    shift = y - position
    return np.log(labelled.SECTORS * sum(
        ndtr((shift + turn + 1) / labelled.SECTOR_NOISE) - ndtr((shift + turn) / labelled.SECTOR_NOISE)
        for turn in (-labelled.SECTORS, 0, labelled.SECTORS)
    ))  # fmt: skip


def rounded(x, y, correlation):
    """Tenths against units: the cell of y given each of 21 points in the cell of x."""
    u = x + np.linspace(-0.05, 0.05, 21)[1::2]
    weights = stats.norm.pdf(u)
    spread = np.sqrt(1 - correlation**2)
    upper, lower = ndtr((y + 0.5 - correlation * u) / spread), ndtr((y - 0.5 - correlation * u) / spread)
    given = (weights * (upper - lower)).sum(axis=1) / weights.sum(axis=1)
    return np.log(given) - np.log(ndtr(y + 0.5) - ndtr(y - 0.5))[:, 0]


def orthants(edges_x, edges_y, correlation):
    """Chances of the cells of two normals, by the distribution function in the plane."""
    law = stats.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]])
    edges = (np.concatenate([[-10], side, [10]]) for side in (edges_x, edges_y))
    grid = np.stack(np.meshgrid(*edges, indexing="ij"), axis=-1)
    return np.diff(np.diff(law.cdf(grid), axis=0), axis=1)


def of_table(table, i, j):
    i, j = i.astype(int).ravel(), j.astype(int).ravel()
    return np.log(table[i, j] / (table.sum(1)[i] * table.sum(0)[j]))


def symbols(x, y):
    same = counted.SYMBOLS[x.astype(int)] == y
    return np.log(12 * np.where(same, 0.8 + 0.2 / 12, 0.2 / 12))[:, 0]


def interval(x, y):
    assert (x <= y).all() and (y <= x + 2).all()
    return np.log(1 / 2) - np.log(np.where((y < 1) | (y >= 5), 1, 2) / 10)[:, 0]


def either_zero(x, y, zeros, correlation):
    assert ((x == 0) == (y == 0)).all()
    return np.where(x[:, 0] == 0, -np.log(zeros), normals(x, y, [correlation]) - np.log(1 - zeros))


def more_zeros(x, y):
    given = 0.15 * (y == 0) + 0.85 * stats.poisson.pmf(y, x)
    return np.log(given / (0.15 * (y == 0) + 0.85 * stats.geom.pmf(y + 1, 1 / 5)))[:, 0]


def clipped(x, y, correlation):
    cell_x, cell_y = (np.digitize(side[:, 0], [-1 + 1e-12, 1 - 1e-12]) for side in (x, y))
    spread = np.sqrt(1 - correlation**2)
    both = of_table(orthants([-1, 1], [-1, 1], correlation), cell_x, cell_y)
    of_y = stats.norm.logsf(1, correlation * x * np.sign(y), spread) - stats.norm.logsf(1)
    of_x = stats.norm.logsf(1, correlation * y * np.sign(x), spread) - stats.norm.logsf(1)
    one = np.where(cell_x == 1, of_y[:, 0], of_x[:, 0])
    atoms = (cell_x != 1).astype(int) + (cell_y != 1)
    return np.choose(atoms, [normals(x, y, [correlation]), one, both])


def sometimes_rounded(x, y, correlation):
    spread = np.sqrt(1 - correlation**2)
    upper, lower = ndtr((y + 0.5 - correlation * x) / spread), ndtr((y - 0.5 - correlation * x) / spread)
    of_cell = np.log(upper - lower) - np.log(ndtr(y + 0.5) - ndtr(y - 0.5))
    return np.where(y[:, 0] == np.round(y[:, 0]), of_cell[:, 0], normals(x, y, [correlation]))


def spike(x, y):
    whole = 0.7 * stats.norm.pdf(y, 0, 0.2) + 0.3 * stats.norm.pdf(y, 0, np.sqrt(9.04))
    return (stats.norm.logpdf(y, x, 0.2) - np.log(whole))[:, 0]


def student(x, y, dof, correlation):
    joint = np.kron([[1, correlation], [correlation, 1]], np.eye(2))
    both = stats.multivariate_t(shape=joint, df=dof).logpdf(np.hstack([x, y]))
    return both - sum(stats.multivariate_t(shape=np.eye(2), df=dof).logpdf(side) for side in (x, y))


def lomax(x, y, a):
    joint = np.log(a * (a + 1)) - (a + 2) * np.log1p(x + y)
    return (joint - stats.lomax.logpdf(x, a) - stats.lomax.logpdf(y, a))[:, 0]


def fifth_root(y):
    return find_root(lambda x, y: 0.1 * x + x**5 - y, (-8.0, 8.0), args=(y,)).x


QUANTILES = (np.arange(2000) + 0.5) / 2000
SEEN_NORMALS = ndtri(QUANTILES)


def marginal(y, density, nodes, weights=None):
    """Log of the mean over nodes of density(y, node), read off a table."""
    table = np.linspace(y.min(), y.max(), 1200)
    return np.interp(y, table, np.log(np.average(density(table[:, None], nodes), axis=1, weights=weights)))


def noisy(y, centre, deviation, nodes, weights=None):
    """Log ratio of y = centre + normal noise, for nodes (K,) that are centres, evenly likely unless weighted."""
    y, centre = y.ravel(), centre.ravel()
    whole = marginal(y, lambda y, node: truths.normal_density(y - node, deviation), nodes, weights)
    return stats.norm.logpdf(y, centre, deviation) - whole


def scale(y, deviation, law, nodes, weights=None):
    """Log ratio of y = deviation times a draw of the law, by the logarithm of |y|."""
    size, log_deviation = np.log(np.abs(y)).ravel(), np.log(deviation).ravel()
    given = law.logpdf(np.exp(size - log_deviation)) + size - log_deviation
    return given - marginal(size, lambda s, d: law.pdf(np.exp(s - d)) * np.exp(s - d), nodes, weights)


def precision(x, y):
    given = stats.norm.logpdf(y, 0, x**-0.5).sum(axis=1)
    return given - stats.multivariate_t(shape=np.eye(3) / 1.5, df=3.0).logpdf(y)


def projection(x, y):
    noise = vectors.PROJECTION_NOISE**2 * np.eye(4)
    given = stats.multivariate_normal(cov=noise).logpdf(y - x @ vectors.PROJECTION.T)
    return given - stats.multivariate_normal(cov=vectors.PROJECTION @ vectors.PROJECTION.T + noise).logpdf(y)


def boxes(x, y):
    assert (np.abs(x - y) <= 0.1).all()
    return -np.log(np.minimum(1, y + 0.1) - np.maximum(0, y - 0.1)).sum(axis=1)


def unturned(side, seed):
    return side @ samplers.rotation(side.shape[1], seed)


def root(y):
    return np.sign(y) * np.abs(y) ** (2 / 3)


def checkerboard(x, y):
    return np.where((np.floor(x) + np.floor(y)) % 2 == 0, np.log(2), -np.inf)[:, 0]


# The later pairs


def direction(cosine, dim, noise):
    """The cotangent of the angle between a vector and its noisy direction is a non-central t, off by a factor."""
    table = np.linspace(-0.9999, 0.9999, 4001)
    cotangent = table / np.sqrt((1 - table**2) / (dim - 1))
    ratio = stats.nct.pdf(cotangent, dim - 1, 1 / noise) / stats.t.pdf(cotangent, dim - 1)
    return np.interp(cosine, table, np.log(np.maximum(ratio, 1e-12)))


def bodies(x, y):
    cosine = np.sqrt((1 + (x * y).sum(axis=1)).clip(0) / 4)
    return np.logaddexp(direction(cosine, 4, 0.25), direction(-cosine, 4, 0.25)) - np.log(2)


def log_shares(x, seed, size):
    return np.log(x[:, :-1] / x[:, -1:]) @ samplers.rotation(x.shape[1] - 1, seed) / size


def chosen(chances, y):
    """Log ratio of labels of those chances (n, K), whose mean is taken for the chances of the labels alone."""
    return np.log(chances / chances.mean(axis=0))[np.arange(len(y)), y]


def ten_columns(x, y):
    logits = 2.5 * np.linalg.solve(samplers.rotation(10, 10) * np.linspace(0.2, 3, 10), x.T)[:3].T
    likely = np.exp(logits + [0, -0.5, -1.5])
    return chosen(likely / likely.sum(axis=1, keepdims=True), y)


def moons(x, y, noise=0.3):
    node, weight = np.polynomial.legendre.leggauss(24)
    arc = np.stack([np.cos(np.pi * (1 + node) / 2), np.sin(np.pi * (1 + node) / 2)], axis=1)
    density = [
        np.exp(-((x[:, None] - centres) ** 2).sum(axis=2) / (2 * noise**2)) @ weight
        for centres in (arc, [1, 0.5] - arc)
    ]
    return np.log(np.choose(y, density) / np.mean(density, axis=0))


def ratings(x, y, edges=(-np.inf, -1.4, -0.9, 0.1, 1.2, np.inf)):
    upper, lower = np.take(edges, y.astype(int) + 1), np.take(edges, y.astype(int))
    r = np.array([0.95, 0.8, 0.5])
    centre, spread = r * unturned(x, 3), np.sqrt(1 - r**2)
    given = ndtr((upper - centre) / spread) - ndtr((lower - centre) / spread)
    return np.log(given / (ndtr(upper) - ndtr(lower))).sum(axis=1)


def events():
    """The chances of (a + c, b + c): those of (a, b), shifted along the diagonal."""
    one, two, common = (stats.poisson.pmf(np.arange(40), rate) for rate in (1, 2, 12))
    return signal.convolve2d(np.outer(one, two), np.diag(common))


def rain(x, y):
    one, two = (x @ samplers.rotation(2, 2).T).T
    rains, wet = 1 / (1 + np.exp(0.3 - 1.5 * one)), y[:, 0] > 0
    amount = normals(two[:, None], np.log(np.where(y > 0, y, 1)), [0.9])
    return chosen(np.stack([1 - rains, rains], axis=1), wet.astype(int)) + np.where(wet, amount, 0)


def censored(x, y):
    z, weight = np.polynomial.hermite_e.hermegauss(150)
    rates, weight = np.exp(1.2 * z), weight / weight.sum()
    time, rate = y[:, 0], np.exp(1.2 * (x @ samplers.rotation(3, 13).T)[:, 0])
    table = np.linspace(np.log(time.min()), np.log(1.5), 2000)
    density = (rates * np.exp(-np.exp(table)[:, None] * rates)) @ weight
    ended = y[:, 1] == 1
    assert ((time < 1.5) == ended).all()
    whole = np.where(ended, np.interp(np.log(time), table, np.log(density)), np.log(np.exp(-1.5 * rates) @ weight))
    return ended * np.log(rate) - rate * time - whole


def detected(x, y, limit=0.3):
    r = np.array([0.95, 0.9, 0.8])
    below = np.log(ndtr((limit - r * np.log(x)) / np.sqrt(1 - r**2)) / ndtr(limit))
    above = np.stack([normals(np.log(x[:, [k]]), y[:, [k]], r[[k]]) for k in range(3)], axis=1)
    return np.where(y > limit, above, below).sum(axis=1)


def student_ranks(x, y):
    x, y = stats.t.ppf(ndtr(x), 3), stats.t.ppf(y, 3)
    shape = np.array([[1, 0.3, 0.8], [0.3, 1, 0.5], [0.8, 0.5, 1]])
    both = stats.multivariate_t(shape=shape, df=3).logpdf(np.hstack([x, y]))
    return both - stats.multivariate_t(shape=shape[:2, :2], df=3).logpdf(x) - stats.t.logpdf(y, 3)[:, 0]


def phase(x, y, noise=0.25):
    given = stats.norm.logpdf(y, np.hstack([np.cos(3 * x), np.sin(3 * x)]), noise).sum(axis=1)
    radius = np.linalg.norm(y, axis=1)
    return given - stats.rice.logpdf(radius, 1 / noise, scale=noise) + np.log(TURN * radius)


def common_scale(x, y, deviation=1.2):
    """The density of any columns depends on the sum of their squares alone."""
    weight, scales = stats.norm.pdf(FINE), np.exp(deviation * FINE)

    def log_density(columns):
        size = np.log(np.square(columns).sum(axis=1))
        table = np.linspace(size.min(), size.max(), 1500)
        given = scales ** -columns.shape[1] * np.exp(-np.exp(table)[:, None] / (2 * scales**2))
        return np.interp(size, table, np.log(given @ weight / weight.sum()))

    return log_density(np.hstack([x, y])) - log_density(x) - log_density(y)


def gaussian(x, y, covariance):
    both, part = np.hstack([x, y]), x.shape[1]
    whole = stats.multivariate_normal(cov=covariance).logpdf(both)
    of_x = stats.multivariate_normal(cov=covariance[:part, :part]).logpdf(x)
    return whole - of_x - stats.multivariate_normal(cov=covariance[part:, part:]).logpdf(y)


def factors(x, y):
    loadings = samplers.rotation(24, 24)[:, :3] * [3.5, 2.5, 1.5]
    return gaussian(np.log(x), y, loadings @ loadings.T + 0.09 * np.eye(24))


def places(x, y):
    (east, north), (other_east, other_north) = np.radians(x).T, np.radians(y).T
    cosine = np.sin(north) * np.sin(other_north)
    return fisher(cosine + np.cos(north) * np.cos(other_north) * np.cos(east - other_east), 3, 200)


def readings(x, y):
    error = (y - x)[:, 0]
    reached = (y[:, None] - [-1, 0, 1] >= 0) & (y[:, None] - [-1, 0, 1] < 256)
    return np.log(np.where(error == 0, 0.8, 0.1) * 256) - np.log((reached * [0.1, 0.8, 0.1]).sum(axis=(1, 2)))


def coins_and_normals(x, y):
    yes = 1 / (1 + np.exp(1 - 1.8 * x[:, 3] - 2.5 * x[:, 11]))
    return chosen(np.stack([1 - yes, yes], axis=1), y)


def driven():
    """The covariance of the system's rows as the sum of what all earlier shocks left."""
    step, left, total = np.array([[1.7, -0.85, 0], [1, 0, 0], [0.4, 0, 0.6]]), np.diag([1.0, 0, 1]), np.zeros((3, 3))
    for _ in range(1000):
        total, left = total + left, step @ left @ step.T
    return total[::2, ::2]


SOME, FINE, RADII = np.linspace(-8, 8, 401), np.linspace(-9, 9, 2001), np.linspace(0.01, 9, 2001)
LOADS = 2 * np.sin(TURN * np.arange(24) / 24) + np.cos(TURN * np.arange(24) / 12 + 1)
SWAYED = geometric.circle_map(TURN * QUANTILES)
FOUR = np.array([[-1.5, -1.5], [-1.5, 1.5], [1.5, -1.5], [1.5, 1.5]])
SIX = 2.66 * np.concatenate([np.eye(3, 4), -np.eye(3, 4)])
WIDTHS = np.array([[1.0, 0.15], [0.15, 1.0]])
WINDING = [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 1]]
SHARED = 0.95 * np.sqrt((1 - 0.5**2) * (1 - 0.95**2)) / (1 - 0.5 * 0.95)
RATIOS = {
    "circle as angles": lambda x, y: angles(x, y, [[1]], [0.3]),
    "circle": lambda x, y: angles(around(x), around(y), [[1]], [0.3]),
    "circle with radial noise": lambda x, y: angles(around(x), around(y), [[1]], [0.3]),
    "sphere, concentration 5": lambda x, y: fisher((x * y).sum(axis=1), 3, 5),
    "sphere, concentration 20": lambda x, y: fisher((x * y).sum(axis=1), 3, 20),
    "compositions": lambda x, y: normals(contrasts(x), contrasts(y) / np.sqrt(1.25), [1 / np.sqrt(1.25)] * 2),
    "normal with its square": lambda x, y: normals(x[:, :1], y[:, :1], [0.8]),
    "torus": lambda x, y: angles(around(x), around(y), [[1, 1], [0, 1]], [0.25, 0.6]),
    "sphere in five dimensions": lambda x, y: fisher((x * y).sum(axis=1), 5, 12),
    "axes": lambda x, y: axes(x, y, 10),
    "rolled sheet": lambda x, y: normals(unrolled(x), y, [0.9, 0.7]),
    "copied columns": lambda x, y: normals(x[:, 4:], y[:, ::-1], [0.8, 0.5]),
    "helix": lambda x, y: normals(2 * x[:, 2:], y, [0.95]),
    "circle wound twice": lambda x, y: angles(around(x), around(y), [[2]], [0.4]),
    "four clusters": lambda x, y: labels(near(x, FOUR), y, 1 / 4),
    "six clusters": lambda x, y: labels(near(x @ np.linalg.inv(labelled.SIX_MATRIX).T, SIX), y, 1 / 6),
    "exclusive signs": lambda x, y: coin(np.where(x[:, 0] * x[:, 1] > 0, 0.9, 0.1), y),
    "unbalanced classes": lambda x, y: labels(near(x[:, :1], np.array([[0], [2], [4.5]])), y, [0.9, 0.07, 0.03]),
    "rings": lambda x, y: labels(
        near(np.log(np.linalg.norm(x, axis=1))[:, None], np.array([[0], [0.5], [1], [1.5]]), 0.2), y, 1 / 4
    ),
    "crossed strips": lambda x, y: labels(near(x, np.zeros((2, 2)), WIDTHS), y, 1 / 2),
    "forty sectors": sectors,
    "steep label": lambda x, y: coin(1 / (1 + np.exp(-x @ labelled.DIRECTION)), y),
    "number of the cluster": lambda x, y: labels(near(x, FOUR), y[:, 0].astype(int), 1 / 4),
    "count at a rate": lambda x, y: (stats.poisson.logpmf(y, x) - stats.nbinom.logpmf(y, 2, 1 / 4))[:, 0],
    "rounded normals": lambda x, y: rounded(x, y, 0.9),
    "whole number in noise": lambda x, y: labels(near(y, np.arange(10)[:, None], 0.4), x[:, 0].astype(int), 1 / 10),
    "thinned count": lambda x, y: (stats.binom.logpmf(y, x, 0.6) - stats.poisson.logpmf(y, 4.8))[:, 0],
    "scrambled symbols": symbols,
    "sum of two dice": lambda x, y: -np.log((6 - np.abs(x.sum(axis=1) - 7)) / 36),
    "deciles and quartiles": lambda x, y: of_table(orthants(counted.DECILES, counted.QUARTILES, -0.85), x, y),
    "whole number and interval": interval,
    "both or neither zero": lambda x, y: either_zero(x, y, 0.6, 0.9),
    "count with more zeros": more_zeros,
    "clipped normals": lambda x, y: clipped(x, y, 0.85),
    "spike and slab": spike,
    "sometimes rounded": lambda x, y: sometimes_rounded(x, y, 0.95),
    "Cauchy in Cauchy noise": lambda x, y: (stats.cauchy.logpdf(y, x, 0.5) - stats.cauchy.logpdf(y, 0, 1.5))[:, 0],
    "correlated Student": lambda x, y: student(x, y, 2, 0.6),
    "log-normal and hyperbolic sine": lambda x, y: normals(np.log(x), np.arcsinh(y), [0.8, 0.6]),
    "Levy in Levy noise": lambda x, y: (stats.levy.logpdf(y, x, 0.16) - stats.levy.logpdf(y, 0, 1.96))[:, 0],
    "Lomax": lambda x, y: lomax(x, y, 0.5),
    "fifth powers": lambda x, y: normals(fifth_root(x), fifth_root(y), [0.9, 0.5, 0.5]),
    "one period of a sine": lambda x, y: noisy(y, np.sin(x), 0.2, np.sin(TURN * QUANTILES)),
    "saw tooth": lambda x, y: wrapped(TURN * (y - 3 * x)[:, 0], TURN * 0.08),
    "checkerboard": checkerboard,
    "stripes": lambda x, y: wrapped(TURN * (y[:, 0] - 2 * x[:, 0] - 3 * x[:, 1]), TURN * 0.1),
    "circle map": lambda x, y: (
        wrapped((y - geometric.circle_map(x))[:, 0], 0.35)
        - marginal(y[:, 0], lambda y, c: np.exp(wrapped(y - c, 0.35)), SWAYED)
    ),
    "ripples": lambda x, y: noisy(y, np.cos(4 * x), 0.15, np.cos(4 * SEEN_NORMALS)),
    "product with noise": lambda x, y: (stats.norm.logpdf(y, 0, np.abs(x)) - np.log(k0(np.abs(y)) / np.pi))[:, 0],
    "volatility": lambda x, y: scale(y, np.exp(1.2 * x), stats.halfnorm, 1.2 * SEEN_NORMALS),
    "exponential growth": lambda x, y: scale(y, np.exp(1.5 * x), stats.expon, 1.5 * SEEN_NORMALS),
    "product of inputs": lambda x, y: (
        stats.norm.logpdf(y[:, 0], x.prod(axis=1), 0.4)
        - marginal(y[:, 0], truths.normal_density, np.hypot(SEEN_NORMALS, 0.4))
    ),
    "ratio of inputs": lambda x, y: (
        stats.cauchy.logpdf(y[:, 0], x[:, 0] / x[:, 1], 0.3) - stats.cauchy.logpdf(y[:, 0], 0, 1.3)
    ),
    "precision": precision,
    "four channels, rotated": lambda x, y: normals(unturned(x, 40), unturned(y, 41), [0.99, 0.98, 0.95, 0.9]),
    "six channels, stretched": lambda x, y: normals(root(x), root(y), [0.93] * 6),
    "eight channels, uniform": lambda x, y: normals(ndtri(x), ndtri(y), [0.9] * 8),
    "projection": projection,
    "boxes": boxes,
    "four angles": lambda x, y: angles(around(x), around(y), WINDING, [0.2, 0.3, 0.3, 0.4]),
    "one column of twenty": lambda x, y: normals(x[:, -1:], y[:, :1], [0.9]),
    "two directions of twenty": lambda x, y: normals(unturned(x, 20)[:, :2], unturned(y, 21)[:, :2], [0.9, 0.7]),
    "parity of three signs": lambda x, y: coin(np.where(x[:, 4] * x[:, 9] * x[:, 14] > 0, 0.95, 0.05), y),
    "switch": lambda x, y: (
        stats.norm.logpdf(y[:, 0], np.where(x[:, 0] > 0, x[:, 1], x[:, 2]), 0.4)
        - stats.norm.logpdf(y[:, 0], 0, np.sqrt(1.16))
    ),
    "largest of five": lambda x, y: noisy(y[:, 3], x[:, :5].max(axis=1), 0.3, ndtri(QUANTILES ** (1 / 5))),
    "length of eight": lambda x, y: noisy(
        y, np.log(np.square(x[:, 12:]).sum(axis=1)) / 2, 0.1, np.log(stats.chi.ppf(QUANTILES, 8))
    ),
    "two series": lambda x, y: normals(x, y, [0.8]),
    "fast and slow series": lambda x, y: normals(x, y, [SHARED] * 3),
    "series seen in noise": lambda x, y: normals(x, y / np.sqrt(1.25), [1 / np.sqrt(1.25)]),
    "two windows": lambda x, y: normals(np.cbrt(x), y, [0.75] * 2),
    "walk on the circle": lambda x, y: angles(around(x), around(y), [[1]], [0.4]),
    "renewed states": lambda x, y: labels(
        near(y, np.array([[0], [3], [1], [4], [2]]), 0.5), x[:, 0].astype(int), 1 / 5
    ),
    "embeddings in twelve columns": lambda x, y: direction((x @ samplers.rotation(12, 12).T * y).sum(axis=1), 12, 0.4),
    "five shares and four": lambda x, y: normals(log_shares(x, 54, 3)[:, :3], log_shares(y, 43, 2), [0.9, 0.7, 0.4]),
    "turned bodies": bodies,
    "softmax of ten columns": ten_columns,
    "two moons": moons,
    "chances of six classes": chosen,
    "ratings of three": ratings,
    "events in common": lambda x, y: of_table(events(), x, y),
    "one-hot columns": lambda x, y: of_table(later_shapes.CHOICES, x.argmax(axis=1), y.argmax(axis=1)),
    "rain": rain,
    "censored durations": censored,
    "detection limits": detected,
    "Student copula": student_ranks,
    "counts of a long tail": lambda x, y: (stats.geom.logpmf(y, x) - stats.yulesimon.logpmf(y, 1.5))[:, 0],
    "tails that never met": lambda x, y: np.zeros(len(x)),
    "hours of a week": lambda x, y: labels(near(y, LOADS[:, None], 0.5), x[:, 0].astype(int) % 24, 1 / 24),
    "phase in two columns": phase,
    "three stripes": lambda x, y: np.log(np.where(np.floor((3 * x @ [1, 2]) % 3) == y, 2.7, 0.15)),
    "interaction in six columns": lambda x, y: (
        stats.norm.logpdf(y[:, 0], x[:, 0] * x[:, 1] + 0.6 * x[:, 2], 0.5)
        - marginal(y[:, 0], truths.normal_density, np.sqrt(FINE**2 + 0.61), stats.norm.pdf(FINE))
    ),
    "common scale": common_scale,
    "four looks": lambda x, y: scale(
        y.sum(axis=1, keepdims=True), np.exp(0.8 * x), stats.gamma(4), 0.8 * SOME, stats.norm.pdf(SOME)
    ),
    "three factors of twelve columns": factors,
    "places on the globe": places,
    "readings of 256 levels": readings,
    "normals and coins": coins_and_normals,
    "signs that agree": lambda x, y: labels(
        near(y, np.array([[-1], [1]]), 0.6), (x[:, 2] * x[:, 7] > 0).astype(int), 1 / 2
    ),
    "energy": lambda x, y: noisy(y, (x @ samplers.rotation(8, 88)[0]) ** 2, 0.5, FINE**2, stats.norm.pdf(FINE)),
    "driven series": lambda x, y: gaussian(x, y, driven()),
    "hidden regimes": lambda x, y: labels(
        near(x, np.array([[1], [-1], [-4]]), np.array([[0.4], [0.8], [1.6]])), y, np.array([40, 25, 10]) / 75
    ),
    "series that never met": lambda x, y: np.zeros(len(x)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RATIOS)
def test_truth_is_the_mean_log_density_ratio(name):
    task = pairs.PAIRS[name]
    ratio = RATIOS[name](*task.sample(N_DRAWN, seed=1))
    assert ratio.shape == (N_DRAWN,)
    means = ratio.reshape(BLOCKS, -1).mean(axis=1)
    error = means.std(ddof=1) / np.sqrt(BLOCKS)
    assert error < 0.03
    assert abs(means.mean() - task.mutual_information) < 4 * error + 1e-6


# Other ways to the same sums


def _entropy(density, *edges):
    """h by adaptive quadrature between consecutive edges."""

    def integrand(y):
        value = density(y)
        return -value * np.log(value) if value > 0 else 0.0

    return sum(integrate.quad(integrand, *ends, epsabs=1e-8)[0] for ends in pairwise(edges))


def _strips(wide=1.0, narrow=0.15):
    """The gap of two log densities, of which each is a squared normal, by its density along the angle."""
    angle = np.linspace(0, np.pi / 2, 4001)[:-1] + np.pi / 16000
    radius, step = np.linspace(0, 12, 3000, retstep=True)
    gap = (narrow**-2 - wide**-2) / 2 * ((wide * np.cos(angle)) ** 2 - (narrow * np.sin(angle)) ** 2)[:, None]
    weight = step * radius * np.exp(-(radius**2) / 2)
    return np.log(2) - (np.logaddexp(0, -gap * radius**2) @ weight).mean()


def _largest(noise=0.3):
    x, weight = np.polynomial.hermite_e.hermegauss(40)

    def density(y):
        return (weight * 5 * stats.norm.pdf(y - noise * x) * ndtr(y - noise * x) ** 4).sum() / weight.sum()

    return _entropy(density, -5, 0, 2, 8) - stats.norm.entropy(0, noise)


def _scale(deviation, log_density, log_entropy, low, high):
    """h of a normal plus a log variable, the normal by a Hermite rule, less that of the variable."""
    x, weight = np.polynomial.hermite_e.hermegauss(80)

    def density(value):
        return (weight * log_density(value - deviation * x)).sum() / weight.sum()

    return _entropy(density, low, -8, -3, 0, 3, high) - log_entropy


def _mixture(centres, deviations, chances, *edges):
    """h of a mixture of normals by adaptive quadrature, less that of the narrowest."""
    centres, deviations, chances = np.broadcast_arrays(centres, deviations, chances)

    def density(y):
        return (chances / deviations * np.exp(-(((y - centres) / deviations) ** 2) / 2)).sum() / np.sqrt(TURN)

    return _entropy(density, *edges) - stats.norm.entropy(0, deviations.min())


def _circle_map(noise=0.35):
    x = TURN * (np.arange(600) + 0.5) / 600

    y = TURN * (np.arange(150) + 0.5) / 150
    density = np.exp(wrapped(y[:, None] - geometric.circle_map(x), noise)).mean(axis=1)
    given = integrate.quad(lambda d: stats.norm.pdf(d, 0, noise) * wrapped(d, noise), -np.pi, np.pi)[0]
    return given - (density * np.log(density)).mean()


def _coins(chance, low, high, density):
    """log 2 less the mean entropy of a coin of chance(u), u of the density given."""
    return np.log(2) - integrate.quad(lambda u: density(u) * stats.bernoulli(chance(u)).entropy(), low, high)[0]


def _sectors(noise=1.2):
    def uncertainty(u):
        return stats.entropy(np.diff(ndtr((np.arange(-15, 17) - u) / noise)))

    return np.log(40) - integrate.quad(uncertainty, 0, 1)[0]


def _sometimes_rounded(correlation=0.95):
    spread, edges = np.sqrt(1 - correlation**2), np.arange(-9.5, 10)

    def uncertainty(u):
        return stats.norm.pdf(u) * stats.entropy(np.diff(ndtr((edges - correlation * u) / spread)))

    given = sum(integrate.quad(uncertainty, low, low + 1)[0] for low in range(-8, 8))
    return (stats.entropy(np.diff(ndtr(edges))) - given - np.log(1 - correlation**2) / 2) / 2


def _more_zeros():
    y = np.arange(150)
    whole = stats.entropy(0.15 * (y == 0) + 0.85 * stats.geom.pmf(y + 1, 1 / 5))

    def uncertainty(rate):
        return stats.expon.pdf(rate, scale=4) * stats.entropy(0.15 * (y == 0) + 0.85 * stats.poisson.pmf(y, rate))

    return whole - sum(integrate.quad(uncertainty, *ends, epsabs=1e-6)[0] for ends in ((0, 1), (1, 10), (10, 80)))


def _directions(dim, noise, fold=False):
    """Over the cosine, each of as many angles in the middle of even steps."""
    turns = np.pi * (np.arange(1000) + 0.5) / 1000
    even = np.sin(turns) ** (dim - 2)
    log_ratio = direction(np.cos(turns), dim, noise)
    if fold:
        log_ratio = np.logaddexp(log_ratio, log_ratio[::-1]) - np.log(2)
    return (even * np.exp(log_ratio) * log_ratio).sum() / even.sum()


def _moons(noise=0.3):
    """The mean log ratio of points near the first half circle, along it and across in two directions."""
    (node, weight), (z, chance) = np.polynomial.legendre.leggauss(40), np.polynomial.hermite_e.hermegauss(30)
    turn, across, up = np.meshgrid(np.pi * (1 + node) / 2, z, z, indexing="ij")
    x = np.stack([np.cos(turn) + noise * across, np.sin(turn) + noise * up], axis=-1).reshape(-1, 2)
    weights = np.einsum("i,j,k->ijk", weight, chance, chance).ravel()
    return moons(x, np.zeros(len(x), dtype=int)) @ weights / weights.sum()


def _ratings(correlation):
    edges, spread = np.array([-np.inf, -1.4, -0.9, 0.1, 1.2, np.inf]), np.sqrt(1 - correlation**2)

    def uncertainty(u):
        return stats.norm.pdf(u) * stats.entropy(np.diff(ndtr((edges - correlation * u) / spread)))

    return stats.entropy(np.diff(ndtr(edges))) - integrate.quad(uncertainty, -9, 9, limit=200)[0]


def _yes(z_slope, bias):
    """Chance of a label, and mean entropy of it given a normal."""

    def chance(z):
        return 1 / (1 + np.exp(-z_slope * z - bias))

    mean = integrate.quad(lambda z: stats.norm.pdf(z) * chance(z), -9, 9)[0]
    return mean, integrate.quad(lambda z: stats.norm.pdf(z) * stats.bernoulli(chance(z)).entropy(), -9, 9)[0]


def _rain():
    mean, given = _yes(1.5, -0.3)
    return stats.bernoulli(mean).entropy() - given - mean * np.log(1 - 0.9**2) / 2


def _coins_and_normals():
    (tails, given_tails), (heads, given_heads) = _yes(1.8, -1.0), _yes(1.8, 1.5)
    return stats.bernoulli(0.7 * tails + 0.3 * heads).entropy() - 0.7 * given_tails - 0.3 * given_heads


def _censored(limit=1.5):
    """Given its rate r, a censored duration has the entropy (1 - exp(-r limit)) (1 - log r)."""
    z, weight = np.polynomial.hermite_e.hermegauss(120)
    rate, weight = np.exp(1.2 * z), weight / weight.sum()
    seen = 1 - np.exp(-limit * rate)
    edges = [0, *np.exp(np.linspace(-12, np.log(limit), 8))]
    whole = _entropy(lambda time: (rate * np.exp(-rate * time)) @ weight, *edges)
    atom = 1 - seen @ weight
    return whole - atom * np.log(atom) - (seen * (1 - np.log(rate))) @ weight


def _detected(correlation, limit=0.3):
    """By the entropy of a normal that is cut off, in closed form, at even steps of its mean."""

    def uncertainty(centre, spread):
        low = (limit - centre) / spread
        above = stats.norm.sf(low) * stats.norm.entropy(0, spread) + low * stats.norm.pdf(low) / 2
        return above + entr(stats.norm.cdf(low))

    given = uncertainty(correlation * FINE, np.sqrt(1 - correlation**2))
    return uncertainty(0, 1) - np.average(given, weights=stats.norm.pdf(FINE))


def _common_scale(deviation=1.2):
    """Mean log densities of five columns and of each part, by the logarithm of the length."""
    length, weight = np.linspace(-20, 11, 1500), stats.norm.pdf(SOME)

    def mean_log_density(dim):
        scaled = np.exp(length[:, None] - deviation * SOME)
        of_length = (stats.chi.pdf(scaled, dim) * scaled) @ weight
        density = (np.exp(-dim * deviation * SOME) * np.exp(-(scaled**2) / 2)) @ weight
        return (of_length * np.log(np.maximum(density / weight.sum(), 1e-300))).sum() / of_length.sum()

    return mean_log_density(5) - mean_log_density(2) - mean_log_density(3)


def _long_tail(tail=1.5):
    given = integrate.quad(lambda p: tail * p ** (tail - 2) * stats.bernoulli(p).entropy(), 0, 1)[0]
    return stats.entropy(stats.yulesimon.pmf(np.arange(1, 200_000), tail)) - given


def _chosen():
    """Every share is a beta variable."""
    prior = np.array([0.3, 0.4, 0.5, 0.6, 0.8, 1.2])

    def integrand(x, a):
        return x * np.log(x) * stats.beta.pdf(x, a, prior.sum() - a)

    return stats.entropy(prior) + sum(integrate.quad(integrand, 0, 1, args=(a,))[0] for a in prior)


LOG_NORMAL_ENTROPY = stats.norm.entropy() - np.log(2) - (-np.euler_gamma - np.log(2)) / 2
SUMS = {
    "four clusters": lambda: 2 * (
        _entropy(lambda y: (stats.norm.pdf(y - 1.5) + stats.norm.pdf(y + 1.5)) / 2, -11, 0, 11) - stats.norm.entropy()
    ),
    "six clusters": lambda: labelled.six_clusters_information(2.66, order=70),
    "unbalanced classes": lambda: _entropy(
        lambda y: 0.9 * stats.norm.pdf(y) + 0.07 * stats.norm.pdf(y - 2) + 0.03 * stats.norm.pdf(y - 4.5), -9, 1, 3, 13
    ) - stats.norm.entropy(),
    "crossed strips": _strips,
    "thinned count": lambda: truths.table_information(
        stats.binom.pmf(np.arange(60), np.arange(60)[:, None], 0.6) * stats.poisson.pmf(np.arange(60)[:, None], 8)
    ),
    "deciles and quartiles": lambda: truths.table_information(orthants(counted.DECILES, counted.QUARTILES, -0.85)),
    "rounded normals": lambda: truths.table_information(truths.cell_table(
        np.arange(-4.5, 5), np.arange(-49.5, 50) / 10, 0.9
    )),
    "sum of two dice": lambda: truths.table_information(
        np.eye(13)[np.add.outer(np.arange(1, 7), np.arange(1, 7)).ravel()] / 36
    ),
    "scrambled symbols": lambda: truths.table_information(
        (0.8 * np.eye(12)[counted.SYMBOLS] + 0.2 / 12) / 12
    ),
    "count at a rate": lambda: stats.nbinom(2, 1 / 4).entropy() - integrate.quad(
        lambda rate: stats.gamma.pdf(rate, 2, scale=3) * stats.poisson.entropy(rate), 1e-9, 80, limit=60, epsabs=1e-5
    )[0],
    "clipped normals": lambda: counted.clipped_information(0.85, order=90),
    "largest of five": _largest,
    "product with noise": lambda: 2 * _entropy(
        lambda y: k0(y) / np.pi, 1e-300, 1e-6, 1e-2, 1, 40
    ) - stats.norm.entropy() + (np.euler_gamma + np.log(2)) / 2,
    "volatility": lambda: _scale(1.2, lambda v: 2 * np.exp(v) * stats.norm.pdf(np.exp(v)), LOG_NORMAL_ENTROPY, -36, 9),
    "exponential growth": lambda: _scale(1.5, lambda v: np.exp(v - np.exp(v)), 1 + np.euler_gamma, -36, 12),
    "axes": lambda: -_entropy(lambda cosine: 10 * np.cosh(10 * cosine) / np.sinh(10), 0, 1),
    "circle map": _circle_map,
    "one period of a sine": lambda: _mixture(np.sin(TURN * QUANTILES), 0.2, 1 / 2000, -2.5, -1, 0, 1, 2.5),
    "ripples": lambda: _mixture(
        np.cos(4 * FINE), 0.15, stats.norm.pdf(FINE) * (FINE[1] - FINE[0]), -2.3, -1, 0, 1, 2.3
    ),
    "product of inputs": lambda: _mixture(
        0.0, np.hypot(FINE, 0.4), stats.norm.pdf(FINE) * (FINE[1] - FINE[0]), -30, -3, -0.5, 0, 0.5, 3, 30
    ) + np.log(np.hypot(FINE, 0.4).min() / 0.4),
    "length of eight": lambda: _mixture(
        np.log(RADII), 0.1, stats.chi.pdf(RADII, 8) * (RADII[1] - RADII[0]), -3, 0, 1, 1.5, 3
    ),
    "whole number in noise": lambda: _mixture(np.arange(10), 0.4, 0.1, -4, *range(10), 13),
    "renewed states": lambda: _mixture(np.arange(5), 0.5, 0.2, -5, *range(5), 9),
    "spike and slab": lambda: _mixture(0.0, np.sqrt([0.04, 9.04]), [0.7, 0.3], -30, -3, -1, 0, 1, 3, 30),
    "rings": lambda: _mixture([0, 0.5, 1, 1.5], 0.2, 1 / 4, -2, 0, 0.5, 1, 1.5, 3.5),
    "steep label": lambda: _coins(lambda u: 1 / (1 + np.exp(-3 * u)), -9, 9, stats.norm.pdf),
    "forty sectors": _sectors,
    "sometimes rounded": _sometimes_rounded,
    "count with more zeros": _more_zeros,
    "embeddings in twelve columns": lambda: _directions(12, 0.4),
    "turned bodies": lambda: _directions(4, 0.25, fold=True),
    "softmax of ten columns": lambda: later_shapes.softmax_information(order=60),
    "two moons": _moons,
    "chances of six classes": _chosen,
    "ratings of three": lambda: sum(map(_ratings, (0.95, 0.8, 0.5))),
    "events in common": lambda: truths.table_information(events()),
    "one-hot columns": lambda: stats.entropy(later_shapes.CHOICES.sum(axis=0)) - later_shapes.CHOICES.sum(
        axis=1
    ) @ stats.entropy(later_shapes.CHOICES, axis=1),
    "rain": _rain,
    "censored durations": _censored,
    "detection limits": lambda: sum(map(_detected, (0.95, 0.9, 0.8))),
    "counts of a long tail": _long_tail,
    "hours of a week": lambda: _mixture(LOADS, 0.5, 1 / 24, -7, -3, -1, 0, 1, 3, 7),
    "phase in two columns": lambda: integrate.quad(
        lambda r: -stats.rice.pdf(r, 4, scale=0.25) * (stats.rice.logpdf(r, 4, scale=0.25) - np.log(TURN * r)), 1e-9, 4
    )[0] - 2 * stats.norm.entropy(0, 0.25),
    "interaction in six columns": lambda: _mixture(
        0.0, np.sqrt(FINE**2 + 0.61), stats.norm.pdf(FINE) * (FINE[1] - FINE[0]), -30, -3, -0.5, 0, 0.5, 3, 30
    ) + np.log(np.sqrt((FINE**2 + 0.61).min()) / 0.5),
    "common scale": _common_scale,
    "four looks": lambda: _scale(
        0.8, lambda v: stats.loggamma.pdf(v, 4), stats.loggamma.entropy(4), -12, 9
    ),
    "readings of 256 levels": lambda: truths.table_information(
        sum(chance * np.eye(256, 258, k) for k, chance in enumerate((0.1, 0.8, 0.1))) / 256
    ),
    "normals and coins": _coins_and_normals,
    "signs that agree": lambda: _mixture([-1, 1], 0.6, 0.5, -7, -1, 0, 1, 7),
    "energy": lambda: _mixture(
        FINE**2, 0.5, stats.norm.pdf(FINE) * (FINE[1] - FINE[0]), -5, -1, 0, 1, 3, 10, 30, 90
    ),
    "driven series": lambda: -np.log(1 - driven()[0, 1] ** 2 / driven().diagonal().prod()) / 2,
    "hidden regimes": lambda: _mixture(
        [1, -1, -4], [0.4, 0.8, 1.6], np.array([40, 25, 10]) / 75, -20, -4, -1, 0, 1, 10
    ) - np.array([40, 25, 10]) @ np.log([1, 2, 4]) / 75,
}  # fmt: skip


@pytest.mark.parametrize("name", SUMS)
def test_truth_is_reached_another_way(name):
    assert pairs.PAIRS[name].mutual_information == pytest.approx(SUMS[name](), abs=1e-4)


ZEROS = {
    "circle": lambda: truths.wrapped_information(4.0),
    "sphere": lambda: geometric.sphere("weak", 5, 1e-3).mutual_information,
    "axes": lambda: geometric.axes_information(1e-2),
    "circle map": lambda: geometric.circle_map_information(4.0),
    "channel": lambda: truths.channel_information([-1, 0, 3], 1e3, 1 / 3),
    "clusters": lambda: labelled.six_clusters_information(0.0),
    "strips": lambda: labelled.strips_information(0.3, 0.3),
    "steep": lambda: labelled.steep_information(0.0),
    "cells": lambda: truths.table_information(truths.cell_table(counted.DECILES, counted.QUARTILES, 0.0)),
    "rate": lambda: counted.rate_information(2.0, 3.0, zeros=1.0),
    "thinned": lambda: truths.table_information(counted.thinned_table(8.0, 1e-9)),
    "symbols": lambda: counted.symbol_information(12, 0.0),
    "clipped": lambda: counted.clipped_information(0.0),
    "rounded": lambda: counted.sometimes_rounded_information(0.0),
    "stable": lambda: scaled.stable_information(1e6),
    "Lomax": lambda: scaled.lomax_information(1e4),
    "precision": lambda: scaled.precision_information(1e6, 3),
    "constant scale": lambda: truths.convolution_information(np.zeros(1), np.ones(1), scaled.log_size),
    "inputs": lambda: scaled.inputs_information(1e3),
    "length": lambda: vectors.length_information(8, 1e3),
    "direction": lambda: later_shapes.direction_information(12, 1e2),
    "turned": lambda: later_shapes.direction_information(4, 20.0, axes=True),
    "censored": lambda: later_shapes.censored_information(0.0, 1.5),
    "detected": lambda: later_shapes.detected_information(0.0, 0.3),
    "phase": lambda: later_shapes.phase_information(100.0),
    "common scale": lambda: later_scales.shared_scale_information(0.0, 2, 3),
}


@pytest.mark.parametrize("name", ZEROS)
def test_nothing_is_left_in_the_limit(name):
    assert ZEROS[name]() == pytest.approx(0, abs=1e-4)


# Maps and series


@pytest.mark.parametrize(
    ("map_", "inverse", "columns"),
    [
        (geometric.with_squares, lambda x: x[:, :2], 2),
        (geometric.rolled_sheet, unrolled, 2),
        (geometric.helix, lambda x: 2 * x[:, 2:], 1),
        (scaled.fifth_power, fifth_root, 3),
        (samplers.linear(samplers.rotation(4, seed=1)), lambda x: x @ samplers.rotation(4, seed=1), 4),
        (samplers.linear(labelled.SIX_MATRIX), lambda x: x @ np.linalg.inv(labelled.SIX_MATRIX).T, 4),
    ],
    ids=["squares", "sheet", "helix", "fifth power", "rotation", "six clusters"],
)
def test_maps_are_undone(map_, inverse, columns):
    x = np.random.default_rng(0).standard_normal((1000, columns))
    np.testing.assert_allclose(inverse(map_(x)), x, atol=1e-9)


def test_points_of_circles_axes_and_sheets_lie_where_they_should():
    x, _ = pairs.PAIRS["torus"].sample(100, seed=0)
    np.testing.assert_allclose(x[:, :2] ** 2 + x[:, 2:] ** 2, 1)
    unit = np.random.default_rng(0).standard_normal((50, 3))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    np.testing.assert_array_equal(geometric.outer_product(unit), geometric.outer_product(-unit))
    for name in ("sphere, concentration 20", "sphere in five dimensions"):
        np.testing.assert_allclose(np.linalg.norm(pairs.PAIRS[name].sample(100, seed=0), axis=2), 1)
    np.testing.assert_allclose(pairs.PAIRS["compositions"].sample(100, seed=0)[0].sum(axis=1), 1)
    np.testing.assert_allclose(
        np.linalg.norm(pairs.PAIRS["embeddings in twelve columns"].sample(100, seed=0), axis=2), 1
    )
    for side in pairs.PAIRS["five shares and four"].sample(100, seed=0):
        np.testing.assert_allclose(side.sum(axis=1), 1)
    body = pairs.PAIRS["turned bodies"].sample(100, seed=0)[1].reshape(100, 3, 3)
    np.testing.assert_allclose(body @ body.swapaxes(1, 2), np.tile(np.eye(3), (100, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(body), 1)


@pytest.mark.parametrize("n", [1, 2, 3, 64, 100])
def test_series_is_its_recursion(n):
    innovations = np.random.default_rng(0).standard_normal((n, 2))
    x = innovations[:1].copy()
    for row in innovations[1:]:
        x = np.vstack([x, 0.9 * x[-1] + np.sqrt(1 - 0.81) * row])
    np.testing.assert_allclose(series.series(innovations, 0.9), x, atol=1e-13)


def test_series_are_stationary_from_the_first_row():
    x, y = series.two_series("wide", (0.5, 0.95), 0.95, dim=50_000).sampler(4, np.random.default_rng(0))
    np.testing.assert_allclose((x**2).mean(axis=1), 1, atol=0.03)
    np.testing.assert_allclose((y**2).mean(axis=1), 1, atol=0.03)
    np.testing.assert_allclose((x * y).mean(axis=1), SHARED, atol=0.03)
    np.testing.assert_allclose((y[1:] * y[:-1]).mean(axis=1), 0.95, atol=0.03)


@pytest.mark.parametrize("name", pairs.KINDS["autocorrelated"])
def test_rows_of_series_depend_on_the_row_before(name):
    x, _ = pairs.PAIRS[name].sample(20_000, seed=0)
    assert stats.spearmanr(x[1:, 0], x[:-1, 0]).statistic > 0.4


def test_driven_series_are_their_recursion():
    x, y = pairs.PAIRS["driven series"].sample(20_000, seed=0)
    of_x = x[2:] - 1.7 * x[1:-1] + 0.85 * x[:-2]
    of_y = y[1:] - 0.6 * y[:-1] - 0.4 * x[:-1]
    shocks = np.hstack([of_x, of_y[1:], x[1:-1], x[:-2], y[1:-1]])
    np.testing.assert_allclose(np.cov(shocks.T)[:2, :2], np.eye(2), atol=0.05)
    np.testing.assert_allclose(np.corrcoef(shocks.T)[:2, 2:], 0, atol=0.03)


def test_driven_series_are_stationary_from_the_first_row():
    first = [later_scales._draw_system(2, np.random.default_rng(seed)) for seed in range(4000)]
    for row in (0, 1):
        seen = np.cov(np.array([[x[row, 0], y[row, 0]] for x, y in first]).T)
        np.testing.assert_allclose(seen, driven(), rtol=0.15)


def test_regimes_last_as_long_as_said_and_follow_one_another():
    _, y = pairs.PAIRS["hidden regimes"].sample(100_000, seed=0)
    np.testing.assert_allclose(np.bincount(y) / len(y), np.array([40, 25, 10]) / 75, atol=0.03)
    ends = np.flatnonzero(np.diff(y))
    assert ((y[ends] + 1) % 3 == y[ends + 1]).all()
    stays = np.diff(ends)
    means = [stays[y[ends[1:]] == state].mean() for state in range(3)]
    np.testing.assert_allclose(means, [40, 25, 10], rtol=0.12)


@pytest.mark.parametrize("name", NOTHING)
def test_pairs_that_never_met_have_the_ranks_of_strangers(name):
    """Over draws, because the rows of a draw may remember one another; of sizes, too, and not of values alone."""
    drawn = [pairs.PAIRS[name].sample(100, seed) for seed in range(300)]
    for part in (np.positive, np.abs):
        ranks = np.array([stats.spearmanr(part(x[:, 0]), part(y[:, -1])).statistic for x, y in drawn])
        assert abs(ranks.mean()) < 4 * ranks.std() / np.sqrt(len(ranks))
