"""Turns: work that may take long, a few at a time, on threads of its own; what takes too long holds up no other."""

from __future__ import annotations

import _thread
import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from queue import SimpleQueue
from threading import Lock
from typing import Final, TypeVar

T = TypeVar("T")


class Turns:
    """So many at a time, in the order in which they came, and each for so long: who takes longer goes on and no longer counts."""

    def __init__(self, count: int, limit_s: float) -> None:
        self._count = count
        self._limit_s = limit_s
        self._free = asyncio.Semaphore(count)
        self._next = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, *, alone: bool = False) -> AsyncIterator[None]:
        """One's turn; `alone`: nobody else has one."""
        held = 0

        def give_back() -> None:
            nonlocal held
            for _ in range(held):
                self._free.release()
            held = 0

        try:
            async with self._next:
                for _ in range(self._count if alone else 1):
                    await self._free.acquire()
                    held += 1
            timer = asyncio.get_running_loop().call_later(self._limit_s, give_back)
            try:
                yield
            finally:
                timer.cancel()
        finally:
            give_back()


class _Crew:
    """Threads that take work as it comes: as many as there is work for, of which a few stay to take the next.

    They are started without waiting until they run, as `Thread.start` does: on a busy machine the loop would stand still
    for milliseconds. The end of the process does not wait for them.
    """

    def __init__(self, stay: int) -> None:
        self._stay = stay
        self.nice = 0
        self._idle = 0
        self._lock = Lock()
        self._work: SimpleQueue[tuple[Callable[[], None], str]] = SimpleQueue()

    def put(self, work: Callable[[], None], name: str) -> None:
        """Runs `work`, which may not raise, on a thread that is called `name` meanwhile."""
        with self._lock:
            found = self._idle > 0
            self._idle -= found
        if not found:
            _thread.start_new_thread(self._run, ())
        self._work.put((work, name))

    def _run(self) -> None:
        me = threading.current_thread()
        if self.nice:
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self.nice)
        while True:
            work, me.name = self._work.get()
            work()
            # It would keep what it held until the next one comes.
            del work
            with self._lock:
                if self._idle >= self._stay:
                    return
                self._idle += 1


_crew: Final = _Crew(stay=2)


def give_way(nice: int) -> None:
    """Has what `apart` runs in this process go after other programs, so much (sched(7), nice values) as `nice` says.

    Not for a process whose loop answers requests: a thread that holds the interpreter's lock and is kept waiting keeps the
    loop waiting as well.
    """
    _crew.nice = nice


async def apart(work: Callable[[], T], name: str) -> T:
    """What `work` returns, from a thread for which the end of the process does not wait. Raises what it raises.

    Not one of the loop's threads: they are few, and all would wait for work that hangs.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(result: Callable[[], None]) -> None:
        if not outcome.done():
            result()

    def run() -> None:
        try:
            value = work()
        except BaseException as error:
            caught = error
            told: Callable[[], None] = lambda: outcome.set_exception(caught)  # noqa: E731
        else:
            told = lambda: outcome.set_result(value)  # noqa: E731
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, told)

    _crew.put(run, name)
    return await outcome
