"""Loads, with workers that are played: who is suspected of ending one, who is tried alone, what goes with its process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast

import pytest

from serving.contract import ModelConfig
from serving.processes import loads as loads_module
from serving.processes.channel import Began, Ended, Forget, Prepare, Prepared
from serving.processes.handle import WorkerHandle
from serving.processes.loads import Loads
from serving.runtime.wiring import ENDED, EndpointWiring

WITHIN_S = 5.0


def wiring(name: str) -> EndpointWiring:
    return EndpointWiring(name, "AllTraffic", "onnx", f"/{name}", ModelConfig(name=name))


class Channel:
    """What a worker was sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)


class Team:
    """Implements `Team` over workers that tests play."""

    def __init__(self, count: int, *, ready: bool = True) -> None:
        self.ready = ready
        self.replaced: list[str] = []
        self.lost: list[tuple[str, str]] = []
        self._handles = [self._new(number) for number in range(count)]
        self.loads = Loads(self)

    @staticmethod
    def _new(number: int) -> WorkerHandle:
        return WorkerHandle(number, cast(Any, None), cast(Any, Channel()), -1)

    def workers(self) -> Sequence[WorkerHandle]:
        return self._handles

    async def complete(self, *, settled: bool) -> Sequence[WorkerHandle]:
        return list(self._handles)

    def replace(self, worker: WorkerHandle, why: str) -> None:
        self.replaced.append(why)
        worker.leaving = True

    def lose(self, endpoint: EndpointWiring, why: str) -> None:
        self.lost.append((endpoint.name, why))

    # ------------------------------------------------------------------ what workers do

    async def asked(self, number: int, *names: str) -> list[Prepare]:
        """The last that a worker was asked for, once these are."""

        def last() -> list[Prepare]:
            sent = cast(Any, self._handles[number].channel).sent
            return [one for one in sent if isinstance(one, Prepare)][-len(names) :]

        await until(lambda: [one.endpoint.name for one in last()] == list(names))
        return last()

    def begin(self, number: int, load: int, prepare: Prepare) -> None:
        self.loads.began(self._handles[number], Began(load, prepare.call, prepare.endpoint))

    def finish(self, number: int, load: int, prepare: Prepare, why: str = "") -> None:
        worker = self._handles[number]
        self.loads.ended(worker, Ended(load))
        self.loads.prepared(worker, Prepared(prepare.call, why))

    def end(self, number: int) -> None:
        """A worker ends, and another takes its place."""
        worker = self._handles[number]
        self._handles[number] = self._new(number)
        self.loads.buried(worker)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - what is waited for is state of others
            await asyncio.sleep(0.001)


