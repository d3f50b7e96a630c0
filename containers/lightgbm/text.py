"""LightGBM's model text: read, checked, and written again for the library without what it would trust blindly."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from containers.trees.forest import Forest, check_bounds, checked
from serving.contract import Array
from serving.errors import ArtifactError

NEWEST: Final = 4
"""The newest version of the format that is read."""

_FIRST: Final = b"tree"
_END: Final = "end of trees"
_CATEGORICAL: Final = 1
_DEFAULT_LEFT: Final = 2
_MISSING_ZERO: Final = 1
_MISSING_NAN: Final = 2
_INNER: Final = ("split_feature", "threshold", "decision_type", "left_child", "right_child")
_INNER_TOO: Final = ("split_gain", "internal_value", "internal_weight", "internal_count")
_LEAF_TOO: Final = ("leaf_weight", "leaf_count")

_DIGITS: Final = frozenset("0123456789- ")
_WHOLE: Final = re.compile(r"-?[0-9]{1,18}")

Block = Mapping[str, str]


class Facts(msgspec.Struct, frozen=True):
    """What is told of a booster without its trees.

    `objective` is the words of that line, () where it has none; `groups`: margins a row, each divided by `averaged`; `names`: of the
    features, or (); `only_native`: why ONNX Runtime cannot run it, or "".
    """

    objective: tuple[str, ...]
    features: int
    groups: int
    averaged: int
    names: tuple[str, ...]
    only_native: str


class Booster(NamedTuple):
    """A model that was read and checked; `forest` is None where it can only be served natively; `text` is for the library."""

    facts: Facts
    forest: Forest | None
    text: str


def is_model(start: bytes) -> bool:
    """Whether a file that starts so is a LightGBM model."""
    lines = start[:64].split(b"\n")
    return len(lines) > 1 and lines[0].strip() == _FIRST and lines[1].startswith(b"version=")


def read(content: bytes, path: Path) -> Booster:
    """Reads and checks a model before any library sees it. Raises `ArtifactError`."""
    if not is_model(content):
        said = "is empty" if not content else "is no LightGBM model, which begins with a line 'tree' and its version"
        raise ArtifactError(f"{path} {said}; write it with booster.save_model('model.txt')")
    try:
        return _read(content.decode(), str(path))
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} is damaged: byte {error.start} is not UTF-8") from error
    except (KeyError, ValueError, OverflowError) as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(f"{path} is not a whole model: {said}") from error


def _read(text: str, where: str) -> Booster:
    header, trees = _blocks(text)
    version = header["version"]
    if not version.startswith("v") or int(version[1:]) > NEWEST:
        raise ArtifactError(
            f"{where} has version {version} of the format, which is too new: up to v{NEWEST} is read; write the model with "
            "an older release, or update this server"
        )
    features = _int(header["max_feature_idx"]) + 1
    groups = _int(header["num_tree_per_iteration"])
    check_bounds(features, groups, where)
    objective = tuple(header.get("objective", "").split())
    if any(_int(count) != groups for count in (header["num_class"], *_classes(objective))):
        raise ArtifactError(
            f"{where}: its numbers of classes differ: num_class, num_tree_per_iteration and the objective's"
        )
    names = tuple(header["feature_names"].split())
    if len(names) != features or len(set(names)) != features:
        raise ArtifactError(
            f"{where}: it has {len(set(names))} different feature names for {features} features; a name for each was expected"
        )
    if names == tuple(f"Column_{number}" for number in range(features)):
        names = ()
    if len(trees) % groups:
        raise ArtifactError(
            f"{where}: it has {len(trees)} trees, which is no multiple of its {groups} classes; is it cut short?"
        )
    read = [_tree(block, f"{where}: tree {number}") for number, block in enumerate(trees)]
    averaged = max(len(trees) // groups, 1) if "average_output" in header else 1
    forest = checked(_forest(read, features, groups, averaged), where)
    only_native = next((tree.only_native for tree in read if tree.only_native), "")
    facts = Facts(objective, features, groups, averaged, names, only_native)
    return Booster(facts, None if only_native else forest, _written(header, trees))


def _classes(objective: Sequence[str]) -> list[str]:
    return [word.partition(":")[2] for word in objective if word.startswith("num_class:")]


def _blocks(text: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The header and the trees as keys and values."""
    found: list[dict[str, str]] = [{}]
    ended = False
    for line in text.split("\n")[1:]:
        if line.strip() == _END:
            ended = True
            break
        key, equals, value = line.strip().partition("=")
        if key == "Tree" and equals:
            if value != str(len(found) - 1):
                raise ValueError(f"tree {len(found) - 1} is called {value[:64]}")
            found.append({})
        elif key:
            if key in found[-1]:
                raise ValueError(f"'{key[:64]}' is there twice in {'its header' if len(found) == 1 else 'a tree'}")
            found[-1][key] = value
    if not ended:
        raise ValueError(f"it ends before the line '{_END}'")
    return found[0], found[1:]


class _Tree(NamedTuple):
    """A tree as nodes: the inner ones first, then the leaves."""

    left: Array
    right: Array
    feature: Array
    threshold: Array
    missing_left: Array
    value: Array
    only_native: str


