"""The LightGBM container: that both engines answer as the library, and what it refuses."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.lightgbm.container import LightGBMKind
from serving.contract import Container, ContainerKind, Conventions, ModelConfig, TensorSpec, TreesConfig
from serving.errors import ArtifactError, ConfigurationError, ServingError

KIND: ContainerKind = LightGBMKind()
ONNX, NATIVE = (ModelConfig(trees=TreesConfig(engine=name)) for name in ("onnx", "native"))
CLOSE = 1e-6

Array = np.ndarray[Any, Any]


def load(path: Path, config: ModelConfig | None = None) -> Container:
    return KIND.load(path, config or ModelConfig())


def rows(count: int, seed: int = 1) -> Array:
    """Five columns with a tenth missing, zeros in the second, whole numbers in the third."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((count, 5)).astype(np.float32)
    values[random.random(values.shape) < 0.1] = np.nan
    values[: count // 3, 1] = 0
    values[:, 2] = random.integers(0, 9, count)
    return values


def train(
    path: Path, parameters: dict[str, Any], missing: bool = True, rounds: int = 15, **data: Any
) -> lightgbm.Booster:
    values = rows(400, 2) if missing else np.nan_to_num(rows(400, 2))
    total = np.nansum(values * np.array([1, 2, 0.5, 3, 4]), axis=1) - 2
    objective = parameters["objective"]
    labels: Array = total
    if objective.startswith("multiclass"):
        labels = np.digitize(total, [-3, 3])
    elif objective in ("poisson", "gamma", "tweedie"):
        labels = np.abs(total).round() + 1
    elif objective in ("binary", "cross_entropy", "cross_entropy_lambda"):
        labels = total > 0
    elif objective == "lambdarank":
        labels, data["group"] = np.digitize(total, [-3, 3]), [200, 200]
    settings = {
        "num_leaves": 12,
        "verbose": -1,
        "num_threads": 1,
        "min_data_per_group": 1,
        "cat_smooth": 1,
        **parameters,
    }
    booster = lightgbm.train(settings, lightgbm.Dataset(values, labels.astype(float), **data), rounds)
    booster.save_model(path)
    return booster


MODELS: dict[str, dict[str, Any]] = {
    "binary": {"objective": "binary"},
    "binary with a sigmoid": {"objective": "binary", "sigmoid": 0.7},
    "regression": {"objective": "regression"},
    "regression of roots": {"objective": "regression", "reg_sqrt": True},
    "regression_l1": {"objective": "regression_l1"},
    "huber": {"objective": "huber"},
    "quantile": {"objective": "quantile"},
    "poisson": {"objective": "poisson"},
    "gamma": {"objective": "gamma"},
    "tweedie": {"objective": "tweedie"},
    "cross_entropy": {"objective": "cross_entropy"},
    "cross_entropy_lambda": {"objective": "cross_entropy_lambda"},
    "lambdarank": {"objective": "lambdarank"},
    "multiclass": {"objective": "multiclass", "num_class": 3},
    "multiclassova": {"objective": "multiclassova", "num_class": 3},
    "dart": {"objective": "binary", "boosting": "dart"},
    "forest": {"objective": "binary", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5},
}


@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_both_engines_predict_what_the_library_does(tmp_path: Path, name: str, missing: bool) -> None:
    booster = train(path := tmp_path / "model.txt", MODELS[name], missing)
    values = rows(200, seed=9)
    # Values that are thresholds to the last bit of a float32. With an exponent the library reads a threshold a little wrong.
    thresholds = [
        float(word)
        for line in path.read_text().splitlines()
        if line.startswith("threshold=")
        for word in line.partition("=")[2].split()
        if "e" not in word
    ]
    values[:100, 3] = np.resize(np.array(thresholds, np.float32), 100)
    expected = booster.predict(values)
    for config in (ONNX, NATIVE):
        (found,) = load(path, config).execute([values])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize(
    ("parameters", "data", "missing"),
    [
        ({"objective": "binary"}, {"categorical_feature": [2]}, True),
        ({"objective": "binary", "zero_as_missing": True}, {}, False),
    ],
)
def test_what_only_the_library_can_do(
    tmp_path: Path, parameters: dict[str, Any], data: dict[str, Any], missing: bool
) -> None:
    booster = train(path := tmp_path / "model.txt", parameters, missing, **data)
    container = load(path)
    assert container.spec.platform == "lightgbm_native"
    values = rows(50, 3)
    np.testing.assert_allclose(container.execute([values])[0], booster.predict(values), rtol=CLOSE)
    with pytest.raises(ConfigurationError, match="ONNX Runtime cannot run this model: it "):
        load(path, ONNX)


def test_the_spec(tmp_path: Path) -> None:
    train(path := tmp_path / "model.txt", {"objective": "binary"}, feature_name=list("abcde"))
    spec = load(path).spec
    assert spec.inputs == (TensorSpec("features", "FP32", (-1, 5), tuple("abcde")),)
    assert spec.outputs == (TensorSpec("score", "FP32", (-1,)),)
    assert (spec.platform, spec.batched, spec.conventions) == ("lightgbm", True, Conventions(missing=True))
    train(path, {"objective": "multiclass", "num_class": 3})
    spec = load(path).spec
    assert spec.inputs[0].features == ()
    assert spec.outputs == (TensorSpec("score", "FP32", (-1, 3)),)


def test_a_model_is_found_by_its_first_lines(tmp_path: Path) -> None:
    assert KIND.artifact(tmp_path) is None
    train(tmp_path / "a.lgb", {"objective": "binary"}, rounds=1)
    (tmp_path / "notes.txt").write_text("tree\nhouse\n")
    assert KIND.artifact(tmp_path) == KIND.artifact(tmp_path / "a.lgb") == tmp_path / "a.lgb"
    train(tmp_path / "b.lgb", {"objective": "binary"}, rounds=1)
    with pytest.raises(
        ArtifactError, match=r"holds 2 LightGBM models \(a.lgb, b.lgb\); name the one to serve model.txt"
    ):
        KIND.artifact(tmp_path)
    train(tmp_path / "model.txt", {"objective": "binary"}, rounds=1)
    assert KIND.artifact(tmp_path) == tmp_path / "model.txt"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    train(path := tmp_path_factory.mktemp("bad") / "model.txt", {"objective": "binary"}, rounds=3)
    return path.read_text()


def line(text: str, key: str) -> str:
    return next(each for each in text.splitlines() if each.startswith(f"{key}="))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", "v9", "version v9 of the format, which is too new: up to v4 is read"),
        ("version", "v", "invalid literal"),
        ("max_feature_idx", "9999999", "has 10000000 features; 1 to"),
        ("max_feature_idx", "9", "5 different feature names for 10 features"),
        ("num_tree_per_iteration", "2", "its numbers of classes differ"),
        ("num_tree_per_iteration", "0", "has 0 classes or targets"),
        ("feature_names", "a a b c d", "4 different feature names for 5 features"),
        ("Tree", "5", "tree 0 is called 5"),
        ("num_leaves", "0", "tree 0 has 0 leaves"),
        ("num_leaves", "13", "tree 0 has 12 values of leaf_value; 13 were expected"),
        ("split_feature", "1 2", "tree 0 has 2 values of split_feature; 11 were expected"),
        ("split_feature", " ".join(["7"] * 11), "tree 0 splits on feature 7; the model has 5"),
        ("split_feature", " ".join(["1.5"] * 11), "split_feature holds what is not a whole number"),
        ("left_child", " ".join(["99"] * 11), "a child that is neither one of its 11 splits nor of its 12 leaves"),
        ("left_child", " ".join(["-99"] * 11), "a child that is neither one of its 11 splits nor of its 12 leaves"),
        ("left_child", " ".join(["1"] * 11), "of tree 0 has several parents"),
        ("left_child", " ".join(["0"] * 11), "node 0 of tree 0 has child 0"),
        ("leaf_value", " ".join(["nan"] * 12), "a leaf or the base score is not a finite number"),
        ("threshold", " ".join(["nan"] * 11), "a threshold is not a number"),
        ("threshold", " ".join(["x"] * 11), "could not convert"),
        ("decision_type", " ".join(["1"] * 11), "has 1 values of cat_boundaries|has no cat_boundaries"),
        ("is_linear", "1", "has linear models as leaves"),
        ("is_linear", "1\nis_linear=1", "'is_linear' is there twice in a tree"),
        # Numbers that the library reads in another way than we do, and trusts.
        ("max_feature_idx", "0_4", "'0_4' is not a whole number"),
        ("num_leaves", "1_2", "'1_2' is not a whole number"),
        ("num_class", "\u0661", "'\u0661' is not a whole number"),
        ("left_child", " ".join(["1e1"] * 11), "left_child holds what is not a whole number"),
        ("right_child", " ".join(["1_0"] * 11), "right_child holds what is not a number"),
        ("decision_type", " ".join(["2.0"] * 11), "decision_type holds what is not a whole number"),
        ("threshold", " ".join(["\u0661"] * 11), "threshold holds what is not a number"),
        ("objective", "binary sigmoid:abc", "its objective is 'binary sigmoid:abc': could not convert"),
        ("objective", "binary sigmoid:-1", "sigmoid is -1; a number above 0 was expected"),
    ],
)
def test_a_bad_model_is_refused_by_name(tmp_path: Path, text: str, key: str, value: str, message: str) -> None:
    path = tmp_path / "model.txt"
    path.write_text(text.replace(line(text, key), f"{key}={value}", 1))
    for config in (ModelConfig(), NATIVE):
        with pytest.raises(ArtifactError, match=message):
            load(path, config)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"forest\n", "is no LightGBM model"), (b"tree\nversion=v4\n\xff", "byte 16 is not UTF-8")],
)
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "model.txt").write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        load(tmp_path / "model.txt")


def test_every_cut_is_noticed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.txt"
    for cut in range(0, text.index("end of trees"), 50):
        path.write_text(text[:cut])
        with pytest.raises(ArtifactError):
            load(path)


@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from("0123456789-. =\n")), min_size=1, max_size=3
    )
)
def test_changed_characters_are_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, text: str, changes: list[tuple[float, str]]
) -> None:
    end = text.index("end of trees")
    content = list(text)
    for share, character in changes:
        content[int(share * end)] = character
    path = tmp_path_factory.mktemp("changed") / "model.txt"
    path.write_text("".join(content))
    for config in (ModelConfig(), NATIVE):
        with suppress(ServingError):
            container = load(path, config)
            container.execute([np.zeros((40, container.spec.inputs[0].shape[1]), np.float32)])
