"""One RPC, as a transport hands it to the servicer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from serving.errors import ServingError
from serving.runtime.invocation import Head, Invocation


class Call:
    """Implements `Reply` with a future: the message of the answer, or the error. Lives on the worker's loop.

    `timeout_s`: what the caller's deadline leaves, None without one. `metadata`: by lower-case key; keys that end in
    `-bin` hold bytes.
    """

    __slots__ = ("closed", "invocation", "metadata", "outcome", "timeout_s")

    def __init__(self, timeout_s: float | None = None, metadata: Mapping[str, str | bytes] | None = None) -> None:
        self.timeout_s = timeout_s
        self.metadata: Mapping[str, str | bytes] = metadata or {}
        self.invocation: Invocation | None = None
        self.closed = False
        self.outcome: asyncio.Future[bytes | ServingError] = asyncio.get_running_loop().create_future()

    def answer(self, invocation: Invocation, fields: bytes, body: bytes) -> None:
        """Implements `Reply`."""
        self._settle(body)

    def fail(self, head: Head, error: ServingError) -> None:
        """Implements `Reply`."""
        self._settle(error)

    def _settle(self, outcome: bytes | ServingError) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)
        # Each holds the other: left so, all of a call would wait for the collector.
        self.invocation = None

    def hang_up(self) -> None:
        """The caller left or its deadline passed: whatever is queued for it is cancelled."""
        self.closed = True
        if self.invocation is not None:
            self.invocation.route.model.cancel(self.invocation)
            self.invocation = None
