"""Several workers behind one port: they share the work, their numbers add up, and the death of one is a small thing."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import psutil
import pytest

from tests.conftest import StartServer
from tests.support import server as support
from tests.support.clients import ROW, Answer, Background, Caller, get, metric, post, worker_pids
from tests.support.server import Server, wait_until

REPLACED_WITHIN_S = 15.0


def served(server: Server) -> int:
    return int(metric(server, "sagemaker_invocations_total", endpoint_name="echo"))


def call_over_new_connections(server: Server, count: int) -> None:
    for number in range(count):
        row = [float(number), 0, 0, 0]
        assert post(server, "/invocations", [row]).json == [row]


def can_listen(server: Server) -> bool:
    """Whether the next server could have its port."""
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind((server.host, server.port))
        except OSError:
            return False
        return True


@pytest.fixture
def pair(start_server: StartServer, echo: Path) -> Server:
    server = start_server("--model", echo, "--workers", "2")
    # One worker answers before the other is there.
    wait_until(lambda: "ready\n" in server.output, 10, "both workers")
    return server


def test_both_serve_and_their_numbers_add_up(pair: Server) -> None:
    pids = worker_pids(pair)
    assert len(pids) == 2
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(call_over_new_connections, pair, 25) for _ in range(8)]:
            done.result()
    assert served(pair) == 200
    assert metric(pair, "serving_request_seconds_count", endpoint_name="echo") == 200
    assert metric(pair, "serving_batch_rows_sum", model="echo") == 200
    assert metric(pair, "serving_endpoint_in_service", endpoint_name="echo") == 1
    assert metric(pair, "serving_worker_starts_total") == 2
    summaries = get(pair, "/debug/models").json
    assert {summary["pid"] for summary in summaries} == pids
    # With so many connections each worker has had some.
    assert all(sum(summary["batches"].values()) > 0 for summary in summaries)


def test_the_batches_of_all_workers_are_shown(pair: Server) -> None:
    call_over_new_connections(pair, 20)
    records = get(pair, "/debug/models/echo/batches").json
    assert sum(record["requests"] for record in records) == 20
    assert get(pair, "/debug/models/absent/batches").status == 404


def test_a_worker_that_is_killed_is_replaced_and_numbers_do_not_fall(pair: Server) -> None:
    call_over_new_connections(pair, 40)
    before = served(pair)
    assert before == 40
    pids = worker_pids(pair)
    victim = min(pids)
    os.kill(victim, signal.SIGKILL)
    wait_replaced(pair, victim)
    assert pids - {victim} < worker_pids(pair)
    assert served(pair) == before
    assert metric(pair, "serving_worker_starts_total") == 3
    call_over_new_connections(pair, 10)
    assert served(pair) == before + 10
    assert "signal SIGKILL; starting another" in pair.output


def test_numbers_do_not_fall_while_a_worker_does_not_answer(pair: Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(call_over_new_connections, pair, 10) for _ in range(8)]:
            done.result()
    assert served(pair) == 80
    stopped = psutil.Process(min(worker_pids(pair)))
    stopped.suspend()
    try:
        # A new connection is taken by the other worker.
        assert served(pair) == 80
    finally:
        stopped.resume()


class Load:
    """Eight callers that call without a pause in a `with` block, each with rows of its own on a connection that it keeps.

    After the block: `right` and `failed` count each caller's answers and connections that broke; `wrong` are other answers.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._pool = ThreadPoolExecutor(8)
        self._ended = False
        self.right = [0] * 8
        self.failed = [0] * 8
        self.wrong: list[Answer] = []

    def __enter__(self) -> Self:
        self._calls = [self._pool.submit(self._keep_calling, number) for number in range(8)]
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        for call in self._calls:
            call.result()
        self._pool.shutdown()

    def wait_for_answers(self, count: int) -> None:
        """Returns when so many more right answers have come."""
        target = sum(self.right) + count
        wait_until(lambda: sum(self.right) >= target, 20, f"{count} right answers")

    def _keep_calling(self, number: int) -> None:
        row = [float(number), 1, 2, 3]
        caller = Caller(self._server)
        while not self._ended:
            try:
                answer = caller.post("/invocations", [row])
            except (OSError, http.client.HTTPException):
                self.failed[number] += 1
                caller.hang_up()
                continue
            if answer.status == 200 and answer.json == [row]:
                self.right[number] += 1
            else:
                self.wrong.append(answer)
        caller.hang_up()


