"""How one row is asked for and its answer read: the same question in each protocol that a system under test speaks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from loadtests.bench.models import TOLERANCE, Array, BenchModel, Sample

JSON = "application/json"


class WrongAnswer(Exception):
    """A system answered a benchmark request with something other than the known right answer."""


@dataclass(frozen=True, slots=True)
class Request:
    """One POST: path, headers beyond Host and Content-Length, and the body's bytes."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    def wire(self, host: str) -> bytes:
        """The request as it goes over a kept-alive HTTP/1.1 connection."""
        lines = [f"POST {self.path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


@dataclass(frozen=True, slots=True)
class Protocol:
    """Builds the request for some rows and finds the numbers in an answer.

    `marker` is the text before the first number of a JSON answer; None says that the answer ends in raw float32.
    """

    name: str
    build: Callable[[BenchModel, Array], Request]
    marker: str | None

    def numbers(self, body: bytes, count: int) -> Array:
        """The first `count` numbers of an answer's data; raises `WrongAnswer` where they cannot be found."""
        if self.marker is None:
            tail = body[-4 * count :]
            if len(tail) != 4 * count or not body.startswith(b"{"):
                raise WrongAnswer(f"{self.name}: expected {count} float32 after a JSON header, got {body[:200]!r}")
            return np.frombuffer(tail, dtype="<f4")
        start = body.find(self.marker.encode())
        if start < 0:
            raise WrongAnswer(f"{self.name}: no {self.marker} in the answer {body[:200]!r}")
        text = body[start + len(self.marker) :].lstrip(b" :[").split(b"]", 1)[0]
        try:
            found = np.array(json.loads(b"[" + text + b"]"), dtype=np.float32)
        except ValueError:
            raise WrongAnswer(f"{self.name}: no list of numbers after {self.marker} in {body[:200]!r}") from None
        if found.ndim != 1 or len(found) < count:
            raise WrongAnswer(f"{self.name}: expected {count} numbers, got {body[:200]!r}")
        return found[:count]

    def check(self, body: bytes, expected: Array) -> None:
        """Raises `WrongAnswer` unless the answer's numbers are `expected` to within `TOLERANCE`."""
        found = self.numbers(body, len(expected))
        difference = np.abs(found - expected).max()
        if not difference <= TOLERANCE:  # also true for NaN
            raise WrongAnswer(f"{self.name}: off by {difference}: expected {expected[:4]}..., got {found[:4]}...")

    def request(self, model: BenchModel, sample: Sample) -> Request:
        """The request for one sample's single row."""
        return self.build(model, sample.input[None])


def _instances(path: Callable[[BenchModel], str]) -> Callable[[BenchModel, Array], Request]:
    def build(model: BenchModel, rows: Array) -> Request:
        return Request(path(model), {"Content-Type": JSON}, _dump({"instances": _plain(rows)}))

    return build


def _v2_json(model: BenchModel, rows: Array) -> Request:
    tensor = {
        "name": model.input_name,
        "shape": list(rows.shape),
        "datatype": model.datatype,
        "data": _plain(rows.reshape(-1)),
    }
    return Request(f"/v2/models/{model.name}/infer", {"Content-Type": JSON}, _dump({"inputs": [tensor]}))


def _v2_binary(model: BenchModel, rows: Array) -> Request:
    tensor = {
        "name": model.input_name,
        "shape": list(rows.shape),
        "datatype": model.datatype,
        "parameters": {"binary_data_size": rows.nbytes},
    }
    header = _dump({"inputs": [tensor], "outputs": [{"name": model.output_name, "parameters": {"binary_data": True}}]})
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(header))}
    return Request(f"/v2/models/{model.name}/infer", headers, header + rows.tobytes())


def _bare(path: Callable[[BenchModel], str]) -> Callable[[BenchModel, Array], Request]:
    def build(model: BenchModel, rows: Array) -> Request:
        return Request(path(model), {"Content-Type": JSON}, _dump(_plain(rows[0])))

    return build


def _row(model: BenchModel, rows: Array) -> Request:
    return Request("/predict", {"Content-Type": JSON}, _dump({"row": _plain(rows[0])}))


def _rows(model: BenchModel, rows: Array) -> Request:
    return Request("/predict", {"Content-Type": JSON}, _dump({"rows": _plain(rows)}))


def _plain(rows: Array) -> list[object]:
    """Shortest text that parses back to the same float32: what a caller with float32 values would send."""
    if rows.dtype.kind == "f":
        return np.array([float(str(value)) for value in rows.reshape(-1)]).reshape(rows.shape).tolist()  # type: ignore[no-any-return]
    return rows.tolist()  # type: ignore[no-any-return]


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


INVOCATIONS = Protocol("invocations", _instances(lambda model: "/invocations"), '"predictions"')
ENDPOINT = Protocol("endpoint", _instances(lambda model: f"/endpoints/{model.name}/invocations"), '"predictions"')
V2_JSON = Protocol("v2-json", _v2_json, '"data"')
V2_BINARY = Protocol("v2-binary", _v2_binary, None)
V1_JSON = Protocol("v1-json", _instances(lambda model: f"/v1/models/{model.name}:predict"), '"predictions"')
# One row in the form that each peer's own API takes most readily.
MOSEC = Protocol("mosec-json", _bare(lambda model: "/inference"), "")
PREDICTIONS = Protocol("predictions-json", _bare(lambda model: f"/predictions/{model.name}"), "")
ROW = Protocol("row-json", _row, '"answer"')
ROWS = Protocol("rows-json", _rows, "")
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (INVOCATIONS, ENDPOINT, V2_JSON, V2_BINARY, V1_JSON, MOSEC, PREDICTIONS, ROW, ROWS)
}
