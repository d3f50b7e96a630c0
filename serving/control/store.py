"""The control plane's database: work runs in transactions, on threads of its own, and is tried again where it may be."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import Final, Generic, TypeVar

from sqlalchemy import Connection, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from serving.control import migrations
from serving.control.database import Database, Outage, database_of
from serving.control.news import News
from serving.control.schema import counters
from serving.control.state_lock import StateLock
from serving.errors import StoreUnavailable

log = logging.getLogger("serving.store")

T = TypeVar("T")

_RETRY_S: Final = 5.0
_BACKOFF_S: Final = 0.002
_BACKOFF_LIMIT_S: Final = 0.1
_DOWN_S: Final = 0.25
"""After a connection attempt has failed, others fail at once for this long: they need not each wait for a time-out."""
_WAITING: Final = 1000
"""How many calls may wait for a thread."""
_DEADLINE_S: Final = 15.0
"""After this, a call is answered and its connection given up: a database may also hang, and say nothing at all."""


@dataclass(frozen=True, slots=True)
class Place:
    """Whose resources these are: account and region, as ARNs name them."""

    account_id: str
    region: str

    def arn(self, kind: str, name: str) -> str:
        """The ARN of a resource: `kind` is its type in ARNs (`endpoint-config`). Names in ARNs are lower case, as AWS's."""
        return f"arn:aws:sagemaker:{self.region}:{self.account_id}:{kind}/{name.lower()}"


@dataclass(slots=True)
class Transaction:
    """One transaction: everything that an operation needs. Committed when the work returns, rolled back when it raises."""

    connection: Connection
    place: Place
    now: float
    """Epoch seconds at its begin, the same for all that it writes; by PostgreSQL's clock where servers share one."""
    taken: frozenset[str] = frozenset()
    """Names that are served from the command line, which no endpoint can have."""
    changed: bool = False
    """Nodes, or those who wait for a status, have something to look at once this is committed; set by `next_generation`."""
    generation: int | None = None
    """The last number that this transaction took."""

    def next_generation(self) -> int:
        """The next number of `counters.generation`; marks the transaction as one that nodes have to act upon."""
        row = counters.c.name == "generation"
        self.connection.execute(update(counters).where(row).values(value=counters.c.value + 1))
        self.generation = int(self.connection.execute(select(counters.c.value).where(row)).scalar_one())
        self.changed = True
        return self.generation


Work = Callable[[Transaction], T]


class _Stage(Enum):
    CONNECT = auto()
    WORK = auto()
    COMMIT = auto()


