"""Percentiles and bootstrap intervals."""

import pytest

from loadtests.bench import stats


def test_percentile_is_a_value_that_was_measured() -> None:
    values = [4.0, 1.0, 3.0, 2.0]
    assert [stats.percentile(values, share) for share in (0.0, 0.25, 0.5, 0.51, 0.99, 1.0)] == [1, 1, 2, 3, 4, 4]


def test_percentile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        stats.percentile([], 0.5)


def test_what_slows_both_of_a_pair_leaves_the_ratio_exact() -> None:
    found = stats.ratio([20.0, 10.0, 2.0], [10.0, 5.0, 1.0])
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_ratio_is_symmetric() -> None:
    ours, theirs = [3.0, 4.0, 5.0], [2.0, 2.5, 4.0]
    forth, back = stats.ratio(ours, theirs), stats.ratio(theirs, ours)
    assert forth.value == pytest.approx(1 / back.value)
    assert forth.low < forth.value < forth.high


def test_more_pairs_narrow_the_interval() -> None:
    few = stats.ratio([1.0, 1.2] * 2, [1.0] * 4)
    many = stats.ratio([1.0, 1.2] * 50, [1.0] * 100)
    assert many.high - many.low < (few.high - few.low) / 2
    assert few.low <= many.value <= few.high


def test_unequal_pairs_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 and 1 values"):
        stats.ratio([1.0, 2.0], [1.0])


def test_mean_interval_holds_the_mean() -> None:
    found = stats.mean([1.0, 2.0, 3.0, 10.0])
    assert found.value == 4.0
    assert 1.0 <= found.low < 4.0 < found.high <= 10.0
