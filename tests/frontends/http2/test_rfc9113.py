"""RFC 9113's MUSTs, one by one, and the flow of answers that it prescribes."""

from __future__ import annotations

import time

import pytest

from tests.frontends.http2 import hpack
from tests.frontends.http2.calls import ask, block, body, call
from tests.frontends.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PREFACE,
    TIMEOUT_S,
    Connection,
    Frame,
    Kind,
    Setting,
    continuation,
    frame,
    headers,
    pieces,
    ping,
    settings,
    window,
)
from tests.frontends.http2.known import BROKEN
from tests.frontends.http2.rules import A_WHILE_S, RULES, Rule, break_rule, fault
from tests.frontends.http2.targets import Target

ROW = b"0123456789abcdef"

KNOWN_S = 0.3
"""How long a transport is waited for where it is known to do nothing."""


def name(rule: Rule) -> str:
    """How a rule is called among the known faults."""
    return f"{rule.section} {rule.name}"


def frames(connection: Connection, until: Kind, flags: int = 0) -> list[Frame]:
    """Frames up to the first of that kind and flags. Raises `TimeoutError`."""
    deadline = time.monotonic() + TIMEOUT_S
    got: list[Frame] = []
    while not got or got[-1].kind != until or got[-1].flags & flags != flags:
        each = connection.read(deadline)
        assert each is not None, f"the server closed where {until.name} was expected"
        got.append(each)
    return got


def data_bytes(got: list[Frame]) -> int:
    """How much of the windows they took."""
    return sum(len(each.payload) for each in got if each.kind == Kind.DATA)


@pytest.mark.parametrize("rule", RULES, ids=name)
def test_a_faulty_client_is_refused_and_no_other_notices(target: Target, rule: Rule) -> None:
    known = BROKEN[target.transport].get(name(rule))
    seen = break_rule(rule, target.port, A_WHILE_S if known is None else KNOWN_S)
    assert seen.closed or seen.pinged or seen.goaway, f"{seen}: the connection hangs"
    assert target.serves()
    symptom = fault(rule, seen)
    if known is None:
        assert symptom is None, f"{rule.due.value} was expected"
        return
    assert symptom is not None, f"it was known to be {known}, and is right now: strike it from the list"
    pytest.xfail(f"{target.transport}: {known}")


def test_the_known_faults_are_of_rules_that_exist() -> None:
    assert {each for known in BROKEN.values() for each in known} <= {name(rule) for rule in RULES}
    assert len({name(rule) for rule in RULES}) == len(RULES)


def test_settings_come_first_and_are_acknowledged(target: Target) -> None:
    with Connection(target.port) as connection:
        connection.send(PREFACE + settings((Setting.MAX_FRAME_SIZE, 1 << 15)) + settings())
        got = frames(connection, Kind.SETTINGS, ACK)
        assert got[0].kind == Kind.SETTINGS
        assert not got[0].flags & ACK
        again = frames(connection, Kind.SETTINGS, ACK)
        assert not again[-1].payload
        assert ask(connection, 1) is None


def test_a_ping_comes_back_with_its_content(target: Target) -> None:
    with Connection(target.port) as connection:
        connection.greet()
        connection.send(ping(b"12345678"))
        assert frames(connection, Kind.PING, ACK)[-1].payload == b"12345678"


def test_no_data_without_a_window_and_then_to_the_byte(target: Target) -> None:
    with Connection(target.port) as connection:
        connection.greet((Setting.INITIAL_WINDOW_SIZE, 0))
        connection.send(call(1, body(ROW, 4)))
        connection.send(ping(b"no window"[:8]))
        assert data_bytes(frames(connection, Kind.PING, ACK)) == 0
        for width in (1, 2, 30):
            connection.send(window(1, width))
            came = 0
            while came < width:
                came += data_bytes(frames(connection, Kind.DATA))
            assert came == width
        connection.send(window(1, 1 << 20))
        answer = connection.answer(1)
        assert answer.succeeded
        assert ROW * 4 in answer.body


def test_data_within_the_window_of_the_connection(target: Target) -> None:
    with Connection(target.port) as connection:
        connection.greet(connection_window=0)
        connection.send(call(1, body(bytes(1000), 100)))
        came = 0
        while came < 65_535:
            came += data_bytes(frames(connection, Kind.DATA))
        connection.send(ping())
        assert came + data_bytes(frames(connection, Kind.PING, ACK)) == 65_535
        connection.send(window(0, 1 << 20))
        assert connection.answer(1).succeeded


