"""Migrations: numbered steps, each from one version of the tables to the next, run when the database is opened.

A new one is a file `versions/NNNN_what_it_does.py` beside a change of `serving.control.schema`. All that are missing run
in one transaction: a server that dies amid them leaves the version that was there.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError

from serving.control.database import Database
from serving.control.schema import metadata
from serving.errors import ConfigurationError

log = logging.getLogger("serving.store")

_FOLDER: Final = Path(__file__).parent
_TABLE: Final = "alembic_version"


def versions() -> list[str]:
    """The versions that this server knows, oldest first."""
    return sorted(path.name[:4] for path in (_FOLDER / "versions").glob("[0-9]*.py"))


def bring_up(database: Database) -> None:
    """Brings the tables to the newest version. Raises `ConfigurationError` where that cannot be, or must not."""
    try:
        with database.engine.begin() as connection:
            database.examine(connection)
            version = version_of(connection, database.name)
        if version != versions()[-1]:
            with database.migration() as connection:
                # Another server may have been faster.
                if version_of(connection, database.name) != versions()[-1]:
                    upgrade(connection)
            log.info("the tables of the database %s have version %s", database.name, versions()[-1])
    except DBAPIError as error:
        outage = database.outage(error, again=False)
        said = outage.text if outage is not None else f"cannot be used: {' '.join(str(error.orig).split())}"
        raise ConfigurationError(f"the database {database.name} {said}") from error


def version_of(connection: Connection, name: str) -> str | None:
    """The version of the tables; None in an empty database. Raises `ConfigurationError` where they are not ours."""
    tables = set(inspect(connection).get_table_names())
    if not tables - {_TABLE}:
        return None
    known = versions()
    found = (
        connection.exec_driver_sql(f"SELECT version_num FROM {_TABLE}").scalars().all()  # noqa: S608
        if _TABLE in tables
        else []
    )
    version = str(found[0]) if len(found) == 1 else ""
    if version.isdecimal() and len(version) == 4 and version > known[-1] and "counters" in tables:
        raise ConfigurationError(
            f"the database {name} was made by a newer version of the server (its tables have version {version}, this one "
            f"knows {known[-1]}); start that version, or restore a backup from before"
        )
    missing = set(metadata.tables) - tables if version == known[-1] else {"counters"} - tables
    if version not in known or missing:
        raise ConfigurationError(
            f"the database {name} holds tables of another program ({', '.join(sorted(tables - set(metadata.tables))[:3])}"
            f"{', ...' if len(tables) > 3 else ''}) or lacks some of the server's; give the server a database of its own"
        )
    return version


def upgrade(connection: Connection, to: str = "head") -> None:
    """Runs the missing migrations up to a version, in the connection's transaction."""
    # A start whose tables are up to date does not pay for this import.
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    command.upgrade(config, to)
