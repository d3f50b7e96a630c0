"""Leases: which of several nodes does what only one may do, with tokens that void the writes of earlier holders.

A holder writes in a transaction that asks `holds` (or `acquire`) first; one that was paused and has lost its lease
meanwhile then writes nothing. Times are the transaction's, by the clock that all nodes share.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import insert, select, update

from serving.control.schema import leases
from serving.control.store import Transaction


class Lease(NamedTuple):
    """Who holds it until when (epoch seconds), under which token."""

    holder: str
    token: int
    expires_at: float


def taken_up(lease: Lease | None, holder: str, now: float, ttl_s: float) -> Lease | None:
    """The lease after `holder` asks for it; None while another holds it.

    A holder keeps its token, also over a restart and after its lease ran out with nobody there to take it.
    """
    if lease is None:
        return Lease(holder, 1, now + ttl_s)
    if lease.holder == holder:
        return lease._replace(expires_at=now + ttl_s)
    return Lease(holder, lease.token + 1, now + ttl_s) if lease.expires_at <= now else None


def acquire(tx: Transaction, name: str, holder: str, ttl_s: float) -> int | None:
    """Takes the lease, or renews it, for so many seconds: its token; None while another holds it."""
    found = _lease(tx, name)
    lease = taken_up(found, holder, tx.now, ttl_s)
    if lease is None:
        return None
    if found is None:
        tx.connection.execute(insert(leases).values(name=name, **lease._asdict()))
    else:
        tx.connection.execute(update(leases).where(leases.c.name == name).values(**lease._asdict()))
    return lease.token


def holds(tx: Transaction, name: str, token: int) -> bool:
    """Whether the lease is still held under this token; it may have run out, as long as nobody has taken it."""
    lease = _lease(tx, name)
    return lease is not None and lease.token == token


def release(tx: Transaction, name: str, token: int) -> None:
    """Lets others take the lease at once. Does nothing under an old token."""
    held = (leases.c.name == name) & (leases.c.token == token)
    tx.connection.execute(update(leases).where(held).values(expires_at=0.0))


def _lease(tx: Transaction, name: str) -> Lease | None:
    columns = (leases.c.holder, leases.c.token, leases.c.expires_at)
    row = tx.connection.execute(select(*columns).where(leases.c.name == name)).one_or_none()
    return None if row is None else Lease(*row)
