"""Calls of the AWS APIs: as they come from a worker, and the operations that carry them out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

if TYPE_CHECKING:
    from serving.control.store import Transaction

MOST_BYTES: Final = 4 * 1024 * 1024
"""Of a body: above what anybody sends, registrations of some hundred kilobytes."""


class Request(msgspec.Struct, frozen=True):
    """A POST to `/` as it came in.

    `target` is X-Amz-Target, `scope` the service in the credential scope of Authorization (`sagemaker`, `sts`); both may
    be empty. `request_id` is what the answer's x-amzn-RequestId will be.
    """

    target: str
    content_type: str
    scope: str
    request_id: str
    body: bytes


class Answer(msgspec.Struct, frozen=True):
    """What goes back: status, media type, further header fields, body."""

    status: int
    content_type: str
    body: bytes
    fields: tuple[tuple[str, str], ...] = ()


def scope_of(authorization: str) -> str:
    """The service that an Authorization header was made for (Signature Version 4), or ""."""
    scope = authorization.partition("Credential=")[2].partition(",")[0].split("/")
    return scope[3].strip() if len(scope) == 5 else ""


Parameters: TypeAlias = Mapping[str, Any]
"""An operation's input, valid by the service model: members as AWS names them, timestamps as epoch seconds (float)."""

Document: TypeAlias = dict[str, Any]
"""A structure of the service model, in the same form; members that are not set are absent."""

Operation: TypeAlias = "Callable[[Transaction, Parameters], Document]"
"""What carries a call out in one transaction, on a database thread. Raises `ControlFault`s, which roll it back."""

Handler: TypeAlias = Callable[[Parameters], Awaitable[Document]]
"""What carries a call out without the database, on the supervisor's loop."""
