"""Clients that stall: each is given up after its timeout, and what is kept for them is bounded."""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from tests.frontends.http2 import hpack, targets
from tests.frontends.http2.calls import block, body, call
from tests.frontends.http2.frames import PREFACE, Answer, Connection, Setting, continuation, data, headers
from tests.frontends.http2.known import PATIENT
from tests.frontends.http2.targets import MEBIBYTE, TRANSPORTS, Target
from tests.support.server import wait_until

TIMEOUT_S = 1.0
GIVEN_UP_WITHIN_S = 4.0
KNOWN_WITHIN_S = 2.0
PAUSE_S = 0.05

HELD_MIB = 64
"""What the server may hold of requests."""

ANSWER_MIB = 4
STALLED = 50
"""Answers that are never taken: three times what may be held."""

MARGIN_MIB = 96


@pytest.fixture(scope="module", params=TRANSPORTS)
def hasty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server that waits for a second, and holds little."""
    limits = {
        "header_timeout_s": TIMEOUT_S,
        "body_timeout_s": TIMEOUT_S,
        "keep_alive_timeout_s": TIMEOUT_S,
        "max_body_bytes": 2 * ANSWER_MIB * MEBIBYTE,
        "max_in_flight_bytes": HELD_MIB * MEBIBYTE,
    }
    with targets.running(request.param, tmp_path_factory.mktemp("http2"), **limits) as target:
        yield target


def silent(connection: Connection) -> Iterator[bytes]:
    """Says nothing at all."""
    return itertools.repeat(b"")


def slow_preface(connection: Connection) -> Iterator[bytes]:
    """Says hello letter by letter."""
    return (
        PREFACE[each : each + 1] for each in itertools.chain(range(len(PREFACE) - 1), itertools.repeat(len(PREFACE)))
    )


def idle(connection: Connection) -> Iterator[bytes]:
    """Says hello, and nothing more."""
    connection.greet()
    return itertools.repeat(b"")


def endless_headers(connection: Connection) -> Iterator[bytes]:
    """Sends field after field."""
    connection.greet()
    connection.send(headers(1, block(), 0))
    return itertools.repeat(continuation(1, hpack.literal("a", "")))


def half_headers(connection: Connection) -> Iterator[bytes]:
    """Begins a header block, and leaves it at that."""
    connection.greet()
    connection.send(headers(1, block(), 0))
    return itertools.repeat(b"")


def endless_body(connection: Connection) -> Iterator[bytes]:
    """Sends byte after byte of a message."""
    connection.greet()
    connection.send(headers(1, block()) + data(1, struct.pack(">BI", 0, 1 << 20)))
    return itertools.repeat(data(1, b"x"))


def no_body(connection: Connection) -> Iterator[bytes]:
    """Opens a stream and leaves it at that."""
    connection.greet()
    connection.send(headers(1, block()))
    return itertools.repeat(b"")


def no_window(connection: Connection) -> Iterator[bytes]:
    """Gives no window for an answer."""
    connection.greet((Setting.INITIAL_WINDOW_SIZE, 0))
    connection.send(call(1, body(b"x" * 1000)))
    return itertools.repeat(b"")


STALLS: tuple[Callable[[Connection], Iterator[bytes]], ...] = (
    silent,
    slow_preface,
    idle,
    half_headers,
    endless_headers,
    endless_body,
    no_body,
    no_window,
)


def known_for(target: Target, name: str, kept: bool) -> None:
    """Fails unless `kept`, or known otherwise."""
    known = PATIENT[target.transport].get(name)
    if known is None:
        assert kept
        return
    assert not kept, f"it was known to be {known}, and is right now: strike it from the list"
    pytest.xfail(f"{target.transport}: {known}")


@pytest.mark.parametrize("stall", STALLS)
def test_who_stalls_is_given_up(hasty: Target, stall: Callable[[Connection], Iterator[bytes]]) -> None:
    with Connection(hasty.port) as connection:
        pieces = stall(connection)
        patient = stall.__name__ in PATIENT[hasty.transport]
        until = time.monotonic() + (KNOWN_WITHIN_S if patient else GIVEN_UP_WITHIN_S)
        given_up = False
        while not given_up and time.monotonic() < until:
            connection.send(next(pieces))
            over = connection.answers.get(1, Answer()).over
            given_up = over or connection.closed or connection.goaway is not None
            try:
                connection.read(time.monotonic() + PAUSE_S)
            except TimeoutError:
                continue
    assert hasty.serves()
    known_for(hasty, stall.__name__, given_up)


def test_answers_that_nobody_takes_are_bounded(hasty: Target) -> None:
    """Of many streams of one connection, whose windows stay shut."""
    message = body(bytes(1 << 10), ANSWER_MIB << 10)
    before = hasty.resident_bytes
    most = 0
    with Connection(hasty.port) as connection:
        connection.greet((Setting.INITIAL_WINDOW_SIZE, 0))
        for stream in range(1, 2 * STALLED, 2):
            if not connection.upload(stream, headers(stream, block()), message, time.monotonic() + TIMEOUT_S):
                break
            most = max(most, hasty.resident_bytes - before)
        assert hasty.serves()
    wait_until(lambda: not hasty.connections, GIVEN_UP_WITHIN_S, "the end of its connections")
    known_for(hasty, "answers", most < (HELD_MIB + MARGIN_MIB) * MEBIBYTE)
