"""Execution slots: the threads on which batches run when they are too slow for the event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

Work = Callable[[], None]


class Slots:
    """`count` threads that run what is put, in order. ONNX Runtime and its like release the GIL while they run.

    A `concurrent.futures` pool costs a future, a lock and a condition for each batch; this costs one queue.
    """

    def __init__(self, name: str, count: int) -> None:
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-slot-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, work: Work) -> None:
        """Runs `work` on a free thread; it must not raise."""
        self._queue.put(work)

    def close(self) -> None:
        """Ends the threads after the work already put."""
        for _ in self._threads:
            self._queue.put(None)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            work()
            del work
