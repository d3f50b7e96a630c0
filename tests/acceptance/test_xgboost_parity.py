"""SageMaker's XGBoost container, request by request: what was asked, and the very bytes that it answers.

Expected bodies are built here from the library's own predictions, the way the container's `serve_utils.py` and its
toolkit's encoders build them.
"""

from __future__ import annotations

import http.client
import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost

from tests.containers.boosters import Array, rows, train
from tests.support import server as support
from tests.support.server import Server

OBJECTIVES = ("binary:logistic", "multi:softprob", "multi:softmax", "reg:squarederror")
KEYS = "predicted_label,labels,probability,probabilities,raw_score,raw_scores,predicted_score"
LIBSVM = "text/libsvm"
RECORDIO = "application/x-recordio-protobuf"
ROWS = np.round(rows(3, seed=21), 3)
"""Questions: with missing values, of which each row has one at least."""


def name_of(objective: str, *more: str) -> str:
    return "-".join((objective.replace(":", "-"), *more))


@pytest.fixture(scope="module")
def boosters() -> dict[str, xgboost.Booster]:
    found = {}
    for objective in OBJECTIVES:
        classes = {"num_class": 3} if objective.startswith("multi") else {}
        found[objective] = train({"objective": objective, **classes})
    return found


@pytest.fixture(scope="module")
def server(boosters: dict[str, xgboost.Booster], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A model of each objective, as it is, for batch transform, and with selected outputs."""
    root = tmp_path_factory.mktemp("models")
    environments = {"": {}, "batch": {"SAGEMAKER_BATCH": "true"}, "selected": {"SAGEMAKER_INFERENCE_OUTPUT": KEYS}}
    for objective, booster in boosters.items():
        for what, environment in environments.items():
            folder: Path = root / name_of(objective, *([what] if what else []))
            folder.mkdir()
            (folder / "xgboost-model").write_bytes(bytes(booster.save_raw("ubj")))
            if environment:
                (folder / "model.yaml").write_text(json.dumps({"environment": environment}))
    state_dir = tmp_path_factory.mktemp("parity") / "state"
    with support.running("--model-repository", root, state_dir=state_dir) as started:
        yield started


class Answer:
    """What came back."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.type = response.getheader("Content-Type")
        self.body = response.read()


def ask(server: Server, name: str, body: bytes, content_type: str | None, accept: str | None = None) -> Answer:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    try:
        headers = {"Content-Type": content_type, "Accept": accept}
        connection.request(
            "POST",
            f"/endpoints/{name}/invocations",
            body,
            {key: value for key, value in headers.items() if value is not None},
        )
        return Answer(connection.getresponse())
    finally:
        connection.close()


# ---------------------------------------------------------------- questions


def csv(values: Array) -> bytes:
    return "\n".join(",".join("" if np.isnan(x) else str(x) for x in row) for row in values).encode()


def libsvm(values: Array, first: int, label: str = "") -> bytes:
    lines = [
        " ".join([*([label] if label else []), *(f"{i + first}:{x}" for i, x in enumerate(row) if not np.isnan(x))])
        for row in values
    ]
    return "\n".join(lines).encode()


def framed(record: bytes) -> bytes:
    return struct.pack("<II", 0xCED7230A, len(record)) + record + b"\0" * (-len(record) % 4)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    size, varint = len(content), b""
    while size > 127:
        varint, size = varint + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + varint + bytes([size]) + content


def tensors(number: int, values: dict[str, Sequence[float]]) -> bytes:
    """A map of names to float32 tensors, in a Record's field of that number."""
    packed = {key: np.array(one, "<f4").tobytes() for key, one in values.items()}
    return b"".join(
        field(number, field(1, key.encode()) + field(2, field(2, field(1, content)))) for key, content in packed.items()
    )


def recordio(values: Array) -> bytes:
    return b"".join(framed(tensors(1, {"values": row})) for row in values)


QUESTIONS: list[tuple[str | None, bytes]] = [
    ("text/csv", csv(ROWS)),
    ("text/csv", csv(ROWS) + b"\n"),
    ("text/csv; label_size=0", csv(ROWS)),
    ("text/csv;label_size=1", csv(ROWS)),
    ("text/csv; charset=utf-8", csv(ROWS)),
    (LIBSVM, libsvm(ROWS, 0)),
    (LIBSVM, libsvm(ROWS, 1)),
    (LIBSVM, libsvm(ROWS, 0, label="1")),
    ("text/x-libsvm", libsvm(ROWS, 0)),
    (None, libsvm(ROWS, 0)),
    (RECORDIO, recordio(ROWS)),
]


# ---------------------------------------------------------------- answers


def predicted(booster: xgboost.Booster) -> Array:
    return np.asarray(booster.predict(xgboost.DMatrix(ROWS)))


def as_csv(values: Array) -> bytes:
    return ",".join(map(str, values.tolist())).encode()


def as_json(values: Array) -> bytes:
    return json.dumps({"predictions": [{"score": value} for value in values.tolist()]}).encode()


def as_jsonlines(values: Array) -> bytes:
    return "".join(json.dumps({"score": value}) + "\n" for value in values.tolist()).encode()


def as_recordio(values: Array) -> bytes:
    return b"".join(framed(tensors(2, {"score": np.atleast_1d(value)})) for value in values)


WRITERS = {
    "text/csv": as_csv,
    "application/json": as_json,
    "application/jsonlines": as_jsonlines,
    RECORDIO: as_recordio,
}
TYPES = {"text/csv": "text/csv; charset=utf-8"}
"""Its web framework names the character set of text."""


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("content_type", "body"), QUESTIONS)
def test_every_question_has_every_answer(
    server: Server, boosters: dict[str, xgboost.Booster], objective: str, content_type: str | None, body: bytes
) -> None:
    assert np.isnan(ROWS).any(axis=1).all()
    assert not np.isnan(ROWS[:, -1]).all()
    values = predicted(boosters[objective])
    for accept, write in WRITERS.items():
        answer = ask(server, name_of(objective), body, content_type, accept)
        assert (answer.status, answer.body) == (200, write(values))
        assert answer.type == TYPES.get(accept, accept)
    for accept in (None, "*/*"):
        answer = ask(server, name_of(objective), body, content_type, accept)
        assert (answer.status, answer.type, answer.body) == (200, TYPES["text/csv"], as_csv(values))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_batch_transform_has_a_line_for_each_row(
    server: Server, boosters: dict[str, xgboost.Booster], objective: str
) -> None:
    answer = ask(server, name_of(objective, "batch"), csv(ROWS), "text/csv")
    expected = "\n".join(map(str, predicted(boosters[objective]).tolist())) + "\n"
    assert (answer.status, answer.body) == (200, expected.encode())


