"""A case asked without any server: ONNX Runtime alone, with the session options of the ONNX container."""

from __future__ import annotations

from ctypes import string_at
from typing import Any, Final

import numpy as np

from containers.onnx.session import open_session, plain, runtime
from loadtests.onnx_cases.case import Case, Excluded, Question, Tensor, difference, elements
from serving.contract import Array, OnnxConfig
from serving.datatypes import BYTES, NUMPY
from serving.errors import ArtifactError

_BFLOAT16: Final = 16

_KINDS: Final = (
    "is not a registered function/op",
    "Could not find an implementation",
    "Batchwise recurrent operations (layout == 1) are not supported",
    "Failed to construct locale",
)


def ask(case: Case) -> str:
    """What is wrong with ONNX Runtime's own answers, "" where they are right. Raises `Excluded` where it cannot load."""
    try:
        session = open_session(case.model, OnnxConfig())
    except ArtifactError as error:
        raise Excluded("onnxruntime cannot load it: " + _kind(error.message)) from error
    for question in case.questions:
        try:
            got = _run(session, question)
        except Exception as error:  # whatever the runtime raises is its answer
            return f"it fails: {plain(error)}"
        wrong = difference(question.outputs, got, case.rtol, case.atol)
        if wrong:
            return wrong
    return ""


def _run(session: Any, question: Question) -> list[Tensor]:
    names = [tensor.name for tensor in question.outputs]
    if all(tensor.datatype != "BF16" for tensor in (*question.inputs, *question.outputs)):
        arrays = session.run(names, {tensor.name: _plain(tensor) for tensor in question.inputs})
    else:
        # ONNX Runtime does not exchange bfloat16 with numpy.
        values = session.run_with_ort_values(names, {tensor.name: _value(tensor) for tensor in question.inputs})
        arrays = [_array(value) for value in values]
    return [_tensor(name, np.asarray(array)) for name, array in zip(names, arrays, strict=True)]


def _plain(tensor: Tensor) -> Array:
    return _text(tensor.array) if tensor.datatype == BYTES else tensor.array


def _value(tensor: Tensor) -> Any:
    make = runtime().OrtValue
    if tensor.datatype == "BF16":
        return make.ortvalue_from_numpy_with_onnx_type(tensor.array.view(np.uint16), _BFLOAT16)
    return make.ortvalue_from_numpy(tensor.array)


def _array(value: Any) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        array: Array = value.numpy()
        return array
    bits = string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(bits, NUMPY["BF16"]).reshape(value.shape())


def _tensor(name: str, array: Array) -> Tensor:
    if array.dtype.kind in "OU":
        return Tensor(name, BYTES, elements(array))
    return Tensor(name, next(known for known, dtype in NUMPY.items() if dtype == array.dtype), array)


def _text(array: Array) -> Array:
    found = np.empty(array.size, object)
    found[:] = [value.decode() for value in array.ravel()]
    return found.reshape(array.shape)


def _kind(message: str) -> str:
    """The reason without what differs from case to case."""
    return next((words for words in _KINDS if words in message), message.partition(": ")[2])
