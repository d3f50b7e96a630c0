"""The XGBoost container: what it loads, that both engines answer alike and as the library, and what it keeps."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st

from containers.trees import engine, graph
from containers.trees.engine import NEVER, Engines
from containers.xgboost import objectives
from containers.xgboost.container import XGBoostKind
from serving.contract import Container, ContainerKind, Conventions, ModelConfig, TensorConfig, TensorSpec, TreesConfig
from serving.errors import ArtifactError, ConfigurationError
from tests.containers.boosters import (
    FEATURES,
    GRID,
    LEGACY,
    Array,
    document_of,
    put,
    random_document,
    rows,
    train,
)

KIND: ContainerKind = XGBoostKind()
ONNX, NATIVE = (ModelConfig(trees=TreesConfig(engine=name)) for name in ("onnx", "native"))
CLOSE = 1e-6


def load(path: Path, config: ModelConfig | None = None) -> Container:
    return KIND.load(path, config or ModelConfig())


def answers(path: Path, values: Array, config: ModelConfig | None = None) -> Array:
    (found,) = load(path, config).execute([values])
    return found


def with_environment(**environment: str) -> ModelConfig:
    return ModelConfig(environment=environment)


def saved(path: Path, parameters: dict[str, Any], **options: Any) -> xgboost.Booster:
    booster = train(parameters, **options)
    path.write_bytes(bytes(booster.save_raw(path.suffix[1:] if path.suffix else "ubj")))
    return booster


def softprob(path: Path) -> xgboost.Booster:
    return saved(path, {"objective": "multi:softprob", "num_class": 3})


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("kind", ["gbtree", "dart"])
@pytest.mark.parametrize("objective", sorted(objectives.LINKS))
def test_both_engines_predict_what_the_library_does(tmp_path: Path, objective: str, kind: str) -> None:
    parameters: dict[str, Any] = {"objective": objective, "booster": kind}
    if kind == "dart":
        parameters |= {"rate_drop": 0.3, "one_drop": 1}
    if objective.startswith("multi"):
        parameters["num_class"] = 3
    if objective == "reg:quantileerror":
        parameters["quantile_alpha"] = [0.2, 0.8]
    booster = saved(path := tmp_path / "model.ubj", parameters)
    values = rows(200, seed=9)
    expected = booster.predict(xgboost.DMatrix(values))
    for config in (ONNX, NATIVE):
        container = load(path, config)
        (found,) = container.execute([values])
        assert found.dtype == np.float32
        assert found.shape == expected.shape == (200, *container.spec.outputs[0].shape[1:])
        np.testing.assert_allclose(found, expected, rtol=CLOSE, atol=CLOSE)
        alone = [container.execute([values[row : row + 1]])[0] for row in range(20)]
        np.testing.assert_array_equal(np.concatenate(alone), found[:20])


CASES = st.tuples(
    st.integers(0, 2**32),
    st.integers(1, 8),
    st.integers(0, 6),
    st.sampled_from(
        [
            (0, "binary:logistic", "5E-1"),
            (0, "binary:logistic", "[1.2345E-1]"),
            (0, "reg:squarederror", "-3.5"),
            (0, "reg:squarederror", "[1E3]"),
            (3, "multi:softprob", "5E-1"),
            (3, "multi:softprob", "[1E-1,-2E-1,3E-1]"),
            (2, "multi:softmax", "0"),
        ]
    ),
    st.booleans(),
)


@given(CASES)
def test_engines_agree_on_any_forest(case: tuple[int, int, int, tuple[int, str, str], bool]) -> None:
    seed, rounds, depth, (classes, objective, base_score), dart = case
    document = random_document(seed, rounds * max(classes, 1), depth, classes, objective, base_score, dart)
    values = np.random.default_rng(seed + 1).choice(GRID, (64, FEATURES))
    path = put(Path(os.environ["PYTEST_TMP"]) / "model.json", document)
    try:
        np.testing.assert_allclose(answers(path, values, ONNX), answers(path, values, NATIVE), rtol=CLOSE, atol=CLOSE)
    finally:
        for file in path.parent.iterdir():
            file.unlink()


@pytest.fixture(autouse=True)
def _scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # hypothesis runs many examples in one test, which cannot share a function's own directory.
    monkeypatch.setenv("PYTEST_TMP", str(tmp_path_factory.mktemp("forest")))


def test_infinite_values_are_values(tmp_path: Path) -> None:
    saved(path := tmp_path / "model.ubj", {"objective": "reg:squarederror"})
    values = rows(40)
    values[:, 5] = np.where(np.arange(40) % 2, np.inf, -np.inf)
    np.testing.assert_array_equal(answers(path, values, ONNX), answers(path, values, NATIVE))


@pytest.mark.parametrize("name", json.loads((LEGACY / "answers.json").read_text())["answers"])
def test_binary_models_of_old_releases(tmp_path: Path, name: str) -> None:
    known = json.loads((LEGACY / "answers.json").read_text())
    values = np.array(known["rows"], np.float32)
    path = tmp_path / "xgboost-model"
    content = (LEGACY / f"{name}.bin").read_bytes()
    assert content.startswith(b"binf")
    for start in (0, 4):
        path.write_bytes(content[start:])
        assert KIND.artifact(tmp_path) == path
        for config in (ModelConfig(), NATIVE):
            np.testing.assert_allclose(answers(path, values, config), known["answers"][name], rtol=CLOSE, atol=CLOSE)


def test_the_base_score_of_a_model_from_before_1_0_is_a_margin(tmp_path: Path) -> None:
    content = bytearray((LEGACY / "binary-logistic.bin").read_bytes()[4:])
    content[0:4] = np.float32(0.5).tobytes()
    (tmp_path / "new").write_bytes(content)
    content[0:4] = np.float32(0).tobytes()  # the margin of 0.5
    content[20:28] = np.array([0, 90], "<u4").tobytes()
    (tmp_path / "old").write_bytes(content)
    values = rows(20, features=5)
    for config in (ONNX, NATIVE):
        np.testing.assert_array_equal(
            answers(tmp_path / "old", values, config), answers(tmp_path / "new", values, config)
        )


@pytest.mark.parametrize("objective", ["reg:squarederror", "binary:logistic"])
def test_a_linear_model_is_served_by_the_library(tmp_path: Path, objective: str) -> None:
    booster = saved(path := tmp_path / "model.json", {"objective": objective, "booster": "gblinear"})
    container = load(path)
    assert container.spec.platform == "xgboost_native"
    values = rows(30)
    np.testing.assert_allclose(container.execute([values])[0], booster.predict(xgboost.DMatrix(values)), rtol=CLOSE)


def test_categorical_splits_are_served_by_the_library(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    values = np.column_stack([random.integers(0, 8, 300), random.standard_normal(300)]).astype(np.float32)
    data = xgboost.DMatrix(values, values[:, 0] % 3 == 0, feature_types=["c", "q"], enable_categorical=True)
    booster = xgboost.train({"objective": "binary:logistic", "max_cat_to_onehot": 1, "nthread": 1}, data, 8)
    booster.save_model(path := tmp_path / "model.json")
    assert any(tree["categories"] for tree in document_of(booster)["learner"]["gradient_booster"]["model"]["trees"])
    container = load(path)
    assert container.spec.platform == "xgboost_native"
    np.testing.assert_allclose(container.execute([values])[0], booster.predict(data), rtol=CLOSE)


def test_nodes_that_pruning_left_behind_are_no_trees(tmp_path: Path) -> None:
    document = document_of(train({"objective": "reg:squarederror"}, rounds=3))
    expected = answers(put(tmp_path / "whole.json", document), rows(50), ONNX)
    for tree in document["learner"]["gradient_booster"]["model"]["trees"]:
        size = len(tree["left_children"])
        for key, value in tree.items():
            if isinstance(value, list) and len(value) == size:
                value.extend([-1, -1] if key.endswith("children") else value[:1] * 2)
        tree["tree_param"]["num_nodes"] = str(size + 2)
    np.testing.assert_array_equal(answers(put(tmp_path / "more.json", document), rows(50), ONNX), expected)


# ---------------------------------------------------------------- the spec


def test_the_spec_of_a_binary_classifier(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    saved(path := tmp_path / "model.json", {"objective": "binary:logistic"}, feature_names=names)
    spec = load(path).spec
    assert spec.inputs == (TensorSpec("features", "FP32", (-1, 6), tuple(names)),)
    assert spec.outputs == (TensorSpec("score", "FP32", (-1,)),)
    assert (spec.platform, spec.batched) == ("xgboost", True)
    assert spec.conventions == Conventions(
        content_type="text/libsvm",
        accept="text/csv",
        predictions=True,
        one_line=True,
        missing=True,
        empty_is_no_content=True,
        unreadable_is_failure=True,
    )


def test_softprob_gives_a_probability_for_each_class(tmp_path: Path) -> None:
    softprob(path := tmp_path / "model.json")
    spec = load(path).spec
    assert spec.inputs[0].features == ()
    assert spec.outputs == (TensorSpec("score", "FP32", (-1, 3)),)


def test_the_operator_may_name_the_columns(tmp_path: Path) -> None:
    softprob(path := tmp_path / "model.json")
    said = TensorConfig(name="features", features=tuple("abcdef"))
    assert load(path, ModelConfig(inputs=(said,))).spec.inputs[0].features == tuple("abcdef")
    for wrong, message in (
        (TensorConfig(name="features", features=("a", "b")), "has 2 features; the model has 6 columns"),
        (TensorConfig(name="x"), "'x' is not in the model, which has 'features'"),
        (TensorConfig(name="features", datatype="FP64"), "is FP64; the model's is FP32"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            load(path, ModelConfig(inputs=(wrong,)))


def test_other_names_than_the_boosters_own_are_refused(tmp_path: Path) -> None:
    saved(path := tmp_path / "model.json", {"objective": "reg:squarederror"}, feature_names=list("abcdef"))
    said = TensorConfig(name="features", features=tuple("bacdef"))
    with pytest.raises(ConfigurationError, match="the model was trained with a, b, c, d, e, f, in this order"):
        load(path, ModelConfig(inputs=(said,)))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "application/json"}, {"accept": "application/json"}),
        ({"SAGEMAKER_BATCH": "true"}, {"one_line": False, "ended_lines": True}),
        ({"SAGEMAKER_INFERENCE_OUTPUT": "probability"}, {"one_line": False}),
    ],
)
def test_sagemakers_variables_set_the_conventions(
    tmp_path: Path, environment: dict[str, str], expected: dict[str, Any]
) -> None:
    saved(path := tmp_path / "model.json", {"objective": "binary:logistic"})
    conventions = load(path, ModelConfig(environment=environment)).spec.conventions
    assert {key: getattr(conventions, key) for key in expected} == expected


# ---------------------------------------------------------------- selectable output

SELECTED = {
    "binary:logistic": {
        "predicted_label": lambda p: (p > 0.5).astype(int),
        "labels": lambda p: np.tile([0, 1], (len(p), 1)),
        "probability": lambda p: p,
        "probabilities": lambda p: np.stack((1 - p, p), axis=1),
        "raw_score": lambda p: p,
        "raw_scores": lambda p: np.stack((1 - p, p), axis=1),
    },
    "binary:logitraw": {
        "predicted_label": lambda p: (p > 0).astype(int),
        "labels": lambda p: np.tile([0, 1], (len(p), 1)),
        "raw_score": lambda p: p,
        "raw_scores": lambda p: np.stack((1 - p, p), axis=1),
    },
    "binary:hinge": {
        "predicted_label": lambda p: p,
        "labels": lambda p: np.tile([0, 1], (len(p), 1)),
        "raw_score": lambda p: p,
        "raw_scores": lambda p: np.stack((1 - p, p), axis=1),
    },
    "multi:softmax": {
        "predicted_label": lambda p: p,
        "labels": lambda p: np.tile([0, 1, 2], (len(p), 1)),
        "raw_score": lambda p: p,
        "raw_scores": lambda p: np.stack((1 - p, p), axis=1),
    },
    "multi:softprob": {
        "predicted_label": lambda p: p.argmax(axis=1),
        "labels": lambda p: np.tile([0, 1, 2], (len(p), 1)),
        "probability": lambda p: p.max(axis=1),
        "probabilities": lambda p: p,
        "raw_score": lambda p: p.max(axis=1),
        "raw_scores": lambda p: p,
    },
    "reg:squarederror": {"predicted_score": lambda p: p},
    "reg:gamma": {"predicted_score": lambda p: p},
}
KEYS = ("predicted_label", "labels", "probability", "probabilities", "raw_score", "raw_scores", "predicted_score")


@pytest.mark.parametrize("objective", SELECTED)
def test_selected_outputs(tmp_path: Path, objective: str) -> None:
    parameters: dict[str, Any] = {"objective": objective}
    if objective.startswith("multi"):
        parameters["num_class"] = 3
    saved(path := tmp_path / "model.json", parameters)
    values = rows(40)
    plain = answers(path, values).astype(np.float64)
    container = load(path, with_environment(SAGEMAKER_INFERENCE_OUTPUT=" ,".join(KEYS).upper()))
    assert [spec.name for spec in container.spec.outputs] == list(KEYS)
    found = dict(zip(KEYS, container.execute([values]), strict=True))
    for spec in container.spec.outputs:
        array = found[spec.name]
        assert array.shape == (40, *spec.shape[1:])
        assert array.dtype == {"FP64": np.float64, "INT64": np.int64}[spec.datatype]
        meaning = SELECTED[objective].get(spec.name)
        if meaning is None:
            assert array.shape == (40,)
            assert np.isnan(array).all()
        else:
            np.testing.assert_array_equal(array, meaning(plain))


@pytest.mark.parametrize(
    ("environment", "objective", "message"),
    [
        ({"SAGEMAKER_INFERENCE_OUTPUT": "probabilitys"}, "binary:logistic", "is 'probabilitys'; different ones of"),
        ({"SAGEMAKER_INFERENCE_OUTPUT": "labels,labels"}, "binary:logistic", "different ones of predicted_label"),
        ({"SAGEMAKER_INFERENCE_OUTPUT": "labels"}, "count:poisson", "cannot be had for the objective count:poisson"),
        ({"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/html"}, "binary:logistic", "one of text/csv, application/json"),
    ],
)
def test_variables_that_cannot_be_honoured(
    tmp_path: Path, environment: dict[str, str], objective: str, message: str
) -> None:
    saved(path := tmp_path / "model.json", {"objective": objective})
    with pytest.raises(ConfigurationError, match=message):
        load(path, ModelConfig(environment=environment))


# ---------------------------------------------------------------- finding and ensembles


@pytest.mark.parametrize("name", ["model.json", "model.ubj", "xgboost-model", "anything", "a.model"])
def test_a_booster_is_found_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    saved(tmp_path / "made.json", {"objective": "reg:squarederror"})
    (tmp_path / "made.json").rename(tmp_path / name)
    (tmp_path / "labels.json").write_text('["a", "b"]')
    (tmp_path / ".hidden").write_bytes((tmp_path / name).read_bytes())
    assert KIND.artifact(tmp_path) == tmp_path / name
    assert KIND.artifact(tmp_path / name) == tmp_path / name


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'["learner"]', b"PK\3\4", b"\x80\x04\x95sklearn", b"tree\nversion=v4\n"]
)
def test_other_files_are_left_to_others(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.json").write_bytes(content)
    assert KIND.artifact(tmp_path) is None
    assert KIND.artifact(tmp_path / "model.json") is None


def ensemble(directory: Path, objective: str, **parameters: Any) -> list[xgboost.Booster]:
    directory.mkdir()
    return [
        saved(directory / name, {"objective": objective, **parameters}, rounds=4, seed=seed)
        for seed, name in enumerate(("first", "second.ubj", "third.json"))
    ]


def test_an_ensemble_answers_with_the_mean(tmp_path: Path) -> None:
    boosters = ensemble(tmp_path / "m", "binary:logistic")
    assert KIND.artifact(tmp_path / "m") == tmp_path / "m"
    values = rows(30)
    expected = [booster.predict(xgboost.DMatrix(values)) for booster in boosters]
    for config in (ONNX, NATIVE):
        np.testing.assert_allclose(answers(tmp_path / "m", values, config), np.mean(expected, axis=0), atol=CLOSE)
    config = with_environment(SAGEMAKER_INFERENCE_ENSEMBLE="false")
    np.testing.assert_allclose(answers(tmp_path / "m", values, config), expected[0], atol=CLOSE)


def test_an_ensemble_of_class_labels_votes(tmp_path: Path) -> None:
    boosters = ensemble(tmp_path / "m", "multi:softmax", num_class=3)
    values = rows(200)
    votes = np.array([booster.predict(xgboost.DMatrix(values)) for booster in boosters])
    expected = [min(set(column), key=lambda label: (-list(column).count(label), label)) for column in votes.T]
    assert any(len(set(column)) == 3 for column in votes.T)
    np.testing.assert_array_equal(answers(tmp_path / "m", values), expected)


def test_boosters_that_differ_are_no_ensemble(tmp_path: Path) -> None:
    saved(tmp_path / "a.json", {"objective": "binary:logistic"})
    saved(tmp_path / "b.json", {"objective": "reg:squarederror"})
    with pytest.raises(ArtifactError, match=r"a.json is binary:logistic of 6 .* b.json is reg:squarederror"):
        load(tmp_path)
    saved(tmp_path / "b.json", {"objective": "binary:logistic"}, feature_names=list("abcdef"))
    with pytest.raises(ArtifactError, match=r"a.json and b.json have different feature names"):
        load(tmp_path)


# ---------------------------------------------------------------- the conversion


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for each conversion; it goes on as usual."""
    lines: list[str] = []
    build = graph.build

    def counted(forest: Any, extra: str) -> bytes:
        lines.append(extra)
        return build(forest, extra)

    monkeypatch.setattr(graph, "build", counted)
    return lines


