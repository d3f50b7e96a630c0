"""Inputs of operations, generated from their service model: the smallest, the largest, and each field at its limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from serving.control.patterns import compiled
from serving.control.service import Service

TEMPLATES = (
    "{}",
    "A{}",
    "/{}",
    "1.{}",
    "1.2.{}",
    "1111.1111.{}",
    "text/{}",
    "s3://b/{}",
    "sha256:{}",
    "mig-{}g.1gb",
    "arn:aws:iam::123456789012:role/{}",
    "arn:aws:sns:us-east-1:123456789012:{}",
    "arn:aws:sagemaker:us-east-1:123456789012:model-package/{}",
)
"""Texts that the patterns of the models take, with digits in the gap."""

MISFITS = ("\x00", " ", "_", "!", "\n", "*")
"""Texts of which each pattern refuses at least one, unless it takes everything."""

NO_LIMIT = 3
"""Elements of a collection for which the model sets no limit."""


class Case(NamedTuple):
    """An input: `value` is the document, `error` the code that refuses it ("" for none), `text` what its message holds."""

    what: str
    value: Any
    error: str = ""
    texts: tuple[str, ...] = ()


@cache
def fitting(pattern: str | None, length: int) -> str | None:
    """A text of that length that the pattern takes, or None where none is known."""
    if pattern is None:
        return "1" * length
    for template in TEMPLATES:
        gap = length - len(template) + 2
        if gap >= 0 and compiled(pattern).fullmatch(text := template.format("1" * gap)):
            return text
    return None


def shortest(raw: Mapping[str, Any]) -> str:
    """The shortest text that a string shape takes (of one character at least where it may be empty)."""
    if "enum" in raw:
        return str(raw["enum"][0])
    least = max(raw.get("min", 0), 1)
    for length in range(least, raw.get("max", least + 128) + 1):
        text = fitting(raw.get("pattern"), length)
        if text is not None:
            return text
    raise AssertionError(f"no text is known that fits {raw}: TEMPLATES needs another")


def longest(raw: Mapping[str, Any]) -> str:
    """The longest text known that a string shape takes."""
    if "enum" in raw:
        return str(raw["enum"][-1])
    for length in range(raw.get("max", 64), -1, -1):
        text = fitting(raw.get("pattern"), length)
        if text is not None:
            return text
    raise AssertionError(f"no text is known that fits {raw}: TEMPLATES needs another")


class Inputs:
    """Inputs of one service's operations."""

    def __init__(self, service: Service) -> None:
        self._shapes = service.shapes
        self._operations = service.operations

    def least(self, operation: str) -> Any:
        """The input with nothing but what is required."""
        return self._least(self._operations[operation].input) if self._operations[operation].input else {}

    def most(self, operation: str) -> Any:
        """The input with every field, as long and as many as they may be (a few where they may be many)."""
        return self._most(self._operations[operation].input, ()) if self._operations[operation].input else {}

    def value(self, shape: str) -> Any:
        """A value of a shape with everything that it may hold."""
        return self._most(shape, ())

    def cases(self, operation: str) -> Iterator[Case]:
        """Every field down to the leaves: at its limits and one step beyond, of another type, absent, unknown."""
        if self._operations[operation].input:
            yield from self._cases(self._operations[operation].input, "", ())

    def _least(self, shape: str) -> Any:
        raw = self._shapes[shape]
        match raw["type"]:
            case "structure":
                names = list(raw["members"])[:1] if raw.get("union") else raw.get("required", ())
                return {name: self._least(raw["members"][name]["shape"]) for name in names}
            case "list":
                return [self._least(raw["member"]["shape"])] * raw.get("min", 0)
            case "map":
                return self._entries(raw, raw.get("min", 0))
            case "string":
                return shortest(raw)
        return _number(raw)

    def _most(self, shape: str, above: tuple[str, ...]) -> Any:
        raw = self._shapes[shape]
        match raw["type"]:
            case "structure":
                members = {name: one["shape"] for name, one in raw["members"].items() if one["shape"] not in above}
                names = list(members)[-1:] if raw.get("union") else list(members)
                return {name: self._most(members[name], (*above, shape)) for name in names}
            case "list":
                return [self._most(raw["member"]["shape"], (*above, shape))] * min(raw.get("max", NO_LIMIT), NO_LIMIT)
            case "map":
                return self._entries(raw, min(raw.get("max", NO_LIMIT), NO_LIMIT))
            case "string":
                return longest(raw)
        return raw.get("max", _number(raw))

    def _entries(self, raw: Mapping[str, Any], count: int) -> dict[str, Any]:
        """A map of so many entries."""
        key, value = self._shapes[raw["key"]["shape"]], self._least(raw["value"]["shape"])
        keys: list[str] = []
        for length in range(max(key.get("min", 1), 1), key.get("max", 64) + 1):
            if len(keys) == count:
                break
            text = fitting(key.get("pattern"), length)
            keys += [text] if text is not None else []
        assert len(keys) == count, raw
        return dict.fromkeys(keys, value)

    def _cases(self, shape: str, path: str, above: tuple[str, ...]) -> Iterator[Case]:
        raw = self._shapes[shape]
        if shape in above:
            return
        above = (*above, shape)
        match raw["type"]:
            case "structure":
                yield from self._structure(shape, raw, path, above)
            case "list":
                yield from self._list(raw, path, above)
            case "map":
                yield from self._map(raw, path, above)
            case kind:
                yield from scalar(raw, kind, path)

    def _structure(self, shape: str, raw: Mapping[str, Any], path: str, above: tuple[str, ...]) -> Iterator[Case]:
        least = self._least(shape)
        prefix = f"{path}." if path else ""
        union = raw.get("union", False)
        yield Case(f"{path} least", least)
        if path:
            yield Case(f"{path} text", "x", "SerializationException", ("Expected null", path))
        yield Case(f"{path} list", [], "SerializationException", ("Start of list", path))
        unknown = (f"'{prefix}notThere'", "not one that this version of the API has")
        yield Case(f"{prefix}notThere unknown", least | {"NotThere": 1}, "ValidationException", unknown)
        for name, member in raw["members"].items():
            inner = f"{prefix}{name[:1].lower()}{name[1:]}"
            if name in raw.get("required", ()):
                rest = {key: value for key, value in least.items() if key != name}
                null = (f"Value null at '{inner}'", "Member must not be null")
                yield Case(f"{inner} missing", rest, "ValidationException", null)
                yield Case(f"{inner} null", rest | {name: None}, "ValidationException", null)
            elif not union:
                yield Case(f"{inner} null", least | {name: None})
            for case in self._cases(member["shape"], inner, above):
                yield case._replace(value={name: case.value} if union else least | {name: case.value})
        if union:
            every = {name: self._least(one["shape"]) for name, one in raw["members"].items()}
            yield Case(f"{path} two of a union", every, "SerializationException", ("exactly one of", path))
            yield Case(f"{path} none of a union", {}, "SerializationException", ("exactly one of", path))

    def _list(self, raw: Mapping[str, Any], path: str, above: tuple[str, ...]) -> Iterator[Case]:
        element, most, least = raw["member"]["shape"], raw.get("max"), raw.get("min", 0)
        one = self._least(element)
        simple = "members" not in self._shapes[element]
        yield Case(f"{path} text", "x", "SerializationException", ("Expected list or null", path))
        yield Case(f"{path} map", {}, "SerializationException", ("Start of structure or map", path))
        null = (f"Value null at '{path}.1.member'", "Member must not be null")
        yield Case(f"{path} null", [None] * max(least, 1), "ValidationException", null)
        yield from _counted(path, lambda count: [one] * count, least, most)
        for case in self._cases(element, path if simple else f"{path}.1.member", above):
            yield _element(case, path, [case.value] * max(least, 1), "Member must satisfy constraint: [", simple=simple)

    def _map(self, raw: Mapping[str, Any], path: str, above: tuple[str, ...]) -> Iterator[Case]:
        keys, values = self._shapes[raw["key"]["shape"]], raw["value"]["shape"]
        key, one = shortest(keys), self._least(values)
        simple = "members" not in self._shapes[values]
        yield Case(f"{path} text", "x", "SerializationException", ("Expected map or null", path))
        yield Case(f"{path} list", [], "SerializationException", ("Start of list", path))
        yield from _counted(path, lambda count: self._entries(raw, count), raw.get("min", 0), raw.get("max"))
        for case in scalar(keys, "string", path):
            if not isinstance(case.value, str):
                continue  # the keys of JSON objects are strings
            yield _element(case, path, {case.value: one}, "Map keys must satisfy constraint: [", simple=True)
        for case in self._cases(values, path if simple else f"{path}.{key}.member", above):
            yield _element(case, path, {key: case.value}, "Map value must satisfy constraint: [", simple=simple)


