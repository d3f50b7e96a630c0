"""Databases that are locked, full, gone, cut off or slow, really: clear errors, nothing half-made, and no help needed."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from serving.control import postgresql, sqlite
from serving.control import store as store_module
from serving.control.schema import models
from serving.control.store import Store, Transaction
from serving.errors import ConfigurationError, StoreUnavailable
from tests.control.conftest import PLACE
from tests.control.test_store import create, names, run_child
from tests.support.postgres import Cluster
from tests.support.server import wait_until

FOREIGN = 65534
"""`nobody`: the user of programs that root starts with fewer rights."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store on SQLite."""
    store = Store.open(None, tmp_path, PLACE)
    yield store
    asyncio.run(store.close())


@pytest.fixture
def shared(database_url: str, tmp_path: Path) -> Iterator[Store]:
    """A store on PostgreSQL."""
    store = Store.open(database_url, tmp_path, PLACE)
    yield store
    asyncio.run(store.close())


# ---------------------------------------------------------------- SQLite


def test_a_lock_of_another_program_is_waited_for(store: Store, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "control.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")

    async def test() -> None:
        call = asyncio.ensure_future(store.run(create("model")))
        await asyncio.wait([call], timeout=0.2)
        assert not call.done()
        other.execute("COMMIT")
        assert await call == 1

    asyncio.run(test())
    other.close()


