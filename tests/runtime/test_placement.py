"""Where targets live, and when a copy of one pays: balance, stability, sustained heat, bounded memory."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.runtime.placement import HOT_PER_S, PAUSE_S, Placement, home

KEYS = [("many", f"team-{number % 7}/model-{number}.tar.gz") for number in range(10_000)]

keys = st.tuples(st.text(max_size=20), st.text(max_size=40))


def of_home(worker: int, workers: int) -> tuple[str, str]:
    return next(key for key in KEYS if home(key, workers) == worker)


@given(keys, st.integers(1, 256))
def test_each_target_has_a_home(key: tuple[str, str], workers: int) -> None:
    assert 0 <= home(key, workers) < workers


def test_homes_are_the_same_in_another_process() -> None:
    code = "from serving.runtime.placement import home\nprint([home(('many', f'm{n}'), 5) for n in range(200)])"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert told.stdout.strip() == str([home(("many", f"m{n}"), 5) for n in range(200)])


def test_homes_stay_the_same_from_version_to_version() -> None:
    """Not for ever, but whoever changes it should know."""
    assert [home(("many", f"m{n}"), 4) for n in range(16)] == [2, 2, 0, 2, 2, 2, 3, 3, 3, 3, 0, 1, 2, 2, 2, 3]


@pytest.mark.parametrize("workers", [2, 3, 4, 8])
def test_homes_are_balanced(workers: int) -> None:
    share = len(KEYS) / workers
    counts = Counter(home(key, workers) for key in KEYS)
    assert all(abs(counts[worker] / share - 1) < 0.05 for worker in range(workers))


@given(keys, st.integers(1, 255))
def test_a_further_worker_only_takes(key: tuple[str, str], workers: int) -> None:
    assert home(key, workers + 1) in (home(key, workers), workers)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_a_further_worker_takes_its_share(workers: int) -> None:
    moved = sum(home(key, workers) != home(key, workers + 1) for key in KEYS)
    assert moved / len(KEYS) == pytest.approx(1 / (workers + 1), rel=0.1)


def test_a_target_of_this_worker_goes_nowhere() -> None:
    placement = Placement(1, 3)
    assert placement.elsewhere(of_home(1, 3), 0.0) is None
    assert placement.elsewhere(of_home(2, 3), 0.0) == 2
    assert Placement(0, 1).elsewhere(KEYS[0], 0.0) is None


def test_a_worker_that_failed_is_avoided_for_a_moment() -> None:
    placement = Placement(0, 3)
    placement.failed(2, 10.0)
    assert placement.elsewhere(of_home(2, 3), 10.0 + PAUSE_S / 2) is None
    assert placement.elsewhere(of_home(1, 3), 10.0) == 1
    assert placement.elsewhere(of_home(2, 3), 10.0 + PAUSE_S) == 2
    placement.failed(2, 20.0)
    placement.reached(2)
    assert placement.elsewhere(of_home(2, 3), 20.0) == 2


def pays_after(rate: float, seconds: float = 30.0) -> float | None:
    """When it is said that a copy pays, at so many requests a second."""
    placement = Placement(0, 2)
    for number in range(int(rate * seconds)):
        if placement.forwarded(KEYS[0], number / rate):
            return number / rate
    return None


@pytest.mark.parametrize("rate", [1.0, 50.0, HOT_PER_S * 0.95])
def test_below_the_rate_no_copy_pays(rate: float) -> None:
    assert pays_after(rate) is None


@pytest.mark.parametrize(("rate", "least", "most"), [(220.0, 1.0, 5.0), (400.0, 1.0, 2.0), (5000.0, 1.0, 1.1)])
def test_a_copy_pays_once_the_rate_was_sustained(rate: float, least: float, most: float) -> None:
    pays = pays_after(rate)
    assert pays is not None
    assert least <= pays <= most


def test_a_herd_that_comes_and_goes_is_no_rate() -> None:
    placement = Placement(0, 2)
    assert not any(placement.forwarded(KEYS[0], number * 1e-4) for number in range(2000))
    assert not any(placement.forwarded(KEYS[0], 1.2 + number * 0.05) for number in range(100))


def test_where_no_copy_came_of_it_it_is_said_again() -> None:
    placement = Placement(0, 2)
    said = [number / 800 for number in range(4800) if placement.forwarded(KEYS[0], number / 800)]
    assert len(said) in (4, 5)
    assert all(later - earlier >= 1.0 for earlier, later in pairwise(said))


def test_a_copy_pays_where_the_home_is_overloaded() -> None:
    placement = Placement(0, 2)
    placement.forwarded(KEYS[0], 0.0)
    assert placement.overloaded(KEYS[0], 0.1)
    assert not placement.overloaded(KEYS[0], 0.2)
    assert placement.overloaded(KEYS[1], 0.2)
    assert placement.overloaded(KEYS[0], 1.1)


def test_heat_is_each_targets_own() -> None:
    placement = Placement(0, 2)
    assert not any(placement.forwarded(KEYS[number % 10], number / 1600) for number in range(16_000))


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 5)), max_size=200))
def test_counts_are_bounded(requests: list[tuple[int, float]]) -> None:
    placement = Placement(0, 2, most_keys=8)
    now = 0.0
    for number, later in requests:
        now += later
        placement.forwarded(KEYS[number], now)
        assert len(placement) <= 8


def test_what_is_forwarded_often_outlives_a_scan() -> None:
    placement = Placement(0, 2, most_keys=50)
    paid = 0
    for number in range(4000):
        paid += placement.forwarded(KEYS[0], number / 400)
        for other in range(10):
            placement.forwarded(KEYS[1 + (number * 10 + other) % 9000], number / 400)
    assert paid
