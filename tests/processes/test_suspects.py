"""Suspects: who is loaded alone, who is refused and for how long; over random histories too."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.processes.suspects import FIRST_S, FORGET_S, MOST_S, Suspects
from serving.runtime.wiring import ENDED

A, B, C = ("m", "a"), ("m", "b"), ("m", "c")


def test_what_was_loading_when_a_worker_ended_is_loaded_alone_and_nothing_else_is() -> None:
    suspects = Suspects()
    suspects.ended([(A, "1"), (B, "1")], 0.0)
    assert [suspects.alone(key, "1") for key in (A, B, C)] == [True, True, False]
    assert suspects.refused(A, "1", 0.0) is None


def test_one_that_ends_a_worker_alone_is_refused_for_a_minute() -> None:
    suspects = Suspects()
    suspects.ended([(A, "1"), (B, "1")], 0.0)
    suspects.ended([(A, "1")], 1.0)
    error = suspects.refused(A, "1", 2.0)
    assert error is not None
    assert ENDED in error.message
    assert "'a'" in error.message
    assert error.retry_after_s == FIRST_S - 1.0
    assert suspects.refused(B, "1", 2.0) is None
    assert suspects.refused(A, "1", 1.0 + FIRST_S) is None
    assert suspects.alone(A, "1")


def test_the_first_worker_may_have_ended_for_other_reasons_though_nothing_else_was_loading() -> None:
    suspects = Suspects()
    suspects.ended([(A, "1")], 0.0)
    assert suspects.refused(A, "1", 0.0) is None
    assert suspects.alone(A, "1")


def test_a_suspect_is_not_refused_for_a_worker_that_loaded_others_too() -> None:
    suspects = Suspects()
    for now in range(5):
        suspects.ended([(A, "1"), (B, "1")], float(now))
    assert suspects.refused(A, "1", 5.0) is None


def test_each_time_is_twice_as_long_up_to_an_hour() -> None:
    suspects = Suspects()
    suspects.ended([(A, "1")], 0.0)
    now, lasted = 0.0, []
    for _ in range(9):
        suspects.ended([(A, "1")], now)
        error = suspects.refused(A, "1", now)
        assert error is not None
        assert error.retry_after_s is not None
        lasted.append(error.retry_after_s)
        now += error.retry_after_s
    assert lasted[:3] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert lasted[-1] == MOST_S
    assert max(lasted) == MOST_S


def test_two_workers_that_loaded_it_at_once_count_as_one_time() -> None:
    suspects = Suspects()
    for now in (0.0, 1.0, 2.0):
        suspects.ended([(A, "1")], now)
    suspects.ended([(A, "1")], 1.0 + FIRST_S)
    error = suspects.refused(A, "1", 1.0 + FIRST_S)
    assert error is not None
    assert error.retry_after_s == 2 * FIRST_S


def test_a_load_that_ends_clears_its_target() -> None:
    suspects = Suspects()
    suspects.ended([(A, "1")], 0.0)
    suspects.cleared(A, "1")
    assert not suspects.alone(A, "1")
    suspects.ended([(A, "1")], 1.0)
    assert suspects.refused(A, "1", 1.0) is None


def test_another_artifact_under_the_name_is_another_suspect() -> None:
    suspects = Suspects()
    suspects.ended([(A, "1")], 0.0)
    suspects.ended([(A, "1")], 1.0)
    assert suspects.refused(A, "2", 2.0) is None
    assert not suspects.alone(A, "2")
    suspects.cleared(A, "2")
    assert suspects.refused(A, "1", 2.0) is not None


def test_a_load_that_does_not_end_is_refused_at_once_and_says_why() -> None:
    suspects = Suspects()
    suspects.endless(A, "1", 360.0, 0.0)
    error = suspects.refused(A, "1", 0.0)
    assert error is not None
    assert "longer than 360 s (model_load_limit_s)" in error.message
    assert suspects.alone(A, "1")


def test_refusals_are_those_that_hold_now() -> None:
    suspects = Suspects()
    suspects.endless(A, "1", 1.0, 0.0)
    suspects.endless(B, "1", 1.0, 30.0)
    assert [key for key, _ in suspects.refusals(59.0)] == [A, B]
    assert [key for key, _ in suspects.refusals(61.0)] == [B]


def test_what_is_not_heard_of_is_forgotten() -> None:
    suspects = Suspects()
    for number in range(1000):
        suspects.ended([(("m", str(number)), "1")], number * 60.0)
    assert len(suspects) <= FORGET_S / 60.0 + 1


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ended", "endless", "cleared"]),
        st.lists(st.sampled_from([A, B, C]), min_size=1, max_size=3, unique=True),
        st.sampled_from(["1", "2"]),
        st.floats(0.0, 2000.0),
    ),
    max_size=40,
)


@given(EVENTS)
def test_whoever_is_refused_ended_a_worker_alone_or_did_not_end_and_never_for_longer_than_an_hour(
    events: list[tuple[str, list[tuple[str, str]], str, float]],
) -> None:
    suspects, now = Suspects(), 0.0
    guilty: set[tuple[tuple[str, str], str]] = set()
    for what, keys, revision, passes in events:
        now += passes
        if what == "ended":
            suspects.ended([(key, revision) for key in keys], now)
            if len(keys) == 1:
                guilty.add((keys[0], revision))
        elif what == "endless":
            suspects.endless(keys[0], revision, 1.0, now)
            guilty.add((keys[0], revision))
        else:
            suspects.cleared(keys[0], revision)
            guilty.discard((keys[0], revision))
        for key in (A, B, C):
            for other in ("1", "2"):
                error = suspects.refused(key, other, now)
                if error is not None:
                    assert (key, other) in guilty
                    assert suspects.alone(key, other)
                    assert 0.0 < (error.retry_after_s or 0.0) <= MOST_S
                    assert suspects.refused(key, other, now + MOST_S) is None
