"""The sockets over which workers talk to each other: one listens for each worker, made by the supervisor and kept by it.

They have names of the kernel's choice in the abstract namespace of Unix sockets, so that nothing lies on disk and no path
is too long. Anybody on the machine may connect to such a name: a worker takes only its own user, and of those who know
the secret that the supervisor gave to its workers. Source: unix(7).
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

_CREDENTIALS: Final = struct.Struct("3i")
_BACKLOG: Final = 512


def listen(workers: int) -> list[socket.socket]:
    """A listening socket for each worker. A worker that is started again takes the connections that waited for it."""
    listeners = []
    for _ in range(workers):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind("")
        listener.listen(_BACKLOG)
        listeners.append(listener)
    return listeners


def connect(address: bytes) -> socket.socket:
    """A connection to the worker that listens there, now or when it is started. Raises `OSError`."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


def is_own_user(connection: socket.socket) -> bool:
    """Whether the other end was connected by the user that this process runs as."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(raw)[1]
    return user == os.geteuid()