def kept(directory: Path) -> Path:
    (found,) = directory.glob(".*.trees")
    return found


def test_a_model_is_converted_once(tmp_path: Path, built: list[str]) -> None:
    softprob(path := tmp_path / "model.json")
    first = answers(path, rows(20))
    assert len(built) == 1
    np.testing.assert_array_equal(answers(path, rows(20)), first)
    assert len(built) == 1
    assert [file.name for file in tmp_path.iterdir() if not file.name.startswith(".")] == ["model.json"]
    softprob(path)
    saved(path, {"objective": "reg:squarederror"})
    assert answers(path, rows(20)).shape == (20,)
    assert len(built) == 2
    kept(tmp_path)


def test_a_conversion_leaves_those_of_other_models_alone(tmp_path: Path, built: list[str]) -> None:
    for name in ("a", "a.json", "*"):
        saved(file := tmp_path / f"{name}.ubj", {"objective": "binary:logistic"})
        file.rename(tmp_path / name)
        load(tmp_path)
    load(tmp_path)
    assert len(built) == 3


def test_a_damaged_or_foreign_conversion_is_not_trusted(tmp_path: Path, built: list[str]) -> None:
    softprob(path := tmp_path / "model.json")
    expected = answers(path, rows(20))
    file = kept(tmp_path)
    good = file.read_bytes()
    (tmp_path / "other").mkdir()
    saved(other := tmp_path / "other" / "model.json", {"objective": "reg:squarederror"})
    load(other)
    bad = [good[:cut] for cut in (0, 1, 20, 40, 60, 100, len(good) // 2, len(good) - 1)]
    bad += [good + b"x", kept(tmp_path / "other").read_bytes(), good.replace(b"trees 1", b"trees 0")]
    for place in (3, 25, 50, 90, 200, len(good) - 5):
        bad.append(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
    for content in bad:
        file.write_bytes(content)
        before = len(built)
        np.testing.assert_array_equal(answers(path, rows(20)), expected)
        assert len(built) == before + 1
        assert file.read_bytes() == good


def test_a_folder_that_cannot_be_written_is_served_without_a_conversion_kept(tmp_path: Path, built: list[str]) -> None:
    softprob(path := tmp_path / "model.json")
    expected = answers(path, rows(20))
    # As the superuser may write anywhere, the place is taken by a directory instead.
    file = kept(tmp_path)
    file.unlink()
    (file / "in the way").mkdir(parents=True)
    for _ in range(2):
        np.testing.assert_array_equal(answers(path, rows(20)), expected)
    assert len(built) == 3
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([file.name, "model.json"])


def test_the_library_is_not_imported_to_serve_single_rows(tmp_path: Path) -> None:
    softprob(tmp_path / "model.json")
    program = f"""
import sys
from pathlib import Path
import numpy as np
from containers.xgboost.container import XGBoostKind
from serving.contract import ModelConfig
container = XGBoostKind().load(Path({str(tmp_path)!r}) / "model.json", ModelConfig())
for rows in (1, 64):
    container.execute([np.zeros((rows, 6), np.float32)])
print(sorted({{"xgboost", "scipy", "sklearn", "onnx"}} & set(sys.modules)))
"""
    load(tmp_path / "model.json")
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output == "[]\n"


# ---------------------------------------------------------------- the choice of engine


def test_the_library_takes_over_large_batches_where_it_is_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    booster = saved(path := tmp_path / "model.json", {"objective": "binary:logistic"}, rounds=300)
    monkeypatch.setattr(engine, "WORTH_S", 0.0)
    found: list[Engines] = []
    make = Engines.__init__

    def noted(self: Engines, *arguments: Any) -> None:
        make(self, *arguments, worth_s=0.0)
        found.append(self)

    monkeypatch.setattr(Engines, "__init__", noted)
    container = load(path)
    (engines,) = found
    container.execute([rows(engine.LARGE_ROWS - 1)])
    assert engines.opening is None
    values = rows(2000)
    container.execute([values])
    assert engines.opening is not None
    engines.opening.join(30)
    assert engines.native_from in (*engine.SIZES, NEVER)
    expected = booster.predict(xgboost.DMatrix(values))
    for count in (1, 31, 32, 100, 2000):
        np.testing.assert_allclose(container.execute([values[:count]])[0], expected[:count], rtol=CLOSE)


def timed(seconds: dict[int, float]) -> engine.Predict:
    """An engine that takes that long by a clock of its own, for any number of rows."""

    def run(values: Array) -> Array:
        CLOCK[0] += seconds[len(values)]
        return np.zeros(len(values), np.float32)

    return run


CLOCK = [0.0]


@pytest.mark.parametrize(
    ("quick", "native", "expected"),
    [
        ((1, 2, 4, 8, 16, 32), (3, 3, 3, 3, 3, 3), 128),
        ((1, 2, 4, 8, 16, 32), (9, 1, 9, 9, 9, 9), 512),
        ((1, 1, 1, 1, 1, 1), (9, 9, 9, 9, 9, 9), NEVER),
        ((9, 9, 9, 9, 9, 9), (1, 1, 1, 1, 1, 1), 32),
        ((1, 1, 1, 1, 1, 1), (0.97, 0.97, 0.97, 0.97, 0.97, 0.97), NEVER),
        ((1, 900, 1, 1, 1, 1), (9, 1, 9, 9, 9, 9), 64),
    ],
)
def test_the_crossover_is_where_the_library_begins_to_win_for_good(
    monkeypatch: pytest.MonkeyPatch, quick: tuple[float, ...], native: tuple[float, ...], expected: int
) -> None:
    monkeypatch.setattr(engine, "thread_time", lambda: CLOCK[0])
    one, other = (
        timed({size: ms / 1e3 for size, ms in zip(engine.SIZES, each, strict=True)}) for each in (quick, native)
    )
    assert engine.crossover(one, other, FEATURES) == expected


def test_a_library_that_differs_or_fails_is_not_used() -> None:
    def zeros(values: Array) -> Array:
        return np.zeros((len(values), 1), np.float32)

    def fails() -> engine.Predict:
        engine.check_agreement(zeros, lambda values: zeros(values) + 1, FEATURES, "model.json")
        return zeros

    engines = Engines(zeros, fails, FEATURES, "m", worth_s=0.0)
    engines.predict(rows(64))
    assert engines.opening is not None
    engines.opening.join(30)
    assert engines.native_from == NEVER
    np.testing.assert_array_equal(engines.predict(rows(64)), np.zeros((64, 1)))


def test_a_file_that_changed_is_not_given_to_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Engines] = []
    make = Engines.__init__

    def noted(self: Engines, *arguments: Any) -> None:
        make(self, *arguments, worth_s=0.0)
        found.append(self)

    monkeypatch.setattr(Engines, "__init__", noted)
    booster = saved(path := tmp_path / "model.json", {"objective": "binary:logistic"})
    container = load(path)
    saved(path, {"objective": "binary:logistic"}, rounds=3)
    values = rows(500)
    container.execute([values])
    assert found[0].opening is not None
    found[0].opening.join(30)
    assert found[0].native_from == NEVER
    np.testing.assert_allclose(container.execute([values])[0], booster.predict(xgboost.DMatrix(values)), rtol=CLOSE)


def test_a_closed_model_runs_no_more(tmp_path: Path) -> None:
    softprob(path := tmp_path / "model.json")
    container = load(path)
    container.close()
    with pytest.raises(RuntimeError, match="closed"):
        container.execute([rows(1)])


def test_a_pickle_names_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "xgboost-model"
    path.write_bytes(pickle.dumps(train({"objective": "binary:logistic"}, rounds=2)))
    assert KIND.artifact(tmp_path) == path
    with pytest.raises(ArtifactError, match=r"is a pickle, which runs any code .* booster.save_model\('model.json'\)"):
        load(path)
    shutil.move(path, tmp_path / "other")
    assert KIND.artifact(tmp_path) == tmp_path / "other"