def _tree(block: Block, where: str) -> _Tree:
    leaves = _int(block["num_leaves"])
    if leaves < 1:
        raise ValueError(f"{where} has {leaves} leaves")
    inner = leaves - 1
    if _int(block.get("is_linear", "0")):
        raise ArtifactError(f"{where} has linear models as leaves (linear_tree), which are not served")
    value = _floats(block, "leaf_value", leaves, where)
    for key in _LEAF_TOO:
        _floats(block, key, leaves, where, optional=True)
    for key in _INNER_TOO:
        _floats(block, key, inner, where, optional=True)
    threshold = _floats(block, "threshold", inner, where) if inner else np.zeros(0)
    feature, kinds, left, right = (
        _whole(block, key, inner, where) if inner else np.zeros(0, np.int64)
        for key in ("split_feature", "decision_type", "left_child", "right_child")
    )
    categorical = (kinds & _CATEGORICAL).astype(bool)
    missing = (kinds >> 2) & 3
    default_left = (kinds & _DEFAULT_LEFT).astype(bool)
    zero_left = threshold >= 0
    only_native = ""
    if categorical.any() or _int(block.get("num_cat", "0")):
        _check_categories(block, threshold[categorical], where)
        only_native = "it has categorical splits"
    elif ((missing == _MISSING_ZERO) & (default_left != zero_left)).any():
        only_native = "it takes zero for missing (zero_as_missing)"
    # Where no value was missing in training, NaN counts as zero.
    missing_left = np.where(missing == _MISSING_NAN, default_left, zero_left)

    def nodes(array: Array, fill: Any) -> Array:
        return np.concatenate((array, np.full(leaves, fill, array.dtype)))

    def child(array: Array) -> Array:
        # A negative child is a leaf: -1 the first, -2 the second.
        if array.size and (array.min() < -leaves or array.max() >= inner):
            raise ValueError(
                f"{where} has a child that is neither one of its {inner} splits nor of its {leaves} leaves"
            )
        return nodes(np.where(array < 0, inner - 1 - array, array).astype(np.int32), -1)

    return _Tree(
        left=child(left),
        right=child(right),
        feature=nodes(feature.astype(np.int32), 0),
        threshold=nodes(threshold, 0.0),
        missing_left=nodes(missing_left.astype(np.bool_), False),
        value=np.concatenate((np.zeros(inner), value)),
        only_native=only_native,
    )


def _check_categories(block: Block, indices: Array, where: str) -> None:
    count = _int(block["num_cat"])
    bounds = _whole(block, "cat_boundaries", count + 1, where)
    words = _whole(block, "cat_threshold", int(bounds[-1]), where)
    right = (
        bounds[0] == 0
        and (np.diff(bounds) > 0).all()
        and (words >= 0).all()
        and (words < 1 << 32).all()
        and np.isin(indices, np.arange(count)).all()
    )
    if not right:
        raise ArtifactError(f"{where}: its categories do not fit its categorical splits")


def _forest(trees: Sequence[_Tree], features: int, groups: int, averaged: int) -> Forest:
    def joined(key: str, dtype: Any) -> Array:
        return np.concatenate([np.zeros(0, dtype), *(getattr(tree, key) for tree in trees)]).astype(dtype, copy=False)

    return Forest(
        features=features,
        groups=groups,
        strict=False,
        sizes=np.array([len(tree.left) for tree in trees], np.int64),
        group=np.arange(len(trees), dtype=np.int32) % groups,
        left=joined("left", np.int32),
        right=joined("right", np.int32),
        feature=joined("feature", np.int32),
        threshold=joined("threshold", np.float64),
        missing_left=joined("missing_left", np.bool_),
        value=joined("value", np.float64) / averaged,
        base=np.zeros(groups),
    )


def _floats(block: Block, key: str, count: int, where: str, *, optional: bool = False) -> Array:
    text = block.get(key)
    if text is None:
        if optional:
            return np.zeros(0)
        raise ValueError(f"{where} has no {key}")
    words = text.split()
    if len(words) != count and not (optional and not words):
        raise ValueError(f"{where} has {len(words)} values of {key}; {count} were expected")
    if "_" in text or not text.isascii():
        raise ValueError(f"{where}: {key} holds what is not a number")
    return np.array(words, np.float64)


def _whole(block: Block, key: str, count: int, where: str) -> Array:
    """Whole numbers, written as such: the library reads 1 where we would read 1e1 as 10, and takes it on trust."""
    values = _floats(block, key, count, where)
    if not _DIGITS.issuperset(block[key]) or (values.size and np.abs(values).max() >= 1 << 53):
        raise ValueError(f"{where}: {key} holds what is not a whole number")
    return values.astype(np.int64)


def _int(text: str) -> int:
    """One whole number, for the same reason."""
    if _WHOLE.fullmatch(text) is None:
        raise ValueError(f"'{text[:64]}' is not a whole number")
    return int(text)


_HEADER_KEYS: Final = (
    "version",
    "num_class",
    "num_tree_per_iteration",
    "label_index",
    "max_feature_idx",
    "objective",
    "average_output",
    "feature_names",
    "feature_infos",
)
_TREE_KEYS: Final = ("num_leaves", "num_cat", *_INNER, "leaf_value", "cat_boundaries", "cat_threshold", "shrinkage")


def _written(header: Block, trees: Sequence[Block]) -> str:
    """What the library needs to predict, without `tree_sizes` and other things that it does not check."""
    lines = ["tree"]
    lines += [f"{key}={header[key]}" if header[key] else key for key in _HEADER_KEYS if key in header]
    lines.append("")
    for number, block in enumerate(trees):
        lines += [
            f"Tree={number}",
            *(f"{key}={' '.join(block[key].split())}" for key in _TREE_KEYS if key in block),
            "",
            "",
        ]
    return "\n".join([*lines, _END, ""])
