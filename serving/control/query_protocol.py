"""AWS's query protocol, of STS, IAM and EC2: a form goes in, XML comes out.

Of inputs only texts, numbers without fractions, truth values and lists of texts are read, which is all that SDKs send to the
built operations; structures are refused.
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
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
_INTEGER: Final = re.compile(r"-?[0-9]{1,19}")
# What XML 1.0 cannot hold, not even escaped.
_ESCAPED: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})
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


def inputs(service: Service, operation: str, fields: dict[str, str]) -> dict[str, Any]:
    """The input document of an operation in a form's fields. Raises `ControlFault` for another version, and for structures."""
    version = fields.get("Version", service.version)
    if version != service.version:
        raise ControlFault(f"Version is {version[:64]!r}; {service.version} was expected of {service.name}")
    shape = service.operations[operation].input
    kinds = {
        member: service.shapes[held["shape"]]["type"]
        for member, held in (service.shapes[shape]["members"] if shape else {}).items()
    }
    document: dict[str, Any] = {}
    lists: dict[str, dict[int, str]] = {}
    for name, value in fields.items():
        if found := _MEMBER.fullmatch(name):
            lists.setdefault(found["list"], {})[int(found["position"])] = value
        elif "." in name and name.partition(".")[0] in kinds:
            raise ControlFault(
                f"{name[:128]} is a part of a structure, and {operation} takes none of those here; leave it out"
            )
        elif name not in ("Action", "Version"):
            document[name] = _typed(kinds.get(name, "string"), value)
    for name, members in lists.items():
        document[name] = [members[position] for position in sorted(members)]
    return document


def _typed(kind: str, value: str) -> Any:
    """A field as the value of its member; what cannot be one stays text, and is refused as such."""
    if kind == "list" and not value:
        return []
    if kind == "boolean":
        return {"true": True, "false": False}.get(value, value)
    if kind in ("integer", "long") and _INTEGER.fullmatch(value):
        return int(value)
    return value


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
    return _NOT_XML.sub("\ufffd", text).translate(_ESCAPED)
