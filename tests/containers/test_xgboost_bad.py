"""Boosters that are damaged, hostile, too new or of another kind: refused with the reason, before native code sees them."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.trees.forest import MOST_DEPTH
from containers.xgboost import ubjson
from containers.xgboost.container import XGBoostKind
from containers.xgboost.ubjson import NotUbjson
from serving.contract import ModelConfig, TreesConfig
from serving.errors import ArtifactError, ConfigurationError, ServingError
from tests.containers.boosters import LEGACY, document_of, put, rows, train

KIND = XGBoostKind()
NATIVE = ModelConfig(trees=TreesConfig(engine="native"))

Document = dict[str, Any]


def tree(document: Document, number: int = 0) -> Document:
    found: Document = trees(document)[number]
    return found


def trees(document: Document) -> list[Document]:
    found: list[Document] = document["learner"]["gradient_booster"]["model"]["trees"]
    return found


def parameters(document: Document) -> Document:
    found: Document = document["learner"]["learner_model_param"]
    return found


@pytest.fixture(scope="module")
def text() -> str:
    """A small model as JSON."""
    return json.dumps(document_of(train({"objective": "binary:logistic"}, rounds=3)))


def change(path: str, value: Any) -> Callable[[Document], None]:
    """Sets one value; the path's last part may be an index."""
    *way, last = path.split(".")

    def apply(document: Document) -> None:
        place: Any = document
        for part in way:
            place = place[int(part)] if isinstance(place, list) else place[part]
        place[int(last) if isinstance(place, list) else last] = value

    return apply


def drop(path: str) -> Callable[[Document], None]:
    *way, last = path.split(".")

    def apply(document: Document) -> None:
        place: Any = document
        for part in way:
            place = place[int(part)] if isinstance(place, list) else place[part]
        del place[last]

    return apply


def deep(document: Document) -> None:
    """One tree that is a chain longer than allowed."""
    size = 2 * (MOST_DEPTH + 2) + 1
    inner = np.arange(size) % 2 == 0
    inner[-1] = False
    left = np.where(inner, np.arange(size) + 1, -1)
    right = np.where(inner, np.arange(size) + 2, -1)
    grown = tree(document)
    for key, value in list(grown.items()):
        if isinstance(value, list) and value:
            grown[key] = [0] * size
    grown |= {"left_children": left.tolist(), "right_children": right.tolist()}
    grown["tree_param"]["num_nodes"] = str(size)


def categorical(document: Document) -> None:
    grown = tree(document)
    grown["split_type"][0] = 1
    grown |= {"categories": [1], "categories_nodes": [0], "categories_segments": [0], "categories_sizes": [9]}


def lost(document: Document) -> None:
    """Two nodes that lead to each other, with a leaf each, and no way there."""
    grown = tree(document)
    size = len(grown["left_children"])
    own = {
        "left_children": [size + 1, size, -1, -1],
        "right_children": [size + 2, size + 3, -1, -1],
    }
    for key, value in grown.items():
        if isinstance(value, list) and len(value) == size:
            value.extend(own.get(key, [0] * 4))
    grown["tree_param"]["num_nodes"] = str(size + 4)


