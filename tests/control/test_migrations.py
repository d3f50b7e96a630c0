"""Migrations: from every version to the newest, on both databases; what is not ours is refused in a line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from serving.control import migrations
from serving.control.database import Database, database_of
from serving.control.schema import metadata
from serving.control.store import Store
from serving.errors import ConfigurationError
from tests.control.conftest import PLACE

FOLDER = Path(migrations.__file__).parent
VERSIONS = migrations.versions()

DATA: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    "0001": {
        "models": {"name": "fraud", "arn": "arn:fraud", "created_at": 1.5, "document": '{"é": "\\u0000"}'},
        "endpoint_configs": {"name": "fraud", "arn": "arn:config", "created_at": 1.5, "document": "{}"},
        "endpoints": {
            "name": "fraud",
            "arn": "arn:endpoint",
            "created_at": 1.5,
            "modified_at": 2.5,
            "status": "InService",
            "failure_reason": None,
            "generation": 9_000_000_000,
            "target": "{}",
            "current": "{}",
        },
        "model_package_groups": {
            "name": "group",
            "arn": "arn:group",
            "created_at": 1.5,
            "last_version": 1,
            "document": "{}",
        },
        "model_packages": {
            "name": "group/1",
            "arn": "arn:package",
            "group_name": "group",
            "version": 1,
            "approval": "Approved",
            "status": "Completed",
            "created_at": 1.5,
            "modified_at": 2.5,
            "document": "{}",
        },
        "tags": {"arn": "arn:fraud", "key": "team", "position": 0, "value": "risk"},
        "counters": {"name": "other", "value": 9_000_000_000},
        "nodes": {"id": "a", "started_at": 1.5, "heard_at": 2.5},
        "observations": {
            "endpoint": "fraud",
            "node": "a",
            "serving": 1,
            "failed": 0,
            "reason": None,
            "observed_at": 1.5,
        },
        "leases": {"name": "settle", "holder": "a", "token": 1, "expires_at": 1.5},
    }
}
"""A row of every table as it was at each version."""


@pytest.fixture(params=["sqlite", "postgresql"])
def own_url(request: pytest.FixtureRequest) -> str | None:
    """`--database` of an empty database."""
    return str(request.getfixturevalue("database_url")) if request.param == "postgresql" else None


@pytest.fixture
def database(own_url: str | None, tmp_path: Path) -> Iterator[Database]:
    database = database_of(own_url, tmp_path)
    yield database
    database.engine.dispose()


def tables(database: Database) -> set[str]:
    with database.engine.connect() as connection:
        return set(inspect(connection).get_table_names())


def version(database: Database) -> str | None:
    with database.engine.connect() as connection:
        return migrations.version_of(connection, database.name)


def fill(connection: Connection, rows: Mapping[str, Mapping[str, object]]) -> None:
    for table, row in rows.items():
        columns = ", ".join(f'"{name}"' for name in row)
        values = ", ".join(f":{name}" for name in row)
        connection.execute(text(f"INSERT INTO {table} ({columns}) VALUES ({values})"), row)


def test_numbers_follow_each_other() -> None:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    script = ScriptDirectory.from_config(config)
    assert [f"{number:04}" for number in range(1, len(VERSIONS) + 1)] == VERSIONS
    assert [revision.revision for revision in reversed(list(script.walk_revisions()))] == VERSIONS
    assert script.get_heads() == [VERSIONS[-1]]
    assert set(DATA) == set(VERSIONS)


@pytest.mark.parametrize("start", VERSIONS)
def test_from_every_version_tables_are_the_schema_and_rows_stay(database: Database, start: str) -> None:
    with database.migration() as connection:
        migrations.upgrade(connection, start)
        fill(connection, DATA[start])
    migrations.bring_up(database)
    with database.engine.connect() as connection:
        options = {"compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
        for table, row in DATA[start].items():
            kept = [dict(found) for found in connection.execute(text(f"SELECT * FROM {table}")).mappings()]
            assert any(row.items() <= found.items() for found in kept), table
        counters = dict(connection.execute(text("SELECT name, value FROM counters")).all())
        assert counters == {"generation": 0, "other": 9_000_000_000}


def test_a_difference_between_tables_and_schema_is_found(database: Database) -> None:
    migrations.bring_up(database)
    with database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE models ADD COLUMN colour TEXT"))
        connection.execute(text("DROP INDEX endpoints_by_status"))
        found = compare_metadata(MigrationContext.configure(connection), metadata)
    assert sorted(difference[0] for difference in found) == ["add_index", "remove_column"]


def test_names_sort_by_their_bytes(database: Database) -> None:
    migrations.bring_up(database)
    names = ["a", "B", "a-b", "ab", "A", "a/10", "a/2", "_"]
    with database.engine.begin() as connection:
        for name in names:
            row = {"name": name, "arn": name, "created_at": 0.0, "document": "{}"}
            connection.execute(text("INSERT INTO models VALUES (:name, :arn, :created_at, :document)"), row)
        assert connection.execute(text("SELECT name FROM models ORDER BY name")).scalars().all() == sorted(names)


def test_running_again_changes_nothing(database: Database) -> None:
    migrations.bring_up(database)
    with database.engine.begin() as connection:
        fill(connection, DATA[VERSIONS[-1]])
    before = tables(database)
    migrations.bring_up(database)
    with database.migration() as connection:
        migrations.upgrade(connection)
    assert tables(database) == before
    assert version(database) == VERSIONS[-1]


def test_a_start_that_is_up_to_date_does_not_import_alembic(own_url: str | None, tmp_path: Path) -> None:
    program = (
        "import asyncio, json, pathlib, sys\n"
        "from serving.control.store import Place, Store\n"
        "url, folder = json.loads(sys.argv[1])\n"
        "store = Store.open(url, pathlib.Path(folder), Place('123456789012', 'us-east-1'))\n"
        "asyncio.run(store.close())\n"
        "print('alembic' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program, json.dumps([own_url, str(tmp_path)])]
    printed = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert printed == ["True\n", "False\n"]


def test_a_killed_migration_leaves_the_version_before(own_url: str | None, tmp_path: Path) -> None:
    # Killed when all statements have run, just before COMMIT.
    program = (
        "import json, os, pathlib, signal, sys\n"
        "from serving.control import migrations\n"
        "from serving.control.database import database_of\n"
        "url, folder = json.loads(sys.argv[1])\n"
        "with database_of(url, pathlib.Path(folder)).migration() as connection:\n"
        "    migrations.upgrade(connection)\n"
        "    assert migrations.version_of(connection, 'it') == migrations.versions()[-1]\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, json.dumps([own_url, str(tmp_path)])], check=False)
    assert ended.returncode == -signal.SIGKILL
    database = database_of(own_url, tmp_path)
    assert tables(database) == set()
    migrations.bring_up(database)
    assert version(database) == VERSIONS[-1]
    database.engine.dispose()


def test_a_migration_that_fails_leaves_the_version_before(database: Database) -> None:
    def fail() -> None:
        with database.migration() as connection:
            migrations.upgrade(connection)
            connection.exec_driver_sql("SELECT nonsense")

    with pytest.raises(DBAPIError, match="nonsense"):
        fail()
    assert tables(database) == set()


def test_servers_that_start_together_migrate_once(database_url: str, tmp_path: Path) -> None:
    def start(number: int) -> Store:
        return Store.open(database_url, tmp_path / str(number), PLACE)

    with ThreadPoolExecutor(4) as threads:
        stores = list(threads.map(start, range(4)))
    for store in stores:
        asyncio.run(store.close())


def test_keys_hold_after_a_migration(database: Database) -> None:
    migrations.bring_up(database)
    package = {"model_packages": DATA["0001"]["model_packages"] | {"group_name": "absent"}}
    with database.engine.connect() as connection, pytest.raises(DBAPIError, match=r"(?i)foreign key"):
        fill(connection, package)


# ---------------------------------------------------------------- databases that are not ours


def refused(database: Database) -> str:
    with pytest.raises(ConfigurationError) as caught:
        migrations.bring_up(database)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_newer_version_is_refused(database: Database) -> None:
    migrations.bring_up(database)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0999'"))
    assert "newer version of the server (its tables have version 0999" in refused(database)
    assert "start that version, or restore a backup" in refused(database)


@pytest.mark.parametrize("named", ["", "0001", "ae1027a6acf", "9999"])
def test_tables_of_another_program_are_refused(database: Database, named: str) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE experiments (id INTEGER)"))
        if named:
            connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
            connection.execute(text("INSERT INTO alembic_version VALUES (:named)"), {"named": named})
    assert "holds tables of another program" in refused(database)
    assert "experiments" in refused(database)
    assert "models" not in tables(database)


def test_a_lost_table_is_told(database: Database) -> None:
    migrations.bring_up(database)
    with database.engine.begin() as connection:
        connection.execute(text("DROP TABLE tags"))
    assert "lacks some of the server's" in refused(database)


@pytest.mark.parametrize("spoilt", ["text", "head", "middle"])
def test_a_damaged_file_is_refused(tmp_path: Path, spoilt: str) -> None:
    path = tmp_path / "control.db"
    if spoilt == "text":
        path.write_text("this is a shopping list, and a long one\n" * 100)
    else:
        asyncio.run(Store.open(None, tmp_path, PLACE).close())
        data = bytearray(path.read_bytes())
        start = 0 if spoilt == "head" else 8192
        data[start : start + 4096] = os.urandom(4096)
        path.write_bytes(data)
    before = path.read_bytes()
    message = refused(database_of(None, tmp_path))
    assert message.startswith(f"the database {path} is damaged")
    assert "restore it from a backup, or move it away" in message
    assert path.read_bytes() == before


def test_a_file_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE cookies (name TEXT)")
    connection.close()
    assert "cookies" in refused(database_of(None, tmp_path))
