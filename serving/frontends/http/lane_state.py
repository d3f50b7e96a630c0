"""What the connections of one worker share: the data plane, the limits, the memo of heads, the Date, request ids."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from email.utils import formatdate
from typing import Final

from serving.errors import Unavailable
from serving.frontends.http.faces import STATUS_LINES, Faces
from serving.frontends.http.head import Guard
from serving.runtime import memory
from serving.runtime.dataplane import DataPlane
from serving.runtime.invocation import Head
from serving.settings import Settings

SWEEP_S: Final = 1.0

_MEMO_HEADS: Final = 1024
_MEMO_HEAD_BYTES: Final = 4096
_TRIM_BYTES: Final = 16 * 1024 * 1024


class LaneState:
    """What the connections of one worker share."""

    def __init__(self, plane: DataPlane, faces: Faces, guard: Guard, settings: Settings) -> None:
        self.plane = plane
        self.faces = faces
        self.guard = guard
        self.max_body = settings.max_body_bytes
        self.max_head = settings.max_header_bytes
        self.max_headers = settings.max_headers
        self.max_in_flight = settings.max_in_flight_bytes
        self.multi_model = settings.multi_model
        self.head_sweeps = max(1, round(settings.header_timeout_s / SWEEP_S))
        self.body_sweeps = max(1, round(settings.body_timeout_s / SWEEP_S))
        self.idle_sweeps = max(1, round(settings.keep_alive_timeout_s / SWEEP_S))
        self.in_flight_bytes = 0
        self._bytes_since_trim = 0
        self.requests = 0
        self.memo: dict[bytes, Head] = {}
        self.draining = False
        self.closed = asyncio.Event()
        """Set when a connection closes."""
        self.date = b""
        self.ok = b""
        self._request_prefix = uuid.uuid4().hex
        self._request_numbers = itertools.count(1)
        self._tell_time()

    def tick(self) -> None:
        """Called each `SWEEP_S` seconds: renews the Date header, and gives back what large bodies took."""
        self._tell_time()
        if self._bytes_since_trim > _TRIM_BYTES and not self.in_flight_bytes:
            self._bytes_since_trim = 0
            asyncio.get_running_loop().run_in_executor(None, memory.give_back)

    def hold(self, size: int) -> None:
        """Counts bytes of a body that are kept until it is answered. Raises `Unavailable` over the limit."""
        self.in_flight_bytes += size
        self._bytes_since_trim += size
        if self.in_flight_bytes > self.max_in_flight:
            raise Unavailable("the server holds as many bytes of requests as it may; try again", retry_after_s=1)

    def _tell_time(self) -> None:
        self.date = b"date: %b\r\n" % formatdate(time.time(), usegmt=True).encode()
        self.ok = STATUS_LINES[200] + self.date

    def request_id(self) -> bytes:
        """A new request id in the form of a UUID, unique by a random prefix and a counter."""
        prefix = self._request_prefix
        number = next(self._request_numbers)
        return f"{prefix[:8]}-{prefix[8:12]}-{prefix[12:16]}-{prefix[16:20]}-{number:012x}".encode()

    def remember(self, raw: bytes, head: Head) -> None:
        """Keeps a parsed head for the next request that repeats it to the byte."""
        if len(raw) <= _MEMO_HEAD_BYTES:
            if len(self.memo) >= _MEMO_HEADS:
                self.memo.clear()
            self.memo[raw] = head


def server_timing(queue_s: float, rows: int, compute_s: float) -> bytes:
    """The Server-Timing header line (W3C Server Timing; durations in milliseconds). No rows: no batch ran for it."""
    if not rows:
        return b'server-timing: cache;desc="hit"\r\n'
    return b'server-timing: queue;dur=%.3f, batch;desc="%d rows", compute;dur=%.3f\r\n' % (
        queue_s * 1e3,
        rows,
        compute_s * 1e3,
    )
