"""Trees and other estimators that nobody vouches for: every index is checked before anything runs.

scikit-learn walks its trees without looking whether a child or a feature is there, fills sparse matrices at whatever
place an encoder names, and skops can only say which types a file holds. A forged file could so read or write any
memory, or walk in circles. Estimators are therefore trusted here because of what is in them: trees in the file before
they are built (`check_file`), and all of them once they are (`check`).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from serving.contract import Array
from serving.errors import ArtifactError

TREE: Final = "sklearn.tree._tree.Tree"
PREDICTOR: Final = "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"

TYPES: Final = (TREE, PREDICTOR)
"""Types that are trusted because this module checks them."""

LOADERS: Final = {TREE: ("TreeNode", "CachedNode"), PREDICTOR: ("ObjectNode", "CachedNode")}
"""How skops writes them: under another name it would build them without what is checked here."""

LEAF: Final = -1

_MOST_OUTPUTS = 1 << 20

Schema = dict[str, Any]


class _Forged(Exception):
    """The file is not what scikit-learn writes; the text says where."""


# ------------------------------------------------------------------ in the file, before anything is built


def check_file(artifact: Path) -> None:
    """Refuses trees whose sizes contradict each other, on which building them would rely. Raises `ArtifactError`."""
    with zipfile.ZipFile(artifact) as archive:
        schema = json.loads(archive.read("schema.json"))
        try:
            by_id = _by_id(schema)
            for node in _dicts(schema):
                name, loader = f"{node.get('__module__')}.{node.get('__class__')}", node.get("__loader__")
                if loader not in LOADERS.get(name, (loader,)):
                    raise _Forged(f"it is written as a {loader!r:.40}")
                if loader == "TreeNode":
                    _check_sizes(node, by_id, archive)
        except (_Forged, KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise ArtifactError(f"{artifact} holds a tree that scikit-learn did not write: {error}") from error


def _dicts(value: Any) -> Iterator[Schema]:
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            yield one
            stack.extend(one.values())
        elif isinstance(one, list):
            stack.extend(one)


def _by_id(schema: Any) -> dict[Any, list[Schema]]:
    """What each id stands for: skops builds an object once and takes it for every later mention of its id."""
    found: dict[Any, list[Schema]] = {}
    for node in _dicts(schema):
        if node.get("__id__"):
            known = found.setdefault(node["__id__"], [])
            if node not in known:
                known.append(node)
    return found


def _check_sizes(node: Schema, by_id: dict[Any, list[Schema]], archive: zipfile.ZipFile) -> None:
    def only(part: Schema) -> Schema:
        if len(by_id.get(part.get("__id__"), ())) > 1:
            raise _Forged(f"the id {part['__id__']!r:.40} stands for two objects")
        return part

    def whole(part: Schema) -> int:
        only(part)
        if part["__loader__"] != "JsonNode":
            raise _Forged(f"a number is written as a {part['__loader__']!r:.40}")
        number = json.loads(part["content"])
        if type(number) is not int:
            raise _Forged(f"{number!r:.40} stands where a whole number was expected")
        return number

    def array(part: Schema) -> Array:
        only(part)
        if part["__loader__"] != "NdArrayNode" or part["type"] != "numpy":
            raise _Forged(f"an array is written as a {part['__loader__']!r:.40}")
        with archive.open(part["file"]) as stream:
            read: Array = np.load(stream, allow_pickle=False)
        return read

    args, state = only(node["__reduce__"]["args"]), only(node["content"])
    if args["__loader__"] != "TupleNode" or state["__loader__"] != "DictNode" or len(args["content"]) != 3:
        raise _Forged("its parts are not where scikit-learn puts them")
    features, classes, outputs = whole(args["content"][0]), array(args["content"][1]), whole(args["content"][2])
    if features < 1 or not 1 <= outputs <= _MOST_OUTPUTS or classes.shape != (outputs,) or classes.min() < 1:
        raise _Forged(f"{features} features and {outputs} outputs with classes of shape {list(classes.shape)}")
    rows = array(state["content"]["nodes"]).shape
    if (whole(state["content"]["node_count"]),) != rows:
        raise _Forged(f"its number of nodes is not that of its array, {list(rows)}")


# ------------------------------------------------------------------ in the estimators, before anything runs


def check(estimator: Any, artifact: Path) -> None:
    """Refuses trees with a child or feature that is not there, or with a way back. Raises `ArtifactError`."""
    checked: set[int] = set()
    trees: list[Any] = []
    boosted: list[Any] = []
    for one in walk(estimator):
        has = vars_of(one).keys()
        # Attributes of several kinds may be in one object: each is checked for what it leads to.
        with _as_fitted(one, artifact):
            if "tree_" in has:
                _check_tree(one.tree_, one.n_features_in_)
                checked.add(id(one.tree_))
            if "_predictors" in has:
                _check_predictors(one)
                checked.update(id(tree) for stage in one._predictors for tree in stage)
            if {"estimators_", "n_trees_per_iteration_"} <= has:
                _check_boosting(one)
                boosted.append(one)
            if "_dual_coef_" in has:
                _check_support(one)
            if "_fit_X" in has and "n_samples_fit_" in has:
                _check_neighbours(one)
            if hasattr(one, "build_analyzer"):
                _check_vocabulary(one)
            if {"categories_", "_n_features_outs"} <= has:
                _check_one_hot(one)
            if "cluster_centers_" in has:
                _check_centres(one)
        if _is_tree(one):
            trees.append(one)
    if any(id(tree) not in checked for tree in trees):
        raise ArtifactError(f"{artifact} holds a tree that belongs to no estimator")
    for one in boosted:
        with _as_fitted(one, artifact):
            _check_start(one)


@contextmanager
def _as_fitted(one: Any, artifact: Path) -> Iterator[None]:
    """Makes what a check finds, or falls over, an `ArtifactError`."""
    try:
        yield
    except (_Forged, AttributeError, TypeError, ValueError, IndexError, KeyError) as error:
        raise ArtifactError(
            f"{artifact}: its {type(one).__name__} is not one that scikit-learn fits: {error}"
        ) from error


def walk(value: Any) -> Iterator[Any]:
    """Every object under `value`, each once: what attributes, lists, dictionaries and arrays of objects hold."""
    seen: set[int] = set()
    stack = [value]
    while stack:
        one = stack.pop()
        if id(one) in seen or isinstance(one, str | bytes | int | float | type | None):
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, dict):
            stack.extend((*one.keys(), *one.values()))
        elif isinstance(one, list | tuple | set | frozenset):
            stack.extend(one)
        elif isinstance(one, np.ndarray):
            if one.dtype == object:
                stack.extend(one.ravel().tolist())
            continue
        stack.extend(vars_of(one).values())


def vars_of(one: Any) -> dict[str, Any]:
    """The attributes of an object; none where it has none of its own."""
    return getattr(one, "__dict__", None) or {}


def _is_tree(one: Any) -> bool:
    return f"{type(one).__module__}.{type(one).__qualname__}" in TYPES


def _check_tree(tree: Any, features: int) -> None:
    if not _is_tree(tree):
        raise _Forged(f"tree_ is a {type(tree).__name__}")
    if tree.n_features > features:
        raise _Forged(f"it reads {tree.n_features} features of {features}")
    # Beyond the capacity there is somebody else's memory; the array below covers all that is counted.
    if not 1 <= tree.node_count <= tree.capacity:
        raise _Forged(f"{tree.node_count} nodes in room for {tree.capacity}")
    nodes = tree.__getstate__()["nodes"]
    inner = nodes["left_child"] != LEAF
    depth = _check_shape(nodes["left_child"], nodes["right_child"], nodes["feature"], inner, features)
    if tree.max_depth < depth:
        raise _Forged(f"it is {depth} deep and says {tree.max_depth}")


def _check_predictors(boosting: Any) -> None:
    features = boosting.n_features_in_
    categorical = boosting._bin_mapper.is_categorical_
    if boosting._preprocessor is not None:
        _check_columns(boosting._preprocessor, features)
    for stage in boosting._predictors:
        if len(stage) != boosting.n_trees_per_iteration_:
            raise _Forged(f"an iteration has {len(stage)} trees")
        for predictor in stage:
            if not _is_tree(predictor):
                raise _Forged(f"a predictor is a {type(predictor).__name__}")
            nodes, bitsets = predictor.nodes, predictor.raw_left_cat_bitsets
            inner = nodes["is_leaf"] == 0
            split = nodes[inner & (nodes["is_categorical"] != 0)]
            _check_shape(nodes["left"], nodes["right"], nodes["feature_idx"], inner, features)
            if split.size and (
                bitsets.shape[1:] != (8,)
                or int(split["bitset_idx"].max()) >= bitsets.shape[0]
                or len(categorical) != features
                or not np.asarray(categorical, bool)[split["feature_idx"]].all()
            ):
                raise _Forged("a split by category is over categories that are not there")


def _check_columns(columns: Any, features: int) -> None:
    """What puts the categories before the numbers must leave as many columns as it got."""
    steps = [(type(one).__name__, mask) for _, one, mask in columns.transformers_ if not isinstance(one, str)]
    if type(columns).__name__ != "ColumnTransformer" or [name for name, _ in steps] != [
        "OrdinalEncoder",
        "FunctionTransformer",
    ]:
        raise _Forged("its columns are not put in order by what scikit-learn puts there")
    masks = [np.asarray(mask) for _, mask in steps]
    if any(mask.dtype != bool or mask.shape != (features,) for mask in masks) or not (masks[0] ^ masks[1]).all():
        raise _Forged(f"its columns are not the {features} that it takes")


def _check_boosting(boosting: Any) -> None:
    stages = boosting.estimators_
    if stages.ndim != 2 or stages.shape[1] != boosting.n_trees_per_iteration_:
        raise _Forged(f"its trees are an array of shape {list(stages.shape)}")
    for tree in stages.flat:
        if tree.tree_.n_features > boosting.n_features_in_:
            raise _Forged(f"a tree reads {tree.tree_.n_features} features of {boosting.n_features_in_}")


def _check_start(boosting: Any) -> None:
    """Boosting adds to what its first estimator answers, wherever the trees' number says that there is a column."""
    wanted = (2, boosting.n_trees_per_iteration_)
    start = boosting._raw_predict_init(np.zeros((2, boosting.n_features_in_), np.float32))
    if start.shape != wanted:
        raise _Forged(f"it begins with an array of shape {list(start.shape)}, and adds to one of {list(wanted)}")


