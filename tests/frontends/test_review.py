"""What a review of the hot path found, each as the test that it failed: callers who harm others, and leaks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import orjson
import psutil
import pytest

from tests.frontends.rows.row import JSON, MEBIBYTE, invocation
from tests.frontends.test_lane import answered, get, metric, rows, slow
from tests.support.server import Server, wait_until
from tests.support.wire import Wire, ask, request


def test_pipelined_refusals_cost_nobody_else_an_answer(server: Server) -> None:
    refused = request("/endpoints/slow/invocations", b"", JSON)
    with Wire(server.port) as other, Wire(server.port) as rude:
        other.send(slow())
        rude.send(slow() + refused * 800)
        assert other.answer().status == 200
        answers = rude.answers(801)
    assert [answer.status for answer in answers] == [200] + [424] * 800


def test_many_offers_to_upgrade_are_answered(server: Server) -> None:
    with Wire(server.port) as wire:
        wire.send(request("/ping", b"", "Upgrade: x", "Connection: upgrade", method="GET", length=False) * 2500)
        assert {answer.status for answer in (wire.answer("GET") for _ in range(2500))} == {200}


def test_short_deadlines_leave_nothing_behind(server: Server) -> None:
    body = orjson.dumps({"instances": [[0.5, 0, 0, 1]] * 300})
    sent = request("/invocations", body, JSON, "X-Serving-Timeout-Ms: 30000")
    worker = server.children()[0]

    def send(count: int) -> None:
        with Wire(server.port) as wire:
            for _ in range(count):
                wire.send(sent)
                assert wire.answer().status == 200

    send(1000)
    before = worker.memory_info().rss
    send(6000)
    # Kept, their decoded rows alone would be 29 MB.
    assert worker.memory_info().rss - before < 12 * MEBIBYTE


def test_idle_connections_hold_no_bodies(server: Server) -> None:
    body = orjson.dumps({"instances": [[0.25, 0, 0, 1]] * 900_000})
    assert 10 * MEBIBYTE < len(body) < 25 * MEBIBYTE
    worker = psutil.Process(server.children()[0].pid)
    wires = [Wire(server.port, timeout_s=60.0) for _ in range(6)]
    try:
        for wire in wires:
            wire.send(request("/invocations", body, JSON, "Accept: text/csv"))
            assert wire.answer().status == 200
        held = len(body) * len(wires)
        wait_until(lambda: worker.memory_info().rss < 120 * MEBIBYTE + held // 2, 15.0, "the bodies to be let go")
        assert metric(server, "serving_in_flight_bytes") == 0
    finally:
        for wire in wires:
            wire.socket.close()


def test_concurrent_administrative_calls_are_all_answered(server: Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(server.port, get("/metrics"), "GET").status, range(24)))
    assert answers == [200] * 24


def test_every_request_is_counted(server: Server) -> None:
    before = metric(server, "serving_http_requests_total")
    with Wire(server.port) as wire:
        for number in range(50):
            wire.send(invocation(rows(float(number))))
            assert wire.answer().json() == answered(float(number))
    # The reading itself is counted once it was answered.
    assert metric(server, "serving_http_requests_total") == before + 51


@pytest.mark.parametrize("origin", ["http://localhost:9", "https://127.0.0.1:1", "http://localhost"])
def test_a_page_of_another_port_may_not_call(server: Server, origin: str) -> None:
    host = f"localhost:{server.port}"
    assert ask(server.port, request("/invocations", rows(1.0), JSON, f"Origin: {origin}", host=host)).status == 403
    own = f"Origin: http://{host}"
    assert ask(server.port, request("/invocations", rows(1.0), JSON, own, host=host)).status == 200


def test_a_deadline_that_passed_while_decoding_runs_nothing(server: Server) -> None:
    body = orjson.dumps({"instances": [[0.5, 0, 0, 1]] * 100_000})
    before = metric(server, "serving_queue_expired_total", model="linear")
    late = ask(server.port, request("/invocations", body, JSON, "X-Serving-Timeout-Ms: 1"))
    assert late.status == 504
    assert "the deadline of 0.001 s passed" in late.message
    assert metric(server, "serving_queue_expired_total", model="linear") == before + 1
