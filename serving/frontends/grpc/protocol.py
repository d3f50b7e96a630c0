"""The service `inference.GRPCInferenceService`: its messages and methods, as tritonclient's generated modules define them.

Sources: Open Inference Protocol, gRPC; Triton's extensions to it.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, NamedTuple

from serving.codecs.grpc_messages import messages

SERVICE: Final = "inference.GRPCInferenceService"
PREFIX: Final = f"/{SERVICE}/"


class Method(NamedTuple):
    """One method: its name, the classes of its messages, and whether both sides stream (`ModelStreamInfer` alone)."""

    name: str
    request: Any
    response: Any
    streams: bool


@cache
def methods() -> dict[str, Method]:
    """All methods of the service by name. Raises `MissingExtra`."""
    pb = messages()
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    return {
        method.name: Method(
            method.name,
            getattr(pb, method.input_type.name),
            getattr(pb, method.output_type.name),
            bool(method.client_streaming),
        )
        for method in service.methods
    }