def wait_replaced(server: Server, ended: int) -> None:
    """Returns when two workers serve and `ended` is none of them."""
    wait_until(lambda: len(pids := worker_pids(server)) == 2 and ended not in pids, REPLACED_WITHIN_S, "a new worker")


def test_a_worker_killed_under_load_costs_only_its_requests_in_flight(pair: Server) -> None:
    """Only the dead worker's connections fail, and once each."""
    with Load(pair) as load:
        load.wait_for_answers(200)
        # The busier of the two, which surely has callers.
        victim = max(get(pair, "/debug/models").json, key=lambda summary: sum(summary["batches"].values()))["pid"]
        os.kill(victim, signal.SIGKILL)
        wait_replaced(pair, victim)
        load.wait_for_answers(200)
    assert load.wrong == []
    assert sum(load.failed) > 0
    assert max(load.failed) == 1
    assert min(load.right) > 0


def test_a_worker_told_to_end_under_load_fails_nobody(pair: Server) -> None:
    with Load(pair) as load:
        for _ in range(2):
            load.wait_for_answers(200)
            worker = min(worker_pids(pair))
            os.kill(worker, signal.SIGTERM)
            wait_replaced(pair, worker)
        load.wait_for_answers(200)
    assert load.wrong == []
    assert load.failed == [0] * 8
    assert "signal" not in pair.output


def test_a_worker_told_to_end_drains_and_is_replaced(start_server: StartServer, slow: Callable[[float], Path]) -> None:
    server = start_server("--model", slow(800))
    (worker,) = worker_pids(server)
    requests = [Background(server, "/invocations", [ROW]) for _ in range(2)]
    wait_until(lambda: metric(server, "serving_queue_requests") == 1, 10, "a request that runs and one that waits")
    os.kill(worker, signal.SIGTERM)
    for request in requests:
        assert request.answer().json == [ROW]
    wait_until(server.is_ready, REPLACED_WITHIN_S, "a new worker")
    assert worker not in worker_pids(server)
    assert post(server, "/invocations", [ROW]).json == [ROW]


def test_an_idle_worker_told_to_end_loses_no_caller(pair: Server) -> None:
    """New callers find the other worker, or wait in the socket's queue for the replacement."""
    for worker in worker_pids(pair):
        os.kill(worker, signal.SIGTERM)
    call_over_new_connections(pair, 20)


def test_callers_wait_for_the_replacement_of_the_only_worker(start_server: StartServer, echo: Path) -> None:
    server = start_server("--model", echo)
    (worker,) = worker_pids(server)
    os.kill(worker, signal.SIGKILL)
    call_over_new_connections(server, 5)
    assert worker not in worker_pids(server)


def test_a_supervisor_that_stands_still_stalls_no_invocation(pair: Server) -> None:
    supervisor = psutil.Process(pair.pid)
    supervisor.suspend()
    try:
        call_over_new_connections(pair, 20)
        asked = get(pair, "/metrics")
        assert asked.status == 503
        assert "the supervisor did not answer in time" in asked.json["message"]
        call_over_new_connections(pair, 20)
    finally:
        supervisor.resume()
    assert served(pair) == 40


@pytest.mark.parametrize("workers", [1, 2])
def test_a_supervisor_that_is_killed_takes_its_workers_along(
    start_server: StartServer, echo: Path, workers: int
) -> None:
    server = start_server("--model", echo, "--workers", str(workers))
    wait_until(lambda: "ready\n" in server.output, 10, "all workers")
    call_over_new_connections(server, 4)
    assert len(server.children()) == workers
    os.kill(server.pid, signal.SIGKILL)
    server.process.wait(5)
    killed = time.monotonic()
    wait_until(lambda: not server.processes(), 2, "the end of all its processes")
    wait_until(lambda: can_listen(server), 2 - (time.monotonic() - killed), "a free port")
    again = support.start("--model", echo, "--port", str(server.port), state_dir=server.state_dir)
    again.port = server.port
    try:
        again.wait_ready()
        call_over_new_connections(again, 4)
    finally:
        again.end()


def test_a_supervisor_that_is_killed_while_a_worker_computes(
    start_server: StartServer, slow: Callable[[float], Path]
) -> None:
    server = start_server("--model", slow(3000))
    request = Background(server, "/invocations", [ROW])
    wait_until(lambda: metric(server, "serving_connections") >= 2, 10, "the request's connection")
    server.children()
    os.kill(server.pid, signal.SIGKILL)
    server.process.wait(5)
    wait_until(lambda: not server.processes(), 2, "the end of all its processes")
    assert isinstance(request.outcome(), Exception)
