"""How an error looks on each face: status, headers and body.

One table for all faces is in docs/faults.md; tests/frontends/test_faults.py holds it.
Sources: SageMaker Runtime API reference (InvokeEndpoint errors) and the shapes that botocore reads; multi-model-server's
error body for the container contract; Open Inference Protocol REST.
"""

from __future__ import annotations

from http import HTTPStatus
from math import ceil
from typing import Final

import orjson

from serving.errors import ContainerFault, DeadlineExceeded, NoContent, ServingError
from serving.runtime.invocation import Face

STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
JSON_FIELD: Final = b"content-type: application/json\r\n"
_QUOTED_BYTES: Final = 1024


class Rendered:
    """An error as one face answers it: status, header lines each ended by CRLF, body."""

    __slots__ = ("body", "fields", "status")

    def __init__(self, status: int, fields: bytes, body: bytes) -> None:
        self.status = status
        self.fields = fields
        self.body = body

    @property
    def length_field(self) -> bytes:
        """The Content-Length line, which an answer without content must not have (RFC 9110, 8.6)."""
        return b"" if self.status == 204 else b"content-length: %d\r\n" % len(self.body)


class Faces:
    """Renders errors; knows the account and region that SageMaker's texts name."""

    def __init__(self, region: str, account_id: str) -> None:
        self._region = region
        self._account_id = account_id

    def render(self, face: Face, error: ServingError, endpoint: str | None) -> Rendered:
        """The answer to an error on a face; `endpoint` is the name that was called, where there is one."""
        if isinstance(error, NoContent):
            return Rendered(error.http_status, b"", b"")
        fields = JSON_FIELD
        if error.retry_after_s is not None:
            # Whole seconds, at least 1 (RFC 9110, 10.2.3).
            fields += b"retry-after: %d\r\n" % max(1, ceil(error.retry_after_s))
        if face is Face.OPEN_INFERENCE:
            status = error.v2_status or error.http_status
            return Rendered(status, fields, orjson.dumps({"error": error.message}))
        if face is Face.CONTAINER:
            return Rendered(error.http_status, fields, self._container_body(error))
        if isinstance(error, ContainerFault):
            return self._model_error(error, endpoint or "", fields)
        code = error.sagemaker_code or "InternalFailure"
        if not code.isdigit():
            fields += b"x-amzn-errortype: %b\r\n" % code.encode()
        return Rendered(error.sagemaker_status, fields, orjson.dumps({"Message": error.message}))

    def _container_body(self, error: ServingError) -> bytes:
        return orjson.dumps({"code": error.http_status, "type": type(error).__name__, "message": error.message})

    def _model_error(self, error: ContainerFault, endpoint: str, fields: bytes) -> Rendered:
        status = error.http_status
        group = f"/aws/sagemaker/Endpoints/{endpoint}"
        console = f"https://{self._region}.console.aws.amazon.com/cloudwatch/home?region={self._region}#logEventViewer:group={group}"
        if isinstance(error, DeadlineExceeded):
            status = 0
            original = (
                "Your invocation timed out while waiting for a response from container primary. Review the latency "
                "metrics for each container in Amazon CloudWatch, resolve the issue, and try again."
            )
        else:
            original = self._container_body(error).decode()
        side = "client" if 400 <= status < 500 else "server"
        quoted = f'with message "{original}".'
        if len(original) > _QUOTED_BYTES:
            quoted = "and could not load the entire response body."
        message = f"Received {side} error ({status}) from primary {quoted} See {console} in account {self._account_id} for more information."
        body = {
            "ErrorCode": "CLIENT_ERROR_FROM_MODEL" if side == "client" else "INTERNAL_FAILURE_FROM_MODEL",
            "LogStreamArn": f"arn:aws:logs:{self._region}:{self._account_id}:log-group:{group}",
            "Message": message,
            "OriginalMessage": original,
            "OriginalStatusCode": status,
        }
        fields += b"x-amzn-errortype: ModelError\r\n"
        return Rendered(error.sagemaker_status, fields, orjson.dumps(body))
