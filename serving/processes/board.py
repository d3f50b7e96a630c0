"""The board: how many connections each worker has, in memory that the supervisor and its workers share.

A worker that has more than another leaves a new connection to it; see `Acceptor`. Nothing depends on the numbers but
who accepts, so they are written and read without a lock: each worker writes its own alone.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Final, Self

ABSENT: Final = 2**32 - 1
"""The count of a worker that takes no connections (now)."""

_ITEM: Final = 4


class Board:
    """One unsigned count a worker, by worker number."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._counts = memoryview(mmap.mmap(descriptor, os.fstat(descriptor).st_size)).cast("I")

    @classmethod
    def make(cls, workers: int) -> Self:
        """A new board on which all workers are absent. Its descriptor is to be passed on."""
        with tempfile.TemporaryFile() as file:
            file.truncate(workers * _ITEM)
            board = cls(os.dup(file.fileno()))
        for worker in range(workers):
            board[worker] = ABSENT
        return board

    def __setitem__(self, worker: int, connections: int) -> None:
        self._counts[worker] = connections

    def least(self) -> int:
        """The smallest count there is."""
        return min(self._counts)
