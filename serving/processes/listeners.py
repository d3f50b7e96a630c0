"""The sockets of a server's ports: bound by the supervisor, kept while it runs, handed to each worker as descriptors."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Final, NamedTuple, Self

from serving.errors import ConfigurationError
from serving.settings import Settings

_BACKLOG: Final = 2048


class Listeners(NamedTuple):
    """`http` listen, and workers accept from them. `grpc` are bound and do not listen: they keep the port.

    A gRPC library that takes a socket listens on one of `grpc`; one that only takes an address binds the same again in each
    worker, which SO_REUSEPORT allows, and the kernel spreads connections over the workers.
    """

    http: list[socket.socket]
    grpc: list[socket.socket]

    @classmethod
    def bind(cls, settings: Settings) -> Self:
        """The sockets of the settings. Raises `ConfigurationError` when an address cannot be had."""
        http = _bound(settings.host, settings.port, "--port", listens=True)
        if settings.grpc_port is None:
            return cls([http], [])
        try:
            grpc = _bound(settings.host, settings.grpc_port, "--grpc-port")
        except ConfigurationError:
            http.close()
            raise
        # Only now: another server of the same user could share the port from its start, and take half of the calls.
        grpc.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        grpc.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return cls([http], [grpc])

    @classmethod
    def of(cls, arguments: Iterable[str]) -> Self:
        """The sockets that `arguments` tells of, in the process that inherited them."""
        found: dict[str, list[socket.socket]] = {"http": [], "grpc": []}
        for argument in arguments:
            port, _, descriptor = argument.partition("=")
            found[port].append(socket.socket(fileno=int(descriptor)))
        return cls(**found)

    @property
    def arguments(self) -> list[str]:
        """The descriptors with their ports, for the command line of a worker: `http=7`, `grpc=8`."""
        return [f"{port}={each.fileno()}" for port, each in self._named()]

    @property
    def descriptors(self) -> list[int]:
        """All descriptors."""
        return [each.fileno() for _, each in self._named()]

    def close(self) -> None:
        """Gives this process's copies back."""
        for _, each in self._named():
            each.close()

    def _named(self) -> list[tuple[str, socket.socket]]:
        return [(port, each) for port, sockets in self._asdict().items() for each in sockets]


def _bound(host: str, port: int, flag: str, *, listens: bool = False) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(address)
            if listens:
                # Two sockets may be bound to one address before either listens.
                bound.listen(_BACKLOG)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with {flag}"
        ) from error
    return bound
