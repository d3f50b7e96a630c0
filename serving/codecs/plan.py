"""What a model's inputs must be, compiled once per model, and the strict assembly that every decoder ends in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Final, NamedTuple

import numpy as np

from serving.codecs.base import Column, Decoded, Signature
from serving.codecs.values import dims, shown
from serving.contract import ModelSpec, TensorSpec
from serving.datatypes import BYTES, NUMPY, item_bytes
from serving.errors import InvalidInput

_MOST_ELEMENTS: Final = 2**63 - 1


class Tensor(NamedTuple):
    """One input as a body gave it; a `datatype` of None means that the format has none and the model's is meant."""

    name: str
    datatype: str | None
    shape: Sequence[int]
    data: Column


class InputPlan:
    """The inputs of one model: looks names up, checks shapes and data, puts columns in order.

    `fixed`: the spec fixes all that a caller's shape could vary but the rows, so that the signature is None.
    `single`: the only input, or None where there are several. `memo` belongs to the v2 binary decoder.
    """

    def __init__(self, spec: ModelSpec, model_name: str) -> None:
        self.spec = spec
        self.model_name = model_name
        self.batched = spec.batched
        self.index = {tensor.name: i for i, tensor in enumerate(spec.inputs)}
        self.single: TensorSpec | None = spec.inputs[0] if len(spec.inputs) == 1 else None
        self.fixed = all(dim >= 0 for tensor in spec.inputs for dim in self.inner(tensor))
        self.memo: dict[bytes, tuple[tuple[slice, ...], int, Decoded]] = {}

    def inner(self, tensor: TensorSpec) -> tuple[int, ...]:
        """The shape of one row; the whole shape where the model is not batched."""
        return tensor.shape[1:] if self.batched else tensor.shape

    def only(self, what: str) -> TensorSpec:
        """The only input. Raises `InvalidInput` where there are several, which `what` cannot carry."""
        if self.single is None:
            raise InvalidInput(f"{what} carries one input; model '{self.model_name}' takes {self.names()}")
        return self.single

    def find(self, name: object) -> int:
        """The position of an input. Raises `InvalidInput` naming those that there are."""
        position = self.index.get(name) if isinstance(name, str) else None
        if position is None:
            raise InvalidInput(f"model '{self.model_name}' has no input {_named(name)}; its inputs: {self.names()}")
        return position

    def names(self) -> str:
        """The inputs as messages list them: 'a', 'b'."""
        return ", ".join(f"'{tensor.name}'" for tensor in self.spec.inputs)

    def check_datatype(self, position: int, datatype: object) -> None:
        """Raises `InvalidInput` unless the datatype is the input's."""
        expected = self.spec.inputs[position]
        if datatype != expected.datatype:
            came = datatype if isinstance(datatype, str) and datatype in NUMPY else shown(datatype)
            raise InvalidInput(f"input '{expected.name}' has datatype {came}; {expected.datatype} was expected")

    def check_shape(self, position: int, shape: Sequence[int]) -> int:
        """The number of elements of a shape that the input accepts; raises `InvalidInput` for any other."""
        expected = self.spec.inputs[position]
        label = f"input '{expected.name}'"
        if len(shape) != len(expected.shape):
            came = dims(shape) if len(shape) <= 16 else f"of rank {len(shape)}"
            raise InvalidInput(f"{label} has shape {came}; {dims(expected.shape)} was expected")
        for dim, fixed in zip(shape, expected.shape, strict=True):
            if dim < 0:
                raise InvalidInput(f"{label} has shape {dims(shape)}: a dimension cannot be negative")
            if fixed >= 0 and dim != fixed:
                raise InvalidInput(f"{label} has shape {dims(shape)}; {dims(expected.shape)} was expected")
            if dim == 0 and fixed != 0 and self.batched:
                what = "it has no rows; at least one row" if shape[0] == 0 else "no empty dimension"
                raise InvalidInput(f"{label} has shape {dims(shape)}: {what} was expected")
        elements = prod(shape)
        if elements > _MOST_ELEMENTS:
            raise InvalidInput(f"{label} has shape {dims(shape)}: its number of elements overflows 64 bits")
        return elements

    def assemble(self, tensors: Iterable[Tensor]) -> tuple[int, tuple[Column, ...], Signature | None]:
        """Rows, columns in the model's order, and signature of a request's tensors. Raises `InvalidInput`."""
        found: list[Tensor | None] = [None] * len(self.spec.inputs)
        for tensor in tensors:
            position = self.find(tensor.name)
            if found[position] is not None:
                raise InvalidInput(f"input '{tensor.name}' came twice; each input is given once")
            found[position] = tensor
        rows, first = -1, ""
        columns: list[Column] = []
        signature: list[tuple[int, ...]] = []
        for position, entry in enumerate(found):
            if entry is None:
                missing = self.spec.inputs[position].name
                raise InvalidInput(f"input '{missing}' is missing; model '{self.model_name}' takes {self.names()}")
            if entry.datatype is not None:
                self.check_datatype(position, entry.datatype)
            elements = self.check_shape(position, entry.shape)
            self.check_data(position, entry.shape, elements, entry.data)
            columns.append(entry.data)
            if not self.batched:
                signature.append(tuple(entry.shape))
                continue
            signature.append(tuple(entry.shape[1:]))
            if rows < 0:
                rows, first = entry.shape[0], entry.name
            elif entry.shape[0] != rows:
                raise InvalidInput(
                    f"input '{entry.name}' has {entry.shape[0]} rows and input '{first}' has {rows};"
                    " all inputs need the same number of rows"
                )
        return (
            rows if self.batched and found else 1,
            tuple(columns),
            None if self.fixed else tuple(signature),
        )

    def check_data(self, position: int, shape: Sequence[int], elements: int, data: Column) -> None:
        """Raises `InvalidInput` unless the data has the size of its shape and its BOOL bytes are 0 or 1."""
        expected = self.spec.inputs[position]
        label = f"input '{expected.name}'"
        if isinstance(data, list):
            self.check_count(position, shape, elements, len(data))
            return
        if expected.datatype == BYTES:
            raise TypeError(f"{label} is BYTES: its column is a list of bytes")
        size = elements * item_bytes(expected.datatype)
        if len(data) != size:
            raise InvalidInput(
                f"{label} has {len(data)} bytes; its shape {dims(shape)} of {expected.datatype} needs {size}"
            )
        if expected.datatype == "BOOL":
            check_booleans(label, data)

    def check_count(self, position: int, shape: Sequence[int], elements: int, came: int) -> None:
        """Raises `InvalidInput` unless as many elements came as the shape has."""
        if came != elements:
            name = self.spec.inputs[position].name
            raise InvalidInput(f"input '{name}' has {came} elements; its shape {dims(shape)} needs {elements}")


def check_booleans(label: str, data: bytes | bytearray | memoryview) -> None:
    """Raises `InvalidInput` at the first byte that is neither 0 nor 1."""
    values = np.frombuffer(data, np.uint8)
    if values.size and values.max() > 1:
        at = int(np.argmax(values > 1))
        raise InvalidInput(f"{label}: byte {at} is {int(values[at])}; BOOL takes the bytes 0 and 1")


def _named(name: object) -> str:
    return f"'{name[:64]}'" if isinstance(name, str) else shown(name)
