"""A document as what is served: the facts of a booster, and its forest where it is nothing but plain trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from containers.trees.forest import Forest, check_bounds, checked
from containers.xgboost import objectives
from serving.contract import Array
from serving.errors import ArtifactError

_FLOAT: Final = np.dtype(np.float32)


class Facts(msgspec.Struct, frozen=True):
    """What is told of a booster without its trees.

    `groups`: numbers in one prediction before the objective (classes or targets). `names`: of the features, or ().
    `booster`: gbtree, dart or gblinear. `only_native`: why ONNX Runtime cannot run it, or "".
    """

    objective: str
    features: int
    groups: int
    names: tuple[str, ...]
    booster: str
    only_native: str


class Booster(NamedTuple):
    """A booster that was read and checked; `forest` is None where it can only be served natively."""

    facts: Facts
    forest: Forest | None


def read(document: Mapping[str, Any], path: Path) -> Booster:
    """Reads and checks a document, native parts too, before any library sees it. Raises `ArtifactError`."""
    try:
        return _read(document, str(path))
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(f"{path} is not a whole booster: {said}") from error


def _read(document: Mapping[str, Any], where: str) -> Booster:
    learner = document["learner"]
    parameters = learner["learner_model_param"]
    objective = _text(learner["objective"]["name"], "the objective's name")
    features = int(parameters["num_feature"])
    groups = max(int(parameters.get("num_class", 0)), int(parameters.get("num_target", 1)), 1)
    check_bounds(features, groups, where)
    names = tuple(_text(name, "a feature name") for name in learner.get("feature_names") or ())
    if names and (len(names) != features or len(set(names)) != features):
        raise ArtifactError(
            f"{where}: it has {len(set(names))} different feature names for {features} features; a name for each was expected"
        )
    gradient = learner["gradient_booster"]
    kind = gradient["name"]
    if kind == "gblinear":
        linear = _numbers(gradient["model"]["weights"], "weights", _FLOAT)
        if len(linear) != (features + 1) * groups:
            raise ArtifactError(f"{where}: gblinear has {len(linear)} weights; {(features + 1) * groups} were expected")
        return Booster(Facts(objective, features, groups, names, kind, "it is a linear model (gblinear)"), None)
    if kind not in ("gbtree", "dart"):
        raise ArtifactError(f"{where}: its booster is '{kind}'; gbtree, dart and gblinear are served")
    model = (gradient["gbtree"] if kind == "dart" else gradient)["model"]
    weights = _numbers(gradient["weight_drop"], "weight_drop", _FLOAT) if kind == "dart" else None
    base = _base(parameters["base_score"], objective, groups)
    forest = _forest(model, features, groups, base, weights, where)
    only_native = _why_native(model["trees"], learner, objective)
    facts = Facts(objective, features, groups, names, kind, only_native)
    return Booster(facts, None if only_native else forest)


def _forest(
    model: Mapping[str, Any], features: int, groups: int, base: Array, weights: Array | None, where: str
) -> Forest:
    trees: Sequence[Mapping[str, Any]] = model["trees"]
    if int(model["gbtree_model_param"]["num_trees"]) != len(trees):
        raise ArtifactError(
            f"{where}: it says that it has {model['gbtree_model_param']['num_trees']} trees and holds {len(trees)}"
        )
    group = _numbers(model["tree_info"], "tree_info", np.dtype(np.int32))
    if len(group) != len(trees) or (weights is not None and len(weights) != len(trees)):
        raise ArtifactError(f"{where}: tree_info or weight_drop has another length than its {len(trees)} trees")
    sizes = np.array([len(tree["left_children"]) for tree in trees], np.int64)

    def nodes(key: str, dtype: Any) -> Array:
        arrays = [_numbers(tree[key], key, np.dtype(dtype)) for tree in trees]
        for number, array in enumerate(arrays):
            if len(array) != sizes[number]:
                raise ArtifactError(
                    f"{where}: tree {number} has {len(array)} {key} for {sizes[number]} nodes; one for each was expected"
                )
        return np.concatenate(arrays) if arrays else np.zeros(0, dtype)

    for number, tree in enumerate(trees):
        _check_tree(tree, int(sizes[number]), f"{where}: tree {number}")
    left = nodes("left_children", np.int32)
    for key in ("base_weights", "loss_changes", "sum_hessian"):
        nodes(key, np.float32)
    nodes("parents", np.int32)
    # A leaf keeps its value where other nodes keep their threshold.
    conditions = nodes("split_conditions", np.float32)
    if not np.isfinite(conditions).all():
        raise ArtifactError(f"{where}: a threshold or leaf (split_conditions) is not a finite number")
    values = conditions
    if weights is not None:
        # Thresholds are multiplied along, which nobody reads.
        with np.errstate(over="ignore"):
            values = values * np.repeat(weights, sizes)
    forest = Forest(
        features=features,
        groups=groups,
        strict=True,
        sizes=sizes,
        group=group,
        left=left,
        right=nodes("right_children", np.int32),
        feature=nodes("split_indices", np.int32),
        threshold=conditions,
        missing_left=nodes("default_left", np.bool_),
        value=values,
        base=base,
    )
    return checked(forest, where)


def _check_tree(tree: Mapping[str, Any], size: int, where: str) -> None:
    """Refuses what the library would take at its word when it loads a tree: counts, and where categories lie."""
    parameters = tree["tree_param"]
    if int(parameters["num_nodes"]) != size:
        raise ArtifactError(f"{where} says that it has {parameters['num_nodes']} nodes and holds {size}")
    if int(parameters.get("size_leaf_vector", 1)) > 1:
        raise ArtifactError(
            f"{where} has vectors as leaves (multi_strategy=multi_output_tree), which are not served; train with "
            "multi_strategy=one_output_per_tree"
        )
    if "split_type" in tree:
        kinds = _numbers(tree["split_type"], "split_type", np.dtype(np.int32))
        if len(kinds) != size or (size and not (kinds.min() >= 0 and kinds.max() <= 1)):
            raise ArtifactError(f"{where}: its split types are not 0 or 1 for each node")
        if kinds.any():
            _check_categories(tree, kinds, where)


def _check_categories(tree: Mapping[str, Any], kinds: Array, where: str) -> None:
    wide = np.dtype(np.int64)
    values, nodes, starts, sizes = (
        _numbers(tree[key], key, wide)
        for key in ("categories", "categories_nodes", "categories_segments", "categories_sizes")
    )
    right = (
        len(nodes) == len(starts) == len(sizes)
        and np.array_equal(nodes, np.flatnonzero(kinds))
        and np.array_equal(starts, np.cumsum(sizes) - sizes)
        and (sizes > 0).all()
        and sizes.sum() == len(values)
        and values.min() >= 0
        and values.max() < 1 << 24
    )
    if not right:
        raise ArtifactError(f"{where}: its categories do not fit its categorical splits")


def clean(document: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """What of a document that was `read` the library needs to predict, and nothing that it would trust unchecked."""
    learner = document["learner"]
    gradient = learner["gradient_booster"]
    parameters = learner["learner_model_param"]
    return {
        "version": [int(part) for part in document["version"]],
        "learner": {
            "attributes": {},
            "feature_names": [],
            "feature_types": [],
            "gradient_booster": _clean_booster(gradient, facts),
            "learner_model_param": {
                "base_score": str(parameters["base_score"]),
                "boost_from_average": "1",
                "num_class": str(int(parameters.get("num_class", 0))),
                "num_feature": str(facts.features),
                "num_target": str(int(parameters.get("num_target", 1))),
            },
            "objective": _clean_objective(learner["objective"], facts),
        },
    }


def _clean_booster(gradient: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    if facts.booster == "gblinear":
        return {
            "name": facts.booster,
            "model": {
                "boosted_rounds": 1,
                "weights": _numbers(gradient["model"]["weights"], "weights", _FLOAT),
            },
        }
    if facts.booster == "dart":
        inner = _clean_booster(gradient["gbtree"], msgspec.structs.replace(facts, booster="gbtree"))
        return {
            "name": "dart",
            "gbtree": inner,
            "weight_drop": _numbers(gradient["weight_drop"], "weight_drop", _FLOAT),
        }
    model = gradient["model"]
    trees = model["trees"]
    return {
        "name": "gbtree",
        "model": {
            "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(trees))},
            "iteration_indptr": [0, len(trees)],
            "tree_info": _numbers(model["tree_info"], "tree_info", np.dtype(np.int32)),
            "trees": [_clean_tree(tree, number, facts.features) for number, tree in enumerate(trees)],
        },
    }


_TREE_ARRAYS: Final = {
    "base_weights": np.float32,
    "categories": np.int32,
    "categories_nodes": np.int32,
    "categories_segments": np.int64,
    "categories_sizes": np.int64,
    "default_left": np.uint8,
    "left_children": np.int32,
    "loss_changes": np.float32,
    "right_children": np.int32,
    "split_conditions": np.float32,
    "split_indices": np.int32,
    "split_type": np.uint8,
    "sum_hessian": np.float32,
}

_NO_PARENT: Final = 2**31 - 1


def _clean_tree(tree: Mapping[str, Any], number: int, features: int) -> dict[str, Any]:
    arrays = {key: _numbers(tree[key], key, np.dtype(kind)) for key, kind in _TREE_ARRAYS.items() if key in tree}
    left, right = arrays["left_children"], arrays["right_children"]
    # The library looks into a parent without asking whether it is there, of deleted nodes too.
    parents = np.zeros(len(left), np.int32)
    parents[0] = _NO_PARENT
    inner = np.flatnonzero(left >= 0)
    parents[left[inner]] = parents[right[inner]] = inner
    parameters = {
        "num_deleted": str(int(tree["tree_param"].get("num_deleted", 0))),
        "num_feature": str(features),
        "num_nodes": str(len(left)),
        "size_leaf_vector": "1",
    }
    return {"id": number, "tree_param": parameters, "parents": parents, **arrays}


def _clean_objective(objective: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    found: dict[str, Any] = {"name": facts.objective}
    for key, values in objective.items():
        if isinstance(values, Mapping):
            found[key] = {name: value for name, value in values.items() if isinstance(value, str)}
            if "num_class" in found[key]:
                found[key]["num_class"] = str(facts.groups)
    return found


def _why_native(trees: Sequence[Mapping[str, Any]], learner: Mapping[str, Any], objective: str) -> str:
    if objective not in objectives.LINKS:
        return f"what its objective {objective} makes of margins is only known to the library"
    if "c" in (learner.get("feature_types") or ()) or any(_is_categorical(tree) for tree in trees):
        return "it has categorical splits"
    return ""


def _is_categorical(tree: Mapping[str, Any]) -> bool:
    return "split_type" in tree and bool(np.any(tree["split_type"]))


def _base(text: Any, objective: str, groups: int) -> Array:
    """The margins where sums begin; written as one number, or since 3.1 as a list."""
    scores = [float(part) for part in str(text).strip("[] ").split(",")]
    if len(scores) not in (1, groups):
        raise ValueError(f"it has {len(scores)} base scores for {groups} classes or targets")
    margins = np.array([objectives.margin(objective, score) for score in scores], _FLOAT)
    return np.broadcast_to(margins, groups).copy()


def _numbers(values: Any, what: str, dtype: np.dtype[Any]) -> Array:
    """A list of numbers as an array of that type, which holds every one of them."""
    array = np.asarray(values) if len(values) else np.zeros(0, dtype)
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        raise ValueError(f"{what} is not a list of numbers")
    if dtype.kind != "f":
        if array.dtype.kind == "f":
            raise ValueError(f"{what} is not a list of whole numbers")
        limits = np.iinfo(dtype) if dtype.kind != "b" else None
        low, high = (limits.min, limits.max) if limits else (0, 1)
        if array.size and not (low <= array.min() and array.max() <= high):
            raise ValueError(f"{what} holds a number that is out of range")
    with np.errstate(over="ignore"):
        return array.astype(dtype, copy=False)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} is not text")
    return value
