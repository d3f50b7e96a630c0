"""The scikit-learn container: what it answers, what it refuses before anything in a file runs, and what it proves."""

from __future__ import annotations

import io
import json
import logging
import pickle
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyarrow as pa
import pytest
import sklearn
import skops.io
from click.testing import CliRunner
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomTreesEmbedding,
    StackingClassifier,
)
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, KBinsDiscretizer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC, SVR, NuSVC, OneClassSVM
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from threadpoolctl import threadpool_info

from containers.sklearn.container import SklearnKind
from serving.cli.check import check as check_command
from serving.contract import BatchingConfig, Container, ContainerKind, ModelConfig, SklearnConfig, TensorConfig, Trust
from serving.errors import ArtifactError, ConfigurationError, InvalidInput, ServingError
from tests.support import server as support
from tests.support.clients import get, post

KIND: ContainerKind = SklearnKind()

RANDOM = np.random.default_rng(5)
X = RANDOM.standard_normal((120, 4))
Y = (X[:, 0] + X[:, 1] > 0).astype(int)
NAMES = np.where(Y, "fraud", "fine")
ROWS = RANDOM.standard_normal((7, 4)).astype(np.float32)

CITIES = [["Rome", "Paris", "Oslo"][number % 3] for number in range(len(X))]
TABLE = pa.table({"age": X[:, 0], "city": CITIES, "income": X[:, 1]})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model" / "model.skops"


