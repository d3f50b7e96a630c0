"""What the callers know of each resource: what was acknowledged, and what may be since a call got no answer.

Every resource belongs to one caller, so its calls come one after the other. The state of a resource is a set: one
state where everything was answered, more after a call of which nobody knows whether it was carried out.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from loadtests.crash.marked import Marked

Kind = Literal["endpoint", "endpoint-config", "model"]
Tags = frozenset[tuple[str, str]]

ABSENT_TEXTS = ("could not find",)
PRESENT_TEXTS = ("already exist",)
BUSY_TEXTS = ("in-progress", "in progress", "cannot update", "and uses it", "is being")


@dataclass(frozen=True, slots=True)
class Fact:
    """A resource that is there: what it names (the model's URL, the config's model, the endpoint's config), its tags.

    `data` is the model data behind it, as it was when the resource was made or changed.
    """

    names: str
    data: Marked
    tags: Tags = frozenset()

    @property
    def number(self) -> int | None:
        """What it answers; None where it cannot be served."""
        return self.data.number


State: TypeAlias = Fact | None
"""None: there is no such resource."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a call does: to which states it applies (it is refused in others), and what comes of them."""

    operation: str
    applies: Callable[[State], bool]
    becomes: Callable[[State], State]


def create(operation: str, fact: Fact) -> Change:
    """Makes a resource where there is none."""
    return Change(operation, lambda state: state is None, lambda _: fact)


def delete(operation: str) -> Change:
    """Removes a resource."""
    return Change(operation, lambda state: state is not None, lambda _: None)


def update(operation: str, change: Callable[[Fact], Fact]) -> Change:
    """Changes a resource that is there."""
    return Change(operation, lambda state: state is not None, lambda state: state and change(state))


@dataclass(frozen=True, slots=True)
class Before:
    """What a resource could be when a call was sent, and whether it was still on its way to something."""

    states: frozenset[State]
    settling: bool


@dataclass(eq=False)
class Resource:
    """One name of one kind, and what it may be now."""

    kind: Kind
    name: str
    possible: frozenset[State] = frozenset([None])
    under_way: str = ""
    settling: bool = False
    """An endpoint that may still be on its way to what was asked."""
    in_service: bool = False
    """An endpoint that was seen InService, and that nobody has deleted since."""
    answers: frozenset[int] = frozenset()
    """What an invocation may be answered with now."""

    @property
    def certain(self) -> bool:
        """Whether there is no doubt."""
        return len(self.possible) == 1

    @property
    def fact(self) -> Fact | None:
        """What it is where that is certain and it is there."""
        return next(iter(self.possible)) if self.certain else None

    @property
    def absent(self) -> bool:
        """Whether it is certain that it is not there."""
        return self.possible == {None}

    @property
    def numbers(self) -> frozenset[int]:
        """What it would answer in any of its states."""
        return frozenset(state.number for state in self.possible if state is not None and state.number is not None)


@dataclass
class Ledger:
    """All resources, what calls came to, and what was seen that must not be. Threads may use it at once."""

    resources: dict[tuple[Kind, str], Resource] = field(default_factory=dict)
    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def resource(self, kind: Kind, name: str) -> Resource:
        """The resource of that name; a new one is absent."""
        with self._lock:
            return self.resources.setdefault((kind, name), Resource(kind, name))

    def of(self, kind: Kind) -> list[Resource]:
        """All resources of a kind."""
        with self._lock:
            return [resource for (its, _), resource in self.resources.items() if its == kind]

    def violation(self, text: str) -> None:
        """Notes what must not be."""
        with self._lock:
            self.violations[text] += 1

    # ------------------------------------------------------------------ one call

    def begin(self, resource: Resource, change: Change) -> Before:
        """A call is about to be sent; gives what the end of the call wants."""
        with self._lock:
            before = Before(resource.possible, resource.settling)
            after = _after(before.states, change)
            resource.under_way = change.operation
            resource.possible = before.states | after
            if resource.kind == "endpoint":
                # From now on either side of the change may answer.
                resource.answers |= resource.numbers
                resource.settling = True
                if None in after:
                    resource.in_service = False
            return before

    def acknowledged(self, resource: Resource, change: Change, before: Before) -> None:
        """The call was carried out."""
        with self._lock:
            after = _after(before.states, change)
            self._end(resource, "acknowledged", change)
            if not after:
                self.violations[
                    f"{change.operation} of {resource.name} was acknowledged, but {_told(before.states)}"
                ] += 1
                return
            resource.possible = after

    def refused(self, resource: Resource, change: Change, before: Before, message: str) -> None:
        """The call was not carried out, for the reason given."""
        text = message.lower()
        after: frozenset[State]
        with self._lock:
            if any(part in text for part in ABSENT_TEXTS):
                after, how = before.states & {None}, "refused: absent"
            elif any(part in text for part in PRESENT_TEXTS):
                after, how = frozenset(state for state in before.states if state is not None), "refused: present"
                if not after and before.settling:
                    # Deleted, and not gone yet.
                    after, how = before.states, "refused: in progress"
            elif any(part in text for part in BUSY_TEXTS):
                after, how = before.states, "refused: in progress"
            else:
                after, how = frozenset(), "refused: other"
            self._end(resource, how, change)
            if not after:
                self.violations[
                    f"{change.operation} of {resource.name}, {_told(before.states)}, was refused: {message}"
                ] += 1
                after = before.states
            resource.possible = after

    def lost(self, resource: Resource, change: Change) -> None:
        """The call got no answer: it may have been carried out or not."""
        with self._lock:
            self._end(resource, "no answer", change)

    def unsent(self, resource: Resource, change: Change, before: Before) -> None:
        """There was nobody to send the call to."""
        with self._lock:
            self._end(resource, "not sent", change)
            resource.possible = before.states

    def _end(self, resource: Resource, how: str, change: Change) -> None:
        resource.under_way = ""
        self.calls[change.operation, how] += 1

    def under_way(self) -> list[str]:
        """The operations whose calls have no answer yet."""
        with self._lock:
            return sorted(resource.under_way for resource in self.resources.values() if resource.under_way)

    # ------------------------------------------------------------------ what is seen

    def seen(self, resource: Resource, matching: Callable[[State], bool], what: str) -> bool:
        """Keeps of what is possible only what fits with what was seen; where nothing does, it is a violation and False."""
        with self._lock:
            fitting = frozenset(state for state in resource.possible if matching(state))
            if not fitting:
                self.violations[f"{resource.kind} {resource.name} {what}, but {_told(resource.possible)}"] += 1
                return False
            resource.possible = fitting
            return True

    def gone(self, resource: Resource) -> None:
        """There is no such resource, whatever was acknowledged: what follows from that need not be told again."""
        with self._lock:
            resource.possible = frozenset([None])

    def settled(self, resource: Resource, in_service: bool) -> None:
        """An endpoint was seen at rest (or gone), with no call under way."""
        with self._lock:
            resource.settling = False
            resource.in_service = in_service
            resource.answers = resource.numbers if in_service else frozenset()


def _after(before: Iterable[State], change: Change) -> frozenset[State]:
    return frozenset(change.becomes(state) for state in before if change.applies(state))


def _told(possible: Iterable[State]) -> str:
    texts = sorted("there is none" if state is None else f"it is {state}" for state in possible)
    return "by what was acknowledged " + " or ".join(texts)
