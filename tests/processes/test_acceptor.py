"""Connections beyond a limit wait in the kernel; they are neither refused nor do they stop those that are open."""

from __future__ import annotations

import resource
import socket
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.conftest import StartServer
from tests.support import server as support
from tests.support.clients import ROW, Background, Caller, post, worker_pids
from tests.support.server import Server, wait_until


def test_connections_over_the_limit_wait(start_server: StartServer, echo: Path) -> None:
    server = start_server("--model", echo, env={"SERVING_MAX_CONNECTIONS": "2"})
    with Caller(server) as first, Caller(server) as second:
        for caller in (first, second):
            wait_until(lambda: answers(caller), 10, "a connection")  # noqa: B023
        third = Background(server, "/invocations", [ROW])
        for _ in range(50):
            assert first.post("/invocations", [ROW]).json == [ROW]
        assert not third.done
        second.hang_up()
        assert third.answer().json == [ROW]


def answers(caller: Caller) -> bool:
    try:
        return caller.post("/invocations", [ROW]).status == 200
    except OSError:
        caller.hang_up()
        return False


def test_a_worker_without_descriptors_serves_on(start_server: StartServer, echo: Path) -> None:
    server = start_server("--model", echo)
    (worker,) = map(psutil.Process, worker_pids(server))
    with Caller(server) as open_before, ExitStack() as stack:
        assert open_before.post("/invocations", [ROW]).status == 200
        limits = worker.rlimit(resource.RLIMIT_NOFILE)
        worker.rlimit(resource.RLIMIT_NOFILE, (worker.num_fds() + 2, limits[1]))
        for _ in range(5):
            stack.enter_context(socket.create_connection((server.host, server.port)))
        wait_until(lambda: "connections wait: Too many open files" in server.output, 10, "a warning")
        for _ in range(50):
            assert open_before.post("/invocations", [ROW]).json == [ROW]
        waiting = Background(server, "/invocations", [ROW])
        assert open_before.post("/invocations", [ROW]).json == [ROW]
        stack.close()
        assert waiting.answer().json == [ROW]
    assert worker.is_running()


def test_ipv6(echo: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("the machine has no IPv6 loopback")
    server: Server = support.start("--model", echo, "--host", "::1", state_dir=tmp_path / "state")
    try:
        wait_until(lambda: "ready\n" in server.output, 20, "the line ready")
        assert f"serving on http://[::1]:{server.port}" in server.output
        server.host = "::1"
        assert post(server, "/invocations", [ROW]).json == [ROW]
    finally:
        server.end()


def test_workers_share_the_connections_evenly(start_server: StartServer, echo: Path) -> None:
    server = start_server("--model", echo, "--workers", "2")
    wait_until(lambda: len(worker_pids(server)) == 2, 10, "two workers")
    workers = [psutil.Process(pid) for pid in worker_pids(server)]

    def held() -> list[int]:
        return [
            sum(one.status == psutil.CONN_ESTABLISHED for one in worker.net_connections("tcp")) for worker in workers
        ]

    with ExitStack() as stack:
        # Some leave again: what counts is who is there, not who came.
        callers = [stack.enter_context(Caller(server)) for _ in range(60)]
        for caller in callers:
            assert caller.post("/invocations", [ROW]).status == 200
        for caller in callers[::3]:
            caller.hang_up()
        wait_until(lambda: sum(held()) == 40, 10, "the hung-up ones to be gone")
        for _ in range(20):
            assert stack.enter_context(Caller(server)).post("/invocations", [ROW]).status == 200
        first, second = held()
        assert first + second == 60
        assert abs(first - second) <= 4, (first, second)


def test_a_busy_worker_does_not_hold_connections_up(start_server: StartServer, echo: Path) -> None:
    server = start_server("--model", echo, "--workers", "2")
    wait_until(lambda: len(worker_pids(server)) == 2, 10, "two workers")
    first, second = map(psutil.Process, worker_pids(server))
    with ExitStack() as stack:
        callers = [stack.enter_context(Caller(server)) for _ in range(8)]
        for caller in callers:
            assert caller.post("/invocations", [ROW]).status == 200
        first.suspend()
        try:
            # The one that stands still has no more connections than the other, and yet nobody waits for it.
            for _ in range(20):
                assert stack.enter_context(Caller(server)).post("/invocations", [ROW]).status == 200
        finally:
            first.resume()
    assert second.is_running()