T = "learner.gradient_booster.model"
BAD: dict[str, tuple[Callable[[Document], None], str]] = {
    "too new": (change("version", [4, 0, 1]), r"was written by XGBoost 4.0.1, which is too new: files up to 3.x"),
    "no version": (drop("version"), "names no version of XGBoost"),
    "version is text": (change("version", "3.2.0"), "names no version of XGBoost"),
    "no booster": (drop("learner.gradient_booster"), "it has no 'gradient_booster'"),
    "no objective": (drop("learner.objective"), "it has no 'objective'"),
    "objective is a number": (change("learner.objective.name", 3), "the objective's name is not text"),
    "foreign booster": (change("learner.gradient_booster.name", "gbforest"), "its booster is 'gbforest'"),
    "learner is a list": (change("learner", []), "is not a whole booster"),
    "trees is a number": (change(f"{T}.trees", 5), "is not a whole booster"),
    "a tree is text": (change(f"{T}.trees.0", "x"), "is not a whole booster"),
    "fewer trees than said": (change(f"{T}.gbtree_model_param.num_trees", "4"), "says that it has 4 trees and holds 3"),
    "tree_info too short": (
        change(f"{T}.tree_info", [0]),
        "tree_info or weight_drop has another length than its 3 trees",
    ),
    "tree of no class": (change(f"{T}.tree_info.1", 7), "a tree adds to a class that is not one of its 1"),
    "no nodes": (change(f"{T}.trees.1.left_children", []), "tree 1 says that it has .* nodes and holds 0"),
    "arrays differ": (change(f"{T}.trees.1.split_indices", [0]), "tree 1 has 1 split_indices for"),
    "child outside": (change(f"{T}.trees.0.left_children.0", 99999), "node 0 of tree 0 has child 99999; 1 to"),
    "negative child": (change(f"{T}.trees.0.right_children.0", -7), "node 0 of tree 0 has child -7"),
    "half a leaf": (change(f"{T}.trees.0.right_children.0", -1), "node 0 of tree 0 has child -1"),
    "cycle to the root": (change(f"{T}.trees.0.left_children.1", 0), "node 1 of tree 0 has child 0"),
    "cycle": (change(f"{T}.trees.0.left_children.1", 1), "of tree 0 has several parents"),
    "two parents": (change(f"{T}.trees.0.left_children.1", 2), "of tree 0 has several parents"),
    "a child is a fraction": (
        change(f"{T}.trees.0.left_children.0", 1.5),
        "left_children is not a list of whole numbers",
    ),
    "a child is huge": (
        change(f"{T}.trees.0.left_children.0", 2**40),
        "left_children holds a number that is out of range",
    ),
    "feature outside": (change(f"{T}.trees.0.split_indices.0", 6), "tree 0 splits on feature 6; the model has 6"),
    "negative feature": (change(f"{T}.trees.0.split_indices.0", -1), "tree 0 splits on feature -1"),
    "threshold beyond float32": (change(f"{T}.trees.0.split_conditions.0", 1e300), "is not a finite number"),
    "threshold is text": (change(f"{T}.trees.0.split_conditions.0", "x"), "split_conditions is not a list of numbers"),
    "default is 2": (change(f"{T}.trees.0.default_left.0", 2), "default_left holds a number that is out of range"),
    "split type 3": (change(f"{T}.trees.0.split_type.0", 3), "its split types are not 0 or 1"),
    "categories outside": (categorical, "its categories do not fit its categorical splits"),
    "leaf vectors": (change(f"{T}.trees.0.tree_param.size_leaf_vector", "3"), "has vectors as leaves"),
    "a lost cycle": (lost, "of tree 0 splits, but no root leads to it"),
    "too deep": (deep, f"a tree is deeper than {MOST_DEPTH} levels"),
    "no features": (change("learner.learner_model_param.num_feature", "0"), "has 0 features; 1 to"),
    "billions of features": (
        change("learner.learner_model_param.num_feature", "2000000000"),
        "has 2000000000 features",
    ),
    "billions of classes": (change("learner.learner_model_param.num_class", "2000000000"), "has 2000000000 classes"),
    "number is text": (change("learner.learner_model_param.num_feature", "six"), "invalid literal"),
    "base score of 0": (change("learner.learner_model_param.base_score", "0"), "a number between 0 and 1 was expected"),
    "base score is text": (change("learner.learner_model_param.base_score", "[x]"), "could not convert"),
    "base scores": (change("learner.learner_model_param.base_score", "[1E-1,2E-1]"), "2 base scores for 1 classes"),
    "feature names": (change("learner.feature_names", ["a", "b"]), "2 different feature names for 6 features"),
    "feature names twice": (change("learner.feature_names", list("aabcde")), "5 different feature names for 6"),
    "feature names are numbers": (change("learner.feature_names", [1, 2, 3, 4, 5, 6]), "a feature name is not text"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_document_is_refused_by_name(tmp_path: Path, text: str, name: str) -> None:
    spoil, message = BAD[name]
    document = json.loads(text)
    spoil(document)
    path = put(tmp_path / "model.json", document)
    for config in (ModelConfig(), NATIVE):
        with pytest.raises(ArtifactError, match=message) as raised:
            KIND.load(path, config)
        assert str(path) in str(raised.value)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; a booster was expected"),
        (b"\0" * 4096, "is no booster"),
        (b"bs64YmluZg==", "is a memory snapshot"),
        (b"CONFIG-offset:\0\0", "is a memory snapshot"),
        (b"\x1f\x8b\x08\0", "is no booster"),
        (pickle.dumps({"a": 1}), "is a pickle, which runs any code"),
        (b'{"learner":', "is damaged or cut short"),
        (b'{"learner":{}} x', "is damaged or cut short"),
        (b'{"learner":' + b"[" * 100_000, "is damaged or cut short"),
        (b"{L\0\0\0\0\0\0\0\x07learner" + b"[" * 100_000, "nested deeper than 64 levels"),
    ],
)
def test_a_file_that_is_no_booster_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "xgboost-model").write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        KIND.load(tmp_path / "xgboost-model", ModelConfig())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"model.json cannot be read: No such file"):
        KIND.load(tmp_path / "model.json", ModelConfig())


@pytest.mark.parametrize("engine", ["gpu", "", "AUTO"])
def test_an_engine_that_there_is_not(tmp_path: Path, text: str, engine: str) -> None:
    path = put(tmp_path / "model.json", json.loads(text))
    with pytest.raises(ConfigurationError, match="one of auto, onnx, native was expected"):
        KIND.load(path, ModelConfig(trees=TreesConfig(engine=engine)))


