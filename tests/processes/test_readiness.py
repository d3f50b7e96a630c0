"""A server that cannot serve says why in one line and ends; one that can says what it serves."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support import server as support
from tests.support.clients import ROW, get, post
from tests.support.server import Server

LOG_LINE = re.compile(r"\d\d:\d\d:\d\d ")
Make = Callable[[Path], list[str]]


def said(server: Server) -> list[str]:
    """What it printed, its log left out."""
    return [line for line in server.output.splitlines() if not LOG_LINE.match(line)]


def failure(tmp_path: Path, *arguments: str | Path, env: dict[str, str] | None = None) -> str:
    """The one line that a server with these arguments ends with."""
    server = support.start(*arguments, state_dir=tmp_path / "state", env=env)
    try:
        assert server.process.wait(20) in (1, 2), server.output
        lines = said(server)
        assert len(lines) == 1, server.output
        assert server.processes() == []
    finally:
        server.end()
    return lines[0]


def missing(directory: Path) -> list[str]:
    return ["--model", str(directory / "absent.onnx")]


def broken(directory: Path) -> list[str]:
    (directory / "broken.onnx").write_bytes(b"this is no protobuf")
    return ["--model", str(directory / "broken.onnx")]


def a_text(directory: Path) -> list[str]:
    (directory / "notes.txt").write_text("no model")
    return ["--model", str(directory / "notes.txt")]


def not_an_archive(directory: Path) -> list[str]:
    (directory / "model.tar.gz").write_bytes(b"not gzip")
    return ["--model", f"m={directory / 'model.tar.gz'}"]


def settings(text: str) -> Make:
    def make(directory: Path) -> list[str]:
        (directory / "settings.yaml").write_text(text)
        return ["--config", str(directory / "settings.yaml")]

    return make


def certificate(directory: Path) -> list[str]:
    (directory / "cert.pem").write_text("no certificate")
    return ["--tls-cert", str(directory / "cert.pem"), "--tls-key", str(directory / "cert.pem")]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing, ["absent.onnx", "no such file"]),
        (broken, ["broken.onnx"]),
        (a_text, ["notes.txt", "not a model"]),
        (not_an_archive, ["model.tar.gz", "gzip"]),
        (lambda directory: ["--model-repository", str(directory / "absent")], ["absent", "no such file or directory"]),
        (lambda directory: ["--bogus"], ["--bogus"]),
        (lambda directory: ["--workers", "0"], ["--workers", "0"]),
        (lambda directory: ["--workers", "many"], ["--workers", "many"]),
        (lambda directory: ["--grpc-port", "9000", "--port", "9000"], ["grpc_port", "9000"]),
        (lambda directory: ["--default-model", "absent"], ["absent"]),
        (lambda directory: ["--host", "0.0.0.0"], ["--allow-unauthenticated"]),
        (lambda directory: ["--tls-cert", "absent.pem"], ["tls_cert", "tls_key"]),
        (certificate, ["TLS", "cert.pem"]),
        (settings("wrokers: 2"), ["wrokers", "workers"]),
        (settings("workers: [1"), ["settings.yaml"]),
    ],
)
def test_what_cannot_be_served_is_one_line(tmp_path: Path, make: Make, words: list[str]) -> None:
    line = failure(tmp_path, *make(tmp_path))
    for word in words:
        assert word in line, line


def test_an_unknown_variable_of_the_environment(tmp_path: Path) -> None:
    line = failure(tmp_path, env={"SERVING_WORKRES": "2"})
    assert "SERVING_WORKRES" in line
    assert "workers" in line


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = failure(tmp_path, "--port", str(port))
    assert f"127.0.0.1:{port}" in line
    assert "--port" in line


def test_one_broken_model_of_several_ends_all(tmp_path: Path, echo: Path) -> None:
    line = failure(tmp_path, "--model", echo, *broken(tmp_path), "--workers", "2")
    assert "broken.onnx" in line


def test_an_empty_server_is_ready(start_server: StartServer) -> None:
    server = start_server()
    assert get(server, "/ping").status == 200
    assert get(server, "/v2/health/ready").json == {"ready": True}
    assert get(server, "/debug/models").json == []
    answer = post(server, "/invocations", [ROW])
    assert answer.status == 404
    assert "no model is served" in answer.json["message"]
    assert "--model" in answer.json["message"]


def test_what_is_printed(start_server: StartServer, echo: Path) -> None:
    server = start_server("--model", echo, "--model", f"other={echo}", "--workers", "2")
    support.wait_until(lambda: "ready\n" in server.output, 5, "the line ready")
    printed = said(server)
    assert printed[0] == f"serving on {server.url}"
    assert printed[1].startswith("  echo: x FP32[N,4] -> y FP32[N,4]; batches up to ")
    assert printed[2].startswith("  other: ")
    assert printed[3:] == ["ready"]


def test_port_0_takes_a_free_port_and_prints_it(tmp_path: Path, echo: Path) -> None:
    server = support.start("--model", echo, "--port", "0", state_dir=tmp_path / "state")
    try:
        support.wait_until(lambda: "ready\n" in server.output, 20, "the line ready")
        line = next(line for line in server.output.splitlines() if line.startswith("serving on "))
        server.port = int(line.rsplit(":", 1)[1])
        assert server.port > 0
        assert post(server, "/invocations", [ROW]).json == [ROW]
    finally:
        server.end()


def test_the_default_model(start_server: StartServer, echo: Path) -> None:
    server = start_server("--model", f"one={echo}", "--model", f"two={echo}")
    refused = post(server, "/invocations", [ROW])
    assert refused.status == 404
    assert "one, two" in refused.json["message"]
    server = start_server("--model", f"one={echo}", "--model", f"two={echo}", "--default-model", "two")
    assert post(server, "/invocations", [ROW]).json == [ROW]
