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

import psutil
import pytest

from tests.conftest import StartServer
from tests.support.clients import ROW, Background, Caller, get, metric, post, worker_pids
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
    wait_until(
        lambda: len(worker_pids(pair)) == 2 and victim not in worker_pids(pair), REPLACED_WITHIN_S, "a new worker"
    )
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


def test_a_worker_killed_under_load_costs_only_its_requests_in_flight(pair: Server) -> None:
    """Callers that each keep a connection: only the dead worker's connections fail, and once each."""
    failures: list[int] = []
    wrong: list[object] = []
    ended = False

    def keep_calling(number: int) -> int:
        """Calls until told to end, on one connection for as long as it lasts; gives the number of right answers."""
        right = failed = 0
        row = [float(number), 1, 2, 3]
        caller = Caller(pair)
        while not ended:
            try:
                answer = caller.post("/invocations", [row])
            except (OSError, http.client.HTTPException):
                failed += 1
                caller.hang_up()
                caller = Caller(pair)
                continue
            if answer.status == 200 and answer.json == [row]:
                right += 1
            else:
                wrong.append(answer)
        caller.hang_up()
        failures.append(failed)
        return right

    victim = min(worker_pids(pair))
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(keep_calling, number) for number in range(8)]
        try:
            wait_until(lambda: served(pair) > 200, 20, "200 answers")
            os.kill(victim, signal.SIGKILL)
            wait_until(
                lambda: len(pids := worker_pids(pair)) == 2 and victim not in pids, REPLACED_WITHIN_S, "a new worker"
            )
            after = served(pair)
            wait_until(lambda: served(pair) > after + 200, 20, "200 more answers")
        finally:
            ended = True
        assert min(call.result() for call in calls) > 0
    assert wrong == []
    assert 0 < sum(failures) <= 8
    assert max(failures) == 1


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
