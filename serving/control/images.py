"""Images: which container kind stands for the `Image` of a container definition. A table, and nothing is guessed.

Names are read as Docker reads them: REGISTRY/REPOSITORY:TAG@DIGEST, of which the repository decides, whatever registry
holds it. Repositories: what the SageMaker Python SDK makes image URIs of, and the algorithms' names of the SageMaker
developer guide ("Docker registry paths").
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from serving.errors import ConfigurationError

TRITON: Final = "triton"
"""What `settings.images` calls a container of any kind that reads Triton's repository layout."""

BUILT_IN: Final[Mapping[str, str]] = {
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "xgboost": "xgboost",
    "sagemaker-xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "sklearn": "sklearn",
    "scikit-learn": "sklearn",
    "sagemaker-scikit-learn": "sklearn",
    "triton": TRITON,
    "tritonserver": TRITON,
    "sagemaker-tritonserver": TRITON,
}
"""Repositories, with or without `serving/` before them, to container kinds."""

NOT_BUILT: Final[Mapping[str, str]] = {
    "PyTorch": r"(sagemaker-)?pytorch(-inference(-eia|-graviton|-neuronx?)?)?",
    "TensorFlow": r"(sagemaker-)?tensorflow(-serving|-inference|-scriptmode)?(-eia|-graviton|-neuronx?)?",
    "MXNet": r"(sagemaker-)?mxnet(-serving|-inference)?(-eia|-graviton|-neuronx?)?",
    "Chainer": r"(sagemaker-)?chainer",
    "Hugging Face": r"huggingface-((pytorch|tensorflow)(-tgi)?-inference(-neuronx?|-graviton)?|llamacpp|sglang|vllm(-omni|-inference-neuronx)?)",
    "Text Embeddings Inference": r"tei(-cpu)?",
    "DJL": r"djl-(inference|serving)",
    "Stability AI": r"stabilityai-pytorch-inference",
    "AutoGluon": r"autogluon-inference",
    "Neo": r"sagemaker-(neo|inference)-(pytorch|tensorflow|mxnet)|xgboost-neo|image-classification-neo",
    "Spark ML": r"sagemaker-sparkml-serving",
    "multi-model": r"multi-model-server|sagemaker-mms",
    "reinforcement learning": r"sagemaker-rl-[a-z-]+",
    "first-party algorithm": (
        r"blazingtext|factorization-machines|forecasting-deepar|image-classification|ipinsights|kmeans|knn|lda"
        r"|linear-learner|ntm|object-detection|object2vec|pca|randomcutforest|semantic-segmentation|seq2seq"
    ),
}
"""SageMaker's other containers: what they are to which repositories (whole, as regular expressions)."""

TRAINING: Final = re.compile(r".*-(training|trcomp-training|processing|rules)(-neuronx?)?|smdistributed-modelparallel")
"""Repositories of images that serve no model at all."""

MOST_SHOWN: Final = 255


class Image(msgspec.Struct, frozen=True):
    """An image's name in its parts; `registry`, `tag` and `digest` may be empty."""

    registry: str
    repository: str
    tag: str
    digest: str


class Chosen(msgspec.Struct, frozen=True):
    """What is to run: a container kind, or with `triton` any kind ("") from a folder in Triton's layout."""

    kind: str
    triton: bool = False


def parse(text: str) -> Image:
    """Reads a name as Docker does: the part before the first slash is a registry where it has a dot or a port."""
    rest, _, digest = text.partition("@")
    first, slash, path = rest.partition("/")
    registry = first if slash and (first == "localhost" or "." in first or ":" in first) else ""
    rest = path if registry else rest
    repository, _, tag = rest.partition(":")
    return Image(registry, repository, tag, digest)


def choose(text: str, images: Mapping[str, str], kinds: Collection[str]) -> Chosen:
    """The container kind of an image; `images` are the operator's, `kinds` those that are installed.

    Raises `ConfigurationError`, which names the image and what would be right.
    """
    image = parse(text)
    name = image.repository.removeprefix("serving/")
    said = _operators(text, image, images)
    kind = said or BUILT_IN.get(name, "")
    if kind == TRITON:
        return Chosen("", triton=True)
    if kind in kinds:
        return Chosen(kind)
    shown = f"the image '{text[:MOST_SHOWN]}'"
    if kind:
        by = "the setting images gives it" if said else "it needs"
        raise ConfigurationError(
            f"{shown}: {by} the container kind '{kind}', which is not installed; installed: {', '.join(sorted(kinds)) or 'none'}"
        )
    known = ", ".join(one for one in sorted(kinds) if BUILT_IN.get(one) == one)
    for family, pattern in NOT_BUILT.items():
        if re.fullmatch(pattern, name):
            raise ConfigurationError(
                f"{shown} is SageMaker's {family} container, which is not built yet; a model in another form can be "
                f"served by {known}, or by sagemaker-tritonserver"
            )
    if TRAINING.fullmatch(name):
        raise ConfigurationError(f"{shown} trains or processes and serves no model; {known} serve models")
    raise ConfigurationError(
        f"{shown} is not known; known are {known}, the repositories sagemaker-xgboost, sagemaker-scikit-learn and "
        "sagemaker-tritonserver, and what the server's setting images maps to one of them"
    )


def _operators(text: str, image: Image, images: Mapping[str, str]) -> str:
    """What the operator says of an image: by its whole name, or by less and less of it down to the repository."""
    repository = image.repository
    place = f"{image.registry}/{repository}" if image.registry else repository
    names = (text, f"{place}:{image.tag}", place, f"{repository}:{image.tag}", repository)
    return next((images[name] for name in names if name in images), "")