def dump(estimator: Any, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    skops.io.dump(estimator, file)
    return file


def fitted(estimator: Any, x: Any = X, y: Any = Y) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(x, y)


def config(method: Any = "predict", engine: Any = "sklearn", **more: Any) -> ModelConfig:
    return ModelConfig(name="m", sklearn=SklearnConfig(method=method, engine=engine), **more)


def load(file: Path, settings: ModelConfig | None = None) -> Container:
    return KIND.load(file, settings or config())


def texts(*values: str) -> np.ndarray[Any, Any]:
    array = np.empty(len(values), object)
    array[:] = [value.encode() for value in values]
    return array


# ---------------------------------------------------------------------- answers

ESTIMATORS: list[tuple[Any, Any, str, str]] = [
    (LogisticRegression(), Y, "predict", "INT64"),
    (LogisticRegression(), Y, "predict_proba", "FP64"),
    (LogisticRegression(), Y, "predict_log_proba", "FP64"),
    (LogisticRegression(), Y, "decision_function", "FP64"),
    (LogisticRegression(), Y.astype(bool), "predict", "BOOL"),
    (LinearRegression(), X[:, 0], "predict", "FP64"),
    (Ridge(), X[:, :2], "predict", "FP64"),
    (SGDClassifier(), Y, "predict", "INT64"),
    (GaussianNB(), Y, "predict_proba", "FP64"),
    (SVC(), Y, "decision_function", "FP64"),
    (SVC(probability=True), np.arange(len(X)) % 3, "predict_proba", "FP64"),
    (SVR(), X[:, 0], "predict", "FP64"),
    (NuSVC(nu=0.3), Y, "predict", "INT64"),
    (OneClassSVM(), None, "score_samples", "FP64"),
    (KNeighborsClassifier(algorithm="brute"), Y, "predict_proba", "FP64"),
    (DecisionTreeClassifier(max_depth=4), Y, "predict", "INT64"),
    (DecisionTreeRegressor(max_leaf_nodes=9), X[:, :2], "predict", "FP64"),
    (RandomForestClassifier(8, n_jobs=-1), Y, "predict_proba", "FP64"),
    (ExtraTreesRegressor(5), X[:, 0], "predict", "FP64"),
    (GradientBoostingClassifier(n_estimators=5), Y, "predict_proba", "FP64"),
    (GradientBoostingRegressor(n_estimators=5), X[:, 0], "predict", "FP64"),
    (HistGradientBoostingClassifier(max_iter=5), Y, "predict_proba", "FP64"),
    (HistGradientBoostingRegressor(max_iter=5), X[:, 0], "predict", "FP64"),
    (AdaBoostClassifier(n_estimators=4), Y, "predict", "INT64"),
    (IsolationForest(n_estimators=5), None, "score_samples", "FP64"),
    (make_pipeline(KNNImputer(), Ridge()), X[:, 0], "predict", "FP64"),
    (KBinsDiscretizer(3, quantile_method="averaged_inverted_cdf"), None, "transform", "FP32"),
    (RandomTreesEmbedding(3), None, "transform", "FP64"),
    (MLPRegressor(max_iter=5), X[:, 0], "predict", "FP64"),
    (StackingClassifier([("tree", DecisionTreeClassifier())]), Y, "predict", "INT64"),
    (KMeans(3), None, "transform", "FP64"),
    (PCA(2), None, "transform", "FP64"),
    (StandardScaler(), None, "transform", "FP32"),
    (make_pipeline(StandardScaler(), RandomForestClassifier(5)), Y, "predict_proba", "FP64"),
]


@pytest.mark.parametrize(
    ("estimator", "y", "method", "datatype"),
    ESTIMATORS,
    ids=[f"{type(estimator).__name__}-{method}" for estimator, _, method, _ in ESTIMATORS],
)
def test_rows_are_answered_as_the_estimator_answers_them(
    file: Path, estimator: Any, y: Any, method: str, datatype: str
) -> None:
    container = load(dump(fitted(estimator, X, y), file), config(method))
    spec = container.spec
    assert [(one.name, one.datatype, one.shape) for one in spec.inputs] == [("x", "FP32", (-1, 4))]
    assert (spec.outputs[0].name, spec.outputs[0].datatype) == (method, datatype)
    assert spec.batched, spec.why_not_batched
    read_only = ROWS.copy()
    read_only.flags.writeable = False
    (got,) = container.execute([read_only])
    expected = getattr(estimator, method)(ROWS)
    expected = expected.toarray() if hasattr(expected, "toarray") else np.asarray(expected)
    assert got.dtype == expected.dtype
    assert got.flags.c_contiguous
    assert np.allclose(got, expected, rtol=1e-9)
    assert got.shape == (7, *spec.outputs[0].shape[1:])
    (alone,) = container.execute([ROWS[3:4]])
    assert np.allclose(alone, expected[3:4], rtol=1e-5)


def test_labels_that_are_text_are_bytes(file: Path) -> None:
    container = load(dump(fitted(RandomForestClassifier(5), X, NAMES), file))
    assert container.spec.outputs[0].datatype == "BYTES"
    (got,) = container.execute([X.astype(np.float32)])
    assert set(got.tolist()) == {b"fraud", b"fine"}
    assert np.mean([one.decode() for one in got.tolist()] == NAMES) > 0.9


def test_columns_of_probabilities_are_labelled_with_the_classes(file: Path) -> None:
    spec = load(dump(fitted(LogisticRegression(), X, NAMES), file), config("predict_proba")).spec
    assert spec.outputs[0].labels == ("fine", "fraud")
    said = (TensorConfig(name="predict_proba", labels=("good", "bad")),)
    assert load(file, config("predict_proba", outputs=said)).spec.outputs[0].labels == ("good", "bad")


@pytest.mark.parametrize(
    ("estimator", "takes"),
    [
        (make_pipeline(SimpleImputer(), Ridge()), True),
        (HistGradientBoostingClassifier(max_iter=2), True),
        (Ridge(), False),
        (SVC(), False),
    ],
    ids=["imputer", "trees", "ridge", "svc"],
)
def test_missing_values_are_taken_where_the_estimator_takes_them(file: Path, estimator: Any, takes: bool) -> None:
    container = load(dump(fitted(estimator), file))
    assert container.spec.conventions.missing == takes
    rows = np.array([[1, np.nan, 2, 3]], np.float32)
    if takes:
        assert container.execute([rows])[0].shape == (1,)
    else:
        with pytest.raises(InvalidInput, match=r"refuses its input: Input X contains NaN\.$"):
            container.execute([rows])


def test_an_estimator_that_takes_64_bits_alone_gets_them(file: Path) -> None:
    means = fitted(KMeans(3, random_state=0))
    container = load(dump(means, file))
    assert container.spec.inputs[0].datatype == "FP32"
    assert container.execute([ROWS])[0].tolist() == means.predict(ROWS.astype(np.float64)).tolist()


def test_the_operator_may_ask_for_64_bits(file: Path) -> None:
    ridge = fitted(Ridge(), X, X[:, 0])
    container = load(
        dump(ridge, file), config(inputs=(TensorConfig(name="x", datatype="FP64", features=tuple("abcd")),))
    )
    assert container.spec.inputs[0].datatype == "FP64"
    assert container.spec.inputs[0].features == ("a", "b", "c", "d")
    precise = X[:5] + 1e-12
    assert np.array_equal(container.execute([precise])[0], ridge.predict(precise))


def test_texts(file: Path) -> None:
    words = ["cheap pills now", "meeting at noon"] * 20
    spam = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(words, ["spam", "ham"] * 20)
    container = load(dump(spam, file))
    assert [(one.datatype, one.shape) for one in container.spec.inputs] == [("BYTES", (-1,))]
    assert container.spec.batched
    assert container.execute([texts("pills", "noon", "")])[0].tolist()[:2] == [b"spam", b"ham"]
    with pytest.raises(InvalidInput, match="not UTF-8"):
        container.execute([np.array([b"\xff"], object)])


MATRIX = np.array([[age, city, income] for age, city, income in zip(X[:, 0], CITIES, X[:, 1], strict=True)], object)


@pytest.mark.parametrize(
    ("columns", "x", "names"),
    [
        ([("n", make_pipeline(SimpleImputer(), StandardScaler()), ["age", "income"]), ("c", OneHotEncoder(), ["city"])],
         TABLE, ("age", "city", "income")),
        ([("c", make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()), ["city"]),
          ("n", StandardScaler(), slice("income", None)), ("a", StandardScaler(), [0])],
         TABLE, ("age", "city", "income")),
        ([("t", TfidfVectorizer(), 1), ("n", StandardScaler(), [0, 2])], MATRIX, ("x0", "x1", "x2")),
        ([("n", "passthrough", [True, False, True]), ("c", OneHotEncoder(), slice(1, 2))], MATRIX, ("x0", "x1", "x2")),
    ],
    ids=["names", "slices", "text", "positions"],
)  # fmt: skip
def test_a_table_of_numbers_and_texts_has_an_input_for_each_column(
    file: Path, columns: Any, x: Any, names: tuple[str, ...]
) -> None:
    pipeline = fitted(make_pipeline(ColumnTransformer(columns), LogisticRegression()), x, NAMES)
    container = load(dump(pipeline, file), config("predict_proba"))
    assert [(one.name, one.datatype, one.shape) for one in container.spec.inputs] == [
        (names[0], "FP32", (-1, 1)),
        (names[1], "BYTES", (-1, 1)),
        (names[2], "FP32", (-1, 1)),
    ]
    assert container.spec.batched, container.spec.why_not_batched
    age, income = (np.float32(X[:9, column : column + 1]) for column in (0, 1))
    (got,) = container.execute([age, texts(*CITIES[:9]).reshape(-1, 1), income])
    assert np.allclose(got, pipeline.predict_proba(x[:9]), atol=1e-5)


