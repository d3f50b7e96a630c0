"""Turns: work that may take long, a few at a time, on threads of its own; what takes too long holds up no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from threading import Thread
from typing import TypeVar

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


async def apart(work: Callable[[], T], name: str) -> T:
    """What `work` returns, from a thread of its own, for which the end of the process does not wait. Raises what it raises.

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

    Thread(target=run, name=name, daemon=True).start()
    return await outcome