def _check_support(machine: Any) -> None:
    """Support vector machines, whose sizes libsvm takes from each other."""
    if machine._sparse:
        raise _Forged("it was fitted with a sparse matrix, and cannot be checked")
    vectors, counts, classes = machine.support_vectors_, machine._n_support, 2
    if machine._impl in ("c_svc", "nu_svc"):
        classes = len(machine.classes_)
    pairs = classes * (classes - 1) // 2
    sums = counts if machine._impl in ("c_svc", "nu_svc") else counts[:1]
    features = len(vectors) if machine.kernel == "precomputed" else machine.n_features_in_
    if (
        classes < 2
        or counts.shape != (classes,)
        or not (counts >= 0).all()
        or not (counts <= len(vectors)).all()
        or sums.sum() != len(vectors)
        or machine.support_.shape != (len(vectors),)
        or not ((machine.support_ >= 0) & (machine.support_ < machine.shape_fit_[0])).all()
        or machine._dual_coef_.shape != (classes - 1, len(vectors))
        or (machine.kernel != "precomputed" and vectors.shape != (len(vectors), features))
        or (machine._intercept_.size != pairs and machine._impl in ("c_svc", "nu_svc"))
        or machine._intercept_.size < 1
        or any(values.size not in (0, pairs) for values in (machine._probA, machine._probB))
    ):
        raise _Forged("its support vectors, classes and coefficients do not belong together")


