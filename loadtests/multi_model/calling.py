"""Callers of a running server: one that asks and waits, and many at once in a closed loop, every answer looked at."""

from __future__ import annotations

import gc
import select
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self

from loadtests.bench.openloop import BadAnswer, Connection

PATIENCE_S: Final = 60.0

Check = Callable[[int, int, bytes], bool]
"""Key of the request, status, body -> whether the answer is a right one."""


class Caller:
    """One kept-alive connection, one request after the other."""

    def __init__(self, port: int) -> None:
        self._connection = Connection(port)
        self._connection.sock.setblocking(True)
        self._connection.sock.settimeout(PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.sock.close()

    def ask(self, request: bytes) -> tuple[int, bytes, float]:
        """Status, body, and the seconds from the first byte sent to the last received. Raises OSError and `BadAnswer`."""
        connection = self._connection
        began = time.perf_counter()
        connection.sock.sendall(request)
        while (found := connection.answer()) is None:
            data = connection.sock.recv(262144)
            if not data:
                raise BadAnswer("the server closed the connection before its answer was whole")
            connection.buffer += data
        took = time.perf_counter() - began
        return found[0], found[1], took


class Answered(NamedTuple):
    """One request and its answer; moments in seconds since the start of the loop."""

    key: int
    sent: float
    finished: float
    right: bool

    @property
    def seconds(self) -> float:
        """How long the caller waited."""
        return self.finished - self.sent


@dataclass
class Lane:
    """Some connections that take their requests (key, bytes) from one source, each the next once it has its answer."""

    source: Iterable[tuple[int, bytes]]
    connections: int
    check: Check
    endless: bool = False
    """It ends when all others have."""
    answers: list[Answered] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What some of the wrong answers were."""


@dataclass(slots=True)
class _Seat:
    connection: Connection
    lane: Lane
    requests: Iterator[tuple[int, bytes]]
    key: int = -1
    sent: float = 0.0
    busy: bool = False


class ClosedLoop:
    """Runs all lanes on one thread, from `start` to the last answer; `tick` is called every `every_s` with the seconds."""

    def __init__(
        self, port: int, lanes: list[Lane], tick: Callable[[float], None] | None = None, every_s: float = 0.2
    ) -> None:
        self._port = port
        self._lanes = lanes
        self._tick = tick
        self._every_s = every_s
        self._poll = select.epoll()
        self._seats: dict[int, _Seat] = {}
        self._began = 0.0
        self._unfinished = 0
        """Connections of lanes that end by themselves and have not."""

    def run(self) -> None:
        """Returns once every lane has ended. Raises `BadAnswer` where the server closes a connection, or nothing comes."""
        for lane in self._lanes:
            requests = iter(lane.source)
            for _ in range(lane.connections):
                self._sit(_Seat(Connection(self._port), lane, requests))
        self._unfinished = sum(lane.connections for lane in self._lanes if not lane.endless)
        collecting = gc.isenabled()
        gc.disable()
        try:
            self._began = time.perf_counter()
            for seat in list(self._seats.values()):
                self._next(seat)
            self._loop()
        finally:
            if collecting:
                gc.enable()
            for seat in self._seats.values():
                seat.connection.sock.close()
            self._poll.close()

    def _sit(self, seat: _Seat) -> None:
        sock = seat.connection.sock
        sock.setblocking(True)
        self._seats[sock.fileno()] = seat
        self._poll.register(sock.fileno(), select.EPOLLIN)

    def _loop(self) -> None:
        next_tick = last = 0.0
        while self._unfinished or any(seat.busy for seat in self._seats.values() if not seat.lane.endless):
            events = self._poll.poll(self._every_s)
            now = time.perf_counter() - self._began
            if self._tick is not None and now >= next_tick:
                self._tick(now)
                next_tick = now + self._every_s
            last = now if events else last
            if now - last > PATIENCE_S:
                raise BadAnswer(f"no answer came for {PATIENCE_S:g} s")
            for descriptor, _ in events:
                self._receive(self._seats[descriptor])

    def _receive(self, seat: _Seat) -> None:
        data = seat.connection.sock.recv(262144)
        if not data:
            raise BadAnswer("the server closed a connection")
        seat.connection.buffer += data
        found = seat.connection.answer()
        if found is None:
            return
        now = time.perf_counter() - self._began
        status, body, _stays = found
        right = seat.lane.check(seat.key, status, body)
        if not right and len(seat.lane.wrong) < 3:
            seat.lane.wrong.append(f"{status} {body[:200]!r}")
        seat.lane.answers.append(Answered(seat.key, seat.sent, now, right))
        seat.busy = False
        self._next(seat)

    def _next(self, seat: _Seat) -> None:
        try:
            seat.key, request = next(seat.requests)
        except StopIteration:
            self._unfinished -= not seat.lane.endless
            return
        seat.sent = time.perf_counter() - self._began
        seat.busy = True
        seat.connection.sock.sendall(request)
