"""PostgreSQL, which several servers may share: serializable transactions, tried again when they lose a conflict."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any, Final

from sqlalchemy import URL, Connection, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError

from serving.control.database import Outage
from serving.errors import ConfigurationError, MissingExtra

CONNECT_S: Final = 5
"""How long a connection attempt may take. libpq counts whole seconds."""

_STATEMENT_S: Final = 10
_IDLE_S: Final = 5
"""After this, PostgreSQL undoes a transaction whose server was paused amid it: others may wait for its locks."""
_OLDEST: Final = 12
_MIGRATION_LOCK: Final = 0x5E41_1146
"""Any number, the same in all versions of the server."""

_FORM: Final = (
    "postgresql://USER:PASSWORD@HOST/NAME was expected (in USER and PASSWORD, @ : / ? # % as %40 %3A %2F %3F %23 %25)"
)
_HOST: Final = re.compile(r"[A-Za-z0-9._:%-]*")

# Serialization failure, deadlock, and a pause for too long: all were undone.
_CONFLICTS: Final = frozenset({"40001", "40P01", "25P03"})
# By the start of the SQLSTATE. Source: PostgreSQL manual, appendix A.
_OUTAGES: Final = {
    "57014": ("did not answer in time", "see what keeps it busy"),
    "55P03": ("is locked by another program", "end that program"),
    "25006": ("takes no changes", "name one that does with --database"),
    "53100": ("cannot be written", "make room on its disk"),
    "42501": ("does not let the server do this", "grant it to the server's user"),
    "42P01": ("lacks a table", "restore it from a backup"),
    "08": ("cannot be reached", "start it, or correct --database"),
    "28": ("does not let the server in", "correct user and password in --database"),
    "3D": ("does not exist", "create it, or correct --database"),
    "53": ("has not enough resources", "give it more"),
    "57P": ("is stopping or starting", "wait"),
    "58": ("cannot use its files", "see its log"),
    "XX": ("failed", "see its log"),
}
_UNREACHED: Final = ("08", "28", "3D", "57P")


class PostgreSQL:
    """The database of a URL, not connected yet. Raises `ConfigurationError`, `MissingExtra`.

    SERIALIZABLE, because operations look before they write (is the name free, is the config there?): PostgreSQL finds
    the conflicts that row locks would have to foresee, and reading never waits. A transaction that loses is tried again
    under a lock on `counters`, so that losers take turns; LOCK TABLE comes before the snapshot, as SELECT could not.
    """

    threads = 4
    shared = True

    def __init__(self, text: str) -> None:
        url = _parsed(text)
        self.name = URL.create("postgresql", host=url.host, port=url.port, database=url.database).render_as_string()
        if find_spec("psycopg") is None:
            raise MissingExtra(
                f"the database {self.name} needs psycopg, which is not installed: install serving[postgres]"
            )
        options = {
            "connect_timeout": CONNECT_S,
            "tcp_user_timeout": _STATEMENT_S * 1000,
            "keepalives_idle": _STATEMENT_S,
            "keepalives_interval": 5,
            "keepalives_count": 2,
            "application_name": "serving",
            "client_encoding": "utf8",
        }
        self.engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            isolation_level="SERIALIZABLE",
            pool_size=self.threads,
            max_overflow=1,
            pool_timeout=CONNECT_S,
            hide_parameters=True,
            connect_args={name: value for name, value in options.items() if name not in url.query},
        )
        event.listen(self.engine, "connect", _configure)

    def examine(self, connection: Connection) -> None:
        """See `Database`."""
        version, encoding, read_only = (
            str(connection.exec_driver_sql(f"SHOW {name}").scalar_one())
            for name in ("server_version_num", "server_encoding", "transaction_read_only")
        )
        if int(version) < _OLDEST * 10_000:
            raise ConfigurationError(f"the database {self.name} is older than PostgreSQL {_OLDEST}; upgrade it")
        if encoding != "UTF8":
            raise ConfigurationError(
                f"the database {self.name} is encoded in {encoding}; CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
            )
        if read_only != "off":
            text, advice = _OUTAGES["25006"]
            raise ConfigurationError(f"the database {self.name} {text}; {advice}")

    @contextmanager
    def migration(self) -> Iterator[Connection]:
        """See `Database`. Not serializable: what is read after waiting for the lock must be what the other has made."""
        with (
            self.engine.connect().execution_options(isolation_level="READ COMMITTED") as connection,
            connection.begin(),
        ):
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
            yield connection

    def begin(self, connection: Connection, *, again: bool) -> float | None:
        """See `Database`. Asking for the time also shows whether a pooled connection is alive."""
        if again:
            connection.exec_driver_sql("LOCK TABLE counters IN SHARE ROW EXCLUSIVE MODE")
        return float(
            connection.exec_driver_sql("SELECT extract(epoch FROM transaction_timestamp())::float8").scalar_one()
        )

    def abort(self, connection: Any) -> None:
        """See `Database`. Not by closing it, which would wait for the thread that uses it."""
        with suppress(OSError, self.engine.dialect.loaded_dbapi.Error):
            descriptor = os.dup(connection.fileno())
            with socket.socket(fileno=descriptor) as transport:
                transport.shutdown(socket.SHUT_RDWR)

    def outage(self, error: DBAPIError, *, again: bool) -> Outage | None:
        """See `Database`."""
        state = getattr(error.orig, "sqlstate", None) or ""
        # Two that make the same thing: at its second try, the slower one sees what the faster has made.
        if state in _CONFLICTS or (isinstance(error, IntegrityError) and not again):
            return Outage("is busy: others change the same; try again", conflict=True)
        diagnostics = getattr(error.orig, "diag", None)
        said = " ".join(str(getattr(diagnostics, "message_primary", None) or error.orig).split())[:300]
        if not state and (error.connection_invalidated or isinstance(error, OperationalError)):
            text, advice = _OUTAGES["08"]
            return Outage(f"{text} ({said}); {advice}", reached=False)
        for start, (text, advice) in _OUTAGES.items():
            if state.startswith(start):
                return Outage(f"{text} ({said}); {advice}", reached=start not in _UNREACHED)
        return None


def _parsed(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # Their texts quote the URL, and with it the password.
        raise ConfigurationError(f"database is not a URL: {_FORM}") from None
    if url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise ConfigurationError(f"database is not a URL of PostgreSQL: {_FORM}; where none is given, SQLite is used")
    if not _HOST.fullmatch(url.host or "") or not url.database:
        raise ConfigurationError(f"database does not name a host and a database: {_FORM}")
    return url


def _configure(connection: Any, _record: object) -> None:
    # Not by the parameter `options`, which poolers before PostgreSQL refuse.
    connection.autocommit = True
    connection.execute(f"SET statement_timeout = '{_STATEMENT_S}s'")
    connection.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_S}s'")
    connection.autocommit = False
