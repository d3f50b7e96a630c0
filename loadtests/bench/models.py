"""The models of the benchmark, made from seeded weights, and inputs with their known right answers.

The files are the same bytes on every machine (numpy's PCG64, a fixed graph), so figures compare across machines.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 9
TOLERANCE = 1e-4

FRAUD_FEATURES = 30
FRAUD_HIDDEN = 64
TOKENS = 16
VOCABULARY = 1000
EMBEDDING = 256
WIDTH = 2688
ENCODED = 64
BULK_VALUES = 5_000_000

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """One input row and the row that the model must answer, to within `TOLERANCE`."""

    input: Array
    answer: Array


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A model's names and datatype as a client needs them; rows are the first dimension."""

    name: str
    input_name: str
    output_name: str
    datatype: str
    seed: int

    def rows(self, count: int, seed: int | None = None) -> Array:
        """Random input of `count` rows in the model's own dtype and shape."""
        random = np.random.default_rng(self.seed if seed is None else seed)
        if self.name == "encoder":
            return random.integers(0, VOCABULARY, (count, TOKENS), dtype=np.int64)
        if self.name == "bulk":
            return (random.integers(0, 10, (count, BULK_VALUES)) / np.float32(10)).astype(np.float32)
        # Four decimals, so that the JSON of a row has a realistic length and parses to exactly these values.
        return np.round(random.standard_normal((count, FRAUD_FEATURES)), 4).astype(np.float32)


FRAUD = BenchModel("fraud-mlp", "features", "probabilities", "FP32", seed=1)
ENCODER = BenchModel("encoder", "input_ids", "embedding", "INT64", seed=2)
BULK = BenchModel("bulk", "values", "mean", "FP32", seed=3)
MODELS = {model.name: model for model in (FRAUD, ENCODER, BULK)}


class _Graph:
    """Collects nodes and weights of one graph under construction."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Array) -> str:
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def dense(self, value: str, rows: int, columns: int) -> str:
        label = len(self.weights)
        weight = self.random.standard_normal((rows, columns), dtype=np.float32) * np.float32(np.sqrt(2 / rows))
        bias = self.random.standard_normal(columns, dtype=np.float32) * np.float32(0.1)
        names = [self.constant(f"weight_{label}", weight), self.constant(f"bias_{label}", bias)]
        return self.node("Gemm", [value, *names])

    def gelu(self, value: str) -> str:
        """x/2 * (1 + erf(x / sqrt 2)); opset 17 has no Gelu of its own."""
        if not any(weight.name == "half" for weight in self.weights):
            self.constant("half", np.array(0.5, np.float32))
            self.constant("one", np.array(1, np.float32))
            self.constant("root_two", np.array(np.sqrt(2), np.float32))
        erf = self.node("Erf", [self.node("Div", [value, "root_two"])])
        return self.node("Mul", [self.node("Mul", [value, self.node("Add", [erf, "one"])]), "half"])


def build(model: BenchModel) -> onnx.ModelProto:
    """The ONNX graph of `model`, its first dimension the symbol N."""
    graph = _Graph(model.seed)
    if model.name == "encoder":
        vectors = graph.random.standard_normal((VOCABULARY, EMBEDDING), dtype=np.float32)
        value = graph.node("Gather", [graph.constant("vectors", vectors), model.input_name])
        value = graph.node("ReduceMean", [value], axes=[1], keepdims=0)
        for rows in (EMBEDDING, WIDTH, WIDTH):
            value = graph.gelu(graph.dense(value, rows, WIDTH))
        value = graph.dense(value, WIDTH, ENCODED)
        source = helper.make_tensor_value_info(model.input_name, TensorProto.INT64, ["N", TOKENS])
        width = ENCODED
    elif model.name == "bulk":
        value = graph.node("ReduceMean", [model.input_name], axes=[1], keepdims=1)
        source = helper.make_tensor_value_info(model.input_name, TensorProto.FLOAT, ["N", BULK_VALUES])
        width = 1
    else:
        value = graph.node("Relu", [graph.dense(model.input_name, FRAUD_FEATURES, FRAUD_HIDDEN)])
        value = graph.node("Relu", [graph.dense(value, FRAUD_HIDDEN, FRAUD_HIDDEN)])
        value = graph.node("Softmax", [graph.dense(value, FRAUD_HIDDEN, 2)], axis=1)
        source = helper.make_tensor_value_info(model.input_name, TensorProto.FLOAT, ["N", FRAUD_FEATURES])
        width = 2
    graph.nodes[-1].output[0] = model.output_name
    target = helper.make_tensor_value_info(model.output_name, TensorProto.FLOAT, ["N", width])
    proto = helper.make_model(
        helper.make_graph(graph.nodes, model.name, [source], [target], graph.weights),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="loadtests.bench",
    )
    proto.ir_version = IR_VERSION
    onnx.checker.check_model(proto)
    return proto


def write(model: BenchModel, folder: Path) -> Path:
    """The path of the model's file under `folder`, made on the first call."""
    path = folder / f"{model.name}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_bytes(build(model).SerializeToString())
        partial.rename(path)
    return path


def session(path: Path) -> onnxruntime.InferenceSession:
    """A session with one thread that does not spin: what one pinned core can do."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def samples(model: BenchModel, path: Path, count: int) -> list[Sample]:
    """`count` distinct inputs with the answers that ONNX Runtime gives them, one row at a time, without any server."""
    runner = session(path)
    inputs = model.rows(count, seed=model.seed + 1000)
    found = []
    for row in inputs:
        answer = np.asarray(runner.run([model.output_name], {model.input_name: row[None]})[0])[0]
        found.append(Sample(row, answer))
    return found