def _check_neighbours(nearest: Any) -> None:
    """What looks for neighbours among the rows that it was fitted with, and then for their classes."""
    samples, features = nearest._fit_X.shape
    if samples != nearest.n_samples_fit_ or (nearest.metric != "precomputed" and features != nearest.n_features_in_):
        raise _Forged(f"it was fitted with an array of shape {[samples, features]}, which it contradicts")
    if not 1 <= (nearest.n_neighbors or 1) <= samples:
        raise _Forged(f"it wants {nearest.n_neighbors} neighbours of {samples}")
    answers = vars_of(nearest).get("_y")
    if answers is None:
        return
    if len(answers) != samples:
        raise _Forged(f"it has {len(answers)} answers for {samples} rows")
    if "classes_" in vars_of(nearest):
        several = nearest.classes_ if nearest.outputs_2d_ else [nearest.classes_]
        for column, classes in zip(answers.reshape(samples, -1).T, several, strict=True):
            if column.min() < 0 or column.max() >= len(classes):
                raise _Forged(f"it answers with a class that is not one of the {len(classes)}")


def _check_vocabulary(reader: Any) -> None:
    """What takes texts apart; a word's number is the column that it is counted in."""
    if reader.input != "content":
        raise _Forged(f"it reads the files that callers name (input={reader.input!r:.40})")
    words = vars_of(reader).get("vocabulary_", {})
    if type(words) is not dict or sorted(words.values()) != list(range(len(words))):
        raise _Forged("its words are not numbered from 0 on")