def test_a_table_of_numbers_is_a_matrix_with_named_columns(file: Path) -> None:
    numbers = TABLE.select(["income", "age"])
    columns = [("a", StandardScaler(), ["age"]), ("i", SimpleImputer(), ["income"])]
    pipeline = fitted(make_pipeline(ColumnTransformer(columns), Ridge()), numbers)
    container = load(dump(pipeline, file))
    assert container.spec.inputs[0].features == ("income", "age")
    assert container.spec.inputs[0].shape == (-1, 2)
    rows = np.float32(np.stack([X[:9, 1], X[:9, 0]], axis=1))
    assert np.allclose(container.execute([rows])[0], pipeline.predict(numbers[:9]), atol=1e-5)


def test_a_category_that_was_never_seen_is_the_callers_fault(file: Path) -> None:
    words = np.array([["a", "x"], ["b", "y"], ["a", "y"], ["b", "x"]] * 5, object)
    container = load(dump(fitted(make_pipeline(OneHotEncoder(), LogisticRegression()), words, [0, 1] * 10), file))
    assert container.spec.inputs[0].datatype == "BYTES"
    assert container.execute([texts("a", "x", "b", "y").reshape(2, 2)])[0].tolist() == [0, 1]
    with pytest.raises(InvalidInput, match="unknown categories"):
        container.execute([texts("a", "z").reshape(1, 2)])


COLOURS = np.array([["red", "s"], ["blue", "m"], ["red", "l"], ["green", "m"], ["red", "s"]] * 8, object)


@pytest.mark.parametrize(
    "encoder",
    [
        OneHotEncoder(),
        OneHotEncoder(sparse_output=False, drop="first"),
        OneHotEncoder(drop="if_binary", handle_unknown="ignore"),
        OneHotEncoder(min_frequency=9, handle_unknown="infrequent_if_exist"),
        OneHotEncoder(max_categories=2, drop="first", handle_unknown="infrequent_if_exist"),
        OneHotEncoder(categories=[["red", "blue", "green"], ["s", "m", "l"]]),
    ],
    ids=["all", "first", "binary", "rare", "most", "order"],
)
def test_encoders_of_categories_pass_the_checks_of_their_codes(file: Path, encoder: Any) -> None:
    container = load(dump(fitted(encoder, COLOURS), file), config("transform"))
    (got,) = container.execute([texts(*COLOURS[:9].ravel()).reshape(-1, 2)])
    expected = encoder.transform(COLOURS[:9])
    assert np.array_equal(got, expected.toarray() if hasattr(expected, "toarray") else expected)


def test_an_encoder_of_numbers_passes_too(file: Path) -> None:
    numbers = np.array([[1.0, 7], [2, np.nan], [3, 8]] * 5, np.float32)
    encoder = fitted(OneHotEncoder(handle_unknown="ignore"), numbers)
    container = load(dump(encoder, file), config("transform"))
    assert np.array_equal(container.execute([numbers])[0], encoder.transform(numbers).toarray())


def test_answers_of_mostly_zeros_are_bounded(file: Path) -> None:
    hashing = HashingVectorizer(n_features=2**31 - 1)
    with pytest.raises(ArtifactError, match="answers each row with 2147483647 numbers"):
        load(dump(hashing, file), config("transform"))


def test_an_estimator_that_was_fitted_on_many_cores_runs_on_one(file: Path) -> None:
    means = fitted(KMeans(3))
    means._n_threads = 64
    dump(means, file)
    container = load(file)
    assert container.execute([ROWS])[0].shape == (7,)
    assert vars(container._call.__self__)["_n_threads"] == 1  # type: ignore[attr-defined]


def test_rows_that_influence_each_other_are_not_batched(file: Path) -> None:
    ranks = FunctionTransformer(np.sort, kw_args={"axis": 0}).fit(X)
    trust = Trust(types=("numpy.sort",))
    container = load(dump(ranks, file), config("transform", trust=trust))
    assert not container.spec.batched
    assert "rows influence each other" in container.spec.why_not_batched
    with pytest.raises(ConfigurationError, match="max_batch_size is 8, but the model cannot be batched"):
        load(file, config("transform", trust=trust, batching=BatchingConfig(max_batch_size=8)))


SORT = FunctionTransformer(np.sort, kw_args={"axis": 0})


@pytest.mark.parametrize(
    ("estimator", "x"),
    [
        (make_pipeline(SORT, FunctionTransformer(np.log), Ridge()), np.abs(X)),
        (make_pipeline(CountVectorizer(), TruncatedSVD(2), SORT, Ridge()), ["pay bill", "noon", "bill noon"] * 40),
    ],
    ids=["numbers", "words"],
)
def test_rows_are_proved_independent_with_what_the_model_tells_apart(file: Path, estimator: Any, x: Any) -> None:
    """Neither numbers below zero, which the logarithm refuses, nor words that were never counted."""
    spec = load(dump(fitted(estimator, x), file), config(trust=Trust(types=("numpy.sort",)))).spec
    assert not spec.batched
    assert "rows influence each other" in spec.why_not_batched


def test_rows_that_are_all_the_same_prove_nothing(file: Path) -> None:
    codes = fitted(make_pipeline(OneHotEncoder(), Ridge()), np.array([[1.0], [7.0]] * 5), [0, 1] * 5)
    spec = load(dump(codes, file)).spec
    assert not spec.batched
    assert "cannot be proved" in spec.why_not_batched


