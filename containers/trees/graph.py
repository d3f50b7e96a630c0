"""A forest as an ONNX graph of one tree-ensemble node: `features` [N, features] to `margins` float32[N, groups]."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from containers.trees.forest import Forest
from serving.contract import Array
from serving.errors import MissingExtra

INPUT: Final = "features"
OUTPUT: Final = "margins"

_OPSET: Final = 17
_ML_OPSET: Final = 3
_IR_VERSION: Final = 8


def build(forest: Forest, extra: str) -> bytes:
    """The serialised graph. Raises `MissingExtra` naming `extra`.

    Sums begin with `forest.base` and go on tree by tree, as the libraries that grow trees add them, so that rounding is
    theirs too: the base is a tree of one leaf, in front of the others. A forest of float64 is compared and added in
    float64 and rounded once.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise MissingExtra(
            f"tree models are converted with onnx, which cannot be imported ({error}): pip install 'serving[{extra}]'"
        ) from error
    wide = forest.threshold.dtype == np.float64
    node = onnx.NodeProto(op_type="TreeEnsembleRegressor", domain="ai.onnx.ml", name="trees")
    node.output.append(OUTPUT)

    def attribute(name: str, kind: int) -> Any:
        return node.attribute.add(name=name, type=kind)

    def integers(name: str, values: Array) -> None:
        attribute(name, onnx.AttributeProto.INTS).ints.extend(values.tolist())

    def numbers(name: str, values: Array) -> None:
        if wide:
            tensor = numpy_helper.from_array(values, name)
            attribute(f"{name}_as_tensor", onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
        else:
            attribute(name, onnx.AttributeProto.FLOATS).floats.extend(values.tolist())

    flat = _with_base(forest)
    leaf = flat.left < 0
    branch = b"BRANCH_LT" if forest.strict else b"BRANCH_LEQ"
    trees = np.repeat(np.arange(len(flat.sizes)), flat.sizes)
    ids = np.arange(len(leaf)) - np.repeat(np.cumsum(flat.sizes) - flat.sizes, flat.sizes)
    attribute("n_targets", onnx.AttributeProto.INT).i = forest.groups
    integers("nodes_treeids", trees)
    integers("nodes_nodeids", ids)
    integers("nodes_featureids", np.where(leaf, 0, flat.feature))
    integers("nodes_truenodeids", np.where(leaf, 0, flat.left))
    integers("nodes_falsenodeids", np.where(leaf, 0, flat.right))
    integers("nodes_missing_value_tracks_true", np.where(leaf, 0, flat.missing_left))
    attribute("nodes_modes", onnx.AttributeProto.STRINGS).strings.extend(
        [b"LEAF" if each else branch for each in leaf.tolist()]
    )
    numbers("nodes_values", np.where(leaf, flat.threshold.dtype.type(0), flat.threshold))
    integers("target_treeids", trees[leaf])
    integers("target_nodeids", ids[leaf])
    integers("target_ids", np.repeat(flat.group, flat.sizes)[leaf])
    numbers("target_weights", flat.value[leaf])

    nodes = [node]
    if wide:
        node.input.append("wide")
        nodes.insert(0, helper.make_node("Cast", [INPUT], ["wide"], to=TensorProto.DOUBLE))
    else:
        node.input.append(INPUT)
    graph = helper.make_graph(
        nodes,
        "forest",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", forest.features])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", forest.groups])],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION).SerializeToString())


def _with_base(forest: Forest) -> Forest:
    """The forest with a leaf for each group's base in front, so that its own `base` has nothing left to say."""
    count = forest.groups

    def put(array: Array, values: Array) -> Array:
        return np.concatenate((values.astype(array.dtype), array))

    no, zeros = np.full(count, -1), np.zeros(count)
    return Forest(
        features=forest.features,
        groups=count,
        strict=forest.strict,
        sizes=put(forest.sizes, np.ones(count)),
        group=put(forest.group, np.arange(count)),
        left=put(forest.left, no),
        right=put(forest.right, no),
        feature=put(forest.feature, zeros),
        threshold=put(forest.threshold, zeros),
        missing_left=put(forest.missing_left, zeros),
        value=put(forest.value, forest.base),
        base=np.zeros_like(forest.base),
    )
