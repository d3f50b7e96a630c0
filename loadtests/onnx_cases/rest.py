"""A question over HTTP: Open Inference Protocol v2 with binary tensor data both ways."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from typing import Any, Final, Self

from loadtests.onnx_cases.case import Tensor
from loadtests.onnx_cases.wire import Refused, raw, read

TIMEOUT_S: Final = 60.0

_HEADER: Final = "Inference-Header-Content-Length"


class Rest:
    """One kept connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def infer(self, model: str, inputs: Sequence[Tensor], outputs: Sequence[str]) -> list[Tensor]:
        """The outputs in the order asked. Raises `Refused`."""
        parts = [raw(tensor) for tensor in inputs]
        entries = [
            {
                "name": tensor.name,
                "shape": list(tensor.array.shape),
                "datatype": tensor.datatype,
                "parameters": {"binary_data_size": len(part)},
            }
            for tensor, part in zip(inputs, parts, strict=True)
        ]
        wanted = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
        header = json.dumps({"inputs": entries, "outputs": wanted}).encode()
        headers = {"Content-Type": "application/octet-stream", _HEADER: str(len(header))}
        status, fields, body = self._post(f"/v2/models/{model}/infer", header + b"".join(parts), headers)
        if status != 200:
            raise Refused(_said(body))
        length = int(fields.get(_HEADER.lower(), len(body)))
        at = length
        found = []
        for entry in json.loads(body[:length])["outputs"]:
            size = entry["parameters"]["binary_data_size"]
            array = read(body[at : at + size], entry["datatype"], entry["shape"])
            found.append(Tensor(entry["name"], entry["datatype"], array))
            at += size
        if at != len(body):
            raise Refused(f"the answer has {len(body) - at} bytes more than its outputs")
        return found

    def load(self, model: str) -> None:
        """Has the server load a model of its repository. Raises `Refused`."""
        status, _, body = self._post(f"/v2/repository/models/{model}/load", b"", {})
        if status != 200:
            raise Refused(_said(body))

    def _post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        try:
            self._connection.request("POST", path, body, headers)
            answer = self._connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()  # opened anew by the next request
            raise Refused(f"no answer: {type(error).__name__}: {error}") from error


def _said(body: bytes) -> str:
    try:
        answer: Any = json.loads(body)
        return str(answer["error"])
    except (ValueError, KeyError, TypeError):
        return body[:300].decode(errors="replace")
