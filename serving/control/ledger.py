"""What a node reads and writes of endpoints in the database: what is asked for, what it made of that, and the judgement.

Each function is the work of one transaction, may be run again, and leaves the database as if it had been run once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from sqlalchemy import delete, insert, select, update

from serving.control import leases, nodes, settling
from serving.control.deployment import Deployment
from serving.control.schema import endpoints, observations, tags
from serving.control.settling import (
    CREATING,
    NOTHING,
    UPDATING,
    Observation,
    Promote,
    Remove,
    Revert,
    Row,
    Transition,
    Wanted,
)
from serving.control.store import Transaction

LEASE: Final = "settle"
LEASE_S: Final = 10.0

LIVE_WITHIN_S: Final = 15.0
"""A node that has been silent for longer counts as gone."""

_MANY: Final = 500
"""Names in one statement; SQLite has a limit for parameters."""


Key = tuple[int, Wanted]


class Asked(msgspec.Struct, frozen=True):
    """What is asked of an endpoint under one generation, and what is in force; `wanted`: which of them a node is to serve."""

    generation: int
    wanted: Wanted
    target: Deployment
    current: Deployment | None

    @property
    def key(self) -> Key:
        """What it was read for: another needs another read."""
        return self.generation, self.wanted

    @property
    def deployment(self) -> Deployment | None:
        """What a node is to serve."""
        return {"target": self.target, "current": self.current, "nothing": None}[self.wanted]


class View(msgspec.Struct, frozen=True):
    """The endpoints after the judgement; `asked` of those of which the caller did not know it."""

    rows: Sequence[Row]
    asked: Mapping[str, Asked]
    settled: Sequence[tuple[Row, Transition]]


def begin(tx: Transaction, node: str) -> View:
    """The first look of a node that has just started: it serves nothing, whatever it observed in an earlier life."""
    nodes.hear(tx, node)
    tx.connection.execute(delete(observations).where(observations.c.node == node))
    return read(tx)


def read(tx: Transaction) -> View:
    """What is asked for, with nothing written."""
    rows = _rows(tx)
    return View(rows, _asked(tx, rows, {}), ())


def look(tx: Transaction, node: str, made: Mapping[str, Observation], known: Mapping[str, Key]) -> View:
    """Writes what the node made of endpoints, judges if it may, and reads what is asked for by now.

    `made` by endpoint, nothing where there is none; `known` are the keys of what the node has read.
    """
    nodes.hear(tx, node)
    rows = _rows(tx)
    seen = _observations(tx)
    wrote = _write(tx, node, rows, seen, made)
    live = nodes.live_nodes(tx, LIVE_WITHIN_S) | {node}
    settled = settling.judge_all(rows, seen, live)
    if settled and leases.acquire(tx, LEASE, node, LEASE_S) is not None:
        after = {row.name: _apply(tx, row, transition) for row, transition in settled}
        rows = [now for row in rows if (now := after.get(row.name, row)) is not None]
        tx.changed = True
    else:
        settled = []
        if wrote and len(live) > 1:
            # Another node judges.
            tx.changed = True
    return View(rows, _asked(tx, rows, known), settled)


def pin(tx: Transaction, row: Row, revisions: Mapping[str, str]) -> Deployment | None:
    """Notes which model data an endpoint serves, unless that is known: what is asked then; None where it is another by now."""
    column = endpoints.c.target if row.status in (CREATING, UPDATING) else endpoints.c.current
    here = (endpoints.c.name == row.name) & (endpoints.c.generation == row.generation)
    text = tx.connection.execute(select(column).where(here)).scalar_one_or_none()
    if text is None:
        return None
    deployment = msgspec.json.decode(text, type=Deployment)
    pinned = msgspec.structs.replace(deployment, revisions={**revisions, **deployment.revisions})
    if pinned != deployment:
        tx.connection.execute(update(endpoints).where(here).values({column.name: msgspec.json.encode(pinned).decode()}))
    return pinned


def _rows(tx: Transaction) -> list[Row]:
    columns = (endpoints.c.name, endpoints.c.status, endpoints.c.generation, endpoints.c.failure_reason)
    return [Row(*found) for found in tx.connection.execute(select(*columns))]


def _observations(tx: Transaction) -> dict[str, dict[str, Observation]]:
    """By endpoint, by node."""
    table = observations.c
    found: dict[str, dict[str, Observation]] = {}
    columns = (table.endpoint, table.node, table.serving, table.failed, table.reason)
    for name, node, *rest in tx.connection.execute(select(*columns)):
        found.setdefault(name, {})[node] = Observation(*rest)
    return found


def _write(
    tx: Transaction,
    node: str,
    rows: Sequence[Row],
    seen: dict[str, dict[str, Observation]],
    made: Mapping[str, Observation],
) -> bool:
    """Makes the node's observations what they are to be, here and in `seen`; whether any was another."""
    nothing = Observation()
    names = {row.name for row in rows}
    wrote = False
    for name in names | {name for name, by_node in seen.items() if node in by_node}:
        one = made.get(name, nothing) if name in names else nothing
        by_node = seen.setdefault(name, {})
        before = by_node.get(node)
        if one == (before or nothing):
            continue
        wrote = True
        here = (observations.c.endpoint == name) & (observations.c.node == node)
        values = {"serving": one.serving, "failed": one.failed, "reason": one.reason, "observed_at": tx.now}
        if (one.serving, one.failed) == (NOTHING, NOTHING):
            tx.connection.execute(delete(observations).where(here))
        elif before is None:
            tx.connection.execute(insert(observations).values(endpoint=name, node=node, **values))
        else:
            tx.connection.execute(update(observations).where(here).values(**values))
        by_node[node] = one
    return wrote


def _apply(tx: Transaction, row: Row, transition: Transition) -> Row | None:
    here = endpoints.c.name == row.name
    if isinstance(transition, Remove):
        arn = select(endpoints.c.arn).where(here).scalar_subquery()
        tx.connection.execute(delete(tags).where(tags.c.arn == arn))
        tx.connection.execute(delete(observations).where(observations.c.endpoint == row.name))
        tx.connection.execute(delete(endpoints).where(here))
        return None
    generation = tx.next_generation() if isinstance(transition, Revert) else row.generation
    after = settling.applied(row, transition, generation)
    assert after is not None
    values: dict[str, object] = {
        "status": after.status,
        "failure_reason": after.failure_reason,
        "generation": generation,
        "modified_at": tx.now,
    }
    if isinstance(transition, Promote):
        values["current"] = endpoints.c.target
    if isinstance(transition, Revert):
        values["target"] = endpoints.c.current
    tx.connection.execute(update(endpoints).where(here).values(values))
    return after


def _asked(tx: Transaction, rows: Sequence[Row], known: Mapping[str, Key]) -> dict[str, Asked]:
    """What is asked of the endpoints of which that is not known."""
    table = endpoints.c
    keys: dict[str, Key] = {row.name: (row.generation, settling.wanted(row.status)) for row in rows}
    new = [name for name, key in keys.items() if known.get(name) != key]
    found: dict[str, Asked] = {}
    for names in (new[start : start + _MANY] for start in range(0, len(new), _MANY)):
        query = select(table.name, table.target, table.current).where(table.name.in_(names))
        for name, target, current in tx.connection.execute(query):
            found[name] = Asked(*keys[name], _deployment(target), _deployment(current) if current else None)
    return found


def _deployment(text: str) -> Deployment:
    return msgspec.json.decode(text, type=Deployment)