def test_each_slot_runs_on_one_thread_only(file: Path) -> None:
    container = load(dump(fitted(RandomForestClassifier(20, n_jobs=-1)), file), config("predict_proba"))

    def run(_: int) -> list[int]:
        container.execute([ROWS])
        return [library["num_threads"] for library in threadpool_info()]

    with ThreadPoolExecutor(3) as pool:
        seen = list(pool.map(run, range(12)))
    assert seen[0]
    assert {count for counts in seen for count in counts} == {1}


def test_a_file_of_another_version_is_served_with_a_warning(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    dump(fitted(Ridge()), file)
    rewrite(file, lambda schema: schema.replace(sklearn.__version__, "1.0.2"))
    with caplog.at_level(logging.WARNING):
        load(file)
    (record,) = caplog.records
    assert "the file was written by 1.0.2" in record.getMessage()
    assert f"scikit-learn {sklearn.__version__}" in record.getMessage()


# ---------------------------------------------------------------------- as a graph


@pytest.mark.parametrize(
    ("estimator", "y", "method"),
    [
        (make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=1)), Y, "predict_proba"),
        (LogisticRegression(), NAMES, "predict"),
        (Ridge(), X[:, 0], "predict"),
        (StandardScaler(), None, "transform"),
    ],
    ids=["forest", "labels", "ridge", "scaler"],
)
def test_a_converted_estimator_answers_the_same(file: Path, estimator: Any, y: Any, method: str) -> None:
    dump(fitted(estimator, X, y), file)
    usual, converted = load(file, config(method)), load(file, config(method, "onnx"))
    assert converted.spec.platform == "sklearn_onnx"
    assert converted.spec.batched
    (expected,), (got,) = usual.execute([ROWS]), converted.execute([ROWS])
    assert got.shape == expected.shape
    if expected.dtype == object:
        assert got.tolist() == expected.tolist()
    else:
        assert np.allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert converted.spec.outputs[0].datatype == ("BYTES" if expected.dtype == object else "FP32")


@pytest.mark.parametrize(
    ("estimator", "method", "message"),
    [
        (SVC(), "decision_function", "decision_function is not converted"),
        (make_pipeline(OneHotEncoder(handle_unknown="ignore"), Ridge()), "predict", "one FP32 matrix"),
        (DummyRegressor(), "predict", "skl2onnx cannot convert it"),
    ],
    ids=["method", "texts", "unknown"],
)
def test_what_cannot_be_converted_is_an_error(file: Path, estimator: Any, method: str, message: str) -> None:
    x = X if "matrix" not in message else np.array([["a", "b"], ["c", "d"]] * 60, object)
    with pytest.raises(ConfigurationError, match=message):
        load(dump(fitted(estimator, x), file), config(method, "onnx"))


# ---------------------------------------------------------------------- files that are refused


def rewrite(file: Path, change: Callable[[str], str] | None = None, **members: Callable[[bytes], bytes]) -> Path:
    """Changes the schema, or every member whose suffix is named."""
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    for name, data in tuple(content.items()):
        if name == "schema.json" and change is not None:
            content[name] = change(data.decode()).encode()
        elif (member := members.get(name.rpartition(".")[2])) is not None:
            content[name] = member(data)
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return file


def tree_parts(schema: str, change: Callable[[dict[str, Any]], None]) -> str:
    """Changes the schema's first tree."""
    document = json.loads(schema)
    stack = [document]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            if one.get("__loader__") == "TreeNode":
                change(one)
                return json.dumps(document)
            stack.extend(one.values())
        elif isinstance(one, list):
            stack.extend(one)
    raise AssertionError("the schema has no tree")


def forged(**columns: Any) -> Callable[[Path], Path]:
    """A tree whose first node has other values."""

    def build(file: Path) -> Path:
        model = fitted(DecisionTreeClassifier(max_depth=3, random_state=0))
        state = model.tree_.__getstate__()
        nodes = state["nodes"].copy()
        for name, value in columns.items():
            nodes[name][0] = value
        model.tree_.__setstate__({**state, "nodes": nodes})
        return dump(model, file)

    return build


def forged_state(**state: Any) -> Callable[[Path], Path]:
    """A tree whose state or sizes are not those of its arrays."""

    def change(tree: dict[str, Any]) -> None:
        for name, value in state.items():
            place = (
                tree["__reduce__"]["args"]["content"][2] if name == "n_outputs" else tree["content"]["content"][name]
            )
            place.update(content=json.dumps(value), __id__=1)

    def build(file: Path) -> Path:
        dump(fitted(DecisionTreeClassifier(max_depth=3)), file)
        return rewrite(file, lambda schema: tree_parts(schema, change))

    return build


def forged_id(file: Path) -> Path:
    """A number of outputs that says 1, under an id that said 100 before."""

    def change(tree: dict[str, Any]) -> None:
        outputs = tree["__reduce__"]["args"]["content"][2]
        tree["content"]["content"]["max_depth"] = {**outputs, "content": "100"}

    dump(fitted(DecisionTreeClassifier(max_depth=3)), file)
    return rewrite(file, lambda schema: tree_parts(schema, change))


def forged_histogram(column: str, value: int, categorical: bool = False) -> Callable[[Path], Path]:
    def build(file: Path) -> Path:
        x = np.column_stack([X[:, 0], np.arange(len(X)) % 5]) if categorical else X
        y = np.isin(np.arange(len(X)) % 5, [1, 3]).astype(int) if categorical else Y
        boosting = HistGradientBoostingClassifier(max_iter=2, categorical_features=[1] if categorical else None)
        model = fitted(boosting, x, y)
        nodes = model._predictors[0][0].nodes
        assert not categorical or nodes["is_categorical"][0]
        nodes[column][0] = value
        return dump(model, file)

    return build


