"""Nodes: the servers that share a database, and which of them have been heard of lately."""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path
from typing import Final

from sqlalchemy import delete, insert, select, update

from serving.control.schema import nodes
from serving.control.store import Transaction
from serving.errors import ConfigurationError

_ID: Final = re.compile(r"[0-9a-f]{32}")


def node_id(state_dir: Path) -> str:
    """The name of the server of this state directory, the same after a restart. Blocks. Raises `ConfigurationError`."""
    path = state_dir / "node"
    try:
        if not path.exists():
            written = path.with_name("node.new")
            written.write_text(f"{uuid.uuid4().hex}\n")
            with written.open("rb") as file:
                os.fsync(file.fileno())
            written.replace(path)
        text = path.read_text(errors="replace").strip()
    except OSError as error:
        raise ConfigurationError(f"the node's name in {path} cannot be read or written ({error.strerror})") from error
    if not _ID.fullmatch(text):
        raise ConfigurationError(
            f"the node's name in {path} is damaged: {text[:40]!r}; remove the file to be another node"
        )
    return text


def hear(tx: Transaction, node: str) -> None:
    """The node is alive at this moment."""
    if tx.connection.execute(update(nodes).where(nodes.c.id == node).values(heard_at=tx.now)).rowcount == 0:
        tx.connection.execute(insert(nodes).values(id=node, started_at=tx.now, heard_at=tx.now))


def live_nodes(tx: Transaction, within_s: float) -> frozenset[str]:
    """The nodes that were heard of within the last so many seconds."""
    return frozenset(tx.connection.execute(select(nodes.c.id).where(nodes.c.heard_at >= tx.now - within_s)).scalars())


def leave(tx: Transaction, node: str) -> None:
    """The node stops: others need not wait until it has been silent for long enough."""
    tx.connection.execute(delete(nodes).where(nodes.c.id == node))
