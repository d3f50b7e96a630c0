"""Answers in parts through a real server: boto3's response stream, plain HTTP, v2 `generate` and `generate_stream`."""

from __future__ import annotations

import http.client
import importlib.util
import json
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from botocore.eventstream import EventStreamBuffer
from botocore.exceptions import ClientError, EventStreamError

from serving.samples import speech
from tests.support import scripted
from tests.support import server as support
from tests.support.clients import metric, runtime_of
from tests.support.server import Server, wait_until
from tests.support.wire import Wire, ask, request

Runtime = Any
JSON = "Content-Type: application/json"
STREAM = "/endpoints/script/invocations-response-stream"
GENERATE = "/v2/models/script/generate"
FOR_EVER = {"instances": [-1, 1]}


def script(parts: int, size: int = 1, fails_at: int = -1, fault: str = "failure", waits_at: int = -1) -> str:
    """The JSON body that asks for it."""
    return json.dumps({"instances": [parts, size, fails_at, scripted.FAULTS.index(fault), waits_at]})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models: `script` streams what it is asked, `brief` has 0.3 s for it, `few` two streams at once; `echo` does not
    stream."""
    from tests.support import onnx_models

    root = tmp_path_factory.mktemp("streaming")
    scripted.make(root / "models" / "script")
    scripted.make(root / "models" / "brief", "streaming: {timeout_s: 0.3}\n")
    scripted.make(root / "models" / "few", "streaming: {max_streams: 2}\n")
    onnx_models.echo(root / "models" / "echo" / "model.onnx", "FP32", ("N", 2))
    return root


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Server]:
    """A server of the models; `/invocations` asks `script`."""
    environment = scripted.install(place / "site")
    arguments = ("--model-repository", place / "models", "--default-model", "script")
    with support.running(*arguments, state_dir=place / "state", env=environment) as running:
        yield running


@pytest.fixture
def runtime(server: Server) -> Iterator[Runtime]:
    client = runtime_of(server)
    yield client
    client.close()


def stream(runtime: Runtime, body: str, name: str = "script", **arguments: Any) -> dict[str, Any]:
    answer: dict[str, Any] = runtime.invoke_endpoint_with_response_stream(
        EndpointName=name, ContentType="application/json", Body=body, **arguments
    )
    return answer


def payloads(answer: dict[str, Any], into: list[bytes] | None = None) -> list[bytes]:
    """Every part; `into` also holds those before a fault."""
    found = [] if into is None else into
    with closing(answer["Body"]) as events:
        for event in events:
            found.append(event["PayloadPart"]["Bytes"])
    return found


def lines(count: int, size: int = 1) -> list[bytes]:
    return [json.dumps({"predictions": [n] * size}, separators=(",", ":")).encode() + b"\n" for n in range(count)]


def ended(place: Path, name: str = "script") -> list[int]:
    """How many parts each stream of the model made that has ended."""
    file = place / "models" / name / "ended"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def read_until_end(connection: socket.socket) -> bytes:
    found = b""
    while data := connection.recv(1 << 16):
        found += data
    return found


# ---------------------------------------------------------------------- boto3


def test_boto3_reads_every_part(runtime: Runtime) -> None:
    answer = stream(runtime, script(500))
    assert answer["ContentType"] == "application/jsonlines"
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    metadata = answer["ResponseMetadata"]
    assert metadata["HTTPStatusCode"] == 200
    assert metadata["HTTPHeaders"]["x-amzn-requestid"] == metadata["RequestId"]
    assert metadata["HTTPHeaders"]["content-type"] == "application/vnd.amazon.eventstream"
    assert payloads(answer) == lines(500)


@pytest.mark.parametrize(
    ("accept", "content_type", "parts"),
    [
        ("text/csv", "text/csv", [b"0,0\n", b"1,1\n", b"2,2\n"]),
        ("application/octet-stream", "application/octet-stream", [n.to_bytes(8, "little") * 2 for n in range(3)]),
        ("application/json", "application/jsonlines", lines(3, 2)),
    ],
)
def test_accept_chooses_what_a_part_is(runtime: Runtime, accept: str, content_type: str, parts: list[bytes]) -> None:
    answer = stream(runtime, script(3, 2), Accept=accept, CustomAttributes="a=1", TargetVariant="AllTraffic")
    assert answer["ContentType"].partition(";")[0] == content_type
    assert payloads(answer) == parts


def test_a_model_that_does_not_stream_answers_in_one_part(runtime: Runtime) -> None:
    answer = stream(runtime, '{"instances": [[1, 2], [3, 4]]}', "echo")
    assert answer["ContentType"] == "application/json"
    assert payloads(answer) == [b'{"predictions":[[1.0,2.0],[3.0,4.0]]}']


def test_a_stream_without_parts_is_empty(runtime: Runtime) -> None:
    assert payloads(stream(runtime, script(0))) == []


def test_a_part_of_megabytes_arrives_whole(runtime: Runtime) -> None:
    found = payloads(stream(runtime, script(2, 400_000), Accept="application/octet-stream"))
    assert max(map(len, found)) <= 1024 * 1024
    assert b"".join(found) == bytes(3_200_000) + (1).to_bytes(8, "little") * 400_000


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("failure", "ModelStreamError"),
        ("exception", "ModelStreamError"),
        ("outputs", "ModelStreamError"),
        ("input", "ModelStreamError"),
        ("unwritable", "InternalStreamFailure"),
    ],
)
def test_a_fault_in_mid_stream_comes_after_the_parts_before_it(runtime: Runtime, fault: str, kind: str) -> None:
    found: list[bytes] = []
    with pytest.raises(EventStreamError) as caught:
        payloads(stream(runtime, script(9, 1, 5, fault)), found)
    assert found == lines(5)
    assert caught.value.response["Error"]["Code"] == kind
    assert caught.value.response["Error"]["Message"]


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [("script", script(9, 1, 5), b"StreamBroken"), ("brief", json.dumps(FOR_EVER), b"ModelInvocationTimeExceeded")],
)
def test_the_last_message_of_a_broken_stream_has_the_code_that_boto3_leaves_out(
    server: Server, name: str, body: str, code: bytes
) -> None:
    with Wire(server.port) as wire:
        wire.send(request(f"/endpoints/{name}/invocations-response-stream", body.encode(), JSON, "Connection: close"))
        assert b'"ErrorCode":"%b"' % code in read_until_end(wire.socket)[-300:]


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [("failure", 424, "ModelError"), ("input", 424, "ModelError"), ("unwritable", 500, "InternalFailure")],
)
def test_a_fault_before_the_first_part_is_a_plain_error(runtime: Runtime, fault: str, status: int, code: str) -> None:
    with pytest.raises(ClientError) as caught:
        stream(runtime, script(9, 1, 0, fault))
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert caught.value.response["Error"]["Code"] == code


def test_a_stream_that_takes_too_long_is_ended(runtime: Runtime, place: Path) -> None:
    with pytest.raises(EventStreamError) as caught:
        payloads(stream(runtime, json.dumps(FOR_EVER), "brief"))
    assert caught.value.response["Error"]["Code"] == "ModelStreamError"
    assert "0.300 s passed" in caught.value.response["Error"]["Message"]
    wait_until(lambda: len(ended(place, "brief")) >= 1, 5, "the end of the generator")


def test_a_first_part_that_takes_too_long_is_a_timeout_of_the_model(server: Server, place: Path) -> None:
    before = len(ended(place))
    answer = ask(
        server.port, request(STREAM, script(9, 1, -1, "failure", 0).encode(), JSON, "x-serving-timeout-ms: 100")
    )
    assert answer.status == 424
    assert answer.json()["OriginalStatusCode"] == 0
    (place / "models" / "script" / "go").write_text("")
    wait_until(lambda: len(ended(place)) == before + 1, 5, "the end of the generator")
    (place / "models" / "script" / "go").unlink()


# ---------------------------------------------------------------------- plain HTTP


def test_the_container_contract_streams_in_chunks(server: Server) -> None:
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=10)) as connection:
        for _ in range(2):  # the connection stays usable
            connection.request("POST", "/invocations", script(100), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 200
            assert answer.headers["transfer-encoding"] == "chunked"
            assert answer.headers["content-type"] == "application/jsonlines"
            assert answer.read() == b"".join(lines(100))


def test_a_broken_answer_in_chunks_ends_without_its_last_chunk(server: Server) -> None:
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=10)) as connection:
        connection.request("POST", "/invocations", script(9, 1, 5), {"Content-Type": "application/json"})
        with pytest.raises(http.client.IncompleteRead):
            connection.getresponse().read()


def test_the_whole_answer_is_still_to_be_had_at_once(server: Server) -> None:
    answer = ask(server.port, request("/endpoints/script/invocations", script(3, 2).encode(), JSON))
    assert answer.json() == {"predictions": [0, 0, 1, 1, 2, 2]}
    body = json.dumps({"inputs": [{"name": "script", "shape": [2], "datatype": "INT64", "data": [3, 1]}]})
    answer = ask(server.port, request("/v2/models/script/infer", body.encode(), JSON))
    assert answer.json()["outputs"][0]["data"] == [0, 1, 2]


def test_generate_gives_one_answer(server: Server) -> None:
    answer = ask(server.port, request(GENERATE, b'{"script": [3, 1], "id": "a", "temperature": 0.5}', JSON))
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"model_name": "script", "model_version": "1", "id": "a", "number": [0, 1, 2]}
    answer = ask(server.port, request(GENERATE, b'{"parameters": {"script": [1], "top_k": 3, "stream": false}}', JSON))
    assert answer.json() == {"model_name": "script", "model_version": "1", "number": 0}
    answer = ask(server.port, request("/v2/models/echo/versions/1/generate", b'{"x": [1, 2]}', JSON))
    assert answer.json() == {"model_name": "echo", "model_version": "1", "y": [1.0, 2.0]}


@pytest.mark.parametrize("path", ["/v2/models/script/generate_stream", "/v2/models/script/versions/1/generate_stream"])
def test_generate_stream_sends_events(server: Server, path: str) -> None:
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=10)) as connection:
        connection.request("POST", path, '{"script": [3, 1]}', {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        events = answer.read().split(b"\n\n")
    assert events.pop() == b""
    assert [json.loads(event.removeprefix(b"data: "))["number"] for event in events] == [0, 1, 2]


def test_generate_stream_tells_of_a_fault_in_an_event(server: Server) -> None:
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=10)) as connection:
        body = json.dumps({"script": [3, 1, 1, 0]})
        connection.request("POST", "/v2/models/script/generate_stream", body, {"Content-Type": "application/json"})
        events = connection.getresponse().read().split(b"\n\n")
    assert events[1:] == [b'data: {"error":"the script failed"}', b""]


def test_generate_stream_of_a_model_that_does_not_stream_is_one_event(server: Server) -> None:
    with closing(http.client.HTTPConnection(server.host, server.port, timeout=10)) as connection:
        connection.request("POST", "/v2/models/echo/generate_stream", '{"x": [[1, 2]]}')
        answer = connection.getresponse().read()
    assert answer == b'data: {"model_name":"echo","model_version":"1","y":[1.0,2.0]}\n\n'


# ---------------------------------------------------------------------- slow and vanishing readers


def begun(server: Server, body: str, receive_bytes: int = 4096) -> Wire:
    """A connection whose stream has begun."""
    wire = Wire(server.port, receive_bytes=receive_bytes)
    wire.send(request(STREAM, body.encode(), JSON))
    assert wire.socket.recv(1).startswith(b"H")
    return wire


def parts_made(server: Server) -> float:
    return metric(server, "serving_stream_parts_total", endpoint_name="script")


def test_a_slow_reader_stops_the_container(server: Server) -> None:
    """What is made ahead are the kernel's buffers, the connection's 64 KiB and two turns."""
    with begun(server, script(-1, 1000)) as wire:
        made = -1.0

        def stands_still() -> bool:
            nonlocal made
            before, made = made, parts_made(server)
            return before == made

        wait_until(stands_still, 10, "the container to stand still")
        memory = sum(process.memory_info().rss for process in server.processes())
        assert parts_made(server) == made
        # Whoever reads on gets on.
        taken = 0
        while taken < 16_000_000:
            taken += len(wire.socket.recv(1 << 16))
        assert parts_made(server) > made
        assert sum(process.memory_info().rss for process in server.processes()) < memory + 16e6


def test_a_caller_that_hangs_up_ends_its_generator(server: Server, place: Path) -> None:
    before = len(ended(place))
    aborted = metric(server, "serving_streams_aborted_total", endpoint_name="script")
    for _ in range(3):
        begun(server, json.dumps(FOR_EVER)).socket.close()
    wait_until(lambda: len(ended(place)) == before + 3, 2, "the end of the three generators")
    wait_until(lambda: metric(server, "serving_streams_open", endpoint_name="script") == 0, 2, "no open stream")
    assert metric(server, "serving_streams_aborted_total", endpoint_name="script") == aborted + 3


def test_a_caller_that_hangs_up_before_the_first_part_ends_its_generator(server: Server, place: Path) -> None:
    before = len(ended(place))
    with Wire(server.port) as wire:
        wire.send(request(STREAM, script(-1, 1, -1, "failure", 0).encode(), JSON))
        wait_until(lambda: metric(server, "serving_streams_open", endpoint_name="script") == 1, 5, "the open stream")
    (place / "models" / "script" / "go").write_text("")
    wait_until(lambda: len(ended(place)) == before + 1, 5, "the end of the generator")
    (place / "models" / "script" / "go").unlink()


def test_more_streams_than_allowed_are_refused(server: Server, place: Path) -> None:
    path = "/endpoints/few/invocations-response-stream"
    body = json.dumps(FOR_EVER).encode()
    with Wire(server.port) as one, Wire(server.port) as two:
        for wire in (one, two):
            wire.send(request(path, body, JSON))
            assert wire.socket.recv(1)
        answer = ask(server.port, request(path, body, JSON))
        assert answer.status == 429
        assert answer.headers["x-amzn-errortype"] == "ThrottlingException"
        assert answer.headers["retry-after"] == "1"
        assert "max_streams" in answer.message
    wait_until(lambda: len(ended(place, "few")) == 2, 5, "the end of both")
    with Wire(server.port) as wire:
        wire.send(request(path, script(0).encode(), JSON))
        assert wire.socket.recv(12) == b"HTTP/1.1 200"


def test_many_streams_leave_others_their_time(server: Server) -> None:
    """32 readers that take all they can get, beside unary calls of the same and of another model."""
    stop = threading.Event()
    taken = [0] * 32

    def take(place_of: int) -> None:
        with begun(server, json.dumps(FOR_EVER), 1 << 16) as wire:
            while not stop.is_set():
                taken[place_of] += len(wire.socket.recv(1 << 16))

    readers = [threading.Thread(target=take, args=(number,)) for number in range(len(taken))]
    for reader in readers:
        reader.start()
    try:
        wait_until(lambda: all(taken), 10, "a part for every reader")
        with Wire(server.port) as wire:
            for _ in range(20):
                wire.send(request("/endpoints/echo/invocations", b'{"instances": [[1, 2]]}', JSON))
                assert wire.answer().json() == {"predictions": [[1.0, 2.0]]}
                wire.send(request("/endpoints/script/invocations", script(2).encode(), JSON))
                assert wire.answer().json() == {"predictions": [0, 1]}
        seen = list(taken)
        wait_until(lambda: all(now > then for now, then in zip(taken, seen, strict=True)), 10, "more for every reader")
    finally:
        stop.set()
        for reader in readers:
            reader.join()


def test_streams_are_finished_before_the_server_ends(place: Path, tmp_path: Path) -> None:
    """SIGTERM while the container waits in the middle of a stream: the rest still comes."""
    scripted.make(tmp_path / "models" / "script")
    with support.running(
        "--model-repository", tmp_path / "models", state_dir=tmp_path / "state", env=scripted.install(tmp_path / "site")
    ) as server:
        with Wire(server.port) as wire:
            wire.send(request(STREAM, script(4, 1, -1, "failure", 2).encode(), JSON))
            assert wire.socket.recv(1) == b"H"
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: not server.is_ready(), 5, "the end of readiness")
            (tmp_path / "models" / "script" / "go").write_text("")
            answer = read_until_end(wire.socket)
        _, _, body = answer.partition(b"\r\n\r\n")
        assert body.endswith(b"\r\n0\r\n\r\n")
        assert b'{"predictions":[3]}' in body


# ---------------------------------------------------------------------- the sample


@pytest.mark.skipif(importlib.util.find_spec("silero_vad") is None, reason=f"silero-vad is missing: {speech.INSTALL}")
def test_the_speech_sample_tells_a_voice_from_noise_and_silence(tmp_path: Path) -> None:
    speech.make(tmp_path / "models")
    assert not speech.make(tmp_path / "models")
    noise = np.random.default_rng(1).normal(0, 0.05, speech.RATE).astype(np.float32)
    silence = np.zeros(speech.RATE, np.float32)
    voice = speech.vowels(1.5)
    with support.running("--model-repository", tmp_path / "models", state_dir=tmp_path / "state") as server:
        runtime = runtime_of(server)

        def probabilities(body: bytes, content_type: str = "audio/wav") -> list[float]:
            answer = runtime.invoke_endpoint_with_response_stream(
                EndpointName=speech.NAME, ContentType=content_type, Accept="application/octet-stream", Body=body
            )
            found = payloads(answer)
            assert {len(part) for part in found} == {4}
            return np.frombuffer(b"".join(found), np.float32).tolist()  # type: ignore[no-any-return]

        heard = probabilities(speech.wav(voice))
        assert len(heard) == -(-voice.size // speech.CHUNK)
        assert max(heard) > 0.98
        assert max(probabilities(speech.wav(noise))) < 0.049
        assert max(probabilities(speech.wav(silence))) <= 0.009
        # The state is a stream's own: the same sound, at the same time as others, has the same answer.
        np.testing.assert_allclose(probabilities(voice.tobytes(), "application/octet-stream"), heard, atol=0.05)
        answers: list[list[float]] = []
        threads = [threading.Thread(target=lambda: answers.append(probabilities(speech.wav(voice)))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [heard] * 4
        whole = runtime.invoke_endpoint(EndpointName=speech.NAME, ContentType="audio/wav", Body=speech.wav(voice))
        np.testing.assert_allclose(np.ravel(json.load(whole["Body"])["predictions"]), heard, rtol=1e-5)
        runtime.close()


# ---------------------------------------------------------------------- bad input


BAD = [
    ("endpoint that is not there", "/endpoints/none/invocations-response-stream", b"{}", (), 400, "none of account"),
    ("name that cannot be", "/endpoints/-x/invocations-response-stream", b"{}", (), 400, "cannot be the name"),
    ("body that is no JSON", STREAM, b"{", (), 424, "not JSON"),
    ("empty body", STREAM, b"", (), 424, "empty"),
    ("wrong datatype", STREAM, b'{"instances": ["a"]}', (), 424, "INT64 takes whole numbers"),
    ("wrong rank", STREAM, b'{"instances": [[1, 2], [3, 4]]}', (), 424, "[-1] was expected"),
    ("unknown media type", STREAM, b"x", ("Content-Type: video/mp4",), 424, "is not read"),
    ("sound for a model of numbers", STREAM, b"RIFF", ("Content-Type: audio/wav",), 424, "is not read"),
    (
        "Accept that cannot be met",
        STREAM,
        b'{"instances": [1]}',
        ("X-Amzn-SageMaker-Accept: image/png",),
        424,
        "cannot be met",
    ),
    ("long Accept", STREAM, b"{}", (f"X-Amzn-SageMaker-Accept: {'a' * 1025}",), 400, "at most 1024"),
    ("target model", STREAM, b"{}", ("X-Amzn-SageMaker-Target-Model: a.tar.gz",), 400, "not a multi-model endpoint"),
    ("target container", STREAM, b"{}", ("X-Amzn-SageMaker-Target-Container-Hostname: a",), 400, "direct mode"),
    ("unknown variant", STREAM, b"{}", ("X-Amzn-SageMaker-Target-Variant: blue",), 400, "Variant blue"),
    ("session", STREAM, b"{}", ("X-Amzn-SageMaker-Session-Id: a",), 404, "sessions are not supported"),
    ("inference component", STREAM, b"{}", ("X-Amzn-SageMaker-Inference-Component: a",), 404, "components are not"),
    ("custom attributes twice", STREAM, b"{}", ("X-Amzn-SageMaker-Custom-Attributes: a",) * 2, 400, "came twice"),
    ("long inference id", STREAM, b"{}", (f"X-Amzn-SageMaker-Inference-Id: {'a' * 65}",), 400, "at most 64"),
    ("body that is no gzip", STREAM, b"{}", ("Content-Encoding: gzip",), 424, "not gzip"),
    ("path with more behind", f"{STREAM}/x", b"{}", (), 404, "there is no POST"),
    ("no such model", "/v2/models/none/generate", b"{}", (), 404, "unknown model: 'none'"),
    ("no such version", "/v2/models/script/versions/7/generate_stream", b"{}", (), 404, "version 7"),
    ("missing input", GENERATE, b"{}", (), 400, "input 'script' is missing"),
    ("body that is a list", GENERATE, b"[1]", (), 400, "an object with 'script'"),
    ("unknown list", GENERATE, b'{"script": [1], "texts": [1]}', (), 400, "'texts' is a list"),
    ("parameters that are a list", GENERATE, b'{"script": [1], "parameters": [1]}', (), 400, "'parameters' is a list"),
    ("parameter that is an object", GENERATE, b'{"script": [1], "parameters": {"a": {}}}', (), 400, "'a' is an object"),
    ("input twice", GENERATE, b'{"script": [1], "parameters": {"script": [1]}}', (), 400, "came twice"),
    ("wrong number of elements", "/v2/models/echo/generate", b'{"x": [1, 2, 3]}', (), 400, "has 3 elements"),
    ("text for numbers", GENERATE, b'{"script": "hello"}', (), 400, "INT64 takes whole numbers"),
    ("sequence", GENERATE, b'{"script": [1], "sequence_id": 4}', (), 501, "keeps no state"),
    ("id that is a number", GENERATE, b'{"script": [1], "id": 4}', (), 400, "'id' is the number 4"),
    ("form", "/v2/models/script/generate_stream", b"{}", ("Content-Type: text/csv",), 415, "is not read here"),
    ("fault before the first event", "/v2/models/script/generate_stream", b'{"script": [3, 1, 0]}', (), 500, "failed"),
    ("container contract", "/invocations", b"[", (), 400, "not JSON"),
]


@pytest.mark.parametrize(
    ("path", "body", "fields", "status", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD]
)
def test_bad_input(server: Server, path: str, body: bytes, fields: tuple[str, ...], status: int, message: str) -> None:
    fields = fields if any(field.startswith("Content-Type") for field in fields) else (JSON, *fields)
    with Wire(server.port) as wire:
        wire.send(request(path, body, *fields))
        answer = wire.answer()
        assert answer.status == status, answer.body
        assert message in answer.message, answer.message
        if path.startswith("/endpoints"):
            assert answer.headers["x-amzn-errortype"]
        # It cost nobody anything, not even its own connection.
        wire.send(request("/endpoints/echo/invocations", b'{"instances": [[1, 2]]}', JSON))
        assert wire.answer().status == 200


@pytest.mark.parametrize("path", [STREAM, GENERATE, f"{GENERATE}_stream"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_other_methods_are_refused(server: Server, path: str, method: str) -> None:
    answer = ask(server.port, request(path, b"", JSON, method=method), method)
    assert answer.status in (404, 405)
    assert "answers POST" in answer.message


def test_http_1_0_has_no_chunks(server: Server) -> None:
    answer = ask(server.port, request("/invocations", script(3).encode(), JSON, version="1.0"))
    assert answer.status == 400
    assert "HTTP/1.1" in answer.message


def test_a_part_is_sent_when_it_is_made(server: Server, place: Path) -> None:
    """The container waits before its second part; the first has come."""
    with Wire(server.port) as wire:
        wire.send(request(STREAM, script(2, 1, -1, "failure", 1).encode(), JSON))
        buffer = EventStreamBuffer()
        received = b""
        while b'{"predictions":[0]}\n' not in received:
            received += wire.socket.recv(4096)
        (place / "models" / "script" / "go").write_text("")
        while not received.endswith(b"0\r\n\r\n"):
            received += wire.socket.recv(4096)
        body = received.partition(b"\r\n\r\n")[2]
        while body:
            size, _, body = body.partition(b"\r\n")
            buffer.add_data(body[: int(size, 16)])
            body = body[int(size, 16) + 2 :]
        assert [event.payload for event in buffer] == lines(2)
    (place / "models" / "script" / "go").unlink()
