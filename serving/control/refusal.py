"""The error of a call, in the protocol that its caller speaks: also where nothing else of the call was understood."""

from __future__ import annotations

import msgspec

from serving.control import json_protocol, query_protocol
from serving.control.call import Answer, Request
from serving.errors import ServingError


def refusal(error: ServingError, request: Request, service: str = "") -> Answer:
    """The answer to a call that failed; `service` is whose call it is, by default that of the caller's signature."""
    refuse = query_protocol.refuse if query_protocol.speaks(request) else json_protocol.refuse
    answer = refuse(error, service or request.scope, request.request_id)
    if error.retry_after_s is None:
        return answer
    after = ("Retry-After", str(max(1, round(error.retry_after_s))))
    return msgspec.structs.replace(answer, fields=(*answer.fields, after))
