"""Turns: how many at a time, in which order, and that what hangs holds up no other."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from serving.runtime.turns import Turns, apart


def threads() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def play(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 10))


class Guests:
    """Some who take turns, and who of them has one."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._done: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.inside: list[str] = []

    async def come(self, name: str, *, alone: bool = False) -> None:
        self._done[name] = asyncio.Event()
        self._tasks[name] = asyncio.ensure_future(self._visit(name, alone))
        await self.settle()

    async def leave(self, name: str) -> None:
        self._done[name].set()
        await self._tasks[name]
        await self.settle()

    async def cancel(self, name: str) -> None:
        self._tasks[name].cancel()
        await asyncio.gather(self._tasks[name], return_exceptions=True)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def _visit(self, name: str, alone: bool) -> None:
        async with self._turns.turn(alone=alone):
            self.inside.append(name)
            try:
                await self._done[name].wait()
            finally:
                self.inside.remove(name)


def test_so_many_at_a_time_in_order() -> None:
    async def test() -> None:
        guests = Guests(Turns(2, 60))
        for name in "abcd":
            await guests.come(name)
        assert guests.inside == ["a", "b"]
        await guests.leave("b")
        assert guests.inside == ["a", "c"]

    play(test)


def test_one_alone_is_neither_joined_nor_overtaken() -> None:
    async def test() -> None:
        guests = Guests(Turns(2, 60))
        await guests.come("a")
        await guests.come("b", alone=True)
        await guests.come("c")
        assert guests.inside == ["a"]
        await guests.leave("a")
        assert guests.inside == ["b"]
        await guests.leave("b")
        assert guests.inside == ["c"]

    play(test)


@pytest.mark.parametrize("alone", [False, True])
def test_one_who_gives_up_while_waiting_takes_nothing_away(alone: bool) -> None:
    async def test() -> None:
        guests = Guests(Turns(2, 60))
        await guests.come("a")
        await guests.come("b", alone=alone)
        await guests.cancel("b")
        await guests.leave("a")
        for name in "cd":
            await guests.come(name)
        assert guests.inside == ["c", "d"]

    play(test)


@pytest.mark.parametrize("alone", [False, True])
def test_who_takes_too_long_no_longer_counts_and_gives_back_once(alone: bool) -> None:
    async def test() -> None:
        turns = Turns(1, 0.02)
        guests = Guests(turns)
        await guests.come("slow", alone=alone)
        await guests.come("next")
        assert guests.inside == ["slow"]
        while guests.inside != ["slow", "next"]:  # noqa: ASYNC110 - it ends with the time of `play`
            await asyncio.sleep(0.001)
        await guests.leave("slow")
        await guests.leave("next")
        assert turns._free._value == 1

    play(test)


def test_what_runs_apart_takes_none_of_the_loops_threads() -> None:
    async def test() -> None:
        gate = threading.Event()
        waiting = [asyncio.ensure_future(apart(gate.wait, "wait")) for _ in range(50)]
        assert await asyncio.to_thread(lambda: 1) == 1
        gate.set()
        assert await asyncio.gather(*waiting) == [True] * 50
        with pytest.raises(ZeroDivisionError):
            await apart(lambda: 1 // 0, "divide")

    play(test)


def test_what_nobody_waits_for_any_more_may_end_as_it_likes() -> None:
    async def test() -> None:
        gate = threading.Event()
        work = asyncio.ensure_future(apart(gate.wait, "wait"))
        await asyncio.sleep(0)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        gate.set()
        await asyncio.sleep(0.02)

    play(test)


def test_what_is_done_apart_is_done_by_threads_that_stay() -> None:
    async def test() -> None:
        seen = set()
        for _ in range(20):
            seen.add(await apart(threading.get_ident, "who"))
        assert len(seen) <= 2 + 1  # those that stay, and one that came while another had not yet gone to rest
        before = threads()
        gate = threading.Event()
        crowd = [asyncio.ensure_future(apart(gate.wait, "wait")) for _ in range(20)]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*crowd)
        while threads() > before + 2:  # noqa: ASYNC110 - it ends with the time of `play`
            await asyncio.sleep(0.001)

    play(test)


def test_a_thread_is_called_what_it_does_and_keeps_nothing_of_it() -> None:
    class Something:
        pass

    async def test() -> None:
        something = Something()
        gone = weakref.ref(something)

        def work(held: Something = something) -> str:
            return threading.current_thread().name

        assert await apart(work, "first") == "first"
        assert await apart(lambda: threading.current_thread().name, "second") == "second"
        del work, something
        while gone() is not None:  # noqa: ASYNC110 - it ends with the time of `play`
            await asyncio.sleep(0.001)

    play(test)


def test_the_end_of_the_process_waits_for_nothing_that_hangs() -> None:
    code = (
        "import asyncio, threading\n"
        "from serving.runtime.turns import apart\n"
        "async def main():\n"
        "    task = asyncio.ensure_future(apart(threading.Event().wait, 'hang'))\n"
        "    assert await apart(lambda: 1, 'work') == 1\n"
        "    task.cancel()\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
