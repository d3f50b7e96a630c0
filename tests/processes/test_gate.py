"""The gate: a suspect loads with nothing beside it, everybody gets in or is told, in the order in which they came."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.processes.gate import PATIENCE_S, Gate


def key(call: int) -> tuple[str, str]:
    return "m", str(call)


def found(gate: Gate, call: int, now: float = 0.0, *, alone: bool = False) -> None:
    gate.found(call, key(call), now, alone=alone)


def test_those_that_nobody_suspects_are_let_in_at_once() -> None:
    gate = Gate()
    for call in (1, 2, 3):
        found(gate, call)
    assert gate.admit(0.0) == [(1, True), (2, True), (3, True)]
    assert gate.wake_at(0.0) is None


def test_a_suspect_waits_for_the_others_and_the_others_for_it() -> None:
    gate = Gate()
    found(gate, 1)
    found(gate, 2, alone=True)
    found(gate, 3)
    assert gate.admit(0.0) == [(1, True)]
    gate.began(key(1))
    assert gate.admit(1.0) == []
    gate.ended(key(1))
    assert gate.admit(2.0) == [(2, True)]
    gate.began(key(2))
    # However long it takes: what does not end is ended by others.
    assert gate.admit(100 * PATIENCE_S) == []
    gate.ended(key(2))
    assert gate.admit(100 * PATIENCE_S) == [(3, True)]


def test_two_suspects_come_one_after_the_other() -> None:
    gate = Gate()
    found(gate, 1, alone=True)
    found(gate, 2, alone=True)
    assert gate.admit(0.0) == [(1, True)]
    gate.left(1)
    assert gate.admit(0.0) == [(2, True)]


def test_a_suspect_whose_turn_does_not_come_is_told_and_holds_up_nobody() -> None:
    gate = Gate()
    found(gate, 1)
    gate.admit(0.0)
    gate.began(key(1))
    found(gate, 2, 1.0, alone=True)
    found(gate, 3, 2.0)
    assert gate.admit(2.0) == []
    assert gate.wake_at(2.0) == 1.0 + PATIENCE_S
    assert gate.admit(1.0 + PATIENCE_S) == [(2, False), (3, True)]


def test_what_is_let_in_and_does_not_begin_holds_up_nobody_for_long() -> None:
    gate = Gate()
    found(gate, 1, alone=True)
    gate.admit(0.0)
    found(gate, 2, 1.0)
    assert gate.admit(1.0) == []
    assert gate.wake_at(1.0) == PATIENCE_S
    assert gate.admit(PATIENCE_S) == [(2, True)]


def test_one_that_leaves_while_it_waits_or_is_inside_is_out_of_the_way() -> None:
    gate = Gate()
    found(gate, 1)
    gate.admit(0.0)
    found(gate, 2, alone=True)
    found(gate, 3)
    gate.left(2)
    assert gate.admit(0.0) == [(3, True)]
    found(gate, 4, alone=True)
    gate.left(1)
    assert gate.admit(0.0) == []
    gate.left(3)
    assert gate.admit(0.0) == [(4, True)]


STEPS = st.lists(
    st.tuples(st.sampled_from(["found", "suspect", "began", "ended", "left"]), st.integers(0, 9), st.floats(0.0, 20.0)),
    max_size=60,
)


@given(STEPS)
def test_no_suspect_ever_loads_beside_another_and_nobody_waits_for_ever(steps: list[tuple[str, int, float]]) -> None:
    gate, now, last = Gate(), 0.0, 0
    suspects: set[int] = set()
    waiting: set[int] = set()
    loading: set[int] = set()
    inside: dict[int, float] = {}

    def admit() -> None:
        for call, let_in in gate.admit(now):
            waiting.remove(call)
            if let_in:
                assert not (call in suspects and loading), "a suspect was let in beside a load"
                assert not loading & suspects, "something was let in beside a suspect's load"
                inside[call] = now

    for what, pick, passes in steps:
        now += passes
        admit()
        if what in ("found", "suspect"):
            last += 1
            waiting.add(last)
            if what == "suspect":
                suspects.add(last)
            found(gate, last, now, alone=what == "suspect")
        elif what == "began" and (ready := sorted(inside.keys() - loading)):
            call = ready[pick % len(ready)]
            if now < inside[call] + PATIENCE_S:  # else it has lost its right to be alone
                gate.began(key(call))
                loading.add(call)
        elif what == "ended" and loading:
            call = sorted(loading)[pick % len(loading)]
            gate.ended(key(call))
            loading.remove(call)
            del inside[call]
        elif what == "left" and (any_ := sorted(inside.keys() | waiting)):
            call = any_[pick % len(any_)]
            gate.left(call)
            for group in (waiting, loading):
                group.discard(call)
            inside.pop(call, None)
        admit()
    # All loads end, as each does or its worker is replaced: whoever waits is let in or told, when the gate says.
    for _ in range(4 * (len(waiting) + 1)):
        for call in list(loading):
            gate.ended(key(call))
            loading.remove(call)
            inside.pop(call)
        due = gate.wake_at(now)
        now = now if due is None else max(due, now)
        admit()
    assert not waiting
    assert gate.wake_at(now) is None
