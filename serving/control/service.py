"""AWS's own service models, out of botocore's data files: which operations there are, and what goes in and out of them.

The files are read without botocore, whose import takes longer than the reading. SageMaker's is 2.6 MB of JSON; only the
shapes that the built operations reach are kept.
"""

from __future__ import annotations

import gzip
import importlib.util
import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

from serving.control.call import Document, Parameters
from serving.control.review import Fault, Review, TooSlow
from serving.control.validation import Compiler
from serving.errors import MissingExtra, NotSerialized

PATTERN_TIME_S: Final = 1.0
"""What patterns may take of one document in all, where nobody else waits for it."""

LEFT_OUT: Final = {("DescribeModelPackageOutput", "ModelPackageName")}
"""Members that a model requires and AWS's answers do not always have: a version of a group has no name of its own."""

_KEPT: Final = frozenset(
    {"type", "members", "required", "member", "key", "value", "min", "max", "pattern", "enum", "union", "sensitive"}
)


class Operation(msgspec.Struct, frozen=True):
    """An operation of a service model; `input` and `output` are names of shapes, "" where there is none."""

    name: str
    input: str
    output: str
    wrapper: str
    """The element that holds the output in XML."""


class Service:
    """One service of the API: its protocol, the operations that are built, and the names of all that AWS has.

    `names` are those of all operations of the model; `operations` those that are built, with their shapes.
    """

    def __init__(self, name: str, model: Mapping[str, Any], built: Collection[str]) -> None:
        metadata = model["metadata"]
        self.name = name
        self.protocol: str = metadata["protocol"]
        self.version: str = metadata["apiVersion"]
        self.target_prefix: str = metadata.get("targetPrefix", "")
        self.namespace: str = metadata.get("xmlNamespace", "")
        self.names = frozenset(model["operations"])
        self.operations = {one: _operation(one, model["operations"][one]) for one in built}
        self.shapes = dict(_reached(model["shapes"], self.operations.values()))
        self._compiler = Compiler(self.shapes)
        self._lock = threading.Lock()

    def read(
        self, operation: str, document: object, budget_s: float = PATTERN_TIME_S, *, yields: bool = False
    ) -> Parameters:
        """An operation's input, checked; `yields` as in `Review`.

        Raises `ControlFault` (ValidationException), `NotSerialized`, and `TooSlow` where patterns take longer than
        `budget_s`.
        """
        shape = self.operations[operation].input
        review = Review(budget_s, yields=yields)
        checked = self._checked(shape, {} if document is None else document, review) if shape else {}
        review.settle()
        return checked

    def check_output(
        self, operation: str, document: Document, *, patterns: bool = True
    ) -> tuple[Document, list[Fault]]:
        """An operation's output without its unset members, and what in it is not as the model says."""
        shape = self.operations[operation].output
        if not shape:
            return {}, [Fault("", f"{operation} has no output")] if document else []
        review = Review(PATTERN_TIME_S if patterns else None)
        try:
            return self._checked(shape, document, review), review.faults
        except (NotSerialized, TooSlow) as error:
            # What was asked for is done by now, so the caller gets the answer as it is.
            return document, [*review.faults, Fault("", str(error))]

    def _checked(self, shape: str, document: object, review: Review) -> Any:
        with self._lock:
            check = self._compiler.check(shape)
        return check(document, "", review)


class Catalogue:
    """The services that are built, each read when it is first asked for. `service` blocks: it runs on a thread."""

    def __init__(self, operations: Collection[str]) -> None:
        """`operations` are what is built, as `sagemaker.CreateModel`. Raises `MissingExtra` without botocore."""
        self._data = data_folder()
        self._built: dict[str, list[str]] = {}
        for operation in operations:
            service, _, name = operation.partition(".")
            self._built.setdefault(service, []).append(name)
        self.known = frozenset(self._built)
        self._services: dict[str, Service] = {}
        self._lock = threading.Lock()

    def loaded(self, name: str) -> Service | None:
        """The service, if it was read already."""
        return self._services.get(name)

    def service(self, name: str) -> Service:
        """The service, read if need be."""
        with self._lock:
            if name not in self._services:
                self._services[name] = Service(name, read_model(self._data, name), self._built[name])
            return self._services[name]

    def is_of_aws(self, name: str) -> bool:
        """Whether AWS has a service of that name (as credential scopes write it)."""
        return name.replace("-", "").isalnum() and (self._data / name).is_dir()


def data_folder() -> Path:
    """Where botocore keeps its service models. Raises `MissingExtra`."""
    found = importlib.util.find_spec("botocore")
    if found is None or not found.submodule_search_locations:
        raise MissingExtra(
            "the control plane reads AWS's service models from the botocore package, which is not installed: "
            "pip install 'serving[control]'"
        )
    return Path(found.submodule_search_locations[0]) / "data"


def read_model(data: Path, name: str) -> Mapping[str, Any]:
    """The newest model of a service. Raises `MissingExtra` where botocore has none in the form that is expected."""
    files = sorted((data / name).glob("*/service-2.json.gz"))
    if not files:
        raise MissingExtra(
            f"there is no {name}/VERSION/service-2.json.gz in {data}, where botocore keeps its service models: "
            "pip install --upgrade 'serving[control]'"
        )
    model: Mapping[str, Any] = orjson.loads(gzip.decompress(files[-1].read_bytes()))
    return model


def _operation(name: str, raw: Mapping[str, Any]) -> Operation:
    output = raw.get("output", {})
    return Operation(
        name, raw.get("input", {}).get("shape", ""), output.get("shape", ""), output.get("resultWrapper", "")
    )


def _reached(shapes: Mapping[str, Any], operations: Collection[Operation]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The shapes that the operations hold, without their documentation."""
    waiting = [shape for one in operations for shape in (one.input, one.output) if shape]
    seen = set(waiting)
    while waiting:
        name = waiting.pop()
        raw = {key: value for key, value in shapes[name].items() if key in _KEPT}
        for key in ("member", "key", "value"):
            if key in raw:
                raw[key] = {"shape": raw[key]["shape"]}
        if "members" in raw:
            raw["members"] = {member: {"shape": one["shape"]} for member, one in raw["members"].items()}
            raw["required"] = [member for member in raw.get("required", ()) if (name, member) not in LEFT_OUT]
        yield name, raw
        held = [raw[key]["shape"] for key in ("member", "key", "value") if key in raw]
        held += [one["shape"] for one in raw.get("members", {}).values()]
        waiting += [shape for shape in dict.fromkeys(held) if shape not in seen]
        seen.update(held)
