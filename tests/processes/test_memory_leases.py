"""Memory leases: never more than the budget in all, nobody starves, and it comes to rest."""

from __future__ import annotations

from collections import deque
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.processes.memory_leases import FLOORS, STEPS, MemoryLeases, Need, divide

MB = 1024 * 1024


def test_all_begin_with_an_equal_share() -> None:
    leases = MemoryLeases(1000 * MB, 4)
    assert [leases.joined(number) for number in range(4)] == [250 * MB] * 4
    assert MemoryLeases(1000 * MB, 1).joined(0) == 1000 * MB


def test_what_is_not_used_moves_once_its_worker_has_said_that_it_shrank() -> None:
    leases = MemoryLeases(1000, 2)
    leases.joined(0)
    leases.joined(1)
    leases.told(0, 20, 0, 500)
    leases.told(1, 490, 200, 500)
    (shrunk,) = leases.changes()
    assert shrunk == (0, 310)
    # What it said before it knew says nothing of what it holds by now.
    leases.told(0, 10, 0, 500)
    assert leases.changes() == []
    leases.told(0, 20, 0, 310)
    assert leases.changes() == [(1, 690)]


def test_a_worker_that_cannot_shrink_yet_gives_only_what_it_does_not_hold() -> None:
    leases = MemoryLeases(1000, 2)
    leases.joined(0)
    leases.joined(1)
    leases.told(0, 20, 0, 500)
    leases.told(1, 490, 400, 500)
    assert leases.changes() == [(0, 125)]
    leases.told(0, 450, 0, 125)  # it filled up meanwhile, and all of that is in use
    assert leases.changes() == [(1, 550)]
    leases.told(0, 100, 0, 125)
    leases.told(1, 490, 0, 550)
    assert leases.changes() == [(1, 875)]


def test_held_memory_is_taken_only_from_who_has_more_than_an_equal_share() -> None:
    full = [Need(700, 700, 0), Need(300, 300, 100)]
    assert divide(1000, 125, full) == [600, 400]
    assert divide(1000, 125, [Need(700, 700, 0), Need(300, 300, 900)]) == [500, 500]
    assert divide(1000, 125, [Need(500, 500, 0), Need(500, 500, 900)]) == [500, 500]


def test_all_under_pressure_come_to_equal_shares() -> None:
    needs = [Need(800, 800, 500), Need(125, 125, 500), Need(75, 75, 1)]
    assert divide(1000, 75, needs)[:2] == pytest.approx([455, 455], abs=1)


def test_a_worker_that_ended_leaves_its_memory_to_others_and_can_begin_again() -> None:
    leases = MemoryLeases(1000, 2)
    leases.joined(0)
    leases.joined(1)
    leases.told(1, 500, 5000, 500)
    leases.left(0)
    leases.told(1, 500, 5000, 500)
    assert leases.changes() == [(1, 875)]
    assert leases.joined(0) == 125
    leases.told(0, 125, 300, 125)
    leases.told(1, 870, 0, 875)
    assert leases.changes() == [(1, 575)]
    leases.told(1, 575, 0, 575)
    assert leases.changes() == [(0, 425)]


def test_a_worker_that_never_says_what_it_keeps_to_is_told_nothing_more() -> None:
    leases = MemoryLeases(1000, 2)
    leases.joined(0)
    leases.joined(1)
    leases.told(0, 0, 0, 0)
    leases.told(1, 490, 400, 0)
    assert leases.changes() == []


NEEDS = st.lists(
    st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.2), st.one_of(st.just(0), st.integers(1, 2000))),
    min_size=1,
    max_size=8,
)


def made(budget: int, floor: int, parts: list[tuple[float, float, int]]) -> list[Need]:
    """Workers whose leases are within the budget and above the floor."""
    left = budget - floor * len(parts)
    total = sum(part for part, _, _ in parts) or 1.0
    needs = []
    for part, full, pressure in parts:
        lease = floor + int(left * part / total)
        needs.append(Need(lease, int(lease * full), pressure))
    return needs


