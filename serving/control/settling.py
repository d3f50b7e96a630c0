"""How endpoints come to rest: what follows from what is asked for and what all live nodes made of it. No clock, no I/O.

A node serves an endpoint's generation, or could not, or does neither yet. A new endpoint, or a new config of one, is in
force once every live node serves it, and refused as soon as one cannot; what served before then serves on. An endpoint
that is to go is gone once no live node serves it. Statuses: SageMaker API reference, DescribeEndpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final, Literal

import msgspec

CREATING: Final = "Creating"
UPDATING: Final = "Updating"
IN_SERVICE: Final = "InService"
OUT_OF_SERVICE: Final = "OutOfService"
DELETING: Final = "Deleting"
FAILED: Final = "Failed"

NOTHING: Final = 0
"""The generation of nothing."""

OLDER: Final = -1
"""What a node still serves, or may serve, when the number of it is no longer known."""


class Row(msgspec.Struct, frozen=True):
    """An endpoint: its status, the generation of what is asked for, and why that could not be, if so."""

    name: str
    status: str
    generation: int
    failure_reason: str | None = None


class Observation(msgspec.Struct, frozen=True):
    """What a node makes of an endpoint: the generation that it serves, the last that it could not serve, and why."""

    serving: int = NOTHING
    failed: int = NOTHING
    reason: str | None = None


Wanted = Literal["target", "current", "nothing"]


class Promote(msgspec.Struct, frozen=True):
    """The target is in force: it becomes what is current, the status InService, and an earlier failure is forgotten."""


class Refuse(msgspec.Struct, frozen=True):
    """A new endpoint cannot be: Failed, for a reason."""

    reason: str


class Revert(msgspec.Struct, frozen=True):
    """A new config cannot be: the current one is the target again, under the next generation; InService, with the reason."""

    reason: str


class Interrupt(msgspec.Struct, frozen=True):
    """A node cannot serve what is in force: OutOfService, for a reason."""

    reason: str


class Resume(msgspec.Struct, frozen=True):
    """Every node serves what is in force again: InService."""


class Remove(msgspec.Struct, frozen=True):
    """No node serves it any more: the endpoint, its observations and its tags go."""


Transition = Promote | Refuse | Revert | Interrupt | Resume | Remove


def wanted(status: str) -> Wanted:
    """What a node is to serve of an endpoint in a status."""
    if status in (CREATING, UPDATING):
        return "target"
    return "current" if status in (IN_SERVICE, OUT_OF_SERVICE) else "nothing"


def judge(row: Row, observations: Mapping[str, Observation], live: Collection[str]) -> Transition | None:
    """What becomes of an endpoint; None while nothing does. `observations` by node: those of nodes that are gone do not count."""
    if not live:
        return None
    seen = {node: observations.get(node, Observation()) for node in sorted(live)}
    failure = next((one for one in seen.values() if one.failed == row.generation), None)
    everywhere = all(one.serving == row.generation for one in seen.values())
    if row.status in (CREATING, UPDATING):
        if failure is not None:
            reason = failure.reason or "a node could not serve it"
            return Refuse(reason) if row.status == CREATING else Revert(reason)
        return Promote() if everywhere else None
    if row.status == IN_SERVICE:
        return None if failure is None else Interrupt(failure.reason or "a node can no longer serve it")
    if row.status == OUT_OF_SERVICE:
        return Resume() if failure is None and everywhere else None
    if row.status == DELETING:
        return None if any(one.serving != NOTHING for one in seen.values()) else Remove()
    return None


def judge_all(
    rows: Iterable[Row], observations: Mapping[str, Mapping[str, Observation]], live: Collection[str]
) -> list[tuple[Row, Transition]]:
    """What becomes of each endpoint of which something does; `observations` by endpoint, by node."""
    found = ((row, judge(row, observations.get(row.name, {}), live)) for row in rows)
    return [(row, transition) for row, transition in found if transition is not None]


def applied(row: Row, transition: Transition, generation: int) -> Row | None:
    """The row after a transition; None once it is gone. `generation` is the next one, which only a revert takes."""
    replace = msgspec.structs.replace
    if isinstance(transition, Remove):
        return None
    if isinstance(transition, Refuse):
        return replace(row, status=FAILED, failure_reason=transition.reason)
    if isinstance(transition, Interrupt):
        return replace(row, status=OUT_OF_SERVICE, failure_reason=transition.reason)
    if isinstance(transition, Revert):
        return replace(row, status=IN_SERVICE, failure_reason=transition.reason, generation=generation)
    return replace(row, status=IN_SERVICE, failure_reason=None)
