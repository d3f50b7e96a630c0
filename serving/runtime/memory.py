"""Memory that large requests took and the allocator keeps, given back to the system.

glibc raises its own thresholds with each large block that is freed, and then keeps up to tens of megabytes.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from typing import Final

from serving.runtime.turns import apart

EVERY_S: Final = 1.0
"""Between two times that much was freed: a heap of a gigabyte takes 20 to 100 ms, in which threads that free wait."""

QUIET_S: Final = 10.0
"""After the last time that little was freed."""

ENOUGH: Final = 64 * 1024 * 1024


def _find_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None  # another C library, which has no such habit
    return found


_malloc_trim = _find_trim()


def give_back() -> None:
    """Returns free pages to the system. Takes milliseconds, so it is called on a thread."""
    if _malloc_trim is not None:
        _malloc_trim(0)


class Freed:
    """What one loop's models freed, given back to the system on a thread: not for each of them, and seldom.

    `given` is called on the loop after each time.
    """

    def __init__(
        self,
        every_s: float = EVERY_S,
        quiet_s: float = QUIET_S,
        enough: int = ENOUGH,
        give_back: Callable[[], None] = give_back,
        given: Callable[[], None] = lambda: None,
    ) -> None:
        self._given = given
        self._give_back = give_back
        self._every_s = every_s
        self._quiet_s = quiet_s
        self._enough = enough
        self._loop = asyncio.get_running_loop()
        self._bytes = 0
        self._last = self._loop.time() - every_s
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def pending(self) -> bool:
        """Whether the allocator may keep something that was freed and not given back."""
        return self._bytes > 0 or self._task is not None

    def add(self, bytes_: int) -> None:
        """So many bytes were freed."""
        self._bytes += bytes_
        if self._task is None:
            self._arm()

    def close(self) -> None:
        """Nothing is given back any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        due = self._last + self._every_s if self._bytes >= self._enough else self._loop.time() + self._quiet_s
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_at(due, self._start)

    def _start(self) -> None:
        self._timer = None
        self._bytes = 0
        self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        await apart(self._give_back, "give-back")
        self._last = self._loop.time()
        self._task = None
        self._given()
        if self._bytes:
            self._arm()
