"""The control plane's database: work runs in transactions, on threads of its own, and is tried again where it may be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection

T = TypeVar("T")


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
    """Epoch seconds at its begin, the same for all that it writes."""
    taken: frozenset[str] = frozenset()
    """Names that are served from the command line, which no endpoint can have."""
    changed: bool = False
    """Set by `next_generation`: nodes have something to act upon once this is committed."""

    def next_generation(self) -> int:
        """The next number of `counters.generation`; marks the transaction as one that nodes have to act upon."""
        raise NotImplementedError


Work = Callable[[Transaction], T]
