"""Tests that rename entities give the p-values that renaming one by one gives, to the last digit."""
import numpy as np
import pytest
from scipy import stats

from vision_unlearning.interference.partial import partial_mantel
from vision_unlearning.interference.stats import (
    _Correlation,
    crossed_orders,
    drawn_orders,
    mantel,
    permutation_pvalue,
    rank_pairs,
)

N, COUNT, OFF = 24, 200, ~np.eye(24, dtype=bool)


def matrices():
    "Harm of every emitter, of three, and with holes; likeness in numbers and in groups, whose values tie."
    generator = np.random.default_rng(3)
    harm, noise = generator.normal(size=(2, N, N))
    groups = generator.integers(0, 3, N)
    few, holes = np.full((N, N), np.nan), np.where(generator.random((N, N)) < .2, np.nan, harm)
    few[[2, 9, 17]] = harm[[2, 9, 17]]
    return dict(harm=harm, few=few, holes=holes, numbers=noise + noise.T,
                groups=(groups[:, None] == groups[None]).astype(float))


def orders_of(many):
    "The renamings that a test draws with seed 0."
    if not many: return drawn_orders(N, COUNT, np.random.default_rng(0))
    first, second, counted = crossed_orders(N, COUNT, 0)
    return np.array([one[np.argsort(other)] for one in first for other in second])[counted]


def renamed_one_by_one(x, y):
    "The statistic as it is, and under the renamings that `mantel` draws with seed 0."
    def correlation(order):
        moved = y[np.ix_(order, order)]
        both = np.isfinite(x) & np.isfinite(moved) & OFF
        return stats.pearsonr(x[both], moved[both]).statistic
    test = _Correlation(x, y)
    orders = orders_of(test.sums.many)
    if test.sums.many and test.backwards: orders = np.argsort(orders, axis=1)
    return correlation(np.arange(N)), [correlation(order) for order in orders]


@pytest.mark.parametrize("first, second", [
    ("harm", "numbers"), ("harm", "groups"), ("numbers", "groups"), ("groups", "groups"), ("few", "numbers"),
    ("few", "groups"), ("groups", "few"), ("holes", "groups"), ("numbers", "holes"), ("few", "holes"),
])
@pytest.mark.parametrize("method", ("pearson", "spearman"))
def test_mantel(first, second, method):
    x, y = (matrices()[name] for name in (first, second))
    x, y = (np.where(OFF, m, np.nan) for m in (x, y))
    if method == "spearman": x, y = rank_pairs(x), rank_pairs(y)
    observed, null = renamed_one_by_one(x, y)
    found = mantel(matrices()[first], matrices()[second], COUNT, method)
    assert found["pvalue"] == permutation_pvalue(observed, np.array(null))
    assert found["statistic"] == pytest.approx(observed, abs=1e-12)
    assert found["null_std"] == pytest.approx(np.std(null), abs=1e-12)


@pytest.mark.parametrize("harm", ("harm", "few", "holes"))
def test_partial_mantel(harm):
    world = matrices()
    x, y, control = world["numbers"] + world["groups"], world[harm], world["groups"]
    cells = OFF & np.isfinite(y)
    def rest(values, mask):
        design = np.column_stack([np.ones(mask.sum()), control[mask]])
        return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    left = np.zeros((N, N))
    left[OFF] = rest(x[OFF], OFF)
    def partial(order):
        moved = left[np.ix_(order, order)]
        return np.corrcoef(rest(moved[cells], cells), rest(y[cells], cells))[0, 1]
    null = [partial(order) for order in orders_of(harm != "few")]
    observed = np.corrcoef(rest(x[cells], cells), rest(y[cells], cells))[0, 1]
    found = partial_mantel(x, y, [control], COUNT)
    assert found["statistic"] == pytest.approx(observed, abs=1e-10)
    assert found["pvalue"] == permutation_pvalue(observed, np.array(null))
