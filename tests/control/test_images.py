"""Images to container kinds: every repository that the SDK names, as Docker names them, and the operator's own."""

from __future__ import annotations

import pytest

from serving.control.images import NOT_BUILT, Chosen, Image, choose, parse
from serving.errors import ConfigurationError

KINDS = ("lightgbm", "onnx", "sklearn", "xgboost")
ECR = "683313688378.dkr.ecr.us-east-1.amazonaws.com"
DLC = "763104351884.dkr.ecr.us-west-2.amazonaws.com"
DIGEST = "sha256:" + "0123456789abcdef" * 4

BUILT = {
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "xgboost": "xgboost",
    "sklearn": "sklearn",
    "scikit-learn": "sklearn",
    "lightgbm": "lightgbm",
    "serving/onnx:1": "onnx",
    "serving/xgboost": "xgboost",
    "localhost/serving/sklearn:1": "sklearn",
    "localhost:5000/serving/lightgbm@" + DIGEST: "lightgbm",
    "registry.example.com:5000/onnx:latest": "onnx",
    f"{ECR}/sagemaker-xgboost:1.7-1": "xgboost",
    f"{ECR}/sagemaker-xgboost:0.90-2-cpu-py3": "xgboost",
    f"{ECR}/sagemaker-xgboost:3.0-5": "xgboost",
    f"{ECR}/sagemaker-xgboost@{DIGEST}": "xgboost",
    f"{ECR}/sagemaker-xgboost:1.7-1@{DIGEST}": "xgboost",
    "811284229777.dkr.ecr.us-east-1.amazonaws.com/xgboost:1": "xgboost",
    "811284229777.dkr.ecr.us-east-1.amazonaws.com/xgboost:latest": "xgboost",
    "450853457545.dkr.ecr.cn-north-1.amazonaws.com.cn/sagemaker-xgboost:1.5-1": "xgboost",
    f"{ECR}/sagemaker-scikit-learn:1.2-1-cpu-py3": "sklearn",
    f"{ECR}/sagemaker-scikit-learn:0.20.0-cpu-py3": "sklearn",
}

REFUSED = {
    "PyTorch": (
        "pytorch-inference",
        "pytorch-inference-eia",
        "pytorch-inference-graviton",
        "pytorch-inference-neuronx",
        "sagemaker-pytorch",
        "pytorch",
    ),
    "TensorFlow": (
        "tensorflow-inference",
        "tensorflow-inference-eia",
        "tensorflow-inference-graviton",
        "sagemaker-tensorflow",
        "sagemaker-tensorflow-eia",
        "sagemaker-tensorflow-serving",
        "sagemaker-tensorflow-serving-eia",
        "sagemaker-tensorflow-scriptmode",
    ),
    "MXNet": ("mxnet-inference", "mxnet-inference-eia", "sagemaker-mxnet", "sagemaker-mxnet-serving"),
    "Hugging Face": (
        "huggingface-pytorch-inference",
        "huggingface-tensorflow-inference",
        "huggingface-pytorch-tgi-inference",
        "huggingface-pytorch-inference-neuron",
        "huggingface-pytorch-inference-neuronx",
        "huggingface-vllm",
        "huggingface-vllm-inference-neuronx",
        "huggingface-sglang",
        "huggingface-llamacpp",
    ),
    "Text Embeddings Inference": ("tei", "tei-cpu"),
    "DJL": ("djl-inference",),
    "Stability AI": ("stabilityai-pytorch-inference",),
    "AutoGluon": ("autogluon-inference",),
    "Neo": (
        "sagemaker-inference-pytorch",
        "sagemaker-inference-tensorflow",
        "sagemaker-inference-mxnet",
        "sagemaker-neo-pytorch",
        "sagemaker-neo-tensorflow",
        "xgboost-neo",
        "image-classification-neo",
    ),
    "Spark ML": ("sagemaker-sparkml-serving",),
    "Chainer": ("sagemaker-chainer",),
    "reinforcement learning": ("sagemaker-rl-ray-container", "sagemaker-rl-tensorflow", "sagemaker-rl-vw-container"),
    "first-party algorithm": (
        "blazingtext",
        "factorization-machines",
        "forecasting-deepar",
        "image-classification",
        "ipinsights",
        "kmeans",
        "knn",
        "lda",
        "linear-learner",
        "ntm",
        "object-detection",
        "object2vec",
        "pca",
        "randomcutforest",
        "semantic-segmentation",
        "seq2seq",
    ),
    "multi-model": ("multi-model-server",),
}