def selected(objective: str, value: Any) -> dict[str, Any]:
    """All keys for one prediction, in the order in which they are asked for."""
    nothing = float("nan")
    found: dict[str, Any] = dict.fromkeys(KEYS.split(","), nothing)
    if objective == "reg:squarederror":
        return found | {"predicted_score": value.item()}
    if objective == "multi:softprob":
        best = {"predicted_label": int(value.argmax()), "labels": [0, 1, 2], "raw_scores": value.tolist()}
        chances = {"probability": value.max().item(), "probabilities": value.tolist()}
        return found | best | chances | {"raw_score": value.max().item()}
    one = value.item()
    found |= {"raw_score": one, "raw_scores": [1.0 - one, one]}
    if objective == "multi:softmax":
        return found | {"predicted_label": one, "labels": [0, 1, 2]}
    chances = {"probability": one, "probabilities": [1.0 - one, one]}
    return found | chances | {"predicted_label": int(one > 0.5), "labels": [0, 1]}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_selected_outputs(server: Server, boosters: dict[str, xgboost.Booster], objective: str) -> None:
    expected = [selected(objective, value) for value in predicted(boosters[objective])]
    name = name_of(objective, "selected")
    answers = {accept: ask(server, name, csv(ROWS), "text/csv", accept) for accept in WRITERS}
    assert {answer.status for answer in answers.values()} == {200}
    assert answers["application/json"].body == json.dumps({"predictions": expected}).encode()
    assert answers["application/jsonlines"].body == "".join(json.dumps(row) + "\n" for row in expected).encode()
    lines = [
        ",".join(f'"{value}"' if isinstance(value, list) else str(value) for value in row.values()) for row in expected
    ]
    assert answers["text/csv"].body == "\n".join(lines).encode()
    # A list of one and a number are the same tensor.
    records = [{key: value if isinstance(value, list) else [value] for key, value in row.items()} for row in expected]
    assert answers[RECORDIO].body == b"".join(framed(tensors(2, row)) for row in records)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    ("content_type", "body", "accept", "status", "text"),
    [
        ("text/csv", b"", None, 204, b""),
        (None, b"", None, 204, b""),
        ("image/png", b"x", None, 415, b"image/png"),
        ("text/csv; label_size=2", b"1,2,3,4,5,6", None, 415, b"label_size"),
        ("text/csv", b"1,2,3,4,5,6", "image/png", 406, b"image/png"),
        ("text/csv", b"1,2,3", None, 400, b"Unable to evaluate payload provided: "),
        (LIBSVM, b"1:2 99:3", None, 400, b"Unable to evaluate payload provided: "),
        (RECORDIO, recordio(ROWS[:, :4]), None, 400, b"Unable to evaluate payload provided: "),
    ],
)
def test_refusals(
    server: Server, objective: str, content_type: str | None, body: bytes, accept: str | None, status: int, text: bytes
) -> None:
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    try:
        headers = {"Content-Type": content_type, "Accept": accept}
        path = f"/endpoints/{name_of(objective)}/invocations"
        connection.request("POST", path, body, {key: value for key, value in headers.items() if value})
        answer = Answer(connection.getresponse())
    finally:
        connection.close()
    if answer.status == 424:
        # On this face SageMaker reports the container's own status inside.
        inside = json.loads(answer.body)
        assert inside["OriginalStatusCode"] == status
        assert text.decode() in inside["OriginalMessage"]
    else:
        assert answer.status == status
        assert text in answer.body
