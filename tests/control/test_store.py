"""The store: transactions that are whole or not at all, conflicts that callers do not see, and news of both."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from serving.control.news import News
from serving.control.schema import models, tags
from serving.control.store import Store, Transaction
from serving.errors import ConfigurationError, MissingExtra, ResourceInUse, StoreUnavailable
from tests.control.conftest import PLACE, Clock, OpenStore

CHILD = """
import json, os, pathlib, signal, sys
from sqlalchemy import insert
from serving.control.schema import models
from serving.control.store import Place, Store
url, folder = json.loads(sys.argv[1])
store = Store.open(url, pathlib.Path(folder), Place("123456789012", "us-east-1"))
def create(name):
    def work(tx):
        tx.connection.execute(insert(models).values(name=name, arn=name, created_at=tx.now, document="{}"))
        return tx.next_generation()
    return work
def create_and_die(tx):
    create("half")(tx)
    os.kill(os.getpid(), signal.SIGKILL)
"""
"""The beginning of programs that use a store, and end in other ways than by closing it."""


def create(name: str) -> Callable[[Transaction], int]:
    """An operation as they are: looks, then writes."""

    def work(tx: Transaction) -> int:
        if tx.connection.execute(select(models.c.name).where(models.c.name == name)).first() is not None:
            raise ResourceInUse(f"{name} exists")
        tx.connection.execute(insert(models).values(name=name, arn=name, created_at=tx.now, document="{}"))
        return tx.next_generation()

    return work


def names(tx: Transaction) -> list[str]:
    return list(tx.connection.execute(select(models.c.name).order_by(models.c.name)).scalars())


def run_child(program: str, url: str | None, folder: Path, *wrapped: str) -> subprocess.CompletedProcess[str]:
    command = [*wrapped, sys.executable, "-c", CHILD + program, json.dumps([url, str(folder)])]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


# ---------------------------------------------------------------- transactions


def test_what_work_returns_is_committed_and_what_raises_is_not(store: Store) -> None:
    fault = ResourceInUse("taken")

    def fail(tx: Transaction) -> None:
        create("second")(tx)
        raise fault

    async def test() -> None:
        assert await store.run(create("first")) == 1
        with pytest.raises(ResourceInUse) as caught:
            await store.run(fail)
        assert caught.value is fault
        assert await store.run(names) == ["first"]
        # A number whose transaction was undone was never anybody's.
        assert await store.run(create("third")) == 2

    asyncio.run(test())


def test_a_transaction_knows_its_time_place_and_taken_names(open_store: OpenStore, clock: Clock) -> None:
    def look(tx: Transaction) -> tuple[float, object, frozenset[str], bool]:
        clock.advance(1.0)
        return tx.now, tx.place, tx.taken, tx.changed

    now = clock.now
    assert open_store(taken=frozenset({"fraud"})).transact(look) == (now, PLACE, {"fraud"}, False)


def test_faults_of_the_work_are_not_outages(store: Store) -> None:
    with pytest.raises(ZeroDivisionError):
        store.transact(lambda _tx: 1 // 0)
    with pytest.raises(Exception, match="nonsense"):
        store.transact(lambda tx: tx.connection.exec_driver_sql("SELECT nonsense"))
    assert store.transact(names) == []


def test_a_key_that_is_there_is_a_fault_of_the_work(store: Store) -> None:
    tries = itertools.count()

    def collide(tx: Transaction) -> None:
        next(tries)
        for _ in range(2):
            tx.connection.execute(insert(tags).values(arn="arn", key="key", position=0, value=""))

    with pytest.raises(Exception, match=r"(?i)unique"):
        store.transact(collide)
    assert next(tries) <= 2


def test_numbers_are_never_given_twice(open_store: OpenStore, url: str | None) -> None:
    stores = [open_store(name) for name in (("one", "two") if url else ("one",))]

    async def test() -> None:
        calls = [store.run(lambda tx: tx.next_generation()) for _ in range(20) for store in stores]
        numbers = await asyncio.gather(*calls)
        assert sorted(numbers) == list(range(1, len(calls) + 1))

    asyncio.run(test())


def test_of_those_who_create_the_same_one_succeeds_and_all_others_are_told(
    open_store: OpenStore, url: str | None
) -> None:
    stores = [open_store(name) for name in (("one", "two") if url else ("one",))]

    async def test() -> None:
        for number in range(5):
            calls = [store.run(create(f"m{number}")) for _ in range(6) for store in stores]
            ended = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(one) for one in ended if not isinstance(one, int)] == [ResourceInUse] * (len(calls) - 1)

    asyncio.run(test())


def test_what_was_looked_at_holds_until_the_commit(open_store: OpenStore, url: str | None) -> None:
    # Each writes a row of its own, so only what was read tells that there is a conflict.
    stores = [open_store(name) for name in (("one", "two") if url else ("one",))]

    def only_one(name: str) -> Callable[[Transaction], None]:
        def work(tx: Transaction) -> None:
            if names(tx):
                raise ResourceInUse("there is one")
            tx.connection.execute(insert(models).values(name=name, arn=name, created_at=tx.now, document="{}"))

        return work

    async def test() -> None:
        calls = [store.run(only_one(f"m{number}")) for number in range(8) for store in stores]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(one is None for one in ended) == 1
        assert {type(one) for one in ended if one is not None} == {ResourceInUse}

    asyncio.run(test())


# ---------------------------------------------------------------- the loop


def test_the_loop_runs_while_a_transaction_takes_its_time(store: Store) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(tx: Transaction) -> int:
        begun.set()
        assert go_on.wait(10)
        return create("slow")(tx)

    async def test() -> None:
        call = asyncio.ensure_future(store.run(slow))
        await asyncio.to_thread(begun.wait, 10)
        assert not call.done()
        go_on.set()
        assert await call == 1

    asyncio.run(test())


def test_one_who_is_cancelled_leaves_a_whole_transaction_and_its_news(store: Store) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(tx: Transaction) -> int:
        number = create("slow")(tx)
        begun.set()
        assert go_on.wait(10)
        return number

    async def test() -> None:
        call = asyncio.ensure_future(store.run(slow))
        await asyncio.to_thread(begun.wait, 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        go_on.set()
        assert await store.news.wait(0, 10) == 1
        assert await store.run(names) == ["slow"]

    asyncio.run(test())


def test_one_who_is_cancelled_before_its_turn_changes_nothing(open_store: OpenStore) -> None:
    store = open_store()
    go_on = threading.Event()

    async def test() -> None:
        blocking = [asyncio.ensure_future(store.run(lambda _tx: go_on.wait(10))) for _ in range(8)]
        call = asyncio.ensure_future(store.run(create("never")))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        go_on.set()
        await asyncio.gather(*blocking)
        assert await store.run(names) == []

    asyncio.run(test())


def test_calls_that_wait_are_bounded(store: Store) -> None:
    go_on = threading.Event()

    async def test() -> None:
        calls = [asyncio.ensure_future(store.run(lambda _tx: go_on.wait(10))) for _ in range(1100)]
        await asyncio.sleep(0)
        refused = [call for call in calls if call.done()]
        assert len(refused) == 100
        go_on.set()
        with pytest.raises(StoreUnavailable, match="1000 calls wait"):
            await refused[0]
        await asyncio.gather(*calls, return_exceptions=True)
        assert await store.run(names) == []

    asyncio.run(test())


def test_closing_finishes_what_was_asked_before(open_store: OpenStore) -> None:
    store = open_store()

    async def test() -> None:
        calls = [asyncio.ensure_future(store.run(create(f"m{number}"))) for number in range(20)]
        await asyncio.sleep(0)
        await store.close()
        assert len(set(await asyncio.gather(*calls))) == 20
        with pytest.raises(StoreUnavailable, match="the server is stopping"):
            await store.run(names)
        await store.close()

    asyncio.run(test())


# ---------------------------------------------------------------- news


def test_news_wake_all_who_wait() -> None:
    async def test() -> None:
        news = News()
        waiting = [asyncio.ensure_future(news.wait(0, None)) for _ in range(3)]
        await asyncio.sleep(0)
        news.tell()
        assert await asyncio.gather(*waiting) == [1, 1, 1]
        assert await news.wait(0, None) == 1
        assert await news.wait(1, 0.001) == 1
        cancelled = asyncio.ensure_future(news.wait(1, None))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        news.tell()
        assert news.count == 2

    asyncio.run(test())


def test_news_are_told_after_the_commit_of_what_concerns_nodes(store: Store) -> None:
    def mark(tx: Transaction) -> None:
        tx.changed = True

    def fail(tx: Transaction) -> None:
        tx.next_generation()
        raise ResourceInUse("no")

    async def test() -> None:
        await store.run(names)
        with pytest.raises(ResourceInUse):
            await store.run(fail)
        assert store.news.count == 0
        # Whoever is woken finds what was written, and whoever wrote it has told it when it goes on.
        await store.run(create("model"))
        assert store.news.count == 1
        await store.run(mark)
        assert store.news.count == 2

    asyncio.run(test())


def test_what_another_server_changes_is_news(open_store: OpenStore, url: str | None) -> None:
    one, two = open_store("one"), open_store("two")

    async def test() -> None:
        if url is None:
            # Nobody else can change it.
            await asyncio.wait_for(one.watch(), 10)
            return
        watching = asyncio.ensure_future(one.watch(0.01))
        seen = await one.news.wait(0, 10)
        assert seen == 1
        await two.run(create("model"))
        seen = await one.news.wait(seen, 10)
        # Also a change that gives no endpoint a new generation.
        await two.run(lambda tx: setattr(tx, "changed", True))
        assert await one.news.wait(seen, 10) == seen + 1
        # One's own is told once.
        await one.run(create("own"))
        own = one.news.count
        await one.run(names)
        assert await one.news.wait(own, 0.05) == own == seen + 2
        watching.cancel()

    asyncio.run(test())


# ---------------------------------------------------------------- servers and their directories


def test_a_second_server_in_a_state_directory_is_refused(open_store: OpenStore) -> None:
    open_store()
    with pytest.raises(ConfigurationError, match=rf"in use by another server \(process {os.getpid()}\); stop that one"):
        open_store()


def test_a_start_that_fails_leaves_the_directory_free(tmp_path: Path) -> None:
    (tmp_path / "control.db").write_text("not a database, whatever its name says" * 100)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="is damaged"):
            Store.open(None, tmp_path, PLACE)


def test_a_killed_server_leaves_what_was_acknowledged_and_can_start_at_once(
    open_store: OpenStore, url: str | None, tmp_path: Path
) -> None:
    program = "store.transact(create('whole'))\nprint('acknowledged', flush=True)\nstore.transact(create_and_die)"
    ended = run_child(program, url, tmp_path / "node")
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert ended.stdout == "acknowledged\n"
    assert open_store().transact(names) == ["whole"]
    assert open_store("another").transact(lambda tx: tx.next_generation()) == (2 if url else 1)


def test_files_are_their_owners_only(tmp_path: Path) -> None:
    state_dir = tmp_path / "new" / "state"
    store = Store.open(None, state_dir, PLACE)
    store.transact(create("model"))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state_dir.iterdir()}
    assert modes == dict.fromkeys(("control.db", "control.db-wal", "control.db-shm", "lock"), 0o600)
    assert stat.S_IMODE(state_dir.stat().st_mode) == 0o700
    asyncio.run(store.close())
    (state_dir / "control.db").chmod(0o644)
    asyncio.run(Store.open(None, state_dir, PLACE).close())
    assert stat.S_IMODE((state_dir / "control.db").stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["a?b", "100%", "#1", "a b", "é", "%41", "file:x"])
def test_a_state_directory_may_have_any_name(name: str, tmp_path: Path) -> None:
    store = Store.open(None, tmp_path / name, PLACE)
    store.transact(create("model"))
    asyncio.run(store.close())
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["control.db", "lock"]


def test_sqlite_is_set_as_it_must_be(tmp_path: Path) -> None:
    store = Store.open(None, tmp_path, PLACE)
    pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
    found = store.transact(lambda tx: [tx.connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas])
    assert found == ["wal", 2, 1, 5000]
    asyncio.run(store.close())


def test_postgresql_is_set_as_it_must_be_and_gives_the_time(database_url: str, tmp_path: Path) -> None:
    store = Store.open(database_url, tmp_path, PLACE)
    names = ("transaction_isolation", "statement_timeout", "idle_in_transaction_session_timeout")

    def look(tx: Transaction) -> tuple[list[object], float, float]:
        shown = [tx.connection.exec_driver_sql(f"SHOW {name}").scalar() for name in names]
        epoch = tx.connection.exec_driver_sql("SELECT extract(epoch FROM now())").scalar_one()
        return shown, float(epoch), tx.now

    shown, theirs, ours = store.transact(look)
    assert shown == ["serializable", "10s", "5s"]
    assert ours == pytest.approx(theirs, abs=1e-3)
    asyncio.run(store.close())


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:s3cretword@host/name",
        "sqlite:///s3cretword.db",
        "s3cretword",
        "",
        "host=x password=s3cretword",
        "postgresql://user:s3cr@etword@host/name",
        "postgresql://user:s3cr/etword@host:99999999/name",
        "postgresql://user:s3cretword@host:port/name",
        "postgresql://user:s3cretword@host",
        "postgresql://user:s3cretword@/",
        "postgresql://user:s3cretword@one:1,two:2/name",
        "postgresql://user:s3cretword@127.0.0.1:1/name",
        "postgresql://user@127.0.0.1:1/name?password=s3cretword",
        "postgresql://user:s3cretword@127.0.0.1:1/name?sslmode=nonsense",
        "postgresql://user:s3cretword@127.0.0.1:1/name?nonsense=1",
        "postgresql://user:s3cretword@127.0.0.1:1/name?connect_timeout=soon",
        "postgresql://user:s3cretword@/name?host=/absent",
        "postgresql://user:s3cretword@nowhere.invalid/name",
    ],
)
def test_a_url_that_cannot_be_is_refused_without_its_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Store.open(url, tmp_path, PLACE)
    assert "database" in caught.value.message
    assert "\n" not in caught.value.message
    for part in ("s3cretword", "s3cr", "etword"):
        assert part not in caught.value.message


def test_a_driver_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"postgresql://db.example:5433/name needs psycopg.*serving\[postgres\]"):
        Store.open("postgresql://user:secret@db.example:5433/name", tmp_path, PLACE)
