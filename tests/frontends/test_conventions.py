"""What a SageMaker container's callers expect of this server, on the lane and through the app."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.containers.boosters import train
from tests.support import server as support
from tests.support.server import Server
from tests.support.wire import Answer, Wire, ask, chunked, request

Ask = Callable[..., Answer]

REFUSED = "Unable to evaluate payload provided: input "


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of one booster."""
    place = tmp_path_factory.mktemp("conventions")
    directory = place / "repository" / "trees"
    directory.mkdir(parents=True)
    train({"objective": "binary:logistic"}).save_model(directory / "model.json")
    with support.running(
        "--model-repository", place / "repository", "--default-model", "trees", state_dir=place / "state"
    ) as running:
        yield running


@pytest.fixture(params=["lane", "app"])
def invoke(request: pytest.FixtureRequest, server: Server) -> Ask:
    """Asks by either way."""

    def plain(path: str, body: bytes, *fields: str) -> Answer:
        return ask(server.port, _request(path, body, *fields))

    def in_chunks(path: str, body: bytes, *fields: str) -> Answer:
        head = _request(path, b"", *fields, "Transfer-Encoding: chunked", length=False)
        return ask(server.port, head + chunked(body))

    return plain if request.param == "lane" else in_chunks


def _request(path: str, body: bytes, *fields: str, length: bool = True) -> bytes:
    return request(path, body, *fields, length=length)


@pytest.mark.parametrize("path", ["/invocations", "/endpoints/trees/invocations"])
@pytest.mark.parametrize("content_type", ["", "text/csv", "text/libsvm", "application/x-recordio-protobuf"])
def test_nothing_is_answered_with_nothing(invoke: Ask, path: str, content_type: str) -> None:
    answer = invoke(path, b"", *([f"Content-Type: {content_type}"] if content_type else []))
    assert (answer.status, answer.body) == (204, b"")
    assert "content-length" not in answer.headers
    assert "transfer-encoding" not in answer.headers
    assert "content-type" not in answer.headers


def test_after_nothing_the_connection_goes_on(server: Server) -> None:
    with Wire(server.port) as wire:
        for _ in range(3):
            wire.send(_request("/invocations", b"", "Content-Type: text/csv"))
            assert wire.answer().status == 204
            wire.send(_request("/invocations", b"0,0,0,0,0,0", "Content-Type: text/csv"))
            assert wire.answer().status == 200


def test_nothing_is_no_error(server: Server) -> None:
    ask(server.port, _request("/invocations", b"", "Content-Type: text/csv"))
    text = ask(server.port, request("/metrics", method="GET", length=False), "GET").body.decode()
    (counted,) = [line for line in text.splitlines() if line.startswith("sagemaker_invocation_4xx_errors")]
    before = float(counted.rpartition(" ")[2])
    ask(server.port, _request("/invocations", b"", "Content-Type: text/csv"))
    text = ask(server.port, request("/metrics", method="GET", length=False), "GET").body.decode()
    assert f"{counted.rpartition(' ')[0]} {before}" in text


def test_what_the_model_refuses_is_a_failure_to_evaluate(invoke: Ask) -> None:
    answer = invoke("/invocations", b"1,2\n", "Content-Type: text/csv")
    assert answer.status == 400
    assert answer.message.startswith(REFUSED)
    assert "[1, 2]" in answer.message
    answer = invoke("/endpoints/trees/invocations", b"1 99:1\n", "Content-Type: text/libsvm")
    assert answer.status == 424
    assert REFUSED in answer.message


def test_what_cannot_be_read_is_none(invoke: Ask) -> None:
    answer = invoke("/invocations", b"\xff\n", "Content-Type: text/csv")
    assert answer.status == 400
    assert "Unable" not in answer.message


@pytest.mark.parametrize(("status", "fields"), [(415, ["Content-Type: image/png"]), (406, ["Accept: image/png"])])
def test_other_errors_are_as_everywhere(invoke: Ask, status: int, fields: list[str]) -> None:
    answer = invoke("/invocations", b"0:1\n", *fields)
    assert answer.status == status
    assert "Unable" not in answer.message


def test_the_v2_routes_know_no_conventions(invoke: Ask) -> None:
    answer = invoke("/v2/models/trees/infer", b"")
    assert answer.status == 400
    assert "empty" in answer.message
    answer = invoke("/v2/models/trees/infer", b'{"inputs":[]}')
    assert answer.status == 400
    assert "Unable" not in answer.message


def test_the_defaults(invoke: Ask) -> None:
    answer = invoke("/invocations", b"1 1:0.5\n0 2:0.5\n")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert len([float(text) for text in answer.body.decode().split(",")]) == 2
    lines = invoke("/invocations", b"1 1:0.5\n0 2:0.5\n", "Accept: application/jsonlines").body
    assert lines.count(b'{"score": ') == 2