def test_a_window_that_settings_have_made_negative(target: Target) -> None:
    with Connection(target.port) as connection:
        connection.greet((Setting.INITIAL_WINDOW_SIZE, 1000))
        connection.send(call(1, body(bytes(1000), 8)))
        came = 0
        while came < 1000:
            came += data_bytes(frames(connection, Kind.DATA))
        connection.send(settings((Setting.INITIAL_WINDOW_SIZE, 0)) + window(1, 999) + ping())
        assert data_bytes(frames(connection, Kind.PING, ACK)) == 0
        connection.send(window(1, 11))
        while came < 1010:
            came += data_bytes(frames(connection, Kind.DATA))
        connection.send(ping(b"negative"))
        assert came + data_bytes(frames(connection, Kind.PING, ACK)) == 1010
        connection.send(settings((Setting.INITIAL_WINDOW_SIZE, 1 << 20)))
        assert connection.answer(1).succeeded


def test_no_frame_is_larger_than_the_client_takes(target: Target) -> None:
    with Connection(target.port) as connection:
        connection.greet()
        connection.send(call(1, body(bytes(1000), 200)))
        got = frames(connection, Kind.HEADERS, END_STREAM)
        assert data_bytes(got) > 200_000
        assert max(len(each.payload) for each in got) <= 1 << 14


def test_header_tables_of_no_size_and_of_any(target: Target) -> None:
    with Connection(target.port) as connection:
        connection.greet((Setting.HEADER_TABLE_SIZE, 0))
        assert [ask(connection, stream) for stream in (1, 3, 5)] == [None] * 3
        connection.send(settings((Setting.HEADER_TABLE_SIZE, 2**32 - 1)))
        assert [ask(connection, stream) for stream in (7, 9, 11)] == [None] * 3


def test_a_field_that_is_remembered(target: Target) -> None:
    """The client's own table: filled, used, emptied and filled again."""
    with Connection(target.port) as connection:
        connection.greet()
        blocks = (
            block() + hpack.remembered("x-kept", "a"),
            block() + hpack.indexed(62),
            hpack.table_size(0) + hpack.table_size(4096) + block() + hpack.remembered("x-kept", "b" * 4000),
            block() + hpack.indexed(62),
        )
        for stream, fields in enumerate(blocks):
            connection.send(headers(2 * stream + 1, fields) + pieces(2 * stream + 1, body(ROW)))
            assert connection.answer(2 * stream + 1).succeeded


def test_a_call_byte_by_byte(target: Target) -> None:
    with Connection(target.port) as connection:
        connection.greet()
        whole = headers(1, block()[:30], 0) + continuation(1, block()[30:], END_HEADERS) + pieces(1, body(ROW), size=1)
        for at in range(len(whole)):
            connection.send(whole[at : at + 1])
        assert connection.answer(1).succeeded


def test_calls_in_flight_are_answered_after_goaway(target: Target) -> None:
    with Connection(target.port) as connection:
        connection.greet()
        connection.send(headers(1, block()) + frame(Kind.GOAWAY, payload=bytes(8)) + pieces(1, body(ROW)))
        assert connection.answer(1).succeeded


def test_many_calls_at_once_each_with_its_own_answer(target: Target) -> None:
    with Connection(target.port) as connection:
        connection.greet()
        rows = {stream: b"row %d" % stream for stream in range(1, 201, 2)}
        connection.send(b"".join(headers(stream, block()) for stream in rows))
        connection.send(b"".join(pieces(stream, body(row)) for stream, row in reversed(rows.items())))
        for stream, row in rows.items():
            answer = connection.answer(stream)
            assert answer.succeeded
            assert row in answer.body


def test_streams_of_one_connection_share_it(target: Target) -> None:
    """A stalled answer keeps no other of the same connection."""
    with Connection(target.port) as connection:
        connection.greet((Setting.INITIAL_WINDOW_SIZE, 100))
        connection.send(call(1, body(bytes(1000), 50)))
        assert [ask(connection, stream) for stream in (3, 5, 7)] == [None] * 3


@pytest.mark.parametrize(
    ("coded", "text"),
    [
        ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
        ("d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("9d29ad171863c78f0b97c8e9ae82ae43d3", "https://www.example.com"),
    ],
)
def test_the_decoder_reads_the_examples_of_rfc_7541(coded: str, text: str) -> None:
    assert hpack.huffman(bytes.fromhex(coded)) == text
