"""Tensors without elements: a model that is not batched takes them as what they are, in every form."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import tritonclient.grpc.service_pb2 as pb

from serving.codecs import grpc_infer, registry
from serving.codecs.base import Decoded
from serving.codecs.plan import InputPlan
from serving.contract import ModelSpec, TensorSpec
from serving.datatypes import NUMPY
from serving.errors import InvalidInput

DATATYPES = sorted(NUMPY)


def plan(datatype: str, *, batched: bool) -> InputPlan:
    tensors = TensorSpec("x", datatype, (-1, 3)), TensorSpec("y", datatype, (-1, 3))
    return InputPlan(ModelSpec(tensors[:1], tensors[1:], platform="test", batched=batched), "m")


def decoded(form: str, datatype: str, *, batched: bool) -> Decoded:
    tensor: dict[str, Any] = {"name": "x", "shape": [0, 3], "datatype": datatype}
    model = plan(datatype, batched=batched)
    if form == "grpc":
        message = pb.ModelInferRequest(model_name="m", raw_input_contents=[b""])
        message.inputs.add(**tensor)
        return grpc_infer.decoder(model)(message.SerializeToString())
    tensor |= {"data": []} if form == "json" else {"parameters": {"binary_data_size": 0}}
    body = orjson.dumps({"inputs": [tensor]})
    length = None if form == "json" else len(body)
    return registry.decoder(model, "application/json", length, face_v2=True)(body)


@pytest.mark.parametrize("form", ["json", "binary", "grpc"])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_no_elements_are_elements_enough(form: str, datatype: str) -> None:
    rows, (column,), signature, _ = decoded(form, datatype, batched=False)
    assert (rows, len(column), signature) == (1, 0, ((0, 3),))


@pytest.mark.parametrize("form", ["json", "binary", "grpc"])
def test_a_batch_has_rows(form: str) -> None:
    with pytest.raises(InvalidInput, match="at least one row"):
        decoded(form, "FP32", batched=True)
