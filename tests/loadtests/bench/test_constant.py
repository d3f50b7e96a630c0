"""The constant answer that the load generators are measured against."""

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from loadtests.bench.apps.constant import REPLY, Constant

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def post(body: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: a\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


class Sink:
    """What a connection writes."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)


def replies(parts: list[bytes]) -> int:
    sink: Any = Sink()
    connection = Constant()
    connection.connection_made(sink)
    for part in parts:
        connection.data_received(part)
    assert set(sink.written) <= {REPLY}
    return len(sink.written)


@given(cuts=st.sets(st.integers(1, 4 * len(post(b"12345")) - 1)))
def test_requests_of_one_length_are_counted_however_they_are_cut(cuts: set[int]) -> None:
    stream = post(b"12345") * 4
    ends = [0, *sorted(cuts), len(stream)]
    assert replies([stream[start:end] for start, end in itertools.pairwise(ends)]) == 4


def test_requests_of_different_lengths() -> None:
    assert replies([GET, post(b"1"), post(b"123"), GET, post(b"12") + GET]) == 6
    assert replies([post(b"123")[:-1]]) == 0
