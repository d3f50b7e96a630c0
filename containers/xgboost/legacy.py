"""The binary format of XGBoost up to 3.0, which SageMaker's 1.x containers write as `xgboost-model`.

Little-endian structs as the library's memory held them. Newer libraries do not read it, so that it is read here into the
document that the JSON format has, of which the tail (attributes, metrics) is left out: no prediction needs it.
"""

from __future__ import annotations

import re
import struct
from typing import Any, Final

import numpy as np

from containers.xgboost import objectives

HEADER: Final = struct.Struct("<fIiiiIII")
"""base_score, num_feature, num_class, contain_extra_attrs, contain_eval_metrics, major, minor, num_target."""

_HEADER_BYTES: Final = 136
_BOOSTER: Final = struct.Struct("<iiiiqii128x")
"""num_trees, num_parallel_tree, three that are no longer used, num_output_group, size_leaf_vector."""

_LINEAR: Final = struct.Struct("<Ii128x")
_TREE: Final = struct.Struct("<iiiiIi124x")
"""num_roots, num_nodes, num_deleted, max_depth, num_feature, size_leaf_vector."""

_NODE: Final = np.dtype([("parent", "<i4"), ("left", "<i4"), ("right", "<i4"), ("split", "<u4"), ("number", "<f4")])
_STATISTICS_BYTES: Final = 16
_DEFAULT_LEFT: Final = 1 << 31
_OBJECTIVE: Final = re.compile(rb"(binary|count|multi|rank|reg|survival):[a-z]{2,32}")
_PREFIX: Final = b"binf"


class NotLegacy(ValueError):
    """The bytes are not such a model; says why."""


def is_legacy(start: bytes) -> bool:
    """Whether a file that starts so (at least 256 bytes, or all it has) is in this format: it names an objective."""
    at = _HEADER_BYTES + len(_PREFIX) * start.startswith(_PREFIX)
    size = int.from_bytes(start[at : at + 8], "little")
    return _OBJECTIVE.fullmatch(start[at + 8 : at + 8 + min(size, 64)]) is not None


def loads(content: bytes) -> dict[str, Any]:
    """The document of a model. Raises `NotLegacy`."""
    reader = _Reader(content, len(_PREFIX) * content.startswith(_PREFIX))
    base_score, features, classes, _, _, major, minor, targets = HEADER.unpack(
        reader.take(_HEADER_BYTES)[: HEADER.size]
    )
    objective, booster = reader.text(), reader.text()
    if booster in ("gbtree", "dart"):
        model = _trees(reader)
        gradient: dict[str, Any] = {"name": "gbtree", "model": model}
        if booster == "dart":
            gradient = {"name": "dart", "gbtree": gradient, "weight_drop": reader.numbers("<f4", reader.count())}
    elif booster == "gblinear":
        reader.take(_LINEAR.size)
        gradient = {"name": booster, "model": {"weights": reader.numbers("<f4", reader.count())}}
    else:
        raise NotLegacy(f"its booster is '{booster[:64]}'; gbtree, dart and gblinear are known")
    if major < 1:
        # Releases before 1.0 kept it as a margin.
        base_score = objectives.score(objective, base_score)
    return {
        "version": [max(major, 1), minor, 0],
        "learner": {
            "attributes": {},
            "feature_names": [],
            "feature_types": [],
            "gradient_booster": gradient,
            "learner_model_param": {
                "base_score": repr(base_score),
                "num_class": str(classes),
                "num_feature": str(features),
                "num_target": str(max(targets, 1)),
            },
            "objective": _objective(objective, classes),
        },
    }


def _objective(name: str, classes: int) -> dict[str, Any]:
    """The objective with the parameters that the library asks for when it reads a document."""
    if name.startswith("multi:"):
        return {"name": name, "softmax_multiclass_param": {"num_class": str(classes)}}
    special = {
        "count:poisson": ("poisson_regression_param", {"max_delta_step": "0.7"}),
        "reg:tweedie": ("tweedie_regression_param", {"tweedie_variance_power": "1.5"}),
        "reg:pseudohubererror": ("pseudo_huber_param", {"huber_slope": "1"}),
        "survival:aft": (
            "aft_loss_param",
            {"aft_loss_distribution": "normal", "aft_loss_distribution_scale": "1"},
        ),
        "rank:pairwise": ("lambdarank_param", {}),
        "rank:ndcg": ("lambdarank_param", {}),
        "rank:map": ("lambdarank_param", {}),
    }
    parameter, values = special.get(name, ("reg_loss_param", {"scale_pos_weight": "1"}))
    return {"name": name, parameter: values}


def _trees(reader: _Reader) -> dict[str, Any]:
    count, parallel, *_, vector = _BOOSTER.unpack(reader.take(_BOOSTER.size))
    if vector not in (0, 1):
        raise NotLegacy(f"its leaves are vectors of {vector}, which no such model has")
    # What a tree takes at least bounds the loop before anything is made.
    if not 0 <= count <= reader.left // _TREE.size:
        raise NotLegacy(f"it says that it has {count} trees, for which it is too short")
    trees = [_tree(reader, number) for number in range(count)]
    return {
        "gbtree_model_param": {"num_trees": str(count), "num_parallel_tree": str(max(parallel, 1))},
        "tree_info": reader.numbers("<i4", count),
        "trees": trees,
    }


def _tree(reader: _Reader, number: int) -> dict[str, Any]:
    _, count, deleted, _, features, vector = _TREE.unpack(reader.take(_TREE.size))
    if count < 1 or vector not in (0, 1):
        raise NotLegacy(f"tree {number} says that it has {count} nodes and leaves of {vector} values")
    nodes = np.frombuffer(reader.take(count * _NODE.itemsize), _NODE)
    statistics = np.frombuffer(reader.take(count * _STATISTICS_BYTES), "<f4").reshape(count, 4)
    return {
        "id": number,
        "left_children": nodes["left"].astype(np.int32),
        "right_children": nodes["right"].astype(np.int32),
        "parents": (nodes["parent"] & 0x7FFFFFFF).astype(np.int32),
        "split_indices": (nodes["split"] & (_DEFAULT_LEFT - 1)).astype(np.int32),
        "default_left": (nodes["split"] >= _DEFAULT_LEFT).astype(np.uint8),
        "split_conditions": nodes["number"].astype(np.float32),
        "split_type": np.zeros(count, np.uint8),
        "base_weights": statistics[:, 2].copy(),
        "loss_changes": statistics[:, 0].copy(),
        "sum_hessian": statistics[:, 1].copy(),
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
        "tree_param": {
            "num_deleted": str(deleted),
            "num_feature": str(features),
            "num_nodes": str(count),
            "size_leaf_vector": "1",
        },
    }


class _Reader:
    def __init__(self, content: bytes, at: int) -> None:
        self._content = content
        self._at = at

    @property
    def left(self) -> int:
        return len(self._content) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise NotLegacy(f"it ends at byte {len(self._content)}; {size} bytes were expected from byte {self._at} on")
        self._at += size
        return self._content[self._at - size : self._at]

    def count(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def text(self) -> str:
        return self.take(self.count()).decode("utf-8", "replace")

    def numbers(self, dtype: str, count: int) -> Any:
        kind = np.dtype(dtype)
        return np.frombuffer(self.take(count * kind.itemsize), kind).astype(kind.newbyteorder("="))
