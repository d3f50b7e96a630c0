"""Lists of resources: filters, sorts, and pages whose cost does not grow with their distance from the first.

A page begins after the last row of the one before (its sort key and name), not at an offset: rows that come and go
meanwhile neither repeat others nor hide them.
"""

from __future__ import annotations

import operator
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import Column, ColumnElement, Row, Table, func, select, tuple_

from serving.control.call import Document, Parameters
from serving.control.store import Transaction
from serving.errors import ControlFault

PAGE: Final = 10
SEAL_BYTES: Final = 12

SORTS: Final = {"Name": "name", "CreationTime": "created_at", "Status": "status"}
"""The column of each SortBy."""

FILTERS: Final[dict[str, tuple[str, Callable[[Any, Any], Any]]]] = {
    "CreationTimeBefore": ("created_at", operator.lt),
    "CreationTimeAfter": ("created_at", operator.ge),
    "LastModifiedTimeBefore": ("modified_at", operator.lt),
    "LastModifiedTimeAfter": ("modified_at", operator.ge),
    "StatusEquals": ("status", operator.eq),
}
"""The column and the comparison of each filter; CreationTimeAfter is `greater than or equal to` in SageMaker's words."""

Position = tuple[float | str, str]
"""Sort key and name of a page's last row."""


@dataclass(frozen=True, slots=True)
class Listing:
    """How the resources of one table are listed: the operation, the member of its answer, and what becomes of a row."""

    operation: str
    member: str
    columns: tuple[Column[Any], ...]
    summary: Callable[[Row[Any]], Document]
    order: Literal["Ascending", "Descending"] = "Descending"
    searched: ColumnElement[Any] | None = None
    """What NameContains looks into; None is the name."""

    @property
    def table(self) -> Table:
        table = self.columns[0].table
        assert isinstance(table, Table)
        return table

    def page(self, tx: Transaction, parameters: Parameters, *conditions: ColumnElement[bool]) -> Document:
        """One page. Raises `ControlFault` for a token that this list did not give."""
        by, order = parameters.get("SortBy", "CreationTime"), parameters.get("SortOrder", self.order)
        size = parameters.get("MaxResults", PAGE)
        scope = self._scope(tx, parameters, by, order)
        name, sort = self.table.c.name, self.table.c[SORTS[by]]
        query = select(*self.columns, sort.label("sort_key"), name.label("sort_name"))
        query = query.where(*conditions, *self._filters(parameters))
        if parameters.get("NextToken"):
            after = operator.gt if order == "Ascending" else operator.lt
            query = query.where(after(tuple_(sort, name), tuple_(*_position(parameters["NextToken"], scope))))
        keys = (sort, name) if by != "Name" else (name,)
        query = query.order_by(*(key.asc() if order == "Ascending" else key.desc() for key in keys)).limit(size + 1)
        rows: list[Any] = [*tx.connection.execute(query)]
        answer: Document = {self.member: [self.summary(row) for row in rows[:size]]}
        if len(rows) > size:
            last = rows[size - 1]
            answer["NextToken"] = _token((last.sort_key, last.sort_name), scope)
        return answer

    def _filters(self, parameters: Parameters) -> list[ColumnElement[bool]]:
        found = [
            compare(self.table.c[column], parameters[name])
            for name, (column, compare) in FILTERS.items()
            if name in parameters
        ]
        if parameters.get("NameContains"):
            # LIKE tells cases apart on PostgreSQL and not on SQLite; names in ARNs do not, so neither does this.
            text = parameters["NameContains"].lower()
            name = self.table.c.name if self.searched is None else self.searched
            found.append(func.lower(name).contains(text, autoescape=True))
        return found

    def _scope(self, tx: Transaction, parameters: Parameters, by: str, order: str) -> bytes:
        """What a token is good for: this list, so sorted, so filtered; the size of its pages may change."""
        chosen = {name: value for name, value in parameters.items() if name not in ("NextToken", "MaxResults")}
        chosen |= {"SortBy": by, "SortOrder": order}
        place = (tx.place.account_id, tx.place.region)
        return blake2b(msgspec.json.encode((self.operation, place, chosen), order="deterministic")).digest()


def _token(position: Position, scope: bytes) -> str:
    body = msgspec.json.encode(position)
    return urlsafe_b64encode(_seal(body, scope) + body).decode()


def _position(token: str, scope: bytes) -> Position:
    """Where a token's page begins. Raises `ControlFault`."""
    try:
        sealed = urlsafe_b64decode(token.encode("ascii"))
        body = sealed[SEAL_BYTES:]
        if sealed[:SEAL_BYTES] == _seal(body, scope):
            position: Position = msgspec.json.decode(body, type=Position)
            return position
    except ValueError:
        pass
    raise ControlFault(
        "NextToken is not valid: this list did not give it, or gave it for another sort or other filters; "
        "repeat the request that gave it, or begin again without a token"
    )


def _seal(body: bytes, scope: bytes) -> bytes:
    """Tells mistakes, not forgers: a forged token is only another place in a list that its caller may read anyway."""
    return blake2b(body, key=scope, digest_size=SEAL_BYTES).digest()