def scalar(raw: Mapping[str, Any], kind: str, path: str) -> Iterator[Case]:
    """Cases of one leaf."""
    if kind == "string":
        yield from _texts(raw, path)
    elif kind in ("integer", "long", "float", "double"):
        yield from _numbers(raw, kind, path)
    elif kind == "boolean":
        yield Case(f"{path} true", True)
        yield Case(f"{path} false", False)
        yield Case(f"{path} text", "true", "SerializationException", ("STRING_VALUE can not be", path))
        yield Case(f"{path} number", 1, "SerializationException", ("NUMBER_VALUE can not be", path))
    elif kind == "timestamp":
        yield Case(f"{path} number", 1_700_000_000)
        yield Case(f"{path} ISO 8601", "2026-01-31T12:00:00.5Z")
        yield Case(f"{path} text", "yesterday", "SerializationException", ("STRING_VALUE can not be", path))
        yield Case(f"{path} true", True, "SerializationException", ("TRUE_VALUE can not be", path))
        yield Case(f"{path} beyond year 9999", 1e15, "SerializationException", ("NUMBER_VALUE can not be", path))
    else:
        raise AssertionError(f"{path} is a {kind}, for which there are no cases")
    if kind != "string":
        yield Case(f"{path} list", [], "SerializationException", ("Start of list", path))


