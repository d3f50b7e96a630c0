"""SQLite in one file: one server, one thread, a write-ahead log that is flushed with every commit."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from serving.control.database import Outage
from serving.errors import ConfigurationError, StoreUnavailable

BUSY_S: Final = 5.0
"""How long a transaction waits for another program that writes."""

_LOCKED: Final = ("is locked by another program", "end that program")
_DAMAGED: Final = ("is damaged", "restore it from a backup, or move it away to begin with no resources")
_OUTAGES: Final = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_PROTOCOL: _LOCKED,
    sqlite3.SQLITE_INTERRUPT: ("did not answer in time", "see what keeps it busy"),
    sqlite3.SQLITE_FULL: ("cannot be written", "make room on its disk"),
    sqlite3.SQLITE_IOERR: ("cannot be read or written", "see to its disk"),
    sqlite3.SQLITE_READONLY: ("cannot be written", "let the server write it and its folder"),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", "let the server read and write it and its folder"),
    sqlite3.SQLITE_PERM: ("cannot be opened", "let the server read and write it and its folder"),
    sqlite3.SQLITE_NOMEM: ("cannot be used", "give the server more memory"),
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}
_CONFLICTS: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})


class SQLite:
    """The database in `path`, made where it is absent, for its owner only. Raises `ConfigurationError`.

    All transactions begin IMMEDIATE: as the only writer, none has to be undone because another was faster.
    """

    threads = 1
    shared = False

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._file = _made(path)
        # `rw`: a file that is gone must not come back empty.
        address = f"file:{quote(str(path.absolute()))}?mode=rw"
        self.engine = create_engine(
            "sqlite://",
            creator=partial(sqlite3.connect, address, uri=True, timeout=BUSY_S, check_same_thread=False),
            poolclass=QueuePool,
            pool_size=1,
            max_overflow=0,
            hide_parameters=True,
        )
        event.listen(self.engine, "connect", _configure)
        event.listen(self.engine, "begin", _begin)

    def examine(self, connection: Connection) -> None:
        """See `Database`."""
        said = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one())
        if said != "ok":
            raise ConfigurationError(f"the database {self.name} {_DAMAGED[0]} ({_line(said)}); {_DAMAGED[1]}")

    @contextmanager
    def migration(self) -> Iterator[Connection]:
        """See `Database`: the state directory is locked. Tables are changed by making them anew, so keys wait."""
        with self.engine.connect() as connection:
            raw: Any = connection.connection.driver_connection
            raw.execute("PRAGMA foreign_keys=OFF")
            try:
                with connection.begin():
                    yield connection
                    if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
                        raise ConfigurationError(f"the database {self.name} {_DAMAGED[0]} (keys); {_DAMAGED[1]}")
            finally:
                raw.execute("PRAGMA foreign_keys=ON")

    def begin(self, connection: Connection, *, again: bool) -> float | None:
        """See `Database`. SQLite itself would go on writing into a file that nobody finds any more."""
        try:
            found = self._path.stat()
        except OSError as error:
            raise StoreUnavailable(f"the database {self.name} is gone ({error.strerror}); put it back") from error
        if (found.st_dev, found.st_ino) != self._file:
            raise StoreUnavailable(
                f"the database {self.name} was replaced by another file; restart the server to use it"
            )
        return None

    def abort(self, connection: Any) -> None:
        """See `Database`. Ends a long statement; a disk that hangs has to come back."""
        connection.interrupt()

    def outage(self, error: DBAPIError, *, again: bool) -> Outage | None:
        """See `Database`."""
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        if code not in _OUTAGES:
            return None
        text, advice = _OUTAGES[code]
        return Outage(f"{text} ({_line(str(error.orig))}); {advice}", conflict=code in _CONFLICTS)


def _made(path: Path) -> tuple[int, int]:
    """Makes the file where it is absent and shuts others out of it; device and inode tell it from any other."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            made = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigurationError(
            f"the database {path} cannot be opened ({error.strerror}); let the server read and write it and its folder, "
            "or name another folder with --state-dir"
        ) from error
    return made.st_dev, made.st_ino


def _configure(connection: Any, _record: object) -> None:
    # Without this, sqlite3 begins and commits on its own, and not around DDL. Source: SQLAlchemy, "Enabling Non-Legacy
    # SQLite Transactional Modes".
    connection.isolation_level = None
    cursor = connection.cursor()
    for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
