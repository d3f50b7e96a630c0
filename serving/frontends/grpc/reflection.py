"""Server reflection: what services there are and what their messages hold, for tools that know neither.

The messages of its version v1 are those of v1alpha under another name, so that one answers both.
Source: the gRPC server reflection protocol.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

from serving.errors import MissingExtra
from serving.frontends.grpc import messages
from serving.frontends.grpc.call import Call

SERVICE: Final = "grpc.reflection.v1alpha.ServerReflection"
PATHS: Final = (f"/{SERVICE}/ServerReflectionInfo", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")


class Reflection:
    """Answers from the descriptors of all generated messages in the process. Raises `MissingExtra`."""

    def __init__(self, services: Iterable[str]) -> None:
        try:
            reflection: Any = importlib.import_module("grpc_reflection.v1alpha.reflection")
            generated: Any = importlib.import_module("grpc_reflection.v1alpha.reflection_pb2")
        except ImportError as error:
            raise MissingExtra(
                f"gRPC needs grpcio-reflection, which cannot be imported ({error}): pip install 'serving[grpc]'"
            ) from error
        self._request = generated.ServerReflectionRequest
        self._servicer = reflection.ReflectionServicer((*services, SERVICE))

    async def info(self, bodies: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """`ServerReflectionInfo`: one answer to each request."""
        async for body in bodies:
            request = messages.read(self._request, body)
            for response in self._servicer.ServerReflectionInfo(iter((request,)), None):
                yield response.SerializeToString()