@given(st.integers(1, 10_000), NEEDS)
def test_a_division_is_within_the_budget_and_leaves_nobody_under_pressure_below_an_equal_share(
    budget: int, parts: list[tuple[float, float, int]]
) -> None:
    share = budget // len(parts)
    floor = share // FLOORS
    needs = made(budget, floor, parts)
    divided = divide(budget, floor, needs)
    assert sum(divided) <= budget
    step = max(budget // STEPS, 1)
    for need, lease in zip(needs, divided, strict=True):
        assert lease >= floor
        if not need.pressure:
            assert lease <= need.lease
            assert lease >= min(need.lease, need.held, share)
        else:
            assert lease >= min(need.held + need.pressure, share) - step // 4
            assert lease >= min(need.lease, share) - 1
    if not any(need.pressure for need in needs):
        assert divided == [need.lease for need in needs]


@given(st.integers(1, 10_000), NEEDS)
def test_divisions_of_what_does_not_change_come_to_rest(budget: int, parts: list[tuple[float, float, int]]) -> None:
    floor = budget // len(parts) // FLOORS
    needs = made(budget, floor, parts)
    for _ in range(4 * STEPS):
        divided = divide(budget, floor, needs)
        if divided == [need.lease for need in needs]:
            return
        needs = [Need(lease, min(need.held, lease), need.pressure) for lease, need in zip(divided, needs, strict=True)]
    raise AssertionError(f"they go on to change: {needs}")


class Worker:
    """One that keeps to its leases, each of which it reads some time after it was sent; some of what it holds is in use."""

    def __init__(self, lease: int) -> None:
        self.lease = lease
        self.inbox: deque[int] = deque()
        self.outbox: deque[tuple[int, int, int]] = deque()
        self.held = 0
        self.wants = 0

    def read(self) -> None:
        self.lease = self.inbox.popleft()

    def work(self, random: Random, in_use: float) -> None:
        """Evicts down to its lease, but for what is in use, and loads up to it."""
        held = max(min(self.held, self.lease), int(self.held * in_use))
        pressure = self.held - held
        if held < self.lease:
            loaded = min(self.wants, self.lease)
            pressure += max(self.wants - self.lease, 0)
            held = max(held, loaded)
        self.held = held
        self.outbox.append((self.held, pressure if random.random() < 0.9 else 0, self.lease))


@given(st.integers(100, 100_000), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_however_late_messages_are_and_whoever_ends_the_workers_never_hold_more_than_the_budget(
    budget: int, count: int, seed: int
) -> None:
    random = Random(seed)
    leases = MemoryLeases(budget, count)
    workers: dict[int, Worker] = {}
    for _ in range(300):
        number = random.randrange(count)
        worker = workers.get(number)
        if worker is None:
            workers[number] = Worker(leases.joined(number))
        elif random.random() < 0.02:
            del workers[number]
            leases.left(number)
        elif worker.inbox and random.random() < 0.5:
            worker.read()
        elif worker.outbox and random.random() < 0.5:
            leases.told(number, *worker.outbox.popleft())
        else:
            if random.random() < 0.2:
                worker.wants = random.randrange(2 * budget)
            worker.work(random, random.choice((0.0, 0.5, 1.0)))
        for change in leases.changes():
            workers[change.worker].inbox.append(change.lease)
        assert sum(worker.held for worker in workers.values()) <= budget
        assert sum(worker.lease for worker in workers.values()) <= budget or any(
            worker.inbox for worker in workers.values()
        )


@given(st.integers(1000, 100_000), st.lists(st.floats(0.0, 2.0), min_size=1, max_size=5))
def test_whoever_goes_on_to_want_more_gets_an_equal_share_or_what_it_wants_and_then_all_is_quiet(
    budget: int, wants: list[float]
) -> None:
    leases = MemoryLeases(budget, len(wants))
    share = budget // len(wants)
    workers = [Worker(leases.joined(number)) for number in range(len(wants))]
    # The first has taken all that it can before the others begin to want anything.
    workers[0].wants = budget
    quiet = 0
    for turn in range(300):
        if turn == 100:
            for worker, part in zip(workers, wants, strict=True):
                worker.wants = int(budget * part)
                worker.held = min(worker.held, worker.wants)
        for number, worker in enumerate(workers):
            if worker.inbox:
                worker.read()
            worker.held = min(worker.lease, max(worker.held, worker.wants))
            leases.told(number, worker.held, max(worker.wants - worker.lease, 0), worker.lease)
        changes = leases.changes()
        for change in changes:
            workers[change.worker].inbox.append(change.lease)
        quiet = 0 if changes else quiet + 1
    assert quiet > 50
    step = max(budget // STEPS, 1)
    for worker in workers:
        assert worker.lease >= min(worker.wants, share) - step
