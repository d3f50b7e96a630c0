"""The batcher as a state machine: its rules, one by one, and its promises over random histories."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serving.runtime.batcher import DONE, QUEUED, RUNNING, Batch, Batcher, BatchPolicy
from serving.runtime.costs import Costs


class Request:
    """A request as the batcher sees it, with a number to know it by."""

    def __init__(
        self, number: int, rows: int = 1, signature: Hashable = None, priority: int = 1, deadline: float = 60.0
    ) -> None:
        self.number = number
        self.rows = rows
        self.signature = signature
        self.priority = priority
        self.deadline = deadline
        self.enqueued = 0.0
        self.state = 0


def batcher(costs: Costs | None = None, **policy: object) -> Batcher[Request]:
    return Batcher(BatchPolicy(**policy), costs or Costs())  # type: ignore[arg-type]


def numbers(batch: Batch[Request] | None) -> list[int]:
    assert batch is not None
    return [item.number for item in batch.items]


def end(machine: Batcher[Request], batch: Batch[Request], now: float, seconds: float = 0.001) -> None:
    batch.seconds = seconds
    machine.finished(batch, now)


def spun(machine: Batcher[Request], now: float) -> tuple[float, Batch[Request]]:
    """When a loop that spins from `now` on gets a batch, and the batch."""
    while (batch := machine.poll(now)) is None:
        assert machine.in_gap
        now += 10e-6
    return now, batch


def test_requests_that_are_not_merged_run_one_by_one_with_all_their_rows() -> None:
    machine = batcher(max_rows=8, merge=False, slots=3)
    for number in range(4):
        machine.add(Request(number, rows=3), 0.0)
    batches = [machine.poll(0.0) for _ in range(4)]
    assert [numbers(batch) for batch in batches[:3]] == [[0], [1], [2]]
    assert batches[3] is None
    assert batches[0] is not None
    assert batches[0].rows == 3
    end(machine, batches[0], 0.01)
    # Nobody is waited for.
    assert numbers(machine.poll(0.01)) == [3]


def test_the_wait_for_runs_of_one_request_each() -> None:
    costs = Costs()
    costs.learn(1, 0.1)
    costs.learn(8, 0.2)
    one_by_one, merging = batcher(costs, max_rows=8, merge=False), batcher(costs, max_rows=8)
    for machine in (one_by_one, merging):
        for number in range(9):
            machine.add(Request(number), 0.0, True)
        machine.poll(0.0)
    # Eight runs of a row behind the one that runs; merged they are one.
    assert one_by_one.predicted_wait(0.0) == pytest.approx(0.9)
    assert merging.predicted_wait(0.0) == pytest.approx(0.2 + 0.025)


def test_a_lone_request_starts_at_once() -> None:
    machine = batcher(max_rows=8)
    assert machine.add(Request(1), 0.0) == 0.0
    batch = machine.poll(0.0)
    assert numbers(batch) == [1]
    assert batch is not None
    assert batch.reason == "idle"


def test_a_batch_is_formed_when_the_slot_frees_with_all_that_has_queued() -> None:
    machine = batcher(max_rows=8)
    machine.add(Request(0), 0.0)
    running = machine.poll(0.0)
    assert running is not None
    for number in range(1, 5):
        machine.add(Request(number), 0.001 * number)
        assert machine.poll(0.001 * number) is None
    end(machine, running, 0.01)
    assert machine.poll(0.01) is None
    assert machine.in_gap
    # The silence is measured from the turn after the answers left.
    now, batch = spun(machine, 0.0102)
    assert 0.0103 <= now <= 0.01032
    assert numbers(batch) == [1, 2, 3, 4]
    assert batch is not None
    assert batch.reason == "gap"


def test_a_gap_ends_when_the_callers_just_answered_are_back() -> None:
    machine = batcher(max_rows=8)
    for number in range(3):
        machine.add(Request(number), 0.0)
    first = machine.poll(0.0)
    assert numbers(first) == [0, 1, 2]
    assert first is not None
    machine.add(Request(3), 0.001)
    end(machine, first, 0.002)
    for number in (4, 5):
        machine.add(Request(number), 0.00205)
        assert machine.poll(0.00205) is None
    machine.add(Request(6), 0.00206)
    batch = machine.poll(0.00206)
    assert numbers(batch) == [3, 4, 5, 6]
    assert batch is not None
    assert batch.reason == "returned"


def gap(run_s: float, waiting: Request | None = None) -> Batcher[Request]:
    """A batcher right after a run of 20 callers, with another queued; the clock is at 1."""
    machine = batcher(max_rows=32)
    for number in range(20):
        machine.add(Request(number), 0.0)
    first = machine.poll(0.0)
    assert first is not None
    machine.add(waiting or Request(20), 0.001)
    end(machine, first, 1.0, run_s)
    return machine


def test_a_gap_that_trickles_ends_at_its_limit() -> None:
    machine = gap(0.001)
    now, heard, number = 1.0, 1.0, 21
    while machine.poll(now) is None:
        assert machine.in_gap
        now += 10e-6
        if now - heard > 80e-6:
            machine.add(Request(number), heard := now)
            number += 1
    assert 1.001 <= now <= 1.0011


def test_a_gap_is_as_patient_as_its_run_was_long() -> None:
    for run_s, idle_s in ((0.0001, 0.0001), (0.001, 0.0001), (0.006, 0.0006), (0.05, 0.005)):
        machine = gap(run_s)
        assert machine.poll(1.0) is None
        machine.add(Request(21), 1.00001)
        now, batch = spun(machine, 1.00001)
        assert idle_s - 15e-6 <= now - 1.00001 <= idle_s + 15e-6
        assert batch.reason == "gap"


def test_what_could_not_be_heard_is_no_silence() -> None:
    machine = gap(0.006)
    assert machine.poll(1.0) is None
    assert machine.poll(1.00001) is None
    assert machine.poll(1.00002) is None
    # The core was another's, for longer than the gap is patient.
    for number in range(21, 40):
        machine.add(Request(number), 1.0009)
    assert machine.poll(1.0009) is None
    machine.add(Request(40), 1.0019)
    batch = machine.poll(1.0019)
    assert batch is not None
    assert batch.reason == "returned"


def test_the_silence_after_a_long_run_is_bounded() -> None:
    machine = gap(10.0)
    now, batch = spun(machine, 1.0)
    assert 1.005 <= now <= 1.0051
    assert batch.reason == "gap"


def test_who_comes_long_after_a_gap_that_was_left_has_not_returned() -> None:
    only = Request(20)
    machine = gap(0.001, only)
    assert machine.poll(1.0) is None
    # Who waited hangs up; nobody looks any more.
    assert machine.cancel(only)
    assert machine.poll(1.00001) is None
    late = Request(30)
    machine.excuse(50.0)
    machine.add(late, 101.0)
    batch = machine.poll(101.0)
    assert batch is not None
    assert batch.reason == "backlog"


def test_a_gap_that_nobody_looks_at_ends_all_the_same() -> None:
    machine = gap(0.001)
    assert machine.poll(1.0) is None
    assert machine.poll(1.0029) is None
    batch = machine.poll(1.0031)
    assert batch is not None
    assert batch.reason == "gap"


def test_who_comes_to_an_idle_model_long_after_a_batch_has_not_returned() -> None:
    machine = batcher(max_rows=8)
    now, gaps = 0.0, 0
    for number in range(100):
        machine.add(Request(2 * number), now)
        batch = machine.poll(now)
        assert batch is not None
        machine.add(Request(2 * number + 1), now + 0.0005)
        end(machine, batch, now + 0.001)
        waited = machine.poll(now + 0.001)
        gaps += machine.in_gap
        _, batch = (0.0, waited) if waited is not None else spun(machine, now + 0.001)
        end(machine, batch, now + 0.002)
        now += 0.01
    assert gaps < 20


def test_an_impatient_poll_closes_the_gap() -> None:
    machine = batcher(max_rows=8)
    machine.add(Request(0), 0.0)
    first = machine.poll(0.0)
    assert first is not None
    machine.add(Request(1), 0.001)
    end(machine, first, 0.002)
    assert machine.poll(0.002) is None
    assert numbers(machine.poll(0.002, False)) == [1]


def test_open_loop_traffic_learns_to_skip_gaps() -> None:
    machine = batcher(max_rows=8)
    gaps = 0
    now = 0.0
    machine.add(Request(0), now)
    batch = machine.poll(now)
    for number in range(1, 200):
        # One request comes while each batch runs, none right after it.
        assert batch is not None
        machine.add(Request(number), now + 0.001)
        now += 0.002
        end(machine, batch, now)
        batch = machine.poll(now)
        gaps += machine.in_gap
        while batch is None:
            now += 60e-6
            batch = machine.poll(now)
    # Nobody came back within a gap, so all but the first few and every sixteenth were skipped.
    assert 10 < gaps < 30


def test_work_is_never_merged_across_signatures_and_the_oldest_goes_first() -> None:
    machine = batcher(max_rows=8)
    machine.add(Request(0), 0.0)
    running = machine.poll(0.0)
    assert running is not None
    for number, signature in enumerate("abab", 1):
        machine.add(Request(number, signature=signature), number * 0.001)
    end(machine, running, 0.1)
    first = machine.poll(0.1, False)
    assert numbers(first) == [1, 3]
    assert first is not None
    end(machine, first, 0.2)
    assert numbers(machine.poll(0.2, False)) == [2, 4]


def test_the_largest_batch_is_never_exceeded_and_order_is_kept() -> None:
    machine = batcher(max_rows=4)
    for number, rows in enumerate([2, 3, 1, 4]):
        machine.add(Request(number, rows), 0.0)
    batches = []
    for step in range(4):
        batch = machine.poll(step * 1.0, False)
        if batch is None:
            break
        batches.append(numbers(batch))
        end(machine, batch, step + 0.5)
    assert batches == [[0], [1, 2], [3]]


def test_a_request_larger_than_a_batch_runs_alone() -> None:
    machine = batcher(max_rows=4)
    machine.add(Request(0, rows=9), 0.0)
    machine.add(Request(1), 0.0)
    batch = machine.poll(0.0)
    assert numbers(batch) == [0]
    assert batch is not None
    assert batch.reason == "oversize"


def test_a_queue_delay_holds_a_batch_until_it_is_full_or_due() -> None:
    machine = batcher(max_rows=3, delay_s=0.01)
    machine.add(Request(0), 0.0)
    assert machine.poll(0.0) is None
    assert machine.wake_at == pytest.approx(0.01)
    machine.add(Request(1), 0.004)
    assert machine.poll(0.004) is None
    machine.add(Request(2), 0.005)
    full = machine.poll(0.005)
    assert numbers(full) == [0, 1, 2]
    assert full is not None
    assert full.reason == "full"
    end(machine, full, 0.006)
    machine.add(Request(3), 0.5)
    assert machine.poll(0.5) is None
    due = machine.poll(0.51)
    assert numbers(due) == [3]
    assert due is not None
    assert due.reason == "delay"


def test_preferred_sizes_are_taken_where_they_fit() -> None:
    machine = batcher(max_rows=16, preferred_rows=(4, 8))
    for number in range(7):
        machine.add(Request(number), 0.0)
    batch = machine.poll(0.0)
    assert numbers(batch) == [0, 1, 2, 3]
    assert batch is not None
    assert batch.reason == "preferred"


def test_higher_priorities_go_first_but_not_for_ever() -> None:
    machine = batcher(max_rows=1, levels=2, priority_step_s=1.0)
    machine.add(Request(0, priority=2), 0.0)
    machine.add(Request(1, priority=1), 0.5)
    machine.add(Request(2, priority=1), 1.5)
    order = []
    for step in range(3):
        batch = machine.poll(2.0 + step, False)
        assert batch is not None
        order += numbers(batch)
        end(machine, batch, 2.5 + step)
    assert order == [1, 0, 2]


def test_priorities_share_a_batch() -> None:
    machine = batcher(max_rows=4, levels=2)
    machine.add(Request(0, priority=2), 0.0)
    machine.add(Request(1, priority=1), 0.1)
    assert numbers(machine.poll(0.2)) == [1, 0]


def test_a_request_is_refused_when_its_predicted_wait_is_too_long() -> None:
    costs = Costs()
    costs.learn(4, 0.4)
    machine = batcher(costs, max_rows=4, max_wait_s=1.0)
    refused = [machine.add(Request(number), 0.0) for number in range(3)]
    assert refused == [0.0] * 3
    assert machine.poll(0.0) is not None
    waits = [machine.add(Request(number), 0.0) for number in range(3, 20)]
    # One batch of 0.3 to 0.4 s runs; each queued row adds a tenth of a second.
    assert waits[:6] == [0.0] * 6
    assert all(1.0 < wait < 1.3 for wait in waits[8:])


def test_a_request_that_could_only_expire_is_refused() -> None:
    costs = Costs()
    costs.learn(1, 0.5)
    machine = batcher(costs, max_rows=1, max_wait_s=10.0)
    machine.add(Request(0), 0.0)
    assert machine.poll(0.0) is not None
    machine.add(Request(1), 0.0)
    assert machine.add(Request(2, deadline=0.6), 0.0) == pytest.approx(1.0)


def test_deadlines_expire_in_the_queue_and_say_when() -> None:
    machine = batcher(max_rows=1)
    machine.add(Request(0), 0.0)
    assert machine.poll(0.0) is not None
    short = Request(2, deadline=0.5)
    usual = Request(1, deadline=60.0)
    machine.add(usual, 0.0)
    machine.add(short, 0.1)
    assert machine.next_deadline() == 0.5
    assert machine.expire(0.4) == []
    assert machine.expire(0.5) == [short]
    assert machine.next_deadline() == 60.0
    assert machine.expire(60.0) == [usual]
    assert machine.queued == machine.queued_rows == 0
    assert machine.next_deadline() is None


def test_many_cancelled_requests_do_not_stay_in_memory() -> None:
    machine = batcher(max_rows=1)
    machine.add(Request(0), 0.0)
    assert machine.poll(0.0) is not None
    for number in range(1, 10_000):
        request = Request(number)
        machine.add(request, 0.0)
        assert machine.cancel(request)
    held = sum(len(queue.items) for queue in machine._queues.values())
    assert held < 200
    assert machine.queued == 0


def test_deadlines_of_requests_that_ran_are_forgotten() -> None:
    machine = batcher(max_rows=1)
    for number in range(10_000):
        machine.add(Request(number, deadline=30.0), 0.0)
        batch = machine.poll(0.0)
        assert batch is not None
        end(machine, batch, 0.0)
    assert len(machine._deadlines) < 200


def test_a_run_that_was_predicted_too_long_refuses_nobody_once_it_ended() -> None:
    costs = Costs()
    costs.learn(1, 0.07)
    machine = batcher(costs, max_rows=64)
    for number in range(64):
        machine.add(Request(number), 0.0)
    first = machine.poll(0.0)
    assert first is not None
    machine.add(Request(64), 0.1)
    # Predicted from one row, 64 of them would have run for four seconds.
    end(machine, first, 0.3, 0.3)
    assert machine.poll(0.3, False) is not None
    machine.add(Request(65), 0.3)
    assert machine.add(Request(66), 0.3) == 0.0


@settings(stateful_step_count=80)
class Histories(RuleBasedStateMachine):
    """Random histories of arrivals, runs, failures, hang-ups and time."""

    @initialize(
        max_rows=st.integers(1, 8),
        slots=st.integers(1, 3),
        levels=st.integers(1, 3),
        delay=st.sampled_from([0.0, 0.005]),
        preferred=st.lists(st.integers(1, 8), max_size=2),
        max_wait=st.sampled_from([0.05, 100.0]),
    )
    def begin(
        self, max_rows: int, slots: int, levels: int, delay: float, preferred: list[int], max_wait: float
    ) -> None:
        self.policy = BatchPolicy(
            max_rows=max_rows,
            slots=slots,
            levels=levels,
            delay_s=delay,
            preferred_rows=tuple(sorted(size for size in preferred if size <= max_rows)),
            max_wait_s=max_wait,
            priority_step_s=0.05,
        )
        self.machine: Batcher[Request] = Batcher(self.policy, Costs())
        self.now = 0.0
        self.requests: list[Request] = []
        self.refused: set[int] = set()
        self.cancelled: set[int] = set()
        self.expired: set[int] = set()
        self.ran: list[int] = []
        self.running: list[Batch[Request]] = []

    @rule(
        rows=st.integers(1, 10),
        signature=st.sampled_from(["a", "b", None]),
        priority=st.integers(1, 3),
        timeout=st.sampled_from([0.01, 0.3, 60.0]),
    )
    def arrive(self, rows: int, signature: Hashable, priority: int, timeout: float) -> None:
        request = Request(len(self.requests), rows, signature, min(priority, self.policy.levels), self.now + timeout)
        self.requests.append(request)
        if self.machine.add(request, self.now):
            self.refused.add(request.number)

    @rule(seconds=st.sampled_from([1e-6, 5e-5, 2e-4, 0.004, 0.02, 0.5]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for request in self.machine.expire(self.now):
            assert request.deadline <= self.now
            assert request.number not in self.expired
            self.expired.add(request.number)

    @rule(patient=st.booleans())
    def start(self, patient: bool) -> None:
        while (batch := self.machine.poll(self.now, patient)) is not None:
            self.check(batch)
            self.running.append(batch)
            self.ran += [item.number for item in batch.items]
        if self.machine.free and self.machine.queued:
            assert self.machine.in_gap or self.machine.wake_at is not None, "a free slot stands idle beside work"
            assert not (self.machine.in_gap and not patient)

    def check(self, batch: Batch[Request]) -> None:
        items = batch.items
        assert items
        assert all(item.state == RUNNING for item in items)
        assert {item.signature for item in items} == {batch.signature}
        assert batch.rows == sum(item.rows for item in items)
        assert batch.rows <= self.policy.max_rows or len(items) == 1
        for level in range(1, self.policy.levels + 1):
            mine = [item.number for item in items if item.priority == level]
            assert mine == sorted(mine), "order of arrival"
            waiting = [
                other.number
                for other in self.requests
                if other.state == QUEUED and other.priority == level and other.signature == batch.signature
            ]
            assert not mine or not waiting or max(mine) < min(waiting), "somebody was overtaken by an equal"
        # The leader of the batch waited longest, priorities counted in.
        step = self.policy.priority_step_s
        leader = min(item.enqueued + (item.priority - 1) * step for item in items)
        for other in self.requests:
            if other.state == QUEUED:
                assert leader <= other.enqueued + (other.priority - 1) * step + 1e-9

    @precondition(lambda self: getattr(self, "running", None))
    @rule(which=st.integers(0, 10), seconds=st.sampled_from([0.0, 1e-5, 0.003, 0.2]))
    def end(self, which: int, seconds: float) -> None:
        batch = self.running.pop(which % len(self.running))
        batch.seconds = seconds
        for item in batch.items:
            item.state = DONE
        self.machine.finished(batch, self.now)

    @precondition(lambda self: getattr(self, "requests", None))
    @rule(which=st.integers(0, 200))
    def hang_up(self, which: int) -> None:
        request = self.requests[which % len(self.requests)]
        queued = request.state == QUEUED
        assert self.machine.cancel(request) is queued
        if queued:
            self.cancelled.add(request.number)

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "machine"):
            return
        queued = [request for request in self.requests if request.state == QUEUED]
        assert self.machine.queued == len(queued)
        assert self.machine.queued_rows == sum(request.rows for request in queued)
        assert self.machine.free == self.policy.slots - len(self.running)
        assert len(self.ran) == len(set(self.ran)), "run twice"
        earliest = self.machine.next_deadline()
        if queued:
            # Only the default deadline may be known late, by less than the default's own spread.
            assert earliest is not None
            assert earliest <= min(request.deadline for request in queued) + 1e-3

    def teardown(self) -> None:
        if not hasattr(self, "machine"):
            return
        # Left alone, everything queued runs within a bounded number of turns: nothing is lost, nobody starves.
        for _ in range(2 * len(self.requests) + 2):
            while self.running:
                self.end(0, 0.001)
            self.now += 0.02
            self.start(False)
        while self.running:
            self.end(0, 0.001)
        ended = [set(self.ran), self.refused, self.cancelled, self.expired]
        assert set().union(*ended) == {request.number for request in self.requests}
        assert sum(map(len, ended)) == len(self.requests), "two ends for one request"


TestHistories = Histories.TestCase
