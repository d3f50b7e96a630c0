"""Describe and list calls beside many endpoints and configs: by a raw client, and by boto3 with what it adds itself."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from botocore import xform_name

from loadtests.control import calls
from loadtests.control.calls import Raw
from loadtests.control.cases import CALLS
from loadtests.control.context import Context

PAGE = 100
WARM = 20


def run(context: Context) -> None:
    """All calls in turns, so that none has the quiet moments for itself."""
    with context.server(context.populated) as server, Raw(server.port) as raw:
        sagemaker = calls.client("sagemaker", server.port)
        questions = _questions(raw)
        clients: dict[str, Callable[[str, dict[str, Any]], Any]] = {
            "raw": raw.send,
            "boto3": lambda operation, parameters: getattr(sagemaker, xform_name(operation))(**parameters),
        }
        for client, ask in clients.items():
            took: dict[str, list[float]] = {call: [] for call in CALLS}
            for turn in range(min(WARM, context.sizes.calls) + context.sizes.calls):
                for call, (operation, parameters) in questions.items():
                    began = perf_counter()
                    ask(operation, parameters)
                    if turn >= min(WARM, context.sizes.calls):
                        took[call].append(perf_counter() - began)
            for call, seconds in took.items():
                found = context.times("pages", f"{call}, {client}", seconds)
                context.figure(f"pages: {call}, {client}, p50 ms", found.p50_ms)
                context.figure(f"pages: {call}, {client}, p99 ms", found.p99_ms)


def _questions(raw: Raw) -> dict[str, tuple[str, dict[str, Any]]]:
    """What each of `CALLS` asks; each is asked once, so that a wrong question fails and not answers quickly."""
    name, page = "fraud-003", {"MaxResults": PAGE}
    parameters: list[dict[str, Any]] = [
        {"ModelName": name},
        {"EndpointConfigName": name},
        {"EndpointName": name},
        page,
        page,
        page,
        page | {"NextToken": _token(raw, 4)},
        page | {"NameContains": "more"},
        page | {"StatusEquals": "InService"},
    ]
    questions = {}
    for call, given in zip(CALLS, parameters, strict=True):
        operation = call.partition(",")[0]
        raw.call(operation, **given)
        questions[call] = (operation, given)
    return questions


def _token(raw: Raw, pages: int) -> str:
    """The token after so many pages of configs, or after the last but one where there are fewer."""
    size = PAGE
    found = raw.call("ListEndpointConfigs", MaxResults=size)
    if "NextToken" not in found:
        found = raw.call("ListEndpointConfigs", MaxResults=5)
    token = str(found["NextToken"])
    for _ in range(pages - 1):
        found = raw.call("ListEndpointConfigs", MaxResults=size, NextToken=token)
        token = str(found.get("NextToken") or token)
    return token
