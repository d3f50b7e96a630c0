"""Mutated byte streams against the parser: nobody else notices, and every answer is a well-formed one.

`FUZZ_ROUNDS` in the environment makes it run longer, with other mutations in each round.
"""

from __future__ import annotations

import gzip
import os
import random
from collections.abc import Callable
from typing import Final

import orjson
import pytest

from tests.frontends.rows.row import JSON, infer, infer_binary, inputs, invocation, tensor, to_model
from tests.support.server import Server
from tests.support.wire import Wire, ask, chunked, request

ROUNDS: Final = int(os.environ.get("FUZZ_ROUNDS", "4"))
STREAMS: Final = 700

FOUR: Final = bytes(16)
SEEDS: Final = [
    invocation(),
    invocation(b"1,2,3,4\n", content_type="text/csv"),
    invocation(gzip.compress(b'{"instances":[[1,2,3,4]]}', mtime=0), "Content-Encoding: gzip"),
    request("/invocations", b"", JSON, "Transfer-Encoding: chunked", length=False) + chunked(invocation(), 11),
    request("/invocations", b"", JSON, "Transfer-Encoding: chunked", "Trailer: X", length=False)
    + b"4;name=value\r\n[[1,\r\n5\r\n2,3,4\r\n2\r\n]]\r\n0\r\nX: y\r\n\r\n",
    to_model("pair", {"instances": [{"a": [1, 2], "b": [3]}]}, "X-Amzn-SageMaker-Custom-Attributes: a=b"),
    infer("linear", inputs(tensor(data=[1, 2, 3, 4]))),
    infer_binary("linear", inputs(tensor(parameters={"binary_data_size": 16})), FOUR),
    infer("linear:team%2Fa.tar.gz", inputs(tensor(data=[1, 2, 3, 4]))),
    invocation(b'{"instances":[[1,2,3,4]]}', "X-Amzn-SageMaker-Target-Model: team/a.tar.gz"),
    request("/models/8f14e45f/invoke", b'{"instances":[[1,2,3,4]]}', JSON),
    request("/models", b'{"model_name":"a","url":"/opt/ml/models/a/model"}', JSON),
    request("/v2/models/linear", method="GET", length=False),
    request("/debug/models", method="GET", length=False),
    invocation(b'{"instances":[[1,2,3,4]]}', "Connection: close"),
    request("/invocations", b'{"instances":[[1,2,3,4]]}', JSON, version="1.0"),
]
"""Valid requests of all kinds."""

PIECES: Final = [
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"%", b"/", b"?", b"\x80", b"\xff", b"\r\n\r\n"),
    *(b"0", b"-1", b"99999999999999999999", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"Host: localhost\r\n", b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"Expect: 100-continue\r\n"),
    *(b"0\r\n\r\n", b"ffffffff\r\n", b"GET / HTTP/1.1\r\n", b"POST /invocations HTTP/1.1\r\n", b"[" * 100),
]


def flip(chance: random.Random, data: bytearray) -> None:
    """One bit of one byte."""
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def replace(chance: random.Random, data: bytearray) -> None:
    """One byte by another."""
    data[chance.randrange(len(data))] = chance.randrange(256)


def cut(chance: random.Random, data: bytearray) -> None:
    """Some bytes go."""
    start = chance.randrange(len(data))
    del data[start : start + chance.randrange(1, 30)]


def insert(chance: random.Random, data: bytearray) -> None:
    """Something comes in between."""
    place = chance.randrange(len(data) + 1)
    data[place:place] = chance.choice(PIECES)


def double(chance: random.Random, data: bytearray) -> None:
    """Some bytes come twice."""
    start = chance.randrange(len(data))
    end = start + chance.randrange(1, 60)
    data[end:end] = data[start:end]


def graft(chance: random.Random, data: bytearray) -> None:
    """The rest is another request's."""
    other = chance.choice(SEEDS)
    data[chance.randrange(len(data)) :] = other[chance.randrange(len(other)) :]


MUTATIONS: Final[list[Callable[[random.Random, bytearray], None]]] = [flip, replace, cut, insert, insert, double, graft]


def mutated(chance: random.Random) -> bytes:
    """A few requests of which something is changed."""
    data = bytearray(b"".join(chance.choices(SEEDS, k=chance.randrange(1, 4))))
    for _ in range(chance.choice((0, 1, 1, 2, 3, 8))):
        if data:
            chance.choice(MUTATIONS)(chance, data)
    return bytes(data)


def pieces(chance: random.Random, data: bytes) -> list[bytes]:
    """The stream as it is sent: whole, or cut at some places, or byte by byte."""
    if chance.random() < 0.05:
        return [data[place : place + 1] for place in range(len(data))]
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice((0, 0, 1, 2, 5))))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@pytest.mark.parametrize("number", range(ROUNDS))
def test_mutated_streams(server: Server, number: int) -> None:
    chance = random.Random(number)
    answered = 0
    with Wire(server.port) as neighbour:
        for turn in range(STREAMS):
            stream = mutated(chance)
            with Wire(server.port) as wire:
                for piece in pieces(chance, stream):
                    wire.offer((piece,))
                    mark = chance.randrange(1000)
                    sent = orjson.dumps({"instances": [[mark, 0, 0, turn]]})
                    if chance.random() < 0.3:
                        neighbour.send(invocation(sent))
                        assert neighbour.answer().json() == {"predictions": [[6.0 * turn, mark + 7.0 * turn]]}
                if chance.random() < 0.2:
                    wire.end()
                neighbour.send(request("/ping", method="GET", length=False))
                assert neighbour.answer().status == 200
                for answer in wire.arrived(within_s=0.005):
                    answered += 1
                    assert answer.status < 500 or answer.status == 501, (stream, answer)
                    if answer.status >= 400:
                        assert answer.message, (stream, answer)
    # Most streams are answered, or nothing was tested.
    assert answered > STREAMS / 2


def test_the_server_is_as_it_was(server: Server) -> None:
    assert ask(server.port, invocation()).json() == {"predictions": [[40.0, 50.0]]}
    assert "Traceback" not in server.output
    assert "ended with" not in server.output
