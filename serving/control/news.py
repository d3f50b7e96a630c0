"""News: that something changed in the database, for those on the loop who wait for it."""

from __future__ import annotations

import asyncio


class News:
    """A count of changes. Lives on one loop; waiting costs nothing while nothing changes."""

    def __init__(self) -> None:
        self.count = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def tell(self) -> None:
        """Counts a change and wakes all who wait."""
        self.count += 1
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def wait(self, seen: int, timeout_s: float | None) -> int:
        """The count, as soon as it is not `seen`, or when the time is up; None waits for ever."""
        if self.count == seen:
            future = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            try:
                await asyncio.wait((future,), timeout=timeout_s)
            finally:
                self._waiting.discard(future)
        return self.count
