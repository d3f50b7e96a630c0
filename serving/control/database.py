"""What the store asks of a kind of database, and how it tells an outage from a bug."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError


@dataclass(frozen=True, slots=True)
class Outage:
    """Why a transaction failed by no fault of its work, and what to do about it: "is locked (...); end that program".

    `conflict`: the database undid it in favour of others, and another try at once may succeed. `reached`: the database
    answered, and what it answered is about the transaction.
    """

    text: str
    conflict: bool = False
    reached: bool = True


class Database(Protocol):
    """A kind of database, by its engine. What it does blocks; as many as `threads` of the store use it at a time."""

    name: str
    """What errors call it; never with a password."""
    engine: Engine
    threads: int
    shared: bool
    """Whether other servers may change it."""

    def examine(self, connection: Connection) -> None:
        """Once at start, in a transaction: raises `ConfigurationError` where the database cannot be used."""

    def migration(self) -> AbstractContextManager[Connection]:
        """A transaction that may change tables, while no other server can."""

    def begin(self, connection: Connection, *, again: bool) -> float | None:
        """The first statements of a transaction: its time by the clock that all servers share, None where that is ours.

        `again`: the transaction lost a conflict before. Raises `StoreUnavailable`, `DBAPIError`.
        """

    def abort(self, connection: Any) -> None:
        """From another thread: breaks a driver's connection that hangs, where that can be, so that its thread goes on."""

    def outage(self, error: DBAPIError, *, again: bool) -> Outage | None:
        """What the error says of the database; None where the work itself is wrong."""


def database_of(url: str | None, state_dir: Path) -> Database:
    """The database of a URL, or SQLite in the state directory. Raises `ConfigurationError`, `MissingExtra`."""
    if url is None:
        from serving.control.sqlite import SQLite

        return SQLite(state_dir / "control.db")
    from serving.control.postgresql import PostgreSQL

    return PostgreSQL(url)