TRAINING = (
    "pytorch-training",
    "tensorflow-training",
    "huggingface-pytorch-training",
    "huggingface-pytorch-trcomp-training",
    "pytorch-training-neuronx",
    "autogluon-training",
    "sagemaker-spark-processing",
    "sagemaker-clarify-processing",
    "sagemaker-debugger-rules",
    "smdistributed-modelparallel",
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("onnx", Image("", "onnx", "", "")),
        ("onnx:1", Image("", "onnx", "1", "")),
        ("serving/onnx:1", Image("", "serving/onnx", "1", "")),
        ("localhost/onnx", Image("localhost", "onnx", "", "")),
        ("host:5000/a/b:2", Image("host:5000", "a/b", "2", "")),
        ("host:5000/a/b", Image("host:5000", "a/b", "", "")),
        (f"{ECR}/x:1@{DIGEST}", Image(ECR, "x", "1", DIGEST)),
        (f"x@{DIGEST}", Image("", "x", "", DIGEST)),
        ("", Image("", "", "", "")),
        ("://", Image(":", "/", "", "")),
    ],
)
def test_names_are_read_as_docker_reads_them(text: str, expected: Image) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", BUILT)
def test_what_is_built(text: str) -> None:
    assert choose(text, {}, KINDS) == Chosen(BUILT[text])


@pytest.mark.parametrize("text", [f"{DLC}/sagemaker-tritonserver:25.09-py3-cpu", "triton", "nvcr.io/tritonserver:1"])
def test_triton_is_any_kind_in_its_layout(text: str) -> None:
    assert choose(text, {}, KINDS) == Chosen("", triton=True)


@pytest.mark.parametrize(("family", "name"), [(family, name) for family, names in REFUSED.items() for name in names])
def test_what_is_not_built_is_named(family: str, name: str) -> None:
    text = f"{DLC}/{name}:2.0-cpu-py310"
    with pytest.raises(ConfigurationError) as caught:
        choose(text, {}, KINDS)
    assert text in caught.value.message
    assert f"SageMaker's {family} container, which is not built yet" in caught.value.message
    assert "onnx" in caught.value.message


def test_every_family_is_tested() -> None:
    assert set(REFUSED) == set(NOT_BUILT)


@pytest.mark.parametrize("name", TRAINING)
def test_images_that_serve_nothing(name: str) -> None:
    with pytest.raises(ConfigurationError, match="serves no model"):
        choose(f"{DLC}/{name}:2.0", {}, KINDS)


@pytest.mark.parametrize(
    "text",
    [
        "my-image",
        "dmlc/xgboost",
        "docker.io/library/onnx",
        f"{ECR}/sagemaker-xgboost2:1",
        "XGBOOST",
        "serving/serving/onnx",
        ":",
        "@",
        "xgboost/",
        "a" * 255,
    ],
)
def test_nothing_is_guessed(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        choose(text, {}, KINDS)
    assert f"'{text}' is not known" in caught.value.message
    assert "the server's setting images" in caught.value.message


@pytest.mark.parametrize(
    "key",
    [
        "host:5000/team/churn:3",
        f"host:5000/team/churn:3@{DIGEST}",
        "host:5000/team/churn",
        "team/churn:3",
        "team/churn",
    ],
)
def test_the_operator_may_name_images(key: str) -> None:
    text = f"host:5000/team/churn:3@{DIGEST}"
    assert choose(text, {key: "lightgbm"}, KINDS) == Chosen("lightgbm")
    with pytest.raises(ConfigurationError, match="is not known"):
        choose("host:5000/team/other:3", {key: "lightgbm"}, KINDS)


def test_the_operators_word_comes_first_and_the_whole_name_before_its_parts() -> None:
    images = {"sagemaker-xgboost": "onnx", f"{ECR}/sagemaker-xgboost:2": "sklearn", "pytorch-inference": "triton"}
    assert choose(f"{ECR}/sagemaker-xgboost:1", images, KINDS) == Chosen("onnx")
    assert choose(f"{ECR}/sagemaker-xgboost:2", images, KINDS) == Chosen("sklearn")
    assert choose(f"{DLC}/pytorch-inference:2", images, KINDS) == Chosen("", triton=True)


def test_a_kind_that_is_not_installed() -> None:
    with pytest.raises(
        ConfigurationError, match=r"'sagemaker-xgboost:1': it needs the container kind 'xgboost', which is not"
    ):
        choose("sagemaker-xgboost:1", {}, ["onnx"])
    with pytest.raises(
        ConfigurationError, match=r"'mine': the setting images gives it the container kind 'torch', which"
    ):
        choose("mine", {"mine": "torch"}, KINDS)
