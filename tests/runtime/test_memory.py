"""What is freed is given back: soon where it is much, later where it is little, and not for each model."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

from loadtests.bench.proc import usage
from serving.runtime.memory import Freed, give_back
from tests.runtime.test_turns import play

ENOUGH = 100


class Given:
    """How often memory was given back."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1

    async def until(self, times: int) -> None:
        while self.times < times:  # noqa: ASYNC110 - it ends with the time of `play`
            await asyncio.sleep(0.001)
        assert self.times == times


def freed(test: Callable[[Freed, Given], Coroutine[Any, Any, None]], every_s: float, quiet_s: float) -> None:
    """Plays a test of what was freed with these times."""

    async def whole() -> None:
        given = Given()
        one = Freed(every_s, quiet_s, ENOUGH, given)
        try:
            await test(one, given)
        finally:
            one.close()

    play(whole)


def test_much_is_given_back_at_once() -> None:
    async def test(one: Freed, given: Given) -> None:
        one.add(ENOUGH - 1)
        await asyncio.sleep(0.02)
        assert given.times == 0
        one.add(1)
        await given.until(1)

    freed(test, every_s=60, quiet_s=60)


def test_after_that_it_waits() -> None:
    async def test(one: Freed, given: Given) -> None:
        for _ in range(50):
            one.add(ENOUGH)
        await given.until(1)
        for _ in range(50):
            one.add(ENOUGH)
        await asyncio.sleep(0.02)
        assert given.times == 1

    freed(test, every_s=60, quiet_s=60)


def test_what_came_meanwhile_is_given_back_when_it_has_waited() -> None:
    async def test(one: Freed, given: Given) -> None:
        one.add(ENOUGH)
        await given.until(1)
        one.add(ENOUGH)
        await given.until(2)

    freed(test, every_s=0.05, quiet_s=60)


def test_little_is_given_back_in_the_end() -> None:
    async def test(one: Freed, given: Given) -> None:
        one.add(1)
        await given.until(1)

    freed(test, every_s=60, quiet_s=0.05)


def test_much_does_not_wait_for_the_time_of_little() -> None:
    async def test(one: Freed, given: Given) -> None:
        one.add(1)
        one.add(ENOUGH)
        await given.until(1)

    freed(test, every_s=0.01, quiet_s=60)


def test_nothing_is_given_back_after_the_end() -> None:
    async def test(one: Freed, given: Given) -> None:
        one.add(1)
        one.close()
        await asyncio.sleep(0.05)
        assert given.times == 0

    freed(test, every_s=60, quiet_s=0.01)


def test_free_pages_go_back_to_the_system() -> None:
    def resident() -> int:
        found = usage(os.getpid())
        assert found is not None
        return found.rss_bytes

    pieces = [np.ones(8_000, np.float64) for _ in range(2_000)]
    full = resident()
    # What came last stays, so that the heap cannot simply end earlier.
    del pieces[:-1]
    give_back()
    assert full - resident() > 100_000_000