def _texts(raw: Mapping[str, Any], path: str) -> Iterator[Case]:
    least, most, pattern = raw.get("min", 0), raw.get("max"), raw.get("pattern")
    at = f"at '{path}'"
    yield Case(f"{path} shortest", shortest(raw))
    yield Case(f"{path} longest", longest(raw))
    yield Case(f"{path} number", 1, "SerializationException", ("NUMBER_VALUE can not be converted to a String", path))
    yield Case(f"{path} true", True, "SerializationException", ("TRUE_VALUE can not be converted to a String", path))
    yield Case(f"{path} list", ["x"], "SerializationException", ("Start of list", path))
    yield Case(f"{path} map", {"x": "x"}, "SerializationException", ("Start of structure or map", path))
    if most is not None:
        text = f"Member must have length less than or equal to {most}"
        yield Case(f"{path} too long", "1" * (most + 1), "ValidationException", (at, text))
    if least > 0:
        text = f"Member must have length greater than or equal to {least}"
        yield Case(f"{path} too short", "1" * (least - 1), "ValidationException", (at, text))
    if "enum" in raw:
        text = f"Member must satisfy enum value set: [{', '.join(raw['enum'])}]"
        yield Case(f"{path} bad enum", "NoneOfThem", "ValidationException", (at, text))
    for misfit in MISFITS if pattern is not None else ():
        value = misfit * max(least, 1)
        if compiled(pattern).fullmatch(value) is None:
            text = f"Member must satisfy regular expression pattern: {pattern}"
            yield Case(f"{path} bad pattern", value, "ValidationException", (at, text))
            break


def _numbers(raw: Mapping[str, Any], kind: str, path: str) -> Iterator[Case]:
    least, most = raw.get("min"), raw.get("max")
    at = f"at '{path}'"
    if least is not None:
        text = f"Member must have value greater than or equal to {least}"
        yield Case(f"{path} least", least)
        yield Case(f"{path} too small", least - 1, "ValidationException", (at, text))
    if most is not None:
        text = f"Member must have value less than or equal to {most}"
        yield Case(f"{path} most", most)
        yield Case(f"{path} too large", most + 1, "ValidationException", (at, text))
    yield Case(f"{path} text", "1", "SerializationException", ("STRING_VALUE can not be", path))
    yield Case(f"{path} true", True, "SerializationException", ("TRUE_VALUE can not be", path))
    yield Case(f"{path} map", {}, "SerializationException", ("Start of structure or map", path))
    if kind in ("integer", "long"):
        yield Case(f"{path} fraction", 1.5, "SerializationException", ("DECIMAL_VALUE can not be", path))
        yield Case(f"{path} whole", float(_number(raw)))


def _counted(path: str, made: Any, least: int, most: int | None) -> Iterator[Case]:
    """Cases of how many elements a collection has."""
    at = f"at '{path}'"
    if least > 0:
        text = f"Member must have length greater than or equal to {least}"
        yield Case(f"{path} fewest", made(least))
        yield Case(f"{path} too few", made(least - 1), "ValidationException", (at, text))
    if most is not None:
        text = f"Member must have length less than or equal to {most}"
        yield Case(f"{path} most", made(most))
        yield Case(f"{path} too many", made(most + 1), "ValidationException", (at, text))


def _element(case: Case, path: str, value: Any, blame: str, *, simple: bool) -> Case:
    """The case of an element as one of its collection, which AWS blames for what is wrong with a scalar."""
    what = f"{case.what} in {blame.split()[1]}" if simple else case.what
    if not simple or case.error != "ValidationException":
        return case._replace(what=what, value=value)
    text = case.texts[-1]
    return Case(what, value, case.error, (f"at '{path}'", blame, text))


def _number(raw: Mapping[str, Any]) -> Any:
    """A number, or whatever else is no string and no collection."""
    if raw["type"] == "boolean":
        return True
    return raw["min"] if "min" in raw else min(1, raw.get("max", 1))