def forged_boosting(change: Callable[[Any], None]) -> Callable[[Path], Path]:
    def build(file: Path) -> Path:
        model = fitted(GradientBoostingClassifier(n_estimators=2))
        change(model)
        return dump(model, file)

    return build


def widened(model: Any) -> None:
    model.estimators_[0, 0] = fitted(DecisionTreeRegressor(), RANDOM.standard_normal((120, 9)), X[:, 0])


def tripled(model: Any) -> None:
    model.estimators_ = np.repeat(model.estimators_, 3, axis=1)


def altered(estimator: Any, **attributes: Any) -> Callable[[Path], Path]:
    def build(file: Path) -> Path:
        model = fitted(estimator)
        vars(model).update(attributes)
        return dump(model, file)

    return build


def built_as(loader: str) -> Callable[[Path], Path]:
    """A tree with sizes that contradict each other, under a name that leads skops to build it by other means."""

    def change(tree: dict[str, Any]) -> None:
        arguments = tree["__reduce__"]["args"]
        arguments["content"][2].update(content="1000000000", __id__=1)
        tree["__loader__"] = loader
        if loader == "ConstructorFromReduceNode":
            tree["content"] = arguments

    def build(file: Path) -> Path:
        dump(fitted(DecisionTreeClassifier(max_depth=3)), file)
        return rewrite(file, lambda schema: tree_parts(schema, change))

    return build


def numbered(estimator: Any, first: int) -> Callable[[Path], Path]:
    """Words that are counted in columns that are not there."""

    def build(file: Path) -> Path:
        estimator.fit(["cheap pills now", "meeting at noon"])
        estimator.vocabulary_ = {word: first + number for number, word in enumerate(estimator.vocabulary_)}
        return dump(estimator, file)

    return build


def narrowed(estimator: Any, place: str = "") -> Callable[[Path], Path]:
    """An encoder with more codes than columns."""

    def build(file: Path) -> Path:
        model = fitted(estimator)
        encoder = getattr(model, place) if place else model
        encoder._n_features_outs = [1] * len(encoder._n_features_outs)
        return dump(model, file)

    return build


def encoder_with(change: Callable[[Any], None]) -> Callable[[Path], Path]:
    def build(file: Path) -> Path:
        encoder = fitted(OneHotEncoder(min_frequency=9, drop="first"), COLOURS)
        change(encoder)
        return dump(encoder, file)

    return build


def remapped(encoder: Any) -> None:
    encoder._default_to_infrequent_mappings[0][0] = 1 << 28


def unmapped(encoder: Any) -> None:
    encoder._default_to_infrequent_mappings[0] = None


def dropped(encoder: Any) -> None:
    encoder._drop_idx_after_grouping[0] = -7


def disordered(encoder: Any) -> None:
    encoder.categories_[1] = np.array([3.0, 2.0, 1.0])


def added(encoder: Any) -> None:
    encoder._n_features_outs = np.array(encoder._n_features_outs)


def stepless(file: Path) -> Path:
    """Boosting whose trees, all of them there, add to columns that its beginning does not have."""
    model = fitted(GradientBoostingClassifier(n_estimators=2))
    model.estimators_ = np.repeat(model.estimators_, 3, axis=1)
    model.n_trees_per_iteration_ = 3
    return dump(model, file)


def fewer_columns(file: Path) -> Path:
    model = fitted(HistGradientBoostingClassifier(max_iter=2))
    model._preprocessor = ColumnTransformer([("a", "passthrough", [0])]).fit(X)
    return dump(model, file)


def stray_tree(file: Path) -> Path:
    model = fitted(Ridge())
    model.extra_ = [fitted(DecisionTreeClassifier()).tree_]
    return dump(model, file)


def written(content: bytes) -> Callable[[Path], Path]:
    def build(file: Path) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return file

    return build


def zipped(**members: bytes) -> Callable[[Path], Path]:
    def build(file: Path) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name.replace("_json", ".json"), data)
        return file

    return build


def dumped(estimator: Any, *change: Any, **members: Any) -> Callable[[Path], Path]:
    def build(file: Path) -> Path:
        dump(estimator, file)
        return rewrite(file, *change, **members) if change or members else file

    return build


def truncated(file: Path) -> Path:
    dump(fitted(RandomForestClassifier(3)), file)
    file.write_bytes(file.read_bytes()[:-2000])
    return file


