"""The control plane's database for tests: each that asks for `store` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from serving.control.schema import counters, metadata
from serving.control.store import Place, Store
from tests.support.postgres import Cluster

PLACE = Place("123456789012", "us-east-1")

OpenStore = Callable[..., Store]
"""Opens a store: `open_store(name="node")`, each name a server with its own state directory. All see one clock."""


class Clock:
    """A clock that tests advance."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def blank_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with empty tables, to be copied: faster than migrations for each test."""
    folder = tmp_path_factory.mktemp("blank")
    asyncio.run(Store.open(None, folder, PLACE).close())
    return folder / "control.db"


@pytest.fixture(scope="session")
def shared_url(postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PostgreSQL database with tables, for tests that leave them as they are; `blank_url` empties it for each."""
    url = postgres.url(postgres.create())
    asyncio.run(Store.open(url, tmp_path_factory.mktemp("shared"), PLACE).close())
    return url


@pytest.fixture
def blank_url(shared_url: str) -> Iterator[str]:
    """A PostgreSQL database with empty tables."""
    yield shared_url
    with psycopg.connect(shared_url) as connection:
        for table in reversed(metadata.sorted_tables):
            if table is not counters:
                connection.execute(f"DELETE FROM {table.name}")
        connection.execute("DELETE FROM counters WHERE name <> 'generation'")
        connection.execute("UPDATE counters SET value = 0")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str | None:
    """What `--database` says: nothing, which is SQLite, or a PostgreSQL database with empty tables."""
    return str(request.getfixturevalue("blank_url")) if request.param == "postgresql" else None


@pytest.fixture
def open_store(url: str | None, blank_file: Path, tmp_path: Path, clock: Clock) -> Iterator[OpenStore]:
    """Opens stores of this test's database; what it leaves open is closed after it."""
    opened: list[Store] = []

    def open_one(name: str = "node", taken: frozenset[str] = frozenset()) -> Store:
        state_dir = tmp_path / name
        state_dir.mkdir(exist_ok=True)
        if url is None and not (state_dir / "control.db").exists():
            shutil.copy(blank_file, state_dir)
        store = Store.open(url, state_dir, PLACE, clock=clock, taken=lambda: taken)
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        asyncio.run(store.close())


@pytest.fixture
def store(open_store: OpenStore) -> Store:
    """An open store; `transact` blocks, so that tests without a loop can use it."""
    return open_store()
