"""The ideal batcher against cases computed by hand."""

import numpy as np
import pytest

from loadtests.bench import ideal

ARRIVALS = [0.0, 0.1, 0.2, 1.0]
SECONDS = {1: 1.0, 2: 1.5, 3: 1.75}


def test_takes_everything_queued_when_free() -> None:
    # Alone 0 -> 1.0; then three together (the last one arrives at that very moment) 1.0 -> 2.75.
    latencies = ideal.simulate(ARRIVALS, SECONDS.__getitem__, largest=3)
    assert latencies == pytest.approx([1.0, 2.65, 2.55, 1.75])


def test_never_more_than_its_largest_batch() -> None:
    # Alone 0 -> 1.0; two 1.0 -> 2.5; the last one alone 2.5 -> 3.5.
    latencies = ideal.simulate(ARRIVALS, SECONDS.__getitem__, largest=2)
    assert latencies == pytest.approx([1.0, 2.4, 2.3, 2.5])


def test_a_rested_server_adds_no_wait() -> None:
    latencies = ideal.simulate([5.0, 50.0], SECONDS.__getitem__, largest=3)
    assert latencies == pytest.approx([1.0, 1.0])


def test_batch_time_is_linear_between_measurements() -> None:
    seconds = ideal.batch_time({1: 2.0, 8: 5.5, 32: 10.0})
    assert [seconds(rows) for rows in (1, 3, 8, 20, 32)] == pytest.approx([2.0, 3.0, 5.5, 7.75, 10.0])


def test_poisson_has_its_rate_and_is_repeatable() -> None:
    moments = ideal.poisson(rate=400, count=20_000, seed=7)
    assert np.all(np.diff(moments) >= 0)
    assert len(moments) / moments[-1] == pytest.approx(400, rel=0.03)
    assert np.array_equal(moments, ideal.poisson(400, 20_000, seed=7))
    assert not np.array_equal(moments, ideal.poisson(400, 20_000, seed=8))