def play(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_one_worker_loads_first_and_the_others_what_it_could() -> None:
    async def test() -> None:
        team = Team(2)
        preparing = asyncio.ensure_future(team.loads.prepare([wiring("a"), wiring("b")], None))
        a, b = await team.asked(0, "a", "b")
        team.finish(0, 1, a, "it is broken")
        team.finish(0, 2, b)
        (b,) = await team.asked(1, "b")
        team.finish(1, 1, b)
        whys, calls = await preparing
        assert whys == ["it is broken", ""]
        assert len(calls) == 3

    play(test)


def test_only_what_was_loading_is_suspected_and_tried_alone() -> None:
    async def test() -> None:
        team = Team(1)
        preparing = asyncio.ensure_future(team.loads.prepare([wiring("a"), wiring("b"), wiring("c")], None))
        a, b, _ = await team.asked(0, "a", "b", "c")
        team.begin(0, 1, a)
        team.begin(0, 2, b)
        team.end(0)
        (c,) = await team.asked(0, "c")
        assert not c.alone
        team.finish(0, 1, c)
        (a,) = await team.asked(0, "a")
        assert a.alone
        team.begin(0, 2, a)
        team.end(0)
        # It is it; the others are loaded once more, by the worker that took its place.
        (c,) = await team.asked(0, "c")
        team.finish(0, 1, c)
        (b,) = await team.asked(0, "b")
        assert b.alone
        team.begin(0, 2, b)
        team.finish(0, 2, b)
        assert (await preparing)[0] == [ENDED, "", ""]

    play(test)


def test_a_worker_that_ends_before_it_began_is_nobodys_fault() -> None:
    async def test() -> None:
        team = Team(1)
        preparing = asyncio.ensure_future(team.loads.prepare([wiring("a")], None))
        for _ in range(5):
            (a,) = await team.asked(0, "a")
            assert not a.alone
            team.end(0)
            await until(lambda: len(cast(Any, team.workers()[0].channel).sent) == 1)
        (a,) = await team.asked(0, "a")
        team.finish(0, 1, a)
        assert (await preparing)[0] == [""]

    play(test)


def test_another_worker_that_ended_meanwhile_is_not_waited_for() -> None:
    async def test() -> None:
        team = Team(2)
        preparing = asyncio.ensure_future(team.loads.prepare([wiring("a")], None))
        (a,) = await team.asked(0, "a")
        team.end(1)
        team.finish(0, 1, a)
        assert (await asyncio.wait_for(preparing, WITHIN_S))[0] == [""]

    play(test)


def test_what_does_not_come_at_the_start_is_given_up_and_the_rest_is_there() -> None:
    async def test() -> None:
        team = Team(2, ready=False)
        preparing = asyncio.ensure_future(team.loads.prepare([wiring("a"), wiring("b")], 0.05))
        for number in range(2):
            a, b = await team.asked(number, "a", "b")
            team.finish(number, 1, a)
            team.begin(number, 2, b)
        assert (await preparing)[0] == ["", "it was not loaded within 0.05 s"]

    play(test)


def test_a_load_that_was_given_up_and_does_not_end_goes_with_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads_module, "ABANDONED_S", 0.05)

    async def test() -> None:
        team = Team(1)
        preparing = asyncio.ensure_future(team.loads.prepare([wiring("a"), wiring("b")], None))
        a, b = await team.asked(0, "a", "b")
        team.begin(0, 1, a)
        team.begin(0, 2, b)
        preparing.cancel()
        await asyncio.gather(preparing, return_exceptions=True)
        assert cast(Any, team.workers()[0].channel).sent[-1] == Forget((a.call, b.call))
        team.finish(0, 2, b)
        await until(lambda: team.replaced == ["its load of the model a does not end"])

    play(test)


def test_a_load_that_somebody_waits_for_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads_module, "ABANDONED_S", 0.01)

    async def test() -> None:
        team = Team(1)
        preparing = asyncio.ensure_future(team.loads.prepare([wiring("a")], None))
        (a,) = await team.asked(0, "a")
        team.begin(0, 1, a)
        await asyncio.sleep(0.05)
        team.finish(0, 1, a)
        _, calls = await preparing
        team.loads.forget(calls)
        await asyncio.sleep(0.05)
        assert team.replaced == []

    play(test)


def test_what_two_new_workers_end_at_is_lost() -> None:
    async def test() -> None:
        team = Team(1)
        endpoint = wiring("a")
        for number in range(2):
            assert team.lost == []
            team.loads.began(team.workers()[0], Began(number, 0, endpoint))
            team.end(0)
        assert team.lost == [("a", ENDED)]

    play(test)


def test_what_loads_at_the_second_try_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads_module, "WIRED_S", 0.05)

    async def test() -> None:
        team = Team(1)
        endpoint = wiring("a")
        for _ in range(3):
            team.loads.began(team.workers()[0], Began(1, 0, endpoint))
            team.end(0)
            team.loads.began(team.workers()[0], Began(1, 0, endpoint))
            team.loads.ended(team.workers()[0], Ended(1))
        assert team.lost == []
        team.loads.began(team.workers()[0], Began(2, 0, endpoint))
        await until(lambda: team.replaced == ["its load of the model a does not end"])

    play(test)
