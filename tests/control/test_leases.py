"""Leases and nodes: one holder at a time, whose late writes are void; who is alive, by the clock that all share."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import insert, select

from serving.control import leases, nodes
from serving.control.leases import Lease, taken_up
from serving.control.schema import nodes as node_rows
from serving.control.schema import tags
from serving.control.store import Store, Transaction
from serving.errors import ConfigurationError
from tests.control.conftest import Clock, OpenStore

TTL_S = 10.0


def acquire(store: Store, holder: str) -> int | None:
    return store.transact(lambda tx: leases.acquire(tx, "settle", holder, TTL_S))


def holds(store: Store, token: int) -> bool:
    return store.transact(lambda tx: leases.holds(tx, "settle", token))


def test_one_holds_it_until_it_runs_out(store: Store, clock: Clock) -> None:
    assert acquire(store, "one") == 1
    assert acquire(store, "two") is None
    clock.advance(TTL_S - 0.001)
    assert acquire(store, "two") is None
    clock.advance(0.001)
    assert acquire(store, "two") == 2
    assert acquire(store, "one") is None


def test_renewing_keeps_the_token(store: Store, clock: Clock) -> None:
    for _ in range(3):
        assert acquire(store, "one") == 1
        clock.advance(TTL_S * 0.9)
    assert acquire(store, "two") is None


def test_one_that_ran_out_and_was_not_taken_goes_on(store: Store, clock: Clock) -> None:
    assert acquire(store, "one") == 1
    clock.advance(10 * TTL_S)
    assert holds(store, 1)
    assert acquire(store, "one") == 1


def test_a_restarted_server_takes_up_its_own(open_store: OpenStore, clock: Clock, tmp_path: Path) -> None:
    def start(store: Store) -> int | None:
        return acquire(store, nodes.node_id(tmp_path / "node"))

    first = open_store()
    assert start(first) == 1
    asyncio.run(first.close())
    assert start(open_store()) == 1


def test_what_is_given_back_can_be_taken_at_once(store: Store) -> None:
    assert acquire(store, "one") == 1
    store.transact(lambda tx: leases.release(tx, "settle", 1))
    assert acquire(store, "two") == 2
    # Too late: another has it.
    store.transact(lambda tx: leases.release(tx, "settle", 1))
    assert acquire(store, "one") is None


def test_the_write_of_a_holder_that_was_paused_is_void(store: Store, clock: Clock) -> None:
    def write(token: int, value: str) -> bool:
        def work(tx: Transaction) -> bool:
            if not leases.holds(tx, "settle", token):
                return False
            tx.connection.execute(insert(tags).values(arn="arn", key=value, position=0, value=value))
            return True

        return store.transact(work)

    paused = acquire(store, "one")
    assert paused is not None
    clock.advance(TTL_S)
    token = acquire(store, "two")
    assert token is not None
    assert write(token, "two")
    assert not write(paused, "one")
    assert store.transact(lambda tx: tx.connection.execute(select(tags.c.key)).scalars().all()) == ["two"]


def test_leases_of_other_names_are_others(store: Store) -> None:
    assert acquire(store, "one") == 1
    assert store.transact(lambda tx: leases.acquire(tx, "jobs", "two", TTL_S)) == 1
    assert not store.transact(lambda tx: leases.holds(tx, "nobody's", 1))


class Holders(RuleBasedStateMachine):
    """Three holders ask in any order while time passes, or stands still."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.lease: Lease | None = None
        self.tokens: dict[str, int] = {}

    @rule(holder=st.sampled_from("abc"), ttl_s=st.floats(0.1, 10))
    def ask(self, holder: str, ttl_s: float) -> None:
        before, free = self.lease, self.lease is None or self.lease.expires_at <= self.now
        lease = taken_up(before, holder, self.now, ttl_s)
        assert (lease is not None) == (free or (before is not None and before.holder == holder))
        if lease is not None:
            assert before is None or lease.token == before.token + (lease.holder != before.holder)
            self.lease = lease
            self.tokens[holder] = lease.token

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def one_token_is_valid(self) -> None:
        if self.lease is not None:
            valid = [holder for holder, token in self.tokens.items() if token == self.lease.token]
            assert valid == [self.lease.holder]


test_no_two_holders_have_a_valid_token = Holders.TestCase


@given(st.text(max_size=40))
def test_a_name_that_is_damaged_is_told(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "node").write_text(text, errors="surrogatepass")
        with pytest.raises(ConfigurationError, match="remove the file"):
            nodes.node_id(Path(folder))


def test_a_node_keeps_its_name(tmp_path: Path) -> None:
    name = nodes.node_id(tmp_path)
    assert nodes.node_id(tmp_path) == name
    assert [path.name for path in tmp_path.iterdir()] == ["node"]
    other = tmp_path / "other"
    other.mkdir()
    assert nodes.node_id(other) != name


def test_a_name_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent/node cannot be read or written \(No such file"):
        nodes.node_id(tmp_path / "absent")


def test_nodes_are_alive_while_they_are_heard(store: Store, clock: Clock) -> None:
    def live() -> frozenset[str]:
        return store.transact(lambda tx: nodes.live_nodes(tx, 5.0))

    def hear(node: str) -> None:
        store.transact(lambda tx: nodes.hear(tx, node))

    assert live() == frozenset()
    hear("one")
    hear("two")
    clock.advance(5.0)
    hear("two")
    assert live() == {"one", "two"}
    clock.advance(0.001)
    assert live() == {"two"}
    hear("one")
    assert live() == {"one", "two"}
    store.transact(lambda tx: nodes.leave(tx, "two"))
    assert live() == {"one"}
    started = store.transact(lambda tx: tx.connection.execute(select(node_rows.c.started_at)).scalars().all())
    assert started == [clock.now - 5.001]
