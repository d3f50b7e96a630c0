"""Answers in parts over the framing that boto3 reads: parts a second, and how soon a first part is on the wire.

The reader is a raw socket on the load core that only counts; one stream of each run is parsed and checked whole.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtests.bench.apps import ticking
from loadtests.bench.context import Context
from loadtests.bench.protocols import WrongAnswer
from loadtests.bench.servers import ours
from loadtests.bench.stats import mean, percentile

PATH = "/endpoints/stream/invocations-response-stream"
PARTS = 200_000
CHECKED_PARTS = 20_000
FIRST_PARTS = 2_000

_ROOT = Path(__file__).parents[2]
_PAYLOAD = re.compile(rb'PayloadPart.*?\{"predictions":\[(\d+)\]\}\n', re.DOTALL)
_LAST = b"\r\n0\r\n\r\n"


def run(context: Context) -> None:
    """Rates of one long stream, then first parts of many short ones on one connection."""
    folder = (context.folder / "ticking").resolve()
    model = ticking.install(folder)
    environment = {"PYTHONPATH": os.pathsep.join((str(folder), str(_ROOT)))}
    parts = PARTS // 10 if context.quick else PARTS
    with (
        ours([model], 1, str(context.server_core), context.executable, environment) as server,
        _connection(server.port, context.load_core) as connection,
    ):
        _check(_whole(connection, server.port, CHECKED_PARTS))
        rates = [_rate(connection, server.port, parts) for _ in range(1 + 2 * context.rounds)][1:]
        delays = [_first(connection, server.port) for _ in range(FIRST_PARTS // (10 if context.quick else 1))]
    context.figure("streaming: parts/s on one core", mean(rates))
    context.figure("streaming: first byte after the first part, p50 ms", percentile(delays, 0.5))
    context.figure("streaming: first byte after the first part, p99 ms", percentile(delays, 0.99))


@contextmanager
def _connection(port: int, core: int) -> Iterator[socket.socket]:
    """A connection whose reader is alone on `core`."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield connection
    finally:
        os.sched_setaffinity(0, before)


def _ask(connection: socket.socket, port: int, parts: int) -> None:
    body = b'{"instances":[%d]}' % parts
    connection.sendall(
        b"POST %b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (PATH.encode(), port, len(body), body)
    )


def _whole(connection: socket.socket, port: int, parts: int) -> bytes:
    _ask(connection, port, parts)
    pieces: list[bytes] = []
    end = b""
    while not end.endswith(_LAST):
        piece = connection.recv(1 << 18)
        if not piece:
            raise WrongAnswer("the server closed a stream before its end")
        pieces.append(piece)
        end = (end + piece)[-len(_LAST) :]
    return b"".join(pieces)


def _check(answer: bytes) -> None:
    """Every part is there, made one after the other. Raises `WrongAnswer`."""
    times = [int(found) for found in _PAYLOAD.findall(answer)]
    if len(times) != CHECKED_PARTS or times != sorted(times):
        raise WrongAnswer(f"a stream of {CHECKED_PARTS} parts came as {len(times)}: {answer[:300]!r}")


def _rate(connection: socket.socket, port: int, parts: int) -> float:
    began = time.perf_counter()
    _whole(connection, port, parts)
    return parts / (time.perf_counter() - began)


def _first(connection: socket.socket, port: int) -> float:
    """Milliseconds from the moment at which the container made its only part to its arrival here."""
    _ask(connection, port, 1)
    answer = connection.recv(1 << 16)
    arrived = time.monotonic_ns()
    while not answer.endswith(_LAST):
        answer += connection.recv(1 << 16)
    found = _PAYLOAD.search(answer)
    if found is None:
        raise WrongAnswer(f"a stream of one part came as {answer[:300]!r}")
    return (arrived - int(found[1])) / 1e6