def bomb(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("0.npy", "w") as stream:
        for _ in range(300):
            stream.write(bytes(1 << 20))
    return file


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "executed")


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a pickle called skops": (written(pickle.dumps({"a": 1})), "not a skops file.*looks like a pickle"),
    "nothing": (written(b""), "not a skops file"),
    "noise": (written(b"\x00\x01 not a model"), "not a skops file"),
    "half a zip": (truncated, "not a skops file"),
    "a zip of something else": (zipped(a=b"x"), "cannot be loaded by scikit-learn"),
    "a schema that is not JSON": (zipped(schema_json=b"{"), "cannot be loaded by scikit-learn"),
    "a schema without content": (zipped(schema_json=b"{}"), "cannot be loaded by scikit-learn"),
    "a schema that is a list": (zipped(schema_json=b"[1]"), "cannot be loaded by scikit-learn"),
    "a schema without end": (zipped(schema_json=b"[" * 100_000), "nested too deeply"),
    "a protocol of the future": (dumped(fitted(Ridge()), lambda s: s.replace('"__loader__": "ObjectNode"', '"__loader__": "FutureNode"')), "cannot be loaded by scikit-learn"),
    "a zip bomb": (bomb, r"unpacks to 314572800, which no model does"),
    "arrays cut short": (dumped(fitted(Ridge()), npy=lambda data: data[:-3]), "cannot be loaded by scikit-learn"),
    "arrays that are pickles": (dumped(fitted(Ridge()), npy=lambda _: pickle.dumps([1])), "cannot be loaded by scikit-learn"),
    "types that are not trusted": (dumped(FunctionTransformer(np.sort).fit(X)), r"not trusted: numpy\.sort; .* --trusted-type numpy\.sort$"),
    "a type with native memory": (dumped(fitted(KNeighborsClassifier(algorithm="kd_tree"))), r"not trusted: .*KDTree"),
    "not fitted": (dumped(Ridge()), "Ridge is not fitted"),
    "a pipeline that is not fitted": (dumped(make_pipeline(StandardScaler(), Ridge())), "Pipeline is not fitted"),
    "no estimator": (dumped({"weights": [1, 2]}), "holds a dict; a fitted scikit-learn estimator was expected"),
    "a list of estimators": (dumped([fitted(Ridge())]), "holds a list"),
    "a child that is not there": (forged(left_child=10_000_000), "a child is not one of the"),
    "a child before its parent": (forged(right_child=0), "a child is not one of the"),
    "a negative child": (forged(right_child=-5), "a child is not one of the"),
    "two parents": (forged(left_child=2, right_child=2), "two parents"),
    "a feature that is not there": (forged(feature=4), "not one of the 4"),
    "a negative feature": (forged(feature=-3), "not one of the 4"),
    "outputs that are not there": (forged_state(n_outputs=1_000_000), "1000000 outputs with classes of shape"),
    "nodes that are not there": (forged_state(node_count=1_000_000), "number of nodes is not that of its array"),
    "no nodes": (forged_state(node_count=0), "number of nodes is not that of its array"),
    "a tree deeper than it says": (forged_state(max_depth=0), "3 deep and says 0"),
    "a number that is text": (forged_state(node_count="7"), "whole number was expected"),
    "an id for two things": (forged_id, "stands for two objects"),
    "a histogram's child": (forged_histogram("left", 99_999), "a child is not one of the"),
    "a histogram's feature": (forged_histogram("feature_idx", 77), "not one of the 4"),
    "a histogram's category": (forged_histogram("is_categorical", 1), "categories that are not there"),
    "boosting over features that are not there": (forged_boosting(widened), "reads 9 features of 4"),
    "boosting over classes that are not there": (forged_boosting(tripled), r"an array of shape \[2, 3\]"),
    "features without end": (dumped(fitted(GaussianNB()), lambda s: s.replace('"content": "4"', '"content": "4000000000"')), "n_features_in_ is 4000000000; up to 1048576"),
    "attributes of another kind": (altered(Ridge(), feature_names_in_=7), "its Ridge is not as scikit-learn fits one: TypeError"),
    "support vectors that are not there": (altered(SVC(), _n_support=np.array([5, -5], np.int32)), "do not belong together"),
    "classes that are not there": (altered(SVC(), _dual_coef_=np.zeros((9, 3))), "do not belong together"),
    "intercepts that are not there": (altered(SVC(), _intercept_=np.zeros(0)), "do not belong together"),
    "neighbours that are not there": (altered(KNeighborsClassifier(algorithm="brute"), _fit_X=np.zeros((0, 4)), n_samples_fit_=0), "wants 5 neighbours of 0"),
    "rows that are not there": (altered(KNeighborsClassifier(algorithm="brute"), _fit_X=np.zeros((9, 4))), "which it contradicts"),
    "neighbours' classes that are not there": (altered(KNeighborsClassifier(algorithm="brute"), _y=np.full(120, 7)), "a class that is not one of the 2"),
    "vectors that are not there": (altered(SVC(), support_=np.array([1 << 30], np.int32), support_vectors_=np.zeros((1, 4)), _n_support=np.array([1, 0], np.int32), _dual_coef_=np.zeros((1, 1))), "do not belong together"),
    "a machine in a tree's clothes": (altered(SVC(), tree_=fitted(DecisionTreeClassifier()).tree_, _n_support=np.array([5, -5], np.int32)), "do not belong together"),
    "a tree built as a loss": (built_as("LossNode"), "written as a 'LossNode'"),
    "a tree built by its arguments": (built_as("ConstructorFromReduceNode"), "written as a 'ConstructorFromReduceNode'"),
    "words that are not there": (numbered(CountVectorizer(), 1 << 28), "words are not numbered"),
    "words before the first": (numbered(TfidfVectorizer(), -(1 << 28)), "words are not numbered"),
    "documents by their file names": (dumped(CountVectorizer(input="filename", vocabulary=["a"])), "reads the files that callers name"),
    "hashes by file names": (dumped(HashingVectorizer(input="filename")), "reads the files that callers name"),
    "codes that are not there": (narrowed(OneHotEncoder(handle_unknown="ignore")), "codes that are not one of its 1"),
    "bins that are not there": (narrowed(KBinsDiscretizer(3, quantile_method="averaged_inverted_cdf"), "_encoder"), "codes that are not one of its 1"),
    "leaves that are not there": (narrowed(RandomTreesEmbedding(3), "one_hot_encoder_"), "codes that are not one of its 1"),
    "rare codes that are not there": (encoder_with(remapped), "codes that are not one of its"),
    "rare codes without a place": (encoder_with(unmapped), "have no place"),
    "a code dropped before the first": (encoder_with(dropped), "codes that are not one of its"),
    "categories out of order": (encoder_with(disordered), "not in order"),
    "widths that add up": (encoder_with(added), "widths for 2 features"),
    "centres in other dimensions": (altered(KMeans(3), cluster_centers_=np.zeros((3, 1))), r"an array of shape \[3, 1\], with 4 features"),
    "boosting from nothing": (stepless, r"begins with an array of shape \[2, 1\], and adds to one of \[2, 3\]"),
    "a histogram of fewer columns": (fewer_columns, "not put in order"),
    "a tree of nobody": (stray_tree, "belongs to no estimator"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_refused(file: Path, case: str) -> None:
    build, message = REFUSED[case]
    with pytest.raises(ArtifactError, match=f"(?s){message}") as refused:
        load(build(file))
    assert str(file) in refused.value.message
    assert "\n" not in refused.value.message


def test_forged_categories_are_refused_though_their_types_are_trusted(file: Path) -> None:
    settings = config(trust=Trust(types=("functools.partial", "sklearn.utils.validation.check_array")))
    container = load(forged_histogram("is_leaf", 0, categorical=True)(file), settings)
    assert container.spec.batched
    with pytest.raises(ArtifactError, match="categories that are not there"):
        load(forged_histogram("bitset_idx", 500, categorical=True)(file), settings)


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".joblib"])
def test_a_pickle_is_not_opened_unless_the_operator_allows_it(tmp_path: Path, suffix: str) -> None:
    trap, path = tmp_path / "trap", tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps(Trap(trap)))
    with pytest.raises(ArtifactError, match=r"is a pickle, and loading one runs whatever code .* --allow-pickle$"):
        load(path)
    assert not trap.exists()
    with pytest.raises(ArtifactError, match="holds a int; a fitted scikit-learn estimator was expected"):
        load(path, config(trust=Trust(allow_pickle=True)))
    assert trap.read_text() == "executed"


