"""The generated messages of the Open Inference Protocol's gRPC service, imported where they are first needed."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

from serving.errors import MalformedBody, MissingExtra


@cache
def messages() -> Any:
    """The module of generated messages. Raises `MissingExtra`."""
    try:
        return importlib.import_module("tritonclient.grpc.service_pb2")
    except ImportError as error:
        raise MissingExtra(
            f"gRPC needs tritonclient, which cannot be imported ({error}): pip install 'serving[grpc]'"
        ) from error


def parse(kind: Any, body: bytes) -> Any:
    """The message of a generated class that the bytes are. Raises `MalformedBody`."""
    try:
        return kind.FromString(body)
    except _decode_error() as error:
        raise MalformedBody(f"the message is no {kind.DESCRIPTOR.name}: {error}") from None


@cache
def _decode_error() -> type[Exception]:
    found: type[Exception] = importlib.import_module("google.protobuf.message").DecodeError
    return found
