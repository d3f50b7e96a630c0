"""AWS's JSON 1.1 protocol: X-Amz-Target names the operation, JSON objects go in and out."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

import orjson

from serving.control.call import Answer, Document, Request
from serving.errors import NotSerialized, ServingError, UnknownOperation

if TYPE_CHECKING:
    from serving.control.service import Service

CONTENT_TYPE: Final = "application/x-amz-json-1.1"
MEDIA_TYPES: Final = frozenset({CONTENT_TYPE, "application/x-amz-json-1.0"})

SERVICES: Final = {
    "AmazonEC2ContainerRegistry_V20150921": "ecr",
    "AmazonSQS": "sqs",
    "AmazonSSM": "ssm",
    "AnyScaleFrontendService": "application-autoscaling",
    "GraniteServiceVersion20100801": "cloudwatch",
    "Logs_20140328": "logs",
    "SageMaker": "sagemaker",
    "TrentService": "kms",
    "secretsmanager": "secretsmanager",
}
"""Services by the prefix of their targets, as far as clients of SageMaker call them; named as botocore names them."""

_CODES: Final = {"logs": {"ValidationException": "InvalidParameterException"}}
"""What services call the faults that SageMaker names otherwise."""


def addressed(request: Request) -> tuple[str, str]:
    """The service and the operation that the target names. Raises `UnknownOperation`."""
    prefix, dot, operation = request.target.rpartition(".")
    if not dot or not operation:
        raise UnknownOperation(
            f"X-Amz-Target is {request.target[:200]!r}; SERVICE.Operation was expected, such as SageMaker.CreateModel"
        )
    service = SERVICES.get(prefix)
    if service is None:
        raise UnknownOperation(
            f"X-Amz-Target is {request.target[:200]!r}, which is of no API that this server knows; "
            "SageMaker's targets begin with SageMaker."
        )
    return service, operation


def read(request: Request) -> object:
    """The document of a request. Raises `NotSerialized`."""
    if not request.body:
        raise NotSerialized("the body is empty; a JSON object was expected, {} where there is nothing to say")
    try:
        return orjson.loads(request.body)
    except orjson.JSONDecodeError as error:
        raise NotSerialized(f"the body is not JSON: {error}") from None


def answer(service: Service, operation: str, document: Document, request_id: str) -> Answer:
    """The answer to a call that went well: nothing at all where the operation has no output."""
    body = encode(document) if service.operations[operation].output else b""
    return Answer(200, CONTENT_TYPE, body, (("x-amzn-RequestId", request_id),))


def refuse(error: ServingError, service: str, request_id: str) -> Answer:
    """The answer to a call that failed."""
    code = error.sagemaker_code or "InternalFailure"
    code = _CODES.get(service, {}).get(code, code)
    body = orjson.dumps({"__type": code, "message": error.message})
    fields = (("x-amzn-RequestId", request_id), ("x-amzn-errortype", code))
    return Answer(error.sagemaker_status, CONTENT_TYPE, body, fields)


def encode(document: Document) -> bytes:
    """A document as the protocol writes it."""
    return orjson.dumps(document, default=_plain)


def _plain(value: Any) -> str:
    """Blobs, which the protocol writes in base64."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} is nothing that an answer may hold")