def test_a_pickle_under_another_name_is_not_opened_even_where_pickles_are_allowed(tmp_path: Path) -> None:
    trap, path = tmp_path / "trap", tmp_path / "model.skops"
    path.write_bytes(pickle.dumps(Trap(trap)))
    with pytest.raises(ArtifactError, match="not a skops file"):
        load(path, config(trust=Trust(allow_pickle=True)))
    assert not trap.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be loaded by scikit-learn"),
        (b"\x80\x04\x95", "cannot be loaded by scikit-learn"),
        (pickle.dumps(fitted(Ridge()))[:-40], "cannot be loaded by scikit-learn"),
        (b"cnowhere_at_all\nModel\n(tR.", "needs the module nowhere_at_all, which is not installed"),
        (pickle.dumps("text"), "holds a str"),
        (pickle.dumps(Ridge), "holds a ABCMeta"),
        (pickle.dumps(Ridge()), "is not fitted"),
    ],
    ids=["empty", "cut", "half", "module", "text", "class", "unfitted"],
)
def test_a_pickle_that_is_allowed_and_broken(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        load(path, config(trust=Trust(allow_pickle=True)))


@pytest.mark.parametrize("write", [joblib.dump, lambda model, path: path.write_bytes(pickle.dumps(model))])
def test_a_pickle_that_is_allowed_is_served(tmp_path: Path, write: Any) -> None:
    forest = fitted(RandomForestClassifier(5))
    write(forest, tmp_path / "model.joblib")
    container = load(tmp_path / "model.joblib", config(trust=Trust(allow_pickle=True)))
    assert container.execute([ROWS])[0].tolist() == forest.predict(ROWS).tolist()


def test_types_that_the_operator_trusts_are_loaded(file: Path) -> None:
    near = fitted(KNeighborsClassifier(algorithm="kd_tree"))
    types = tuple(skops.io.get_untrusted_types(file=dump(near, file)))
    assert load(file, config(trust=Trust(types=types))).execute([ROWS])[0].tolist() == near.predict(ROWS).tolist()


SETTINGS: dict[str, tuple[Any, ModelConfig, str]] = {
    "no such method": (Ridge(), config("predict_proba"), r"Ridge has no predict_proba; .* may be predict$"),
    "no method at all": (StandardScaler(), config(), "has no predict; .* may be transform"),
    "another input": (Ridge(), config(inputs=(TensorConfig(name="rows"),)), "input 'rows' is not in the model, which has 'x'"),
    "another datatype": (Ridge(), config(inputs=(TensorConfig(name="x", datatype="BF16"),)), "is BF16; one of FP32"),
    "another shape": (Ridge(), config(inputs=(TensorConfig(name="x", shape=(-1, 5)),)), r"shape \[-1, 5\]; the model's is \[-1, 4\]"),
    "features that are too many": (Ridge(), config(inputs=(TensorConfig(name="x", features=tuple("abcde")),)), "5 features; the model has 4"),
    "another output": (Ridge(), config(outputs=(TensorConfig(name="score"),)), "output 'score' is not in the model, which has 'predict'"),
    "an output's datatype": (Ridge(), config(outputs=(TensorConfig(name="predict", datatype="FP32"),)), "is FP32; the model's is FP64"),
    "an output's shape": (Ridge(), config(outputs=(TensorConfig(name="predict", shape=(-1, 1)),)), r"the model's is \[-1\]"),
    "labels that are too many": (LogisticRegression(), config("predict_proba", outputs=(TensorConfig(name="predict_proba", labels=tuple("abc")),)), "3 labels; the model has 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_do_not_fit(file: Path, case: str) -> None:
    estimator, settings, message = SETTINGS[case]
    with pytest.raises(ConfigurationError, match=message):
        load(dump(fitted(estimator), file), settings)


def test_an_array_for_each_of_several_outputs_cannot_be_served(file: Path) -> None:
    both = fitted(RandomForestClassifier(3), X, np.stack([Y, 1 - Y], axis=1))
    with pytest.raises(ServingError, match=r"an array for each of several outputs|does not run"):
        load(dump(both, file), config("predict_proba"))


# ---------------------------------------------------------------------- which file


def test_which_file_of_a_directory_is_served(tmp_path: Path) -> None:
    assert KIND.artifact(tmp_path) is None
    (tmp_path / "scaler.pkl").touch()
    assert KIND.artifact(tmp_path) is None
    (tmp_path / "fraud.skops").touch()
    assert KIND.artifact(tmp_path) == tmp_path / "fraud.skops"
    (tmp_path / "other.skops").touch()
    with pytest.raises(ArtifactError, match=r"holds 2 \.skops files \(fraud\.skops, other\.skops\)"):
        KIND.artifact(tmp_path)
    (tmp_path / "model.joblib").touch()
    assert KIND.artifact(tmp_path) == tmp_path / "model.joblib"
    (tmp_path / "model.skops").touch()
    assert KIND.artifact(tmp_path) == tmp_path / "model.skops"
    assert KIND.artifact(tmp_path / "scaler.pkl") == tmp_path / "scaler.pkl"
    (tmp_path / "notes.txt").touch()
    assert KIND.artifact(tmp_path / "notes.txt") is None


# ---------------------------------------------------------------------- behind a server


def test_answers_are_those_of_sagemakers_container(tmp_path: Path) -> None:
    root = tmp_path / "models"
    dump(fitted(LogisticRegression(), X, NAMES), root / "labels" / "model.skops")
    dump(fitted(LogisticRegression()), root / "numbers" / "model.skops")
    dump(fitted(StandardScaler().set_params(with_mean=False, with_std=False)), root / "same" / "model.skops")
    (root / "same" / "model.yaml").write_text("sklearn: {method: transform}\n")
    high, low = [3.0, 3.0, 0.0, 0.0], [-3.0, -3.0, 0.0, 0.0]
    with support.running("--model-repository", root, state_dir=tmp_path / "state") as server:

        def ask(name: str, body: Any, **headers: str) -> bytes:
            answer = post(server, f"/endpoints/{name}/invocations", body, **headers)
            assert answer.status == 200, answer
            return answer.body

        csv = {"Content_Type": "text/csv", "Accept": "text/csv"}
        assert ask("labels", [high, low]) == b'["fraud","fine"]'
        assert ask("numbers", [high, low]) == b"[1,0]"
        assert ask("same", [high]) == b"[[3.0,3.0,0.0,0.0]]"
        assert ask("labels", b"3,3,0,0\n-3,-3,0,0\n", **csv).split() == [b"fraud", b"fine"]
        assert ask("numbers", b"3,3,0,0\n-3,-3,0,0", **csv).split() == [b"1", b"0"]
        assert ask("numbers", b"3,3,0,0\n-3,-3,0,0", Content_Type="text/csv") == b"[1,0]"
        assert ask("numbers", {"instances": [high, low]}) == b'{"predictions":[1,0]}'
        stream = io.BytesIO()
        np.save(stream, np.float32([high, low]))
        npy = {"Content_Type": "application/x-npy", "Accept": "application/x-npy"}
        assert np.load(io.BytesIO(ask("numbers", stream.getvalue(), **npy))).tolist() == [1, 0]
        refused = post(server, "/endpoints/numbers/invocations", [[1.0, 2.0]])
        assert refused.status == 424
        assert refused.json["OriginalStatusCode"] == 400
        metadata = get(server, "/v2/models/labels").json
        assert metadata["platform"] == "sklearn"
        assert metadata["outputs"][0]["datatype"] == "BYTES"


def test_a_server_loads_pickles_only_when_told_to(tmp_path: Path) -> None:
    path = tmp_path / "fraud" / "model.joblib"
    path.parent.mkdir()
    joblib.dump(fitted(LogisticRegression()), path)
    refusing = support.start("--model", path.parent, state_dir=tmp_path / "refusing")
    try:
        with pytest.raises(support.DidNotStart, match="--allow-pickle"):
            refusing.wait_ready()
    finally:
        refusing.end()
    with support.running(
        "--model", path.parent, state_dir=tmp_path / "allowing", env={"SERVING_ALLOW_PICKLE": "true"}
    ) as server:
        assert post(server, "/invocations", [[3.0, 3.0, 0.0, 0.0]]).json == [1]
        assert "loading it runs its code" in server.output


def test_check_says_what_the_server_would(tmp_path: Path) -> None:
    path = tmp_path / "near.skops"
    dump(fitted(KNeighborsClassifier(algorithm="kd_tree")), path)
    runner = CliRunner()
    refused = runner.invoke(check_command, [str(path)])
    assert refused.exit_code == 1
    types = [word for word in refused.output.split() if word.startswith("sklearn.")][-2:]
    flags = [argument for name in types for argument in ("--trusted-type", name)]
    served = runner.invoke(check_command, [str(path), *flags])
    assert served.exit_code == 0, served.output
    assert "container sklearn (sklearn)" in served.output
    again = runner.invoke(check_command, [str(path)], env={"SERVING_TRUSTED_TYPES": ",".join(types)})
    assert again.output == served.output


def test_a_model_cannot_trust_itself(tmp_path: Path) -> None:
    path = tmp_path / "fraud" / "model.pkl"
    path.parent.mkdir()
    path.write_bytes(pickle.dumps(Trap(tmp_path / "trap")))
    (path.parent / "model.yaml").write_text("trust: {allow_pickle: true}\n")
    result = CliRunner().invoke(check_command, [str(path.parent)])
    assert result.exit_code == 1
    assert "trust is not a model's to say" in result.output
    assert not (tmp_path / "trap").exists()