def test_a_lock_that_is_not_given_back_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_S", 0.05)
    monkeypatch.setattr(store_module, "_RETRY_S", 0.1)
    store = Store.open(None, tmp_path, PLACE)
    other = sqlite3.connect(tmp_path / "control.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match=r"control.db is locked by another program \(.*\); end that program"):
        store.transact(create("model"))
    other.execute("COMMIT")
    other.close()
    assert store.transact(create("model")) == 1
    asyncio.run(store.close())


def test_a_lock_at_the_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(Store.open(None, tmp_path, PLACE).close())
    monkeypatch.setattr(sqlite, "BUSY_S", 0.05)
    other = sqlite3.connect(tmp_path / "control.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ConfigurationError, match=r"is locked by another program .*; end that program"):
        Store.open(None, tmp_path, PLACE)
    other.close()
    asyncio.run(Store.open(None, tmp_path, PLACE).close())


def test_a_file_that_is_gone_is_told_until_it_is_back(store: Store, tmp_path: Path) -> None:
    store.transact(create("before"))
    path = tmp_path / "control.db"
    path.rename(tmp_path / "away")
    with pytest.raises(StoreUnavailable, match=r"control.db is gone \(No such file or directory\); put it back"):
        store.transact(create("lost"))
    shutil.copy(tmp_path / "away", path)
    with pytest.raises(StoreUnavailable, match="was replaced by another file; restart the server"):
        store.transact(create("lost"))
    (tmp_path / "away").rename(path)
    store.transact(create("after"))
    assert store.transact(names) == ["after", "before"]


def test_a_page_that_is_damaged_later_is_told(store: Store, tmp_path: Path) -> None:
    for number in range(50):
        store.transact(create(f"m{number}"))
    store.transact(lambda tx: None)
    with sqlite3.connect(tmp_path / "control.db") as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = other.execute("SELECT rootpage FROM sqlite_master WHERE name = 'models'").fetchone()[0]
        size = other.execute("PRAGMA page_size").fetchone()[0]
    other.close()
    asyncio.run(store.close())
    with (tmp_path / "control.db").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    with pytest.raises(ConfigurationError, match=r"is damaged \(.*\); restore it from a backup"):
        Store.open(None, tmp_path, PLACE)


FILL = """
from serving.control.schema import models
from serving.errors import StoreUnavailable
def big(number):
    def work(tx):
        row = {"name": f"big{number}", "arn": f"big{number}", "created_at": 0.0, "document": "x" * 50_000}
        tx.connection.execute(insert(models).values(**row))
    return work
def names(tx):
    return [row.name for row in tx.connection.execute(models.select())]
written = []
try:
    for number in range(1000):
        store.transact(big(number))
        written.append(f"big{number}")
except StoreUnavailable as error:
    print(error.message)
assert 0 < len(written) < 1000
# Reading goes on, and nothing is half-made.
assert sorted(store.transact(names)) == sorted(written)
"""


def test_a_full_disk_is_told_until_there_is_room() -> None:
    if os.getuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk; the next test has a limit instead")
    room = "os.remove(os.path.join(folder, 'ballast'))\nstore.transact(create('after'))\nprint('after')\n"
    with tempfile.TemporaryDirectory() as folder:
        mount = f"mount -t tmpfs -o size=2m none {folder} && head -c 500000 /dev/zero > {folder}/ballast && exec "
        ended = run_child(FILL + room, None, Path(folder), "unshare", "-m", "sh", "-c", f'{mount} "$@"', "sh")
    assert ended.returncode == 0, ended.stderr
    said, after = ended.stdout.splitlines()
    assert "control.db cannot be written (database or disk is full); make room on its disk" in said
    assert after == "after"


def test_a_file_that_may_not_grow_is_told_until_it_may(tmp_path: Path) -> None:
    limit = (
        "import resource\nlimits = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))\n"
    )
    room = "resource.setrlimit(resource.RLIMIT_FSIZE, limits)\nstore.transact(create('after'))\nprint('after')\n"
    ended = run_child(limit + FILL + room, None, tmp_path)
    assert ended.returncode == 0, ended.stderr
    said, after = ended.stdout.splitlines()
    assert "control.db cannot be read or written (disk I/O error); see to its disk" in said
    assert after == "after"


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_cannot_be_written_is_told(there: bool, tmp_path: Path) -> None:
    wrapped: tuple[str, ...] = ()
    if os.getuid() == 0:
        wrapped = ("setpriv", f"--reuid={FOREIGN}", f"--regid={FOREIGN}", "--clear-groups")
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        if there:
            asyncio.run(Store.open(None, folder, PLACE).close())
            for path in folder.iterdir():
                path.chmod(0o444)
        folder.chmod(0o555)
        ended = run_child("", None, folder, *wrapped)
        folder.chmod(0o700)
    assert ended.returncode == 1
    assert "ConfigurationError: the state directory" in ended.stderr
    assert "Permission denied" in ended.stderr
    assert "--state-dir" in ended.stderr


# ---------------------------------------------------------------- PostgreSQL


def test_a_postgresql_that_stops_is_told_and_found_again(
    shared: Store, postgres: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        watching = asyncio.ensure_future(shared.watch(0.01))
        seen = await shared.news.wait(0, 10)
        await shared.run(create("before"))
        postgres.stop()
        try:
            for _ in range(2):
                with pytest.raises(StoreUnavailable, match=r"postgresql:///\w+ cannot be reached .*; start it"):
                    await shared.run(create("lost"))
        finally:
            postgres.start()
        # What is refused without a look lasts for a moment only.
        await asyncio.to_thread(wait_until, lambda: answers(shared), 20, "a database that is found again")
        await shared.run(create("after"))
        assert await shared.run(names) == ["after", "before"]
        assert await shared.news.wait(seen, 10) > seen
        assert not watching.done()
        watching.cancel()

    with caplog.at_level(logging.WARNING):
        asyncio.run(test())
    said = [record.message for record in caplog.records]
    assert len(said) == 2, said
    assert "what is served goes on" in said[0]
    assert "works again" in said[1]


def test_connections_that_break_while_they_are_idle_are_not_noticed(shared: Store, database_url: str) -> None:
    async def test() -> None:
        await asyncio.gather(*(shared.run(create(f"m{number}")) for number in range(8)))
        cut(database_url)
        await asyncio.gather(*(shared.run(create(f"n{number}")) for number in range(8)))
        assert len(await shared.run(names)) == 16

    asyncio.run(test())


def test_a_connection_that_breaks_amid_the_work_is_not_noticed(shared: Store, database_url: str) -> None:
    tries: list[int] = []

    def work(tx: Transaction) -> int:
        number = create("model")(tx)
        tries.append(number)
        if len(tries) == 1:
            cut(database_url)
        tx.connection.execute(models.select())
        return number

    assert shared.transact(work) == 1
    assert tries == [1, 1]


def test_a_connection_that_breaks_at_the_commit_leaves_a_doubt_that_is_told(shared: Store, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
        )
        connection.execute(
            "CREATE CONSTRAINT TRIGGER cut AFTER INSERT ON models DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION cut()"
        )
    with pytest.raises(StoreUnavailable, match="whether the change was made is not known"):
        shared.transact(create("model"))
    assert shared.transact(names) == []


def test_a_statement_that_takes_too_long_is_told(shared: Store) -> None:
    def work(tx: Transaction) -> None:
        tx.connection.exec_driver_sql("SET LOCAL statement_timeout = '20ms'")
        tx.connection.exec_driver_sql("SELECT pg_sleep(10)")

    with pytest.raises(StoreUnavailable, match=r"did not answer in time \(.*statement timeout\)"):
        shared.transact(work)
    assert shared.transact(names) == []


def test_tables_that_are_dropped_under_a_server_are_told(shared: Store, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE models RENAME TO mislaid")
    with pytest.raises(StoreUnavailable, match=r"lacks a table \(.*models"):
        shared.transact(names)
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE mislaid RENAME TO models")
    assert shared.transact(names) == []


def test_a_database_that_takes_no_changes_any_more_is_told(shared: Store, postgres: Cluster, database_url: str) -> None:
    name = database_url.split("/")[3].split("?", maxsplit=1)[0]
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    cut(database_url)
    with pytest.raises(StoreUnavailable, match="takes no changes"):
        shared.transact(create("model"))
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = off")
    cut(database_url)
    assert shared.transact(create("model")) == 1


@pytest.mark.parametrize(
    ("create_as", "then", "said"),
    [
        (
            "TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C'",
            "",
            "is encoded in SQL_ASCII; CREATE",
        ),
        ("", "ALTER DATABASE {name} SET default_transaction_read_only = on", "takes no changes"),
        ("", "ALTER DATABASE {name} ALLOW_CONNECTIONS false", "not currently accepting connections"),
        ("", "DROP DATABASE {name}", "does not exist; start it|does not exist|cannot be reached"),
    ],
)
def test_a_database_that_cannot_be_used_is_refused(
    create_as: str, then: str, said: str, postgres: Cluster, tmp_path: Path
) -> None:
    name = f"odd_{abs(hash((create_as, then)))}"
    postgres.execute(f"CREATE DATABASE {name} {create_as}")
    if then:
        postgres.execute(then.format(name=name))
    try:
        with pytest.raises(ConfigurationError, match=said) as caught:
            Store.open(postgres.url(name), tmp_path, PLACE)
        assert "\n" not in caught.value.message
    finally:
        postgres.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def test_a_user_without_rights_is_told(postgres: Cluster, database_url: str, tmp_path: Path) -> None:
    postgres.execute("CREATE ROLE guest LOGIN")
    try:
        with pytest.raises(
            ConfigurationError, match=r"permission denied for schema public\); grant it to the server's"
        ):
            Store.open(database_url.replace("postgres@", "guest@"), tmp_path, PLACE)
    finally:
        postgres.execute("DROP ROLE guest")


def test_a_host_that_does_not_answer_at_the_start_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://user:secret@127.0.0.1:{silent.getsockname()[1]}/name?connect_timeout=2"
        with pytest.raises(ConfigurationError, match=r"cannot be reached \(.*timeout.*\)"):
            Store.open(url, tmp_path, PLACE)


def test_a_database_that_hangs_is_told_and_given_up(shared: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_DEADLINE_S", 0.3)
    frozen: list[int] = []

    def hang(tx: Transaction) -> None:
        if not frozen:
            frozen.append(tx.connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
            os.kill(frozen[0], signal.SIGSTOP)
        tx.connection.execute(models.select())

    async def test() -> None:
        with pytest.raises(StoreUnavailable, match=r"did not answer within 0.3 s; whether a change .* is not known"):
            await shared.run(hang)
        # All threads are free again: the first was told to try with another connection, or to end.
        await asyncio.gather(*(shared.run(create(f"m{number}")) for number in range(8)))

    try:
        asyncio.run(test())
    finally:
        os.kill(frozen[0], signal.SIGCONT)


def test_calls_that_wait_behind_one_that_hangs_are_answered(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_DEADLINE_S", 0.2)
    go_on = threading.Event()

    async def test() -> None:
        hanging = asyncio.ensure_future(store.run(lambda _tx: go_on.wait(10)))
        behind = asyncio.ensure_future(store.run(create("behind")))
        for call in (hanging, behind):
            with pytest.raises(StoreUnavailable, match="did not answer within"):
                await call
        go_on.set()
        # It was answered, so it must not be carried out after all.
        assert await store.run(names) == []

    asyncio.run(test())


def test_a_server_that_is_paused_amid_a_transaction_does_not_hold_up_others(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_IDLE_S", 0.1)
    paused, other = (Store.open(database_url, tmp_path / name, PLACE) for name in ("paused", "other"))
    begun, go_on = threading.Event(), threading.Event()

    def pause(tx: Transaction) -> None:
        create("paused")(tx)
        begun.set()
        assert go_on.wait(10)

    async def test() -> None:
        call = asyncio.ensure_future(paused.run(pause))
        await asyncio.to_thread(begun.wait, 10)
        # Needs the counter that the other has changed; PostgreSQL undoes that.
        assert await other.run(create("other")) == 1
        go_on.set()
        await call
        assert await other.run(names) == ["other", "paused"]

    asyncio.run(test())
    for store in (paused, other):
        asyncio.run(store.close())


def answers(store: Store) -> bool:
    try:
        store.transact(names)
    except StoreUnavailable:
        return False
    return True


def cut(url: str) -> None:
    """Breaks all other connections to the database, and waits until they are gone."""
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"SELECT pg_terminate_backend(pid, 10000) {others}")