def _check_one_hot(encoder: Any) -> None:
    """Encoders of categories, whose codes are the columns that are filled."""
    widths = encoder._n_features_outs
    if type(widths) is not list or len(widths) != len(encoder.categories_):
        raise _Forged(f"it has {len(widths)} widths for {len(encoder.categories_)} features")
    drops = encoder._drop_idx_after_grouping
    for position, (categories, width) in enumerate(zip(encoder.categories_, widths, strict=True)):
        if not _in_order(categories):
            raise _Forged(f"the categories of column {position} are not in order")
        codes = np.arange(len(categories))
        if encoder._infrequent_enabled:
            mapping = encoder._default_to_infrequent_mappings[position]
            if mapping is not None:
                codes = np.unique(np.take(mapping, codes))
            elif encoder._infrequent_indices[position] is not None:
                raise _Forged(f"the infrequent categories of column {position} have no place")
        drop = None if drops is None else drops[position]
        if drop is not None:
            codes = codes[codes != drop]
            codes = codes - (codes > drop)
        if codes.size and not 0 <= codes.min() <= codes.max() < width:
            raise _Forged(f"column {position} has codes that are not one of its {width}")


def _in_order(categories: Array) -> bool:
    """Whether a binary search finds categories that it should; texts are not looked for in that way."""
    if categories.ndim != 1:
        return False
    if categories.dtype == object and any(isinstance(one, str) for one in categories):
        return True
    known = categories[:-1] if len(categories) and categories[-1] != categories[-1] else categories
    return bool((known[1:] > known[:-1]).all())


def _check_centres(means: Any) -> None:
    if means.cluster_centers_.shape[1:] != (means.n_features_in_,):
        shape = list(means.cluster_centers_.shape)
        raise _Forged(f"its centres are an array of shape {shape}, with {means.n_features_in_} features")


def _check_shape(left: Array, right: Array, feature: Array, inner: Array, features: int) -> int:
    """The depth of a tree given by its columns, `inner` where a node has children. Children come after parents."""
    if left.ndim != 1 or not left.size:
        raise _Forged("it has no nodes")
    parents = np.flatnonzero(inner)
    children = np.concatenate((left[inner], right[inner])).astype(np.int64)
    if children.size:
        if (children <= np.concatenate((parents, parents))).any() or children.max() >= left.size:
            raise _Forged(f"a child is not one of the {left.size} nodes, or comes before its parent")
        if np.bincount(children).max() > 1:
            raise _Forged("a node has two parents")
        if feature[inner].min() < 0 or feature[inner].max() >= features:
            raise _Forged(f"it splits by a feature that is not one of the {features}")
    depth, level = 0, np.zeros(1, np.int64)
    while (level := level[inner[level]]).size:
        level = np.concatenate((left[level], right[level])).astype(np.int64)
        depth += 1
    return depth
