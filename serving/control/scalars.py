"""Shapes without members: how their values are read, and what the service model allows of them."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from serving.control.review import Review
from serving.errors import NotSerialized

Raw: TypeAlias = Mapping[str, Any]
"""A shape as the service model writes it."""

MOST_MATCHED: Final = 4096
"""Characters that are matched against a pattern where the shape allows no more."""
EARLIEST_S: Final = -62_135_596_800
"""The first second of the year 1."""
LATEST_S: Final = 253_402_300_799
"""The last second of the year 9999."""

INTEGERS: Final = {"integer": 2**31, "long": 2**63}

START_OF_LIST: Final = "Start of list found where not expected"
START_OF_MAP: Final = "Start of structure or map found where not expected."


class Rule:
    """One constraint of a scalar shape: its text and whether a value satisfies it."""

    __slots__ = ("holds", "text")

    def __init__(self, text: str, holds: Callable[[Any, Review], bool]) -> None:
        self.text = text
        self.holds = holds


class Scalar:
    """A shape without members."""

    __slots__ = ("_convert", "_secret", "rules")

    def __init__(self, convert: Callable[[Any, str], Any], rules: Sequence[Rule], *, secret: bool = False) -> None:
        self._convert = convert
        self._secret = secret
        self.rules = rules

    def __call__(self, value: Any, path: str, review: Review) -> Any:
        """The value, each constraint that it fails noted apart."""
        value = self._convert(value, path)
        for rule in self.rules:
            if not rule.holds(value, review):
                review.fault(value, path, rule.text, secret=self._secret)
        return value

    def inside(self, value: Any, path: str, review: Review) -> tuple[Any, bool]:
        """The value as an element, for whose constraints AWS blames the whole collection; whether it satisfies all."""
        value = self._convert(value, path)
        return value, all(rule.holds(value, review) for rule in self.rules)

    @property
    def texts(self) -> str:
        """All constraints, as AWS lists them for elements."""
        return f"[{', '.join(rule.text for rule in self.rules)}]"


def scalar(raw: Raw) -> Scalar:
    """The check of a shape without members."""
    return Scalar(_CONVERTERS[raw["type"]], _rules(raw), secret=raw.get("sensitive", False))


# ---------------------------------------------------------------- rules


def _rules(raw: Raw) -> list[Rule]:
    if raw["type"] not in ("string", "blob"):
        return _range(raw)
    rules = length(raw)
    if "enum" in raw:
        rules.append(_enum(raw["enum"]))
    if "pattern" in raw:
        rules.append(_pattern(raw["pattern"], raw.get("max")))
    return rules


def length(raw: Raw) -> list[Rule]:
    """The rules of how long a text or a collection may be."""
    most, least = raw.get("max"), raw.get("min")
    rules = []
    if most is not None:
        rules.append(Rule(f"Member must have length less than or equal to {most}", lambda value, _: len(value) <= most))
    if least is not None:
        rules.append(
            Rule(f"Member must have length greater than or equal to {least}", lambda value, _: len(value) >= least)
        )
    return rules


def _range(raw: Raw) -> list[Rule]:
    most, least = raw.get("max"), raw.get("min")
    rules = []
    if most is not None:
        rules.append(Rule(f"Member must have value less than or equal to {most}", lambda value, _: value <= most))
    if least is not None:
        rules.append(Rule(f"Member must have value greater than or equal to {least}", lambda value, _: value >= least))
    return rules


def _enum(values: Sequence[str]) -> Rule:
    known = frozenset(values)
    return Rule(f"Member must satisfy enum value set: [{', '.join(values)}]", lambda value, _: value in known)


def _pattern(pattern: str, most: int | None) -> Rule:
    def holds(value: str, review: Review) -> bool:
        if len(value) > MOST_MATCHED and (most is None or len(value) > most):
            # What is too long has failed its length already; where there is no such limit, this is it.
            return most is not None
        return review.matches(pattern, value)

    return Rule(f"Member must satisfy regular expression pattern: {pattern}", holds)


# ---------------------------------------------------------------- types


def at(text: str, path: str) -> str:
    """The text of a type error and where it is, which AWS leaves out."""
    return f"{text} at '{path}'" if path else text


def _mismatch(value: object, wanted: str, path: str) -> NotSerialized:
    """What is wrong with a value of another type, in AWS's words."""
    if isinstance(value, dict):
        return NotSerialized(at(START_OF_MAP, path))
    if isinstance(value, list):
        return NotSerialized(at(START_OF_LIST, path))
    if isinstance(value, bool):
        found = "TRUE_VALUE" if value else "FALSE_VALUE"
    elif isinstance(value, str):
        found = "STRING_VALUE"
    else:
        found = "DECIMAL_VALUE" if isinstance(value, float) and wanted in ("an Integer", "a Long") else "NUMBER_VALUE"
    return NotSerialized(at(f"{found} can not be converted to {wanted}", path))


def _string(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise _mismatch(value, "a String", path)
    return value


def _boolean(value: Any, path: str) -> bool:
    if not isinstance(value, bool):
        raise _mismatch(value, "a Boolean", path)
    return value


def _integer(kind: str, wanted: str) -> Callable[[Any, str], int]:
    limit = INTEGERS[kind]

    def convert(value: Any, path: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _mismatch(value, wanted, path)
        if not -limit <= value < limit or value != math.trunc(value):
            raise _mismatch(value, wanted, path)
        return int(value)

    return convert


def _float(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _mismatch(value, "a Double", path)
    return float(value)


def _timestamp(value: Any, path: str) -> float:
    """Epoch seconds, of a number or of ISO 8601 text (UTC where it names no zone)."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
            value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            raise _mismatch(value, "milliseconds since epoch", path) from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not EARLIEST_S <= value <= LATEST_S:
        raise _mismatch(value, "milliseconds since epoch", path)
    return float(value)


def _blob(value: Any, path: str) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise _mismatch(value, "a Blob", path)
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise NotSerialized(at("STRING_VALUE can not be converted to a Blob: it is not base64", path)) from None


_CONVERTERS: Final[Mapping[str, Callable[[Any, str], Any]]] = {
    "string": _string,
    "boolean": _boolean,
    "integer": _integer("integer", "an Integer"),
    "long": _integer("long", "a Long"),
    "float": _float,
    "double": _float,
    "timestamp": _timestamp,
    "blob": _blob,
}
