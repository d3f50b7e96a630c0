"""Model specs that the codec tests share, and the two ways to look at what was decoded."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from serving.codecs import registry
from serving.codecs.base import Decoded
from serving.codecs.plan import InputPlan
from serving.contract import Array, Conventions, ModelSpec, TensorSpec
from serving.datatypes import NUMPY


def spec(*inputs: TensorSpec, outputs: tuple[TensorSpec, ...] = (), batched: bool = True) -> ModelSpec:
    return ModelSpec(inputs, outputs or (TensorSpec("p", "FP32", (-1, 2)),), "test", batched)


def one(datatype: str = "FP32", *shape: int, batched: bool = True, features: tuple[str, ...] = ()) -> ModelSpec:
    """A model of the one input 'x'."""
    return spec(TensorSpec("x", datatype, shape or (-1, 3), features), batched=batched)


def missing(model: ModelSpec) -> ModelSpec:
    """The model by the convention that what is left out is NaN."""
    return msgspec.structs.replace(model, conventions=Conventions(missing=True))


TWO = spec(TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "INT64", (-1, 1)))
RECORD = one("FP32", -1, 3, features=("amount", "hour", "risk"))
STRINGS = one("BYTES", -1, 1)
WHOLE = spec(TensorSpec("a", "FP32", (2, -1)), TensorSpec("sr", "INT64", ()), batched=False)


def decode(
    model: ModelSpec, body: Any, media_type: str = "application/json", length: int | None = None, *, v2: bool = False
) -> Decoded:
    """Decodes a body as a request to model 'm' would be."""
    return registry.decoder(InputPlan(model, "m"), media_type, length, face_v2=v2)(body)


def arrays(model: ModelSpec, decoded: Decoded) -> list[Array]:
    """The decoded columns as arrays; BYTES as object arrays."""
    rows, columns, signature, _ = decoded
    found = []
    for i, (tensor, column) in enumerate(zip(model.inputs, columns, strict=True)):
        inner = signature[i] if signature is not None else tensor.shape[1:] if model.batched else tensor.shape
        shape = (rows, *inner) if model.batched else inner
        if isinstance(column, list):
            array = np.empty(len(column), object)
            array[:] = column
            found.append(array.reshape(shape))
        else:
            found.append(np.frombuffer(column, NUMPY[tensor.datatype]).reshape(shape))
    return found
