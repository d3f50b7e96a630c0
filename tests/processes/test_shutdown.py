"""The end: what is in flight is answered, nothing new is taken, nothing is left."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support import server as support
from tests.support.clients import ROW, Background, Caller, metric
from tests.support.server import Server, wait_until


def refuses(server: Server) -> bool:
    """Whether nobody listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex((server.host, server.port)) != 0


def one_running_one_waiting(server: Server) -> list[Background]:
    requests = [Background(server, "/invocations", [[float(number), 0, 0, 0]]) for number in range(2)]
    wait_until(lambda: metric(server, "serving_queue_requests") == 1, 10, "a request that runs and one that waits")
    return requests


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=lambda signum: signum.name)
def test_what_is_in_flight_is_answered(
    start_server: StartServer, slow: Callable[[float], Path], signum: signal.Signals, workers: str
) -> None:
    server = start_server("--model", slow(1000), "--workers", workers)
    if workers == "1":
        requests = one_running_one_waiting(server)
    else:
        requests = [Background(server, "/invocations", [[float(number), 0, 0, 0]]) for number in range(2)]
        wait_until(lambda: metric(server, "serving_connections") >= 3, 10, "both connections")
    os.kill(server.pid, signum)
    wait_until(lambda: refuses(server), 5, "a closed port")
    assert not all(request.done for request in requests)
    for number, request in enumerate(requests):
        answer = request.answer()
        assert answer.status == 200
        assert answer.json == [[float(number), 0, 0, 0]]
        assert answer.headers["connection"] == "close"
    assert server.process.wait(10) == 0
    wait_until(lambda: not server.processes(), 2, "the end of all its processes")


def test_idle_connections_do_not_hold_it_up(start_server: StartServer, echo: Path) -> None:
    server = start_server("--model", echo)
    with Caller(server) as used, socket.create_connection((server.host, server.port)):
        assert used.post("/invocations", [ROW]).status == 200
        began = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - began < 5


def test_a_request_that_is_half_sent_is_in_flight(start_server: StartServer, echo: Path) -> None:
    server = start_server("--model", echo)
    with socket.create_connection((server.host, server.port)) as half:
        head = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        half.sendall(head + b"Content-Length: 15\r\n\r\n[[1, 2")
        wait_until(lambda: metric(server, "serving_connections") >= 2, 10, "the connection")
        server.process.terminate()
        wait_until(lambda: refuses(server), 5, "a closed port")
        half.sendall(b", 3, 4]]\n")
        answer = b"".join(iter(lambda: half.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close\r\n" in answer
    assert answer.endswith(b"\r\n\r\n[[1.0,2.0,3.0,4.0]]")
    assert server.process.wait(10) == 0


def test_a_half_sent_request_does_not_hold_it_up(start_server: StartServer, echo: Path) -> None:
    server = start_server("--model", echo, env={"SERVING_DRAIN_TIMEOUT_S": "0.5"})
    with socket.create_connection((server.host, server.port)) as half:
        half.sendall(b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n[[")
        wait_until(lambda: metric(server, "serving_connections") >= 2, 10, "the connection")
        began = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - began < 5


def test_the_drain_has_a_limit(start_server: StartServer, slow: Callable[[float], Path]) -> None:
    server = start_server("--model", slow(5000), env={"SERVING_DRAIN_TIMEOUT_S": "0.3"})
    request = Background(server, "/invocations", [ROW])
    wait_until(lambda: metric(server, "serving_connections") >= 2, 10, "the connection")
    began = time.monotonic()
    assert server.terminate() == 0
    assert time.monotonic() - began < 4
    assert isinstance(request.outcome(), Exception)
    assert "connections were still busy after 0.3 s" in server.output


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=lambda signum: signum.name)
def test_a_second_signal_ends_at_once(
    start_server: StartServer, slow: Callable[[float], Path], second: signal.Signals
) -> None:
    server = start_server("--model", slow(5000))
    request = Background(server, "/invocations", [ROW])
    wait_until(lambda: metric(server, "serving_connections") >= 2, 10, "the connection")
    server.process.terminate()
    wait_until(lambda: refuses(server), 5, "a closed port")
    assert server.process.poll() is None
    began = time.monotonic()
    os.kill(server.pid, second)
    server.process.wait(3)
    assert time.monotonic() - began < 2
    assert isinstance(request.outcome(), Exception)
    wait_until(lambda: not server.processes(), 2, "the end of all its processes")


def test_ctrl_c_in_a_terminal_reaches_the_whole_group(start_server: StartServer, slow: Callable[[float], Path]) -> None:
    server = start_server("--model", slow(800))
    requests = one_running_one_waiting(server)
    os.killpg(server.pid, signal.SIGINT)
    assert [request.answer().status for request in requests] == [200, 200]
    assert server.process.wait(10) == 0


def test_a_signal_before_it_is_ready(tmp_path: Path, slow: Callable[[float], Path]) -> None:
    server = support.start("--model", slow(500), state_dir=tmp_path / "state")
    try:
        wait_until(lambda: bool(server.children()), 10, "the worker")
        assert server.terminate(10) == 0, server.output
        assert "ready" not in server.output.splitlines()
    finally:
        server.end()
