"""The benchmark of many models on one endpoint: its models, its callers, and a short run of what needs no wrk."""

from __future__ import annotations

import itertools
import os
import socket
import tarfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from loadtests.bench.openloop import BadAnswer
from loadtests.multi_model import herd, known, loading, script, wide, zipf
from loadtests.multi_model.__main__ import runs
from loadtests.multi_model.calling import Caller, ClosedLoop, Lane
from loadtests.multi_model.cases import CASES, TARGETS
from loadtests.multi_model.context import Amounts, Context, is_right
from loadtests.report import Report
from loadtests.runner import chosen

TINY = Amounts(
    disk_hits=2,
    misses=2,
    warming=1,
    models=40,
    requests=200,
    warming_requests=60,
    budget=100_000_000,
    known=8,
    warming_known=4,
    callers=20,
)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    cores = sorted(os.sched_getaffinity(0))
    made = Context(
        tmp_path_factory.mktemp("bench"),
        0.2,
        1,
        None,
        Report("", TARGETS),
        server_core=cores[0],
        load_core=cores[-1],
        amounts=TINY,
    )
    yield made
    made.close()


def figures(context: Context, case: str) -> dict[str, float]:
    return {figure.name: figure.value for figure in context.report.figures if figure.name.startswith(case)}


def targets(case: str) -> set[str]:
    return {name for name in TARGETS if name.startswith(case)}


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that answers each request with its first line, and hangs up at `bye`."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_accept, args=(listening,), daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def _accept(listening: socket.socket) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    # A lane that is endless hangs up whenever the others have ended.
    with connection, suppress(OSError):
        while (line := connection.recv(1000)) not in (b"", b"bye"):
            connection.sendall(OK % (len(line), line))


def test_every_case_is_run_by_something() -> None:
    assert runs().keys() == CASES.keys()
    assert list(chosen(["zipf", "herd"], CASES)) == ["zipf/lru", "zipf/default", "herd"]
    assert all(any(name.startswith(f"{case}: ") for case in CASES) for name in TARGETS)


def test_a_model_tells_its_number_and_is_one_megabyte(tmp_path: Path) -> None:
    for number in (0, 4_999):
        packed = wide.archive(number)
        assert 0.9e6 < len(packed) < 1e6
        with tarfile.open(fileobj=BytesIO(packed)) as tar:
            tar.extractall(tmp_path, filter="data")
        (answer,) = script.session(str(tmp_path / wide.FILE)).run(None, wide.feed())
        assert answer[0, 0] != number
        assert is_right(number, 200, b'{"predictions":[[%f]]}' % answer[0, 0])
    assert not is_right(4_998, 200, b'{"predictions":[[4999.1]]}')
    assert not is_right(4_999, 429, b'{"predictions":[[4999.1]]}')
    assert not is_right(4_999, 200, b"not JSON")


def test_callers_get_the_answers_to_their_own_requests(echo: int) -> None:
    def check(key: int, status: int, body: bytes) -> bool:
        return status == 200 and body == b"%d" % key and key != 7

    some = Lane([(key, b"%d" % key) for key in range(100)], 5, check)
    endless = Lane(zip(itertools.repeat(3), itertools.repeat(b"3")), 2, check, endless=True)
    ClosedLoop(echo, [some, endless]).run()
    assert sorted(found.key for found in some.answers) == list(range(100))
    assert [found.key for found in some.answers if not found.right] == [7]
    assert some.wrong == ["200 b'7'"]
    assert endless.answers
    assert all(found.right and found.seconds > 0 for found in endless.answers)
    with Caller(echo) as caller:
        status, body, seconds = caller.ask(b"x")
        assert (status, body) == (200, b"x")
        assert seconds > 0


def test_a_connection_that_the_server_closes_is_told(echo: int) -> None:
    with pytest.raises(BadAnswer, match="closed"):
        ClosedLoop(echo, [Lane([(0, b"bye")], 1, lambda *_: True)]).run()
    with Caller(echo) as caller, pytest.raises(BadAnswer, match="closed"):
        caller.ask(b"bye")


def test_a_pause_of_the_machine_does_not_decide() -> None:
    theirs = [1.0] * 40
    ours = [1.1] * 40
    ours[7] = 500.0
    found = loading.of_medians(ours, theirs)
    assert (found.low, found.value, found.high) == pytest.approx((1.1, 1.1, 1.1))
    assert loading.of_medians([2.0, 2.0], [1.0, 1.0]).value == pytest.approx(2.0)


@pytest.mark.slow
def test_cold_targets_are_timed_beside_a_script(context: Context) -> None:
    loading.disk_hits(context, 1)
    loading.misses(context)
    assert targets("disk-hit/1MB") == figures(context, "disk-hit/1MB").keys()
    assert targets("miss") == figures(context, "miss").keys()
    assert np.all(np.array(list(figures(context, "miss").values())) > 0)


@pytest.mark.slow
def test_a_closed_loop_over_more_models_than_memory(context: Context) -> None:
    zipf.run(context, "lru")
    found = figures(context, "zipf/lru")
    assert targets("zipf/lru") < found.keys()
    assert found["zipf/lru: failed requests"] == 0
    assert 0 < found["zipf/lru: hit ratio of lru"] < 1


@pytest.mark.slow
def test_what_is_known_and_a_herd(context: Context) -> None:
    known.run(context)
    herd.run(context)
    assert targets("known") == figures(context, "known").keys()
    found = figures(context, "herd")
    assert (found["herd: failed requests"], found["herd: loads"]) == (0, 1)
