"""Runs between two looks at the limit."""

from loadtests.bench.limits import Limits, between_limits


def measuring(*seconds: float):  # type: ignore[no-untyped-def]
    """A machine whose batch of 16 takes these times one after the other."""
    left = iter(seconds)
    return lambda: Limits({16: next(left)})


def test_a_steady_machine_is_measured_once() -> None:
    runs = iter(range(9))
    result, steady = between_limits(measuring(1.0, 1.04), lambda: next(runs))
    assert (result, steady.tries, steady.held) == (0, 1, True)
    assert steady.limits.rows_per_s(16) == 16 / 1.02


def test_a_run_is_repeated_when_the_limit_moved() -> None:
    runs = iter(range(9))
    result, steady = between_limits(measuring(1.0, 1.2, 1.21), lambda: next(runs))
    assert (result, steady.tries, steady.held) == (1, 2, True)


def test_repeating_ends() -> None:
    runs = iter(range(9))
    result, steady = between_limits(measuring(1.0, 2.0, 1.0, 2.0), lambda: next(runs))
    assert (result, steady.tries, steady.held) == (2, 3, False)
