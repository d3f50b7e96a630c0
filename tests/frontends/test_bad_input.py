"""Nothing that is sent harms the server: each fault gets its own answer, and afterwards everything is as it was."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import orjson
import psutil
import pytest

from tests.frontends.rows import bodies, formats, framing, headers, open_inference, routes
from tests.frontends.rows.row import MEBIBYTE, Row, invocation
from tests.support.server import Server, wait_until
from tests.support.wire import Answer, Closed, Wire, ask, request

ROWS: list[Row] = [
    *framing.ROWS,
    *headers.ROWS,
    *bodies.ROWS,
    *formats.ROWS,
    *open_inference.ROWS,
    *routes.ROWS,
]

MOST_GROWTH_BYTES = 20 * MEBIBYTE

LARGE = ("over the limit in chunks", "20 MB of brackets")
"""The rows of the largest buffers: what malloc keeps of them for the next time is no growth."""


class Before(NamedTuple):
    """What a server was before it was maltreated."""

    workers: set[int]
    memory: int
    files: set[Path]
    open_files: set[str]


def fetch(server: Server, path: str) -> Answer:
    """The answer to a GET."""
    return ask(server.port, request(path, method="GET", length=False), "GET")


def workers(server: Server) -> set[int]:
    """Who answers, as they say themselves."""
    return {model["pid"] for model in fetch(server, "/debug/models").json()}


def memory(server: Server) -> int:
    """Resident bytes of the worker."""
    (worker,) = workers(server)
    return int(psutil.Process(worker).memory_info().rss)


def metric(server: Server, name: str) -> float:
    """The sum of a metric over its labels."""
    text = fetch(server, "/metrics").body.decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE))


def files(server: Server) -> set[Path]:
    """All that lies beside the server's state: its log, its home, its temporary files."""
    return {path for path in server.state_dir.parent.rglob("*") if server.state_dir not in path.parents}


def open_files(server: Server) -> set[str]:
    """What the worker has open."""
    (worker,) = workers(server)
    return {file.path for file in psutil.Process(worker).open_files()}


@pytest.fixture(scope="module")
def before(server: Server) -> Before:
    """The state of the server after some ordinary use: all codecs loaded, both ways in taken, buffers grown once."""
    for _ in range(3):
        big = orjson.dumps({"instances": [[1, 2, 3, 4]] * 100_000})
        assert ask(server.port, invocation(big)).status == 200
        assert ask(server.port, invocation()).status == 200
        assert ask(server.port, invocation(formats.STREAM, content_type=formats.ARROW)).status == 200
    for row in ROWS:
        if row.name in LARGE:
            with Wire(server.port) as wire:
                wire.offer(row.pieces())
                wire.answer()
    return Before(workers(server), memory(server), files(server), open_files(server))


def test_the_table_is_large_and_has_no_doubles() -> None:
    assert sum(row.status is None or row.status >= 400 for row in ROWS) >= 120
    names = Counter(row.name for row in ROWS)
    assert [name for name, count in names.items() if count > 1] == []
    assert all(row.words for row in ROWS if row.status is not None)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_answer(server: Server, before: Before, row: Row) -> None:
    with Wire(server.port) as wire:
        wire.offer(row.pieces())
        if row.ends:
            wire.end()
        if row.status is None:
            with pytest.raises(Closed):
                wire.answer()
            return
        answer = wire.answer(row.method)
        assert (answer.status, *(wire.answer().status for _ in row.then)) == (row.status, *row.then), answer.body
        if row.method != "HEAD":
            text = answer.message if answer.status >= 400 else answer.body.decode()
            for word in row.words:
                assert word.lower() in text.lower(), f"'{word}' is not in: {text}"
            assert len(text) < 1000
        if row.closes:
            assert wire.is_closed(), "nothing more was to come"
        else:
            wire.send(invocation())
            assert wire.answer().json() == {"predictions": [[40.0, 50.0]]}


# ---------------------------------------------------------------- what is left of it


def test_the_same_worker_answers_right(server: Server, before: Before) -> None:
    assert workers(server) == before.workers
    assert ask(server.port, invocation()).json() == {"predictions": [[40.0, 50.0]]}


def test_nothing_is_held(server: Server, before: Before) -> None:
    wait_until(lambda: metric(server, "serving_in_flight_bytes") == 0, 10, "no byte in flight")
    wait_until(lambda: metric(server, "serving_connections") == 1, 10, "the end of all connections but the asking one")
    assert metric(server, "serving_queue_requests") == 0


def test_memory_is_back(server: Server, before: Before) -> None:
    wait_until(lambda: memory(server) < before.memory + MOST_GROWTH_BYTES, 10, "the memory of before")


def test_no_file_was_made(server: Server, before: Before) -> None:
    assert files(server) == before.files
    assert open_files(server) == before.open_files


def test_nothing_was_unexpected(server: Server, before: Before) -> None:
    assert server.unexpected() == []
