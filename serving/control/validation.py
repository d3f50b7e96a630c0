"""Checks of documents against the shapes of a service model, with AWS's classes and texts, compiled once.

A value of another type than its shape's is a `SerializationException` at once, as the JSON front of AWS gives it;
everything else is collected and becomes one ValidationException. What AWS's front does not do: a member that the model
does not know is an error here, where AWS ignores it, because what cannot be honoured is never silently taken.
Texts are those that AWS's services answer: "1 validation error detected: Value 'a_b' at 'modelName' failed to satisfy
constraint: Member must satisfy regular expression pattern: ...".
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from serving.control.review import Review, shown
from serving.control.scalars import START_OF_LIST, START_OF_MAP, Raw, Rule, Scalar, at, length, scalar
from serving.errors import NotSerialized

DEEPEST: Final = 32
"""How deep shapes that hold themselves may nest."""


class Check(Protocol):
    """What checks values of one shape."""

    def __call__(self, value: Any, path: str, review: Review) -> Any:
        """The value in the form that operations take. Raises `NotSerialized`; notes constraints that it fails."""


class Structure:
    """A structure, or a union: a structure of which one member is set."""

    __slots__ = ("_checks", "_required", "_union")

    def __init__(self, required: Sequence[str], *, union: bool) -> None:
        self._checks: dict[str, tuple[str, Check]] = {}
        self._required = [(name, camel(name)) for name in required]
        self._union = union

    def fill(self, members: Iterable[tuple[str, Check]]) -> None:
        """Sets the members, once their shapes are there: a structure may hold itself."""
        self._checks = {name: (camel(name), check) for name, check in members}

    def __call__(self, value: Any, path: str, review: Review) -> dict[str, Any]:
        """The members that are set."""
        if not isinstance(value, dict):
            raise NotSerialized(at(START_OF_LIST if isinstance(value, list) else "Expected null", path))
        if review.depth == DEEPEST:
            raise NotSerialized(f"the body nests deeper than {DEEPEST} structures at '{path}'")
        review.depth += 1
        prefix = f"{path}." if path else ""
        for name, called in self._required:
            if value.get(name) is None:
                review.fault(None, prefix + called, "Member must not be null")
        found = {}
        for name, member in value.items():
            if member is None:
                continue
            known = self._checks.get(name)
            if known is not None:
                found[name] = known[1](member, prefix + known[0], review)
            elif not (self._union and name == "__type"):
                # Looking for what was meant takes long, and a body may have a hundred thousand of these.
                text = "" if review.full else self._unknown(name)
                review.fault("", f"{prefix}{camel(shown(name, 64))}", text, secret=True)
        if self._union and len(found) != 1:
            names = ", ".join(self._checks)
            raise NotSerialized(f"exactly one of {names} was expected in the union at '{path}', not {len(found)}")
        review.depth -= 1
        return found

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name[:64], self._checks, n=1)
        return f"Member is not one that this version of the API has{f'; the nearest is {near[0]}' if near else ''}"


class List:
    """A list."""

    __slots__ = ("_element", "_rules")

    def __init__(self, element: Check, rules: Sequence[Rule]) -> None:
        self._element = element
        self._rules = rules

    def __call__(self, value: Any, path: str, review: Review) -> list[Any]:
        """The elements; those of a list that is too long or too short are not looked at."""
        if not isinstance(value, list):
            raise NotSerialized(at(START_OF_MAP if isinstance(value, dict) else "Expected list or null", path))
        if not _satisfies(self._rules, value, path, review):
            return value
        if None in value:
            review.fault(None, f"{path}.{value.index(None) + 1}.member", "Member must not be null")
            return value
        element = self._element
        if not isinstance(element, Scalar):
            return [element(one, f"{path}.{place}.member", review) for place, one in enumerate(value, 1)]
        pairs = [element.inside(one, path, review) for one in value]
        if not all(fits for _, fits in pairs):
            review.fault(value, path, f"Member must satisfy constraint: {element.texts}")
        return [one for one, _ in pairs]


class Map:
    """A map; its keys are strings."""

    __slots__ = ("_key", "_rules", "_value")

    def __init__(self, key: Scalar, value: Check, rules: Sequence[Rule]) -> None:
        self._key = key
        self._value = value
        self._rules = rules

    def __call__(self, value: Any, path: str, review: Review) -> dict[str, Any]:
        """The entries; those without a value are left out."""
        if not isinstance(value, dict):
            raise NotSerialized(at(START_OF_LIST if isinstance(value, list) else "Expected map or null", path))
        if not _satisfies(self._rules, value, path, review):
            return value
        entries = {key: one for key, one in value.items() if one is not None}
        if not all(self._key.inside(key, path, review)[1] for key in entries):
            review.fault(value, path, f"Map keys must satisfy constraint: {self._key.texts}")
        check = self._value
        if not isinstance(check, Scalar):
            return {key: check(one, f"{path}.{shown(key, 64)}.member", review) for key, one in entries.items()}
        pairs = {key: check.inside(one, path, review) for key, one in entries.items()}
        if not all(fits for _, fits in pairs.values()):
            review.fault(value, path, f"Map value must satisfy constraint: {check.texts}")
        return {key: one for key, (one, _) in pairs.items()}


class Compiler:
    """Makes checks of shapes, each once."""

    def __init__(self, shapes: Mapping[str, Raw]) -> None:
        self._shapes = shapes
        self._checks: dict[str, Check] = {}

    def check(self, name: str) -> Check:
        """The check of the shape of that name."""
        known = self._checks.get(name)
        return known if known is not None else self._make(name, self._shapes[name])

    def _make(self, name: str, raw: Raw) -> Check:
        kind = raw["type"]
        made: Check
        if kind == "structure":
            made = structure = Structure(raw.get("required", ()), union=raw.get("union", False))
            self._checks[name] = made
            structure.fill((member, self.check(one["shape"])) for member, one in raw["members"].items())
        elif kind == "list":
            made = List(self.check(raw["member"]["shape"]), length(raw))
        elif kind == "map":
            key = self.check(raw["key"]["shape"])
            assert isinstance(key, Scalar)
            made = Map(key, self.check(raw["value"]["shape"]), length(raw))
        else:
            made = scalar(raw)
        self._checks[name] = made
        return made


def camel(name: str) -> str:
    """A member's name as error texts write it."""
    return name[:1].lower() + name[1:]


def _satisfies(rules: Sequence[Rule], value: Any, path: str, review: Review) -> bool:
    failed = [rule for rule in rules if not rule.holds(value, review)]
    for rule in failed:
        review.fault(value, path, rule.text)
    return not failed
