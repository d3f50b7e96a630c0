"""The gRPC port of a server: told, shared by its workers, kept while they are replaced, drained at the end."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from serving.processes import presence
from tests.support import server as support
from tests.support.clients import metric, worker_pids
from tests.support.grpc import TRANSPORTS, grpc_address
from tests.support.server import Server, free_ports, wait_until

WITHIN_S = 20.0
ROW = np.array([[1, 2, 3, 4]], np.float32)

Start = Callable[..., Server]


@pytest.fixture(params=TRANSPORTS)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Starts a server with a gRPC port over one transport, and waits for all its workers."""
    started: list[Server] = []

    def begin(*arguments: str | Path, port: int = 0) -> Server:
        chosen = ("--grpc-port", str(port), "--grpc-transport", request.param)
        server = support.start(*arguments, *chosen, state_dir=tmp_path / f"state-{len(started)}")
        started.append(server)
        wait_until(
            lambda: "\nready\n" in server.output or server.process.poll() is not None, WITHIN_S, "the end of start"
        )
        return server

    yield begin
    for server in started:
        server.end()


def fresh(address: str) -> grpc.Channel:
    """A connection of its own: channels of one address share connections otherwise."""
    return grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])


def request_of(name: str) -> Any:
    request = triton.service_pb2.ModelInferRequest(model_name=name)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(ROW.tobytes())
    return request


def infer(channel: grpc.Channel, name: str = "echo") -> Any:
    """The future of one call, which gives the bytes of its output."""
    return triton.service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(
        request_of(name), timeout=WITHIN_S, wait_for_ready=True
    )


def answers(address: str) -> bool:
    with fresh(address) as channel:
        return bool(infer(channel).result().raw_output_contents[0] == ROW.tobytes())


def test_the_port_is_told(start: Start, echo: Path) -> None:
    (port,) = free_ports(1)
    server = start("--model", echo, port=port)
    assert grpc_address(server) == f"127.0.0.1:{port}"
    told = presence.read(server.state_dir)
    assert told is not None
    assert told.grpc_address == f"127.0.0.1:{port}"
    assert answers(f"127.0.0.1:{port}")
    assert metric(server, "serving_grpc_requests_total") + metric(server, "serving_grpc_requests") == 1
    assert not server.unexpected()


def test_a_port_in_use(start: Start, echo: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = start("--model", echo, port=port)
        assert server.process.wait(WITHIN_S) == 1
        assert f"cannot listen on 127.0.0.1:{port}" in server.output
        assert "--grpc-port" in server.output


def test_two_servers_do_not_share_a_port(start: Start, echo: Path) -> None:
    first = start("--model", echo)
    port = int(grpc_address(first).rpartition(":")[2])
    second = start("--model", echo, port=port)
    assert second.process.wait(WITHIN_S) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in second.output
    assert answers(grpc_address(first))


def test_every_worker_serves_it(start: Start, echo: Path) -> None:
    server = start("--model", echo, "--workers", "2")
    address = grpc_address(server)
    # The kernel (or the workers) spread connections: so many are of both.
    assert all(answers(address) for _ in range(40))


def test_workers_that_die_are_replaced(start: Start, echo: Path) -> None:
    server = start("--model", echo, "--workers", "2")
    address = grpc_address(server)
    before = worker_pids(server)
    with fresh(address) as kept:
        infer(kept).result()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(worker_pids(server) - before) == 2, WITHIN_S, "two others")
        # A client finds its way to another worker by itself.
        assert infer(kept).result().raw_output_contents[0] == ROW.tobytes()
    assert all(answers(address) for _ in range(20))
    assert grpc_address(server) == address


def test_what_is_in_flight_is_answered(start: Start, slow: Callable[[float], Path]) -> None:
    server = start("--model", slow(1000))
    with fresh(grpc_address(server)) as channel, fresh(grpc_address(server)) as idle:
        grpc.channel_ready_future(idle).result(WITHIN_S)
        futures = [infer(channel, "slow") for _ in range(2)]
        wait_until(lambda: metric(server, "serving_queue_requests") == 1, WITHIN_S, "one that runs and one that waits")
        server.process.terminate()
        assert [future.result().raw_output_contents[0] for future in futures] == [ROW.tobytes()] * 2
        assert server.process.wait(WITHIN_S) == 0
    assert not server.unexpected()


def test_an_idle_stream_does_not_hold_up_the_end(start: Start, echo: Path) -> None:
    server = start("--model", echo)
    with triton.InferenceServerClient(grpc_address(server)) as client:
        seen: list[Any] = []
        client.start_stream(lambda result, error: seen.append((result, error)))
        tensor = triton.InferInput("x", [1, 4], "FP32")
        tensor.set_data_from_numpy(ROW)
        client.async_stream_infer("echo", [tensor])
        wait_until(lambda: len(seen) == 1, WITHIN_S, "an answer")
        server.process.terminate()
        assert server.process.wait(5) == 0
        wait_until(lambda: len(seen) == 2, WITHIN_S, "the end of the stream")
        assert "UNAVAILABLE" in str(seen[1][1])
    assert not server.unexpected()


def test_without_the_setting_there_is_no_port(echo: Path, tmp_path: Path) -> None:
    with support.running("--model", echo, state_dir=tmp_path / "state") as server:
        assert "gRPC" not in server.output
        mapped = {Path(line.path).name for process in server.children() for line in process.memory_maps()}
        assert not any(name.startswith("cygrpc") for name in mapped)


@pytest.mark.parametrize("library", ["grpc", "grpc_health", "h2corn"])
def test_a_library_that_is_not_installed(echo: Path, tmp_path: Path, library: str) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(f"import sys\nsys.modules[{library!r}] = None\n")
    chosen = ("--grpc-port", "0", "--grpc-transport", "h2corn")
    environment = {"PYTHONPATH": str(tmp_path / "site")}
    server = support.start("--model", echo, *chosen, state_dir=tmp_path / "state", env=environment)
    try:
        assert server.process.wait(WITHIN_S) == 1
        assert f"gRPC needs {library}" in server.output
        assert "pip install 'serving[grpc]'" in server.output
        assert "serving on" not in server.output
    finally:
        server.end()


@pytest.mark.skipif(not socket.has_ipv6, reason="the machine has no IPv6")
def test_ipv6(start: Start, echo: Path) -> None:
    server = start("--model", echo, "--host", "::1")
    assert grpc_address(server).startswith("[::1]:")
    assert answers(grpc_address(server))
