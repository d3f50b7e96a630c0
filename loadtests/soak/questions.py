"""What the soak asks: requests of which the asker can tell whether an answer is its own.

Three kinds: new random rows to a model that answers with their checksum, in every content type; known inputs to the
models of the benchmark, whose answers were worked out without a server; and known inputs to the samples, held against
what the same server answered to each of them alone, before the load.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from botocore.eventstream import EventStreamBuffer

from loadtests.bench.models import Array, BenchModel, Sample
from loadtests.bench.protocols import ENDPOINT, JSON, V2_BINARY, V2_JSON, Request, WrongAnswer
from loadtests.bench.servers import Server, post
from loadtests.soak import checksum
from serving.samples import file_type, fraud, speech

CSV, LINES, NPY = "text/csv", "application/jsonlines", "application/x-npy"
MOST_ROWS = 8
STREAM = "application/vnd.amazon.eventstream"


@dataclass(frozen=True, slots=True)
class Question:
    """A request and whether an answer's body (with status 200) is the right one."""

    kind: str
    request: Request
    right: Callable[[bytes], bool]


Source = Callable[[random.Random], Question]


def checksums(model: str) -> Source:
    """Rows that nobody ever sent, to a model of `loadtests.soak.checksum`, in one of six formats."""

    def ask(choose: random.Random) -> Question:
        rows = checksum.rows(choose.randint(1, MOST_ROWS), choose.getrandbits(60))
        right = checksum.checksums(rows).tolist()
        form = choose.choice((JSON, CSV, LINES, NPY, "v2 JSON", "v2 binary"))
        return Question(f"{model} {form}", _build(model, form, rows), lambda body: _numbers(form, body) == right)

    return ask


def known(model: BenchModel, samples: Sequence[Sample]) -> Source:
    """Inputs of a benchmark model with their right answers."""

    def ask(choose: random.Random) -> Question:
        sample, protocol = choose.choice(samples), choose.choice((ENDPOINT, V2_JSON, V2_BINARY))

        def right(body: bytes) -> bool:
            try:
                protocol.check(body, sample.answer)
            except WrongAnswer:
                return False
            return True

        return Question(f"{model.name} {protocol.name}", protocol.request(model, sample), right)

    return ask


def alone(kind: str, server: Server, requests: Sequence[Request], same: Callable[[bytes, bytes], bool]) -> Source:
    """The given requests, each with what an idle server answers to it; `same` compares two answers."""
    asked = []
    for request in requests:
        status, body = post(server.port, request.path, request.headers, request.body)
        if status != 200:
            raise WrongAnswer(f"{request.path} was answered with {status}: {body[:300]!r}")
        asked.append((request, body))

    def ask(choose: random.Random) -> Question:
        request, answer = choose.choice(asked)
        return Question(kind, request, lambda body: same(body, answer))

    return ask


def samples(server: Server) -> dict[str, Source]:
    """The sample models, as their users call them."""
    table, _ = fraud.table(32, seed=99)
    lines = [",".join(f"{value:g}" for value in row).encode() for row in table]
    path = f"/endpoints/{fraud.NAME}/invocations"
    files = np.random.default_rng(5).integers(0, 257, (4, 1, 2048)).astype(np.int32)
    sounds = [speech.vowels(0.3 + 0.1 * part).astype("<f4").tobytes() for part in range(4)]
    raw = {"Content-Type": "application/octet-stream"}
    return {
        "fraud": alone("fraud CSV", server, [Request(path, {"Content-Type": CSV}, line) for line in lines], _close),
        "file-type": alone(
            "file-type NPY",
            server,
            [Request(f"/endpoints/{file_type.NAME}/invocations", {"Content-Type": NPY}, _npy(rows)) for rows in files],
            _close,
        ),
        "speech": alone(
            "speech", server, [Request(f"/endpoints/{speech.NAME}/invocations", raw, sound) for sound in sounds], _close
        ),
        "speech-stream": alone(
            "speech stream",
            server,
            [Request(f"/endpoints/{speech.NAME}/invocations-response-stream", raw, sound) for sound in sounds],
            lambda body, answer: _payload(body) == _payload(answer) != b"",
        ),
    }


def _build(model: str, form: str, rows: Array) -> Request:
    path = f"/endpoints/{model}/invocations"
    plain = rows.tolist()
    if form == JSON:
        return Request(path, {"Content-Type": JSON}, json.dumps({"instances": plain}).encode())
    if form == CSV:
        text = "\n".join(",".join(map(str, row)) for row in plain)
        return Request(path, {"Content-Type": CSV, "Accept": CSV}, text.encode())
    if form == LINES:
        text = "\n".join(json.dumps(row) for row in plain)
        return Request(path, {"Content-Type": LINES, "Accept": LINES}, text.encode())
    if form == NPY:
        return Request(path, {"Content-Type": NPY, "Accept": NPY}, _npy(rows))
    tensor: dict[str, Any] = {"name": "values", "shape": list(rows.shape), "datatype": "INT64"}
    path = f"/v2/models/{model}/infer"
    if form == "v2 JSON":
        tensor["data"] = rows.reshape(-1).tolist()
        return Request(path, {"Content-Type": JSON}, json.dumps({"inputs": [tensor]}).encode())
    tensor["parameters"] = {"binary_data_size": rows.nbytes}
    wanted = [{"name": "checksum", "parameters": {"binary_data": True}}]
    header = json.dumps({"inputs": [tensor], "outputs": wanted}).encode()
    return Request(path, {"Inference-Header-Content-Length": str(len(header))}, header + rows.tobytes())


def _numbers(form: str, body: bytes) -> list[float]:
    """All numbers of an answer's data, in order; none where it cannot be read."""
    try:
        if form == NPY:
            return list(np.load(io.BytesIO(body)).reshape(-1).tolist())
        if form == "v2 binary":
            return list(np.frombuffer(body[body.index(b"]}") + 2 :], "<i8").tolist())
        if form in (CSV, LINES):
            return [value for line in body.decode().splitlines() for value in _flat(json.loads(f"[{line}]"))]
        answer = json.loads(body)
        return list(_flat(answer["outputs"][0]["data"] if form == "v2 JSON" else answer))
    except (ValueError, KeyError, IndexError, TypeError):
        return []


def _flat(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _flat(part)
    elif isinstance(value, int | float):
        yield value


def _close(body: bytes, answer: bytes) -> bool:
    """Whether two answers hold the same numbers but for the last digits, which depend on the batch."""
    try:
        one, other = (list(_flat(json.loads(text))) for text in (body, answer))
    except ValueError:
        return body == answer
    return len(one) == len(other) > 0 and bool(np.allclose(one, other, rtol=1e-3, atol=1e-5))


def _payload(body: bytes) -> bytes:
    """The parts of an event stream, joined; nothing where one of them is no part."""
    buffer = EventStreamBuffer()
    buffer.add_data(body)
    found = []
    for message in buffer:
        if message.headers.get(":event-type") != "PayloadPart":
            return b""
        found.append(message.payload)
    return b"".join(found)


def _npy(rows: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, rows)
    return file.getvalue()
