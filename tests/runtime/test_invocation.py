"""A head and its copy with another time."""

from __future__ import annotations

from serving.runtime.invocation import Face, Head


def test_a_head_with_a_time_of_its_own_is_the_same_otherwise() -> None:
    head = Head(Face.RUNTIME, "many")
    for number, slot in enumerate(Head.__slots__):
        setattr(head, slot, number)
    timed = head.timed(0.5)
    assert timed.timeout_s == 0.5
    assert head.timeout_s != 0.5
    for slot in set(Head.__slots__) - {"timeout_s"}:
        assert getattr(timed, slot) == getattr(head, slot), slot
