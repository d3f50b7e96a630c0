"""AWS's query protocol, of STS, IAM and EC2: a form goes in, XML comes out.

Of inputs only scalars and lists of them are read, which is all that SDKs send to the built operations; a structure is an
unknown member.
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from serving.control.call import Answer, Document, Request
from serving.errors import ControlFault, NotSerialized, ServingError

if TYPE_CHECKING:
    from serving.control.service import Service

CONTENT_TYPE: Final = "text/xml"
MEDIA_TYPE: Final = "application/x-www-form-urlencoded"
MOST_FIELDS: Final = 1000

# What the services of this protocol call the faults that JSON services name otherwise, and their status.
_CODES: Final = {
    "ResourceNotFound": ("NoSuchEntity", 404),
    "SerializationException": ("MalformedInput", 400),
    "UnknownOperationException": ("InvalidAction", 400),
    "ValidationException": ("ValidationError", 400),
}
_MEMBER: Final = re.compile(r"(?P<list>[A-Za-z]+)\.member\.(?P<position>[1-9][0-9]{0,3})")
# What XML 1.0 cannot hold, not even escaped.
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def speaks(request: Request) -> bool:
    """Whether a request is a form, so that its answer is XML."""
    return not request.target and request.content_type.partition(";")[0].strip().lower() == MEDIA_TYPE


def read(request: Request) -> dict[str, str]:
    """The fields of the form. Raises `NotSerialized`."""
    try:
        text = request.body.decode("utf-8")
        pairs = parse_qsl(
            text, keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=MOST_FIELDS
        )
    except ValueError as error:
        raise NotSerialized(f"the body is not a form ({MEDIA_TYPE}): {error}") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise NotSerialized("the body gives a field twice")
    return fields


def inputs(service: Service, fields: dict[str, str]) -> dict[str, Any]:
    """The input document in a form's fields. Raises `ControlFault` for the version of another API."""
    version = fields.get("Version", service.version)
    if version != service.version:
        raise ControlFault(f"Version is {version[:64]!r}; {service.version} was expected of {service.name}")
    document: dict[str, Any] = {}
    lists: dict[str, dict[int, str]] = {}
    for name, value in fields.items():
        if found := _MEMBER.fullmatch(name):
            lists.setdefault(found["list"], {})[int(found["position"])] = value
        elif name not in ("Action", "Version"):
            document[name] = value
    for name, members in lists.items():
        document[name] = [members[position] for position in sorted(members)]
    return document


def answer(service: Service, operation: str, document: Document, request_id: str) -> Answer:
    """The answer to a call that went well."""
    known = service.operations[operation]
    parts: list[str] = []
    _write(service, known.output, document, parts) if known.output else None
    result = f"<{known.wrapper}>{''.join(parts)}</{known.wrapper}>" if known.wrapper else "".join(parts)
    return _answer(
        200,
        request_id,
        f'<{operation}Response xmlns="{service.namespace}">{result}'
        f"<ResponseMetadata><RequestId>{_text(request_id)}</RequestId></ResponseMetadata></{operation}Response>",
    )


def refuse(error: ServingError, service: str, request_id: str) -> Answer:
    """The answer to a call that failed; EC2 has a form of its own."""
    code, status = _CODES.get(
        error.sagemaker_code or "", (error.sagemaker_code or "InternalFailure", error.sagemaker_status)
    )
    side = "Sender" if status < 500 else "Receiver"
    what = f"<Code>{code}</Code><Message>{_text(error.message)}</Message>"
    if service == "ec2":
        return _answer(
            status,
            request_id,
            f"<Response><Errors><Error>{what}</Error></Errors><RequestID>{_text(request_id)}</RequestID></Response>",
        )
    return _answer(
        status,
        request_id,
        f"<ErrorResponse><Error><Type>{side}</Type>{what}</Error><RequestId>{_text(request_id)}</RequestId></ErrorResponse>",
    )


def _answer(status: int, request_id: str, text: str) -> Answer:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()
    return Answer(status, CONTENT_TYPE, body, (("x-amzn-RequestId", request_id),))


def _write(service: Service, shape: str, value: Any, parts: list[str]) -> None:
    raw = service.shapes[shape]
    kind = raw["type"]
    if kind == "structure":
        for name, member in raw["members"].items():
            if name in value:
                _element(service, name, member["shape"], value[name], parts)
    elif kind == "list":
        for one in value:
            _element(service, "member", raw["member"]["shape"], one, parts)
    elif kind == "map":
        for key, one in value.items():
            parts.append("<entry>")
            _element(service, "key", raw["key"]["shape"], key, parts)
            _element(service, "value", raw["value"]["shape"], one, parts)
            parts.append("</entry>")
    else:
        parts.append(_text(_scalar(kind, value)))


def _element(service: Service, name: str, shape: str, value: Any, parts: list[str]) -> None:
    parts.append(f"<{name}>")
    _write(service, shape, value, parts)
    parts.append(f"</{name}>")


def _scalar(kind: str, value: Any) -> str:
    if kind == "boolean":
        return "true" if value else "false"
    if kind == "timestamp":
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if kind == "blob":
        return base64.b64encode(value).decode()
    return str(value)


def _text(text: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", text), quote=False)
