"""What carries the service over HTTP/2: one shape, two implementations, of which a setting picks one."""

from __future__ import annotations

import importlib
import socket
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, Protocol

from serving.errors import MissingExtra
from serving.settings import Settings

if TYPE_CHECKING:
    from serving.frontends.grpc.servicer import Rpc

_MODULES: Final = {
    "grpcio": "serving.frontends.grpc.grpcio_transport",
    "h2corn": "serving.frontends.grpc.h2corn_transport",
}
_NEEDED: Final = ("tritonclient", "google.protobuf", "grpc", "grpc_health", "grpc_reflection")


class Service(Protocol):
    """What a transport carries; `Servicer` is one. Its messages have `max_message_bytes` at most, uncompressed."""

    max_message_bytes: int

    @property
    def rpcs(self) -> Iterable[Rpc]:
        """All methods."""

    def find(self, path: str) -> Rpc:
        """The method of a path. Raises `Unsupported`."""


class Transport(Protocol):
    """One worker's gRPC port. A module of a transport has a class `Transport`, made from what `make` takes.

    `calls`: how many are in flight; `requests`: how many there were.
    """

    calls: int
    requests: int

    async def start(self) -> None:
        """Begins to accept. Raises `ConfigurationError`."""

    async def stop(self, timeout_s: float) -> None:
        """Takes no more calls, waits so long for the answers of those in flight, and closes what is left."""


def check(settings: Settings) -> None:
    """Raises `MissingExtra` where a library that the settings need is not there, without loading any of them."""
    needed = (*_NEEDED, "h2corn") if settings.grpc_transport == "h2corn" else _NEEDED
    for name in needed:
        if not _is_there(name):
            raise MissingExtra(
                f"grpc_port is set, but gRPC needs {name}, which is not installed: pip install 'serving[grpc]'"
            )


def make(settings: Settings, service: Service, sockets: Sequence[socket.socket]) -> Transport:
    """The transport that the settings pick, for sockets that are bound and may be bound again (SO_REUSEPORT), not listening.

    Raises `MissingExtra` and `ConfigurationError`.
    """
    name = settings.grpc_transport
    try:
        module = importlib.import_module(_MODULES[name])
    except ImportError as error:
        raise MissingExtra(
            f"gRPC over {name} cannot be served, a library cannot be imported ({error}): pip install 'serving[grpc]'"
        ) from error
    transport: Transport = module.Transport(settings, service, sockets)
    return transport


def where(listener: socket.socket) -> str:
    """The address of a socket as URLs have it: `127.0.0.1:8001`, `[::1]:8001`."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:
        return False