def test_onnx_runtime_cannot_be_pinned_for_a_linear_model(tmp_path: Path) -> None:
    path = tmp_path / "xgboost-model"
    path.write_bytes((LEGACY / "gblinear.bin").read_bytes())
    with pytest.raises(ConfigurationError, match=r"ONNX Runtime cannot run this model: it is a linear model"):
        KIND.load(path, ModelConfig(trees=TreesConfig(engine="onnx")))


def test_an_objective_that_nobody_knows(tmp_path: Path, text: str) -> None:
    document = json.loads(text)
    change("learner.objective.name", "reg:nonsense")(document)
    with pytest.raises(ArtifactError, match=r"cannot be loaded by XGBoost 3.*reg:nonsense"):
        KIND.load(put(tmp_path / "model.json", document), ModelConfig())


# ---------------------------------------------------------------- cut short, and with bits turned

FORMATS = ("json", "ubj", "legacy")


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    booster = train({"objective": "binary:logistic", "max_depth": 2}, rounds=2)
    return {
        "json": bytes(booster.save_raw("json")),
        "ubj": bytes(booster.save_raw("ubj")),
        "legacy": (LEGACY / "binary-logistic.bin").read_bytes(),
    }


@pytest.mark.parametrize("kind", FORMATS)
def test_every_cut_is_noticed(tmp_path: Path, contents: dict[str, bytes], kind: str) -> None:
    content = contents[kind]
    path = tmp_path / "xgboost-model"
    # Behind its trees the binary format has nothing that is read.
    whole = len(content) if kind != "legacy" else content.index(b"\0" * 24, 136) and _end_of_trees(content)
    for cut in range(0, whole, max(1, whole // 300)):
        path.write_bytes(content[:cut])
        with pytest.raises(ArtifactError):
            KIND.load(path, ModelConfig())


def _end_of_trees(content: bytes) -> int:
    """Where the trees of the file end: after each tree's nodes, and a number of 4 bytes for each."""
    at = 4 + 136
    for _ in range(2):
        at += 8 + struct.unpack_from("<Q", content, at)[0]
    count = struct.unpack_from("<i", content, at)[0]
    at += 160
    for _ in range(count):
        at += 148 + 36 * struct.unpack_from("<i", content, at + 4)[0]
    return at + 4 * count


@pytest.mark.parametrize("kind", FORMATS)
@given(turns=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=4))
def test_turned_bits_are_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, contents: dict[str, bytes], kind: str, turns: list[tuple[float, int]]
) -> None:
    content = bytearray(contents[kind])
    for share, bit in turns:
        content[int(share * len(content))] ^= 1 << bit
    path = tmp_path_factory.mktemp("turned") / "xgboost-model"
    path.write_bytes(content)
    for config in (ModelConfig(), NATIVE):
        with suppress(ServingError):
            container = KIND.load(path, config)
            container.execute([rows(40, features=container.spec.inputs[0].shape[1])])


# ---------------------------------------------------------------- UBJSON by itself


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends at byte 0"),
        (b"{", "ends at byte 1"),
        (b"{i\x01a", "ends at byte 4"),
        (b"{i\x01aTi\x01aF}", "the key 'a' before byte 8 is there twice"),
        (b"T?", "1 bytes follow its end"),
        (b"?", "byte 0 is 0x3f, which begins no value"),
        (b"[$d#L\x7f\xff\xff\xff\xff\xff\xff\xff", "a length of 9223372036854775807 at byte 13 goes past its end"),
        (b"[$d#i\x02\0\0\0\0", "2 numbers at byte 6 go past its end"),
        (b"[#i\xff", "a length of -1"),
        (b"[$Z#i\x01 ", "byte 2: an array of constants"),
        (b"[$di\x01", "a typed array was expected to have a length"),
        (b"Si\x7fabc", "a length of 127 at byte 3 goes past its end"),
        (b"Sdaaaa", "byte 1 is 0x64; a length was expected"),
        (b"Si\x01\xff", "is not UTF-8"),
        (b"[[[" * 30, "nested deeper than 64 levels"),
        (b"l\0\0", "go past its end"),
    ],
)
def test_bad_ubjson(content: bytes, message: str) -> None:
    with pytest.raises(NotUbjson, match=message):
        ubjson.loads(content)


def test_ubjson_values() -> None:
    content = b"{i\x01a[i\x01U\xffI\x01\0l\0\x01\0\0L\0\0\0\0\0\0\0\x09TFZ]i\x01bSi\x02hii\x01c[$d#i\x02\x3f\x80\0\0\xc0\0\0\0}"
    found = ubjson.loads(content)
    assert found["a"] == [1, 255, 256, 65536, 9, True, False, None]
    assert found["b"] == "hi"
    np.testing.assert_array_equal(found["c"], np.array([1, -2], np.float32))