class _Call(Generic[T]):
    """Work on its way through a thread."""

    def __init__(self, work: Work[T], taken: frozenset[str], loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.work = work
        self.taken = taken
        self.loop = loop
        self.overdue = False
        self._lock = threading.Lock()
        self._connection: object | None = None

    @contextlib.contextmanager
    def using(self, connection: Connection) -> Iterator[None]:
        """While the driver's connection is this call's, and nobody else's."""
        self._connection = connection.connection.driver_connection
        try:
            yield
        finally:
            with self._lock:
                self._connection = None

    def give_up(self, database: Database) -> None:
        """From the loop: frees the thread, where it hangs."""
        self.overdue = True
        with self._lock:
            if self._connection is not None:
                database.abort(self._connection)


class _Failed(Exception):
    """An attempt that an outage ended."""

    def __init__(self, outage: Outage, stage: _Stage) -> None:
        self.outage = outage
        self.stage = stage

    @property
    def safe(self) -> bool:
        """Whether nothing was changed, and another attempt may succeed: a connection may have been stale."""
        return self.outage.conflict or (self.stage is _Stage.WORK and not self.outage.reached)


class Store:
    """The database, open. `run` belongs to the loop; `transact` blocks and may be called on any thread."""

    def __init__(
        self,
        database: Database,
        lock: StateLock,
        place: Place,
        clock: Callable[[], float] | None,
        taken: Callable[[], frozenset[str]],
    ) -> None:
        self.news = News()
        self._database = database
        self._lock = lock
        self._place = place
        self._clock = clock
        self._taken = taken
        self._threads = ThreadPoolExecutor(database.threads, "store")
        self._waiting = 0
        self._closed = False
        self._generation = -1
        self._down = False
        self._refused = (0.0, "")

    @classmethod
    def open(
        cls,
        url: str | None,
        state_dir: Path,
        place: Place,
        *,
        clock: Callable[[], float] | None = None,
        taken: Callable[[], frozenset[str]] = frozenset,
    ) -> Store:
        """Opens the database and brings its tables to this version. Blocks. Raises `ConfigurationError`.

        `url` is PostgreSQL's; None is SQLite in `state_dir`, which no other running server may use in either case.
        `clock` gives epoch seconds: None is PostgreSQL's own clock, which all its servers share, or this machine's.
        """
        lock = StateLock.take(state_dir)
        try:
            database = database_of(url, state_dir)
            try:
                migrations.bring_up(database)
            except BaseException:
                database.engine.dispose()
                raise
        except BaseException:
            lock.release()
            raise
        return cls(database, lock, place, clock, taken)

    async def run(self, work: Work[T]) -> T:
        """What `work` returns, carried out in one transaction on a database thread. Raises what it raises.

        Work is called again when its transaction lost a conflict, so it must do nothing but use the transaction. Whoever
        waits may be cancelled: work that has begun is then finished all the same. Raises `StoreUnavailable`.
        """
        if self._closed:
            raise StoreUnavailable("the server is stopping")
        if self._waiting >= _WAITING:
            raise StoreUnavailable(f"{_WAITING} calls wait for the database already", retry_after_s=1.0)
        loop = asyncio.get_running_loop()
        call = _Call(work, self._taken(), loop)
        self._waiting += 1
        future = loop.run_in_executor(self._threads, self._transact, call)
        overdue = loop.call_later(_DEADLINE_S, call.give_up, self._database)
        future.add_done_callback(partial(self._answered, overdue))
        try:
            await asyncio.wait((future,), timeout=_DEADLINE_S)
        except asyncio.CancelledError:
            future.cancel()
            raise
        if future.done():
            return future.result()
        raise StoreUnavailable(
            f"the database {self._database.name} did not answer within {_DEADLINE_S:g} s; "
            "whether a change was made is not known"
        )

    def transact(self, work: Work[T]) -> T:
        """The same, blocking, and without news."""
        return self._transact(_Call(work, self._taken()))

    async def watch(self, interval_s: float = 0.5) -> None:
        """Tells `news` what other servers change, for as long as it is run. Returns at once where there can be none."""
        if not self._database.shared:
            return
        while True:
            with contextlib.suppress(StoreUnavailable):
                self._found(await self.run(_generation))
            await asyncio.sleep(interval_s)

    async def close(self) -> None:
        """Finishes what has begun and leaves the database; harmless the second time."""
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown)
        self._database.engine.dispose()
        self._lock.release()

    def _answered(self, overdue: asyncio.TimerHandle, future: asyncio.Future[T]) -> None:
        self._waiting -= 1
        overdue.cancel()
        if not future.cancelled():
            # Nobody may be there any more to see it.
            future.exception()

    def _committed(self, generation: int | None) -> None:
        """On the loop: news of our own."""
        self._generation = max(self._generation, generation or 0)
        self.news.tell()

    def _found(self, generation: int) -> None:
        """On the loop: this generation is in the database."""
        if generation != self._generation:
            self._generation = generation
            self.news.tell()

    # ------------------------------------------------------------------ on a database thread

    def _transact(self, call: _Call[T]) -> T:
        give_up = time.monotonic() + _RETRY_S
        backoff_s = _BACKOFF_S
        again = False
        while True:
            until, text = self._refused
            if time.monotonic() < until:
                raise StoreUnavailable(text)
            if call.overdue:
                raise StoreUnavailable(f"the database {self._database.name} is busy: the call waited for too long")
            try:
                result = self._attempt(call, again=again)
            except _Failed as failed:
                if not failed.safe or time.monotonic() >= give_up:
                    raise self._unavailable(failed) from failed.__cause__
                again = again or failed.outage.conflict
            else:
                self._available()
                return result
            time.sleep(random.uniform(0, backoff_s))  # noqa: S311
            backoff_s = min(2 * backoff_s, _BACKOFF_LIMIT_S)

    def _attempt(self, call: _Call[T], *, again: bool) -> T:
        with self._outages(_Stage.CONNECT, again=again):
            connection = self._database.engine.connect()
        with connection, call.using(connection):
            with self._outages(_Stage.WORK, again=again):
                connection.begin()
                shared = self._database.begin(connection, again=again)
                now = self._clock() if self._clock is not None else time.time() if shared is None else shared
                tx = Transaction(connection, self._place, now, call.taken)
                result = call.work(tx)
                if tx.changed and tx.generation is None and self._database.shared:
                    # What other servers look at.
                    tx.next_generation()
            with self._outages(_Stage.COMMIT, again=again):
                connection.commit()
        if tx.changed and call.loop is not None:
            # Not by the caller, who may have been cancelled. A loop that is closed has nobody who waits.
            with contextlib.suppress(RuntimeError):
                call.loop.call_soon_threadsafe(self._committed, tx.generation)
        return result

    @contextlib.contextmanager
    def _outages(self, stage: _Stage, *, again: bool) -> Iterator[None]:
        try:
            yield
        except PoolTimeout as error:
            raise _Failed(Outage("is busy: all connections are in use; try again"), stage) from error
        except DBAPIError as error:
            outage = self._database.outage(error, again=again)
            if outage is None:
                raise
            raise _Failed(outage, stage) from error

    def _unavailable(self, failed: _Failed) -> StoreUnavailable:
        text = f"the database {self._database.name} {failed.outage.text}"
        if failed.stage is _Stage.COMMIT and not failed.outage.reached:
            text += "; whether the change was made is not known"
        elif not failed.outage.reached:
            self._refused = (time.monotonic() + _DOWN_S, text)
        if not self._down:
            log.error("%s (what is served goes on)", text)
        self._down = True
        return StoreUnavailable(text)

    def _available(self) -> None:
        if self._down:
            self._down = False
            log.warning("the database %s works again", self._database.name)


def _generation(tx: Transaction) -> int:
    return int(tx.connection.execute(select(counters.c.value).where(counters.c.name == "generation")).scalar_one())
