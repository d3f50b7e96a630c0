"""What a v2 request asks beside its tensors: id, parameters and outputs, strictly read."""

from __future__ import annotations

from typing import Any, Final

from serving.codecs.base import Asked, RequestedOutput, Style
from serving.codecs.values import shown
from serving.contract import ModelSpec
from serving.datatypes import BYTES
from serving.errors import InvalidInput, Unsupported

PLAIN: Final = Asked(Style.OPEN_INFERENCE)
"""What nearly every v2 request asks: nothing. Shared, so never changed."""

_MOST_NUMBER: Final = 2**63 - 1


class AskedReader:
    """Reads `id`, `parameters` and `outputs` against the outputs of one model; raises `InvalidInput`, `Unsupported`."""

    def __init__(self, spec: ModelSpec, model_name: str) -> None:
        self._outputs = {output.name: output for output in spec.outputs}
        self._model_name = model_name

    def read(self, document: dict[str, Any]) -> Asked:
        """The asked part of a v2 document; `PLAIN` where it says nothing. Unknown fields are ignored."""
        identity = document.get("id")
        if identity is not None and not isinstance(identity, str):
            raise InvalidInput(f"'id' is {shown(identity)}; a string was expected")
        parameters = fields(document.get("parameters"), "'parameters'")
        self._refuse_sequences(parameters)
        binary = flag(parameters, "binary_data_output", "'parameters'")
        priority = number(parameters, "priority", "'parameters'")
        timeout = number(parameters, "timeout", "'parameters'")
        outputs = self._read_outputs(document.get("outputs"), bool(binary))
        if identity is None and not (outputs or binary or priority or timeout):
            return PLAIN
        return Asked(Style.OPEN_INFERENCE, identity, outputs, bool(binary), priority, timeout)

    def _read_outputs(self, outputs: object, binary: bool) -> tuple[RequestedOutput, ...]:
        if outputs is None:
            return ()
        if not isinstance(outputs, list):
            raise InvalidInput(f"'outputs' is {shown(outputs)}; a list of objects was expected")
        found: dict[str, RequestedOutput] = {}
        for i, output in enumerate(outputs):
            label = f"outputs[{i}]"
            name = fields(output, label).get("name")
            if not isinstance(name, str) or name not in self._outputs:
                came = f"'{name[:64]}'" if isinstance(name, str) else shown(name)
                names = ", ".join(f"'{known}'" for known in self._outputs)
                raise InvalidInput(f"model '{self._model_name}' has no output {came}; its outputs: {names}")
            if name in found:
                raise InvalidInput(f"output '{name}' is asked for twice")
            label = f"output '{name}'"
            parameters = fields(output.get("parameters"), f"{label} parameters")
            refuse_shared_memory(parameters, label)
            wants = flag(parameters, "binary_data", label)
            top = number(parameters, "classification", label)
            if top and self._outputs[name].datatype == BYTES:
                raise InvalidInput(f"{label} is BYTES; classification needs numbers")
            found[name] = RequestedOutput(name, binary if wants is None else wants, top)
        return tuple(found.values())

    def _refuse_sequences(self, parameters: dict[str, Any]) -> None:
        # A sequence_id of 0 (or "") means that the request is in no sequence.
        for key in ("sequence_id", "sequence_start", "sequence_end"):
            if parameters.get(key):
                raise Unsupported(f"model '{self._model_name}' keeps no state: parameter '{key}' cannot be honoured")


def fields(value: object, label: str) -> dict[str, Any]:
    """An object of a v2 document; nothing (null) is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(f"{label} is {shown(value)}; an object was expected")
    return value


def flag(parameters: dict[str, Any], key: str, label: str) -> bool | None:
    """A boolean parameter, None where it is absent."""
    value = parameters.get(key)
    if value is not None and not isinstance(value, bool):
        raise InvalidInput(f"{label}: '{key}' is {shown(value)}; true or false was expected")
    return value


def number(parameters: dict[str, Any], key: str, label: str) -> int:
    """A whole number of at least 0, 0 where it is absent."""
    value = parameters.get(key, 0)
    if type(value) is not int or not 0 <= value <= _MOST_NUMBER:
        raise InvalidInput(f"{label}: '{key}' is {shown(value)}; a whole number of at least 0 was expected")
    return value


def refuse_shared_memory(parameters: dict[str, Any], label: str) -> None:
    """Raises `Unsupported` where a tensor is said to lie in shared memory."""
    for key in parameters:
        if key.startswith("shared_memory_"):
            raise Unsupported(
                f"{label} has parameter '{key[:64]}'; shared memory is not supported, send the data in the body"
            )
