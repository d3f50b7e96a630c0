"""RFC 9113's MUSTs on what a server does with a faulty client, as data; HPACK's are RFC 7541's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final, NamedTuple

from tests.frontends.http2 import hpack
from tests.frontends.http2.calls import FIELDS, block, body, call
from tests.frontends.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PADDED,
    PREFACE,
    PRIORITISED,
    TIMEOUT_S,
    Answer,
    Code,
    Connection,
    Kind,
    Setting,
    continuation,
    data,
    frame,
    headers,
    name_of,
    pieces,
    ping,
    priority,
    reset,
    settings,
    window,
)
from tests.frontends.http2.hpack import Field


class Due(Enum):
    """What a fault is answered with."""

    CONNECTION = "a connection error: GOAWAY, or just the end of the connection"
    STREAM = "a stream error: RST_STREAM; or a connection error"
    MALFORMED = "a stream error, or an answer that says no (RFC 9113, 8.1.1)"
    IGNORED = "nothing: calls are served as before"
    EITHER = "a stream error, or nothing"


Sent = bytes | Callable[[Connection], bytes]

ANY: Final = -1


class Rule(NamedTuple):
    """One MUST. `sent` follows the greeting; `stream` is whose end is awaited, `ANY` that of whichever ends first.

    `codes` are those that the RFC allows.
    """

    section: str
    name: str
    due: Due
    sent: Sent
    codes: frozenset[Code]
    stream: int | None = None
    greets: bool = True


PROTOCOL: Final = frozenset({Code.PROTOCOL_ERROR})
SIZE: Final = frozenset({Code.FRAME_SIZE_ERROR})
FLOW: Final = frozenset({Code.FLOW_CONTROL_ERROR})
CLOSED: Final = frozenset({Code.STREAM_CLOSED})
COMPRESSION: Final = frozenset({Code.COMPRESSION_ERROR})
NONE: Final[frozenset[Code]] = frozenset()

ROW: Final = b"ours"
MESSAGE: Final = body(ROW)
OPEN: Final = headers(1, block())
WHOLE: Final = call(1, MESSAGE)

_MARK: Final = b"observed"
A_WHILE_S: Final = 3.0
"""How long a stream may take to end after a PING was answered, and a connection after GOAWAY."""


def _too_large(kind: Kind, rest: bytes = b"") -> Callable[[Connection], bytes]:
    def sent(connection: Connection) -> bytes:
        size = connection.settings.get(Setting.MAX_FRAME_SIZE, 1 << 14) + 1
        return rest + frame(kind, END_HEADERS if kind == Kind.HEADERS else 0, 1, bytes(size))

    return sent


def _fields(*fields: Field) -> bytes:
    """A whole call with these fields alone."""
    return headers(1, hpack.block(fields)) + pieces(1, MESSAGE)


def _without(name: str) -> bytes:
    return _fields(*(each for each in FIELDS if each[0] != name))


def _with(name: str, value: str) -> bytes:
    return call(1, MESSAGE, [(name, value)])


def _replaced(name: str, value: str) -> bytes:
    return _fields(*((key, value if key == name else old) for key, old in FIELDS))


def _compressed(data: bytes) -> bytes:
    """A call whose header block ends in `data`."""
    return headers(1, block() + data, END_HEADERS | END_STREAM)


def _rules() -> Iterator[Rule]:
    connection, stream, malformed, ignored = Due.CONNECTION, Due.STREAM, Due.MALFORMED, Due.IGNORED

    yield Rule(
        "3.4", "wrong preface", connection, b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + settings(), PROTOCOL, None, False
    )
    yield Rule("3.4", "no SETTINGS after the preface", connection, PREFACE + ping(), PROTOCOL, None, False)

    yield Rule("4.1", "unknown frame type", ignored, frame(0xFA, 0xFF, 0, b"x" * 32) + WHOLE, NONE, 1)
    yield Rule("4.1", "unknown flags", ignored, frame(Kind.PING, 0xFE, 0, bytes(8)) + WHOLE, NONE, 1)
    yield Rule("4.1", "reserved bit", ignored, call(1 | 1 << 31, MESSAGE), NONE, 1)
    yield Rule("4.2", "DATA larger than MAX_FRAME_SIZE", stream, _too_large(Kind.DATA, OPEN), SIZE, 1)
    yield Rule("4.2", "HEADERS larger than MAX_FRAME_SIZE", connection, _too_large(Kind.HEADERS), SIZE)
    yield Rule("4.2", "SETTINGS larger than MAX_FRAME_SIZE", connection, _too_large(Kind.SETTINGS), SIZE | PROTOCOL)
    yield Rule("4.2", "GOAWAY of 7 bytes", connection, frame(Kind.GOAWAY, payload=bytes(7)), SIZE)
    yield Rule("4.2", "HEADERS too short for its priority", connection, frame(1, 0x24, 1, b"abc"), SIZE | PROTOCOL)
    yield Rule("4.3", "index 0", connection, _compressed(b"\x80"), COMPRESSION)
    yield Rule("4.3", "index beyond the tables", connection, _compressed(hpack.indexed(200)), COMPRESSION)
    yield Rule("4.3", "endless integer", connection, _compressed(b"\xff" + b"\xff" * 24 + b"\x7f"), COMPRESSION)
    yield Rule("4.3", "block ends inside a string", connection, _compressed(b"\x00\x7fabc"), COMPRESSION)
    yield Rule(
        "4.3",
        "Huffman code of the end of strings",
        connection,
        _compressed(b"\x00\x01a\x84\xff\xff\xff\xff"),
        COMPRESSION,
    )
    yield Rule("4.3", "Huffman padding of a byte", connection, _compressed(b"\x00\x01a\x82\x1f\xff"), COMPRESSION)
    grown = headers(1, hpack.table_size(1 << 20) + block(), END_HEADERS | END_STREAM)
    yield Rule("4.3", "table size above the setting", connection, grown, COMPRESSION)
    yield Rule("4.3", "table size update after a field", connection, _compressed(hpack.table_size(0)), COMPRESSION)

    yield Rule("5.1", "DATA on an idle stream", connection, data(1, b"x"), PROTOCOL)
    yield Rule("5.1", "RST_STREAM on an idle stream", connection, reset(1), PROTOCOL)
    yield Rule("5.1", "WINDOW_UPDATE on an idle stream", connection, window(1, 1), PROTOCOL)
    yield Rule("5.1", "CONTINUATION on an idle stream", connection, continuation(1, block(), END_HEADERS), PROTOCOL)
    yield Rule("5.1", "DATA after END_STREAM", stream, WHOLE + data(1, b"x"), CLOSED, 1)
    yield Rule("5.1", "HEADERS after END_STREAM", stream, WHOLE + headers(1, block(), 0x5), CLOSED, 1)
    yield Rule("5.1", "DATA after RST_STREAM", stream, OPEN + reset(1) + data(1, b"x"), CLOSED, 1)
    yield Rule("5.1", "HEADERS after RST_STREAM", stream, OPEN + reset(1) + headers(1, block(), 0x5), CLOSED, 1)
    yield Rule("5.1", "WINDOW_UPDATE after END_STREAM", ignored, WHOLE + window(1, 1), NONE, 1)
    yield Rule("5.1", "RST_STREAM after RST_STREAM", ignored, OPEN + reset(1) + reset(1), NONE)
    yield Rule("5.1.1", "even stream", connection, call(2, MESSAGE), PROTOCOL)
    yield Rule("5.1.1", "streams that go down", connection, call(5, MESSAGE) + call(3, MESSAGE), PROTOCOL | CLOSED)
    yield Rule("5.1.2", "more streams than allowed", stream, _too_many, PROTOCOL | {Code.REFUSED_STREAM}, ANY)
    yield Rule("5.5", "unknown frame within a header block", connection, headers(1, block(), 0) + frame(0xFA), PROTOCOL)

    yield Rule("6.1", "DATA on stream 0", connection, data(0, b"x"), PROTOCOL)
    yield Rule("6.1", "DATA with too much padding", connection, OPEN + data(1, b"\x05abc", PADDED), PROTOCOL)
    yield Rule("6.1", "DATA with no length of its padding", connection, OPEN + data(1, b"", PADDED), PROTOCOL | SIZE)
    yield Rule("6.1", "padding", ignored, OPEN + data(1, b"\x03" + MESSAGE + bytes(3), PADDED | END_STREAM), NONE, 1)
    yield Rule("6.2", "HEADERS on stream 0", connection, headers(0, block()), PROTOCOL)
    yield Rule("6.2", "HEADERS with too much padding", connection, headers(1, b"\xff" + block(), 0xC), PROTOCOL)
    padded = headers(1, b"\x02" + bytes(4) + b"\x0f" + block() + bytes(2), END_HEADERS | PADDED | PRIORITISED)
    yield Rule("6.2", "HEADERS with padding and priority", ignored, padded + pieces(1, MESSAGE), NONE, 1)
    begun = headers(1, block(), 0)
    yield Rule("6.2", "DATA within a header block", connection, begun + data(1, b"x"), PROTOCOL)
    yield Rule("6.2", "HEADERS within a header block", connection, begun + headers(3, block()), PROTOCOL)
    yield Rule("6.2", "PING within a header block", connection, begun + ping(), PROTOCOL)
    yield Rule("6.2", "WINDOW_UPDATE within a header block", connection, begun + window(0, 1), PROTOCOL)
    yield Rule("6.2", "CONTINUATION of another stream", connection, begun + continuation(3, b"", END_HEADERS), PROTOCOL)
    yield Rule("6.3", "PRIORITY on stream 0", connection, priority(0, 1), PROTOCOL)
    yield Rule("6.3", "PRIORITY of 4 bytes", stream, OPEN + frame(Kind.PRIORITY, 0, 1, bytes(4)), SIZE, 1)
    yield Rule("6.3", "PRIORITY on an idle stream", ignored, priority(9, 0), NONE)
    # RFC 7540, 5.3.1, made it a stream error; RFC 9113 takes dependencies back.
    yield Rule("5.3.1", "PRIORITY on itself", Due.EITHER, priority(1, 1) + WHOLE, PROTOCOL, 1)
    yield Rule("6.4", "RST_STREAM on stream 0", connection, reset(0), PROTOCOL)
    yield Rule("6.4", "RST_STREAM of 3 bytes", connection, OPEN + frame(Kind.RST_STREAM, 0, 1, bytes(3)), SIZE)
    yield Rule("6.5", "SETTINGS on a stream", connection, OPEN + frame(Kind.SETTINGS, 0, 1), PROTOCOL)
    yield Rule("6.5", "SETTINGS of 5 bytes", connection, frame(Kind.SETTINGS, payload=bytes(5)), SIZE)
    yield Rule("6.5", "acknowledgement with content", connection, frame(Kind.SETTINGS, ACK, 0, bytes(6)), SIZE)
    yield Rule("6.5.2", "ENABLE_PUSH of 2", connection, settings((Setting.ENABLE_PUSH, 2)), PROTOCOL)
    yield Rule(
        "6.5.2", "INITIAL_WINDOW_SIZE of 2**31", connection, settings((Setting.INITIAL_WINDOW_SIZE, 1 << 31)), FLOW
    )
    yield Rule(
        "6.5.2", "MAX_FRAME_SIZE of 2**14 - 1", connection, settings((Setting.MAX_FRAME_SIZE, (1 << 14) - 1)), PROTOCOL
    )
    yield Rule("6.5.2", "MAX_FRAME_SIZE of 2**24", connection, settings((Setting.MAX_FRAME_SIZE, 1 << 24)), PROTOCOL)
    yield Rule("6.5.2", "unknown setting", ignored, settings((0xFAFA, 7)) + WHOLE, NONE, 1)
    yield Rule(
        "6.6", "PUSH_PROMISE", connection, OPEN + frame(Kind.PUSH_PROMISE, 4, 1, bytes(3) + b"\x02" + block()), PROTOCOL
    )
    yield Rule("6.7", "PING on a stream", connection, OPEN + frame(Kind.PING, 0, 1, bytes(8)), PROTOCOL)
    yield Rule("6.7", "PING of 6 bytes", connection, frame(Kind.PING, payload=bytes(6)), SIZE)
    yield Rule("6.7", "acknowledgement of no PING", ignored, frame(Kind.PING, ACK, payload=b"nobody's"), NONE)
    yield Rule("6.8", "GOAWAY on a stream", connection, OPEN + frame(Kind.GOAWAY, 0, 1, bytes(8)), PROTOCOL)
    yield Rule("6.9", "WINDOW_UPDATE of 3 bytes", connection, frame(Kind.WINDOW_UPDATE, payload=bytes(3)), SIZE)
    yield Rule("6.9", "WINDOW_UPDATE by 0 on the connection", connection, window(0, 0), PROTOCOL)
    yield Rule("6.9", "WINDOW_UPDATE by 0 on a stream", stream, OPEN + window(1, 0), PROTOCOL, 1)
    yield Rule("6.9.1", "window of the connection past 2**31 - 1", connection, window(0, 2**31 - 1), FLOW)
    yield Rule("6.9.1", "window of a stream past 2**31 - 1", stream, OPEN + window(1, 2**31 - 1), FLOW, 1)
    wide = OPEN + window(1, 2**31 - 1 - 2**24) + settings((Setting.INITIAL_WINDOW_SIZE, 2**24 + 1))
    yield Rule("6.9.2", "SETTINGS that lift a window past 2**31 - 1", connection, wide, FLOW)
    yield Rule("6.10", "CONTINUATION on stream 0", connection, begun + continuation(0, b"", END_HEADERS), PROTOCOL)
    yield Rule("6.10", "CONTINUATION after END_HEADERS", connection, OPEN + continuation(1, b"", END_HEADERS), PROTOCOL)
    half = block()
    split = headers(1, b"", 0) + continuation(1, half[:20]) + continuation(1) + continuation(1, half[20:], END_HEADERS)
    yield Rule("6.10", "header block in four frames", ignored, split + pieces(1, MESSAGE), NONE, 1)

    yield Rule("8.1", "trailers without END_STREAM", malformed, OPEN + headers(1, hpack.literal("a", "b")), PROTOCOL, 1)
    yield Rule(
        "8.1", "pseudo-header in trailers", malformed, OPEN + headers(1, hpack.literal(":path", "/"), 0x5), PROTOCOL, 1
    )
    yield Rule("8.1.1", "content-length above the body", malformed, _with("content-length", "1000"), PROTOCOL, 1)
    yield Rule("8.1.1", "content-length below the body", malformed, _with("content-length", "3"), PROTOCOL, 1)
    yield Rule(
        "8.1.1",
        "two lengths",
        malformed,
        call(1, MESSAGE, [("content-length", "3"), ("content-length", "4")]),
        PROTOCOL,
        1,
    )
    for name, value in (
        ("Upper", "x"),
        ("with space", "x"),
        ("with:colon", "x"),
        ("with\x00zero", "x"),
        ("", "x"),
        ("zero", "a\x00b"),
        ("line-feed", "a\nb"),
        ("carriage-return", "a\rb"),
        ("space-before", " a"),
        ("space-after", "a "),
    ):
        yield Rule("8.2.1", f"field {name!r}: {value!r}", malformed, _with(name, value), PROTOCOL, 1)
    for name, value in (
        ("connection", "close"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
    ):
        yield Rule("8.2.2", f"connection-specific {name}", malformed, _with(name, value), PROTOCOL, 1)
    yield Rule("8.2.2", "te other than trailers", malformed, _replaced("te", "gzip"), PROTOCOL, 1)
    yield Rule("8.3", "pseudo-header after a field", malformed, _fields(("a", "b"), *FIELDS), PROTOCOL, 1)
    yield Rule("8.3", "unknown pseudo-header", malformed, _fields((":unknown", "x"), *FIELDS), PROTOCOL, 1)
    yield Rule("8.3", "pseudo-header of answers", malformed, _fields((":status", "200"), *FIELDS), PROTOCOL, 1)
    for name, value in FIELDS[:4]:
        yield Rule("8.3", f"{name} twice", malformed, _fields((name, value), *FIELDS), PROTOCOL, 1)
    for name, _ in FIELDS[:3]:
        yield Rule("8.3.1", f"no {name}", malformed, _without(name), PROTOCOL, 1)
    yield Rule("8.3.1", "empty :path", malformed, _replaced(":path", ""), PROTOCOL, 1)
    yield Rule("8.5", "CONNECT with a path", malformed, _replaced(":method", "CONNECT"), PROTOCOL, 1)


def _too_many(connection: Connection) -> bytes:
    """Half-open streams, one more than the server takes; nothing where it sets no limit."""
    most = connection.settings.get(Setting.MAX_CONCURRENT_STREAMS)
    if most is None or most > 100_000:
        return b""
    return b"".join(headers(stream, block()) for stream in range(1, 2 * most + 3, 2))


RULES: Final = tuple(_rules())


class Seen(NamedTuple):
    """What came of a fault."""

    goaway: int | None
    closed: bool
    answer: Answer
    resets: dict[int, int]
    pinged: bool

    def __str__(self) -> str:
        told = [f"RST_STREAM {name_of(code)}" for code in sorted(set(self.resets.values()))]
        if self.answer.headers and self.answer.reset is None:
            told.append(str(self.answer))
        if self.goaway is not None:
            told.append(f"GOAWAY {name_of(self.goaway)}")
        if self.closed:
            told.append("closed")
        if not (self.closed or self.pinged or self.goaway):
            told.append("a PING went unanswered")
        return ", ".join(told) or "ignored"


def break_rule(rule: Rule, port: int, patience_s: float = A_WHILE_S) -> Seen:
    """Does what the rule is about, and gives what came of it within `TIMEOUT_S`."""
    with Connection(port) as connection:
        return _break(rule, connection, patience_s)


def _break(rule: Rule, connection: Connection, patience_s: float) -> Seen:
    if rule.greets:
        connection.greet()
    deadline = time.monotonic() + TIMEOUT_S
    sent = rule.sent(connection) if callable(rule.sent) else rule.sent
    connection.push(sent + ping(_MARK), deadline)
    stream_deadline = deadline
    try:
        while not connection.closed:
            if connection.goaway:
                deadline = min(deadline, time.monotonic() + patience_s)
            elif _MARK in connection.pongs:
                answers = connection.answers
                awaited = answers.values() if rule.stream == ANY else [answers.get(rule.stream or 0, Answer())]
                if rule.stream is None or any(answer.over for answer in awaited):
                    break
                stream_deadline = min(stream_deadline, time.monotonic() + patience_s)
            connection.read(min(deadline, stream_deadline))
    except TimeoutError:
        pass
    resets = {stream: answer.reset for stream, answer in connection.answers.items() if answer.reset is not None}
    answer = connection.answers.get(rule.stream or 0, Answer())
    return Seen(connection.goaway, connection.closed, answer, resets, _MARK in connection.pongs)


def fault(rule: Rule, seen: Seen) -> str | None:
    """In what the server did other than the rule says; None where it kept it."""
    in_connection = seen.goaway in rule.codes or (seen.closed and not seen.goaway)
    in_stream = bool(rule.codes & set(seen.resets.values()))
    no = seen.answer.ended and not seen.answer.succeeded
    kept = {
        Due.CONNECTION: in_connection,
        Due.STREAM: in_connection or in_stream,
        Due.MALFORMED: in_connection or in_stream or no,
        Due.IGNORED: not (seen.goaway or seen.closed or seen.resets),
        Due.EITHER: in_connection or in_stream or seen.answer.succeeded,
    }[rule.due]
    if rule.due is Due.IGNORED and rule.stream is not None:
        kept = kept and seen.answer.succeeded
    return None if kept else str(seen)
