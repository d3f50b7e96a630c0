"""Open-loop load: requests leave at moments fixed beforehand, whether or not earlier ones were answered.

Latency counts from the scheduled moment, so that a stalled server cannot hide its queue. One thread, non-blocking
sockets and epoll; between close arrivals it spins, since a sleeping process wakes too late to send on time.
"""

from __future__ import annotations

import contextlib
import gc
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from loadtests.bench.models import Array

CONNECTION_ERROR = 0
NEVER_ANSWERED = -1
GRACE_S = 30.0
_SPIN_S = 0.002
_END_OF_HEAD = b"\r\n\r\n"

Check = Callable[[int, int, bytes], bool]
"""Request's index, status, body -> whether the answer is a right one."""


class BadAnswer(Exception):
    """The server sent what this client cannot read."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of every request, in order. Moments in seconds since the start; NaN where it never happened."""

    scheduled: Array
    sent: Array
    finished: Array
    status: Array
    wrong: Array

    @property
    def ok(self) -> Array:
        """Which requests were answered with 200."""
        found: Array = self.status == 200
        return found

    def latency_ms(self, which: Array | None = None) -> Array:
        """From the scheduled moment to the answer's last byte, of the 200 answers unless told."""
        chosen = self.ok if which is None else which
        found: Array = (self.finished - self.scheduled)[chosen] * 1e3
        return found

    def answer_ms(self, which: Array) -> Array:
        """From the request's last byte given to the kernel to the answer's last byte read."""
        found: Array = (self.finished - self.sent)[which] * 1e3
        return found

    def lag_ms(self) -> Array:
        """How late requests left: the load generator's own fault, or no connection was free."""
        found: Array = (self.sent - self.scheduled)[~np.isnan(self.sent)] * 1e3
        return found


class Connection:
    """One kept-alive connection with at most one request in flight."""

    __slots__ = ("buffer", "index", "need", "sock", "unsent")

    def __init__(self, port: int) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Not waited for: a full accept queue must not hold up the other requests. A failure shows at the first use.
        self.sock.connect_ex(("127.0.0.1", port))
        self.buffer = b""
        self.need = 0
        self.index = -1
        self.unsent = b""

    def answer(self) -> tuple[int, bytes, bool] | None:
        """Status, body and whether the connection stays, once the whole answer is there. Raises `BadAnswer`."""
        if len(self.buffer) < self.need:
            return None
        end = self.buffer.find(_END_OF_HEAD)
        if end < 0:
            return None
        head = self.buffer[:end].lower()
        at = head.find(b"content-length:")
        if at < 0:
            raise BadAnswer(f"an answer without Content-Length: {head[:200]!r}")
        self.need = end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(self.buffer) < self.need:
            return None
        body = self.buffer[end + 4 : self.need]
        self.buffer, self.need = self.buffer[self.need :], 0
        return int(head[9:12]), body, b"connection: close" not in head


class OpenLoop:
    """Sends `requests[i % len(requests)]` at `arrivals[i]` seconds after the start, over at most `connections`."""

    def __init__(
        self, port: int, requests: Sequence[bytes], arrivals: Array, connections: int = 512, check: Check | None = None
    ) -> None:
        self.port = port
        self.requests = requests
        self.arrivals = arrivals
        self.limit = connections
        self.check = check
        self.idle: list[Connection] = []
        self.open: dict[int, Connection] = {}
        self.waiting: deque[int] = deque()
        self.poll = select.epoll()
        count = len(arrivals)
        self.sent = np.full(count, np.nan)
        self.finished = np.full(count, np.nan)
        self.status = np.full(count, NEVER_ANSWERED)
        self.wrong = np.zeros(count, dtype=bool)
        self.unfinished = count
        self.began = 0.0

    def run(self, every_s: float = 1.0, tick: Callable[[float], None] | None = None) -> Outcomes:
        """Runs to the last answer, at most `GRACE_S` past the last arrival; `tick(elapsed)` is called in between."""
        moments = self.arrivals.tolist()
        clock = time.perf_counter
        following = 0
        next_tick = every_s
        collecting = gc.isenabled()
        gc.disable()
        self.began = clock()
        try:
            while self.unfinished:
                now = clock() - self.began
                while following < len(moments) and moments[following] <= now:
                    self._send(following)
                    following += 1
                self._receive(self._patience(moments, following, now))
                if tick is not None and now >= next_tick:
                    next_tick += every_s
                    tick(now)
                if now > moments[-1] + GRACE_S:
                    break
        finally:
            if collecting:
                gc.enable()
            for connection in list(self.open.values()):
                self._close(connection)
            self.poll.close()
        return Outcomes(self.arrivals, self.sent, self.finished, self.status, self.wrong)

    def _patience(self, moments: list[float], following: int, now: float) -> float:
        """How long epoll may block: not at all when the next request is close."""
        if following == len(moments):
            return 0.05
        gap = moments[following] - now
        return 0.0 if gap < _SPIN_S else min(gap - _SPIN_S, 0.05)

    def _send(self, index: int) -> None:
        if self.idle:
            connection = self.idle.pop()
        elif len(self.open) < self.limit:
            connection = Connection(self.port)
            self.open[connection.sock.fileno()] = connection
            self.poll.register(connection.sock.fileno(), select.EPOLLIN)
        else:
            self.waiting.append(index)
            return
        connection.index = index
        connection.unsent = self.requests[index % len(self.requests)]
        self._write(connection)

    def _write(self, connection: Connection) -> None:
        try:
            count = connection.sock.send(connection.unsent)
        except BlockingIOError:
            count = 0
        except OSError:
            self._lost(connection)
            return
        connection.unsent = connection.unsent[count:]
        if connection.unsent:
            self.poll.modify(connection.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)
        else:
            self.sent[connection.index] = time.perf_counter() - self.began

    def _receive(self, patience: float) -> None:
        for descriptor, event in self.poll.poll(patience):
            connection = self.open.get(descriptor)
            if connection is None:
                continue
            if event & select.EPOLLOUT and connection.unsent:
                self.poll.modify(descriptor, select.EPOLLIN)
                self._write(connection)
                continue
            try:
                data = connection.sock.recv(262144)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                self._lost(connection)
                continue
            connection.buffer += data
            self._answered(connection)

    def _answered(self, connection: Connection) -> None:
        if connection.index < 0:
            raise BadAnswer(f"an answer that nobody asked for: {connection.buffer[:200]!r}")
        found = connection.answer()
        if found is None:
            return
        status, body, stays = found
        index, connection.index = connection.index, -1
        self._finish(index, status)
        if self.check is not None and not self.check(index, status, body):
            self.wrong[index] = True
        if not stays:
            self._close(connection)
        else:
            self.idle.append(connection)
        if self.waiting:
            self._send(self.waiting.popleft())

    def _lost(self, connection: Connection) -> None:
        """The server closed: an error only for the request in flight."""
        index, connection.index = connection.index, -1
        self._close(connection)
        if index >= 0:
            self._finish(index, CONNECTION_ERROR)
        if self.waiting:
            self._send(self.waiting.popleft())

    def _finish(self, index: int, status: int) -> None:
        self.finished[index] = time.perf_counter() - self.began
        self.status[index] = status
        self.unfinished -= 1

    def _close(self, connection: Connection) -> None:
        self.open.pop(connection.sock.fileno(), None)
        with contextlib.suppress(ValueError):
            self.idle.remove(connection)
        connection.sock.close()
