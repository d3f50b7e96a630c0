"""Deployments to wirings: what is fetched and from where, what is refused and in which words, what stays on disk."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from serving.control.artifacts import Artifact, Artifacts
from serving.control.deployer import Deployer, Resolved, reason
from serving.control.deployment import Deployment
from serving.control.plan import Source
from serving.errors import (
    ArtifactError,
    ConfigurationError,
    ObjectChanged,
    ObjectMissing,
    ObjectStoreUnavailable,
    ServingError,
)
from serving.objects.archive import Limits
from serving.runtime.wiring import TargetsWiring
from serving.settings import Settings
from tests.control.deployments import URL, container, deployment, variant
from tests.control.shelf import Shelf, packed

PREFIX = "s3://models/a/"
ONNX = {"model.onnx": b"a graph"}
TRITON = {"fraud/config.pbtxt": b'name: "fraud" platform: "onnxruntime_onnx"', "fraud/1/model.onnx": b"a graph"}
TRITON_IMAGE = "sagemaker-tritonserver:25.09-py3"


@pytest.fixture
def shelf() -> Shelf:
    found = Shelf()
    found.set(URL, packed(ONNX))
    return found


@pytest.fixture
def deployer(shelf: Shelf, tmp_path: Path) -> Deployer:
    return make(shelf, tmp_path)


def make(shelf: Shelf, state_dir: Path, **settings: Any) -> Deployer:
    return Deployer(Settings(state_dir=state_dir, **settings), shelf)


def resolve(deployer: Deployer, asked: Deployment, name: str = "e") -> Resolved:
    return asyncio.run(deployer.resolve(name, asked))


def artifact(found: Resolved) -> Artifact:
    """What was fetched."""
    assert found.artifact is not None
    return found.artifact


def refusal(deployer: Deployer, asked: Deployment) -> ServingError:
    """Why the deployment cannot be; in words of the user."""
    with pytest.raises(ServingError) as caught:
        resolve(deployer, asked)
    assert isinstance(caught.value, ArtifactError | ConfigurationError)
    assert "/artifacts/" not in caught.value.message
    assert ".part-" not in caught.value.message
    return caught.value


def from_source(url: str, kind: str = "S3Prefix", compression: str = "None", **members: Any) -> dict[str, Any]:
    return {"S3DataSource": {"S3Uri": url, "S3DataType": kind, "CompressionType": compression, **members}}


# ---------------------------------------------------------------------- what is served


def test_an_archive(deployer: Deployer, shelf: Shelf) -> None:
    found = resolve(deployer, deployment(), "churn")
    (wiring,) = found.versions
    assert (wiring.name, wiring.variant, wiring.container) == ("churn", "blue", "onnx")
    assert (wiring.config.name, wiring.config.container) == ("churn", "onnx")
    assert Path(wiring.artifact).read_bytes() == b"a graph"
    assert found.revisions == {URL: shelf.info(URL).etag}
    assert found.bytes == len(b"a graph")
    assert (found.variant, found.startup_s, found.container) == ("blue", 240.0, "onnx")


@pytest.mark.parametrize(
    ("image", "files", "kind"),
    [
        ("xgboost", {"xgboost-model": b"trees"}, "xgboost"),
        ("683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-xgboost:1.7-1", {"xgboost-model": b"1"}, "xgboost"),
        ("sagemaker-scikit-learn:1.2-1-cpu-py3", {"model.joblib": b"pickle"}, "sklearn"),
        ("sklearn", {"model.skops": b"zip"}, "sklearn"),
        ("onnx", {"churn/model.onnx": b"graph"}, "onnx"),
        ("onnx", {"1/model.onnx": b"old", "2/model.onnx": b"new"}, "onnx"),
        # Two kinds could serve it, and the image says which.
        ("onnx", {"model.onnx": b"graph", "xgboost-model": b"trees"}, "onnx"),
        ("xgboost", {"model.onnx": b"graph", "xgboost-model": b"trees"}, "xgboost"),
        ("onnx", {"model.onnx": b"graph", "model.yaml": b"slots: 3"}, "onnx"),
        ("onnx", {"model.onnx": b"graph", "model.yaml": b"container: onnx"}, "onnx"),
        (TRITON_IMAGE, TRITON, "onnx"),
        (TRITON_IMAGE, ONNX, "onnx"),
        (TRITON_IMAGE, {"xgboost-model": b"trees"}, "xgboost"),
    ],
)
def test_images_and_what_is_in_the_archive(
    deployer: Deployer, shelf: Shelf, image: str, files: Mapping[str, bytes], kind: str
) -> None:
    shelf.set(URL, packed(files))
    (wiring,) = resolve(deployer, deployment(image=image)).versions
    assert wiring.container == kind
    assert Path(wiring.artifact).exists()


def test_one_of_several_models_of_triton(deployer: Deployer, shelf: Shelf) -> None:
    shelf.set(URL, packed({"a/1/model.onnx": b"a", "b/1/model.onnx": b"b"}))
    chosen = deployment(image=TRITON_IMAGE, Environment={"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "b"})
    assert Path(resolve(deployer, chosen).versions[0].artifact).read_bytes() == b"b"
    assert f"{URL} holds 2 models (a, b); one was expected; say which with SAGEMAKER_TRITON_DEFAULT_MODEL_NAME" == (
        refusal(deployer, deployment(image=TRITON_IMAGE)).message
    )
    absent = deployment(image=TRITON_IMAGE, Environment={"SAGEMAKER_TRITON_DEFAULT_MODEL_NAME": "../c"})
    assert "has no folder '../c'" in refusal(deployer, absent).message


def test_all_versions_that_the_policy_serves(deployer: Deployer, shelf: Shelf) -> None:
    files = {"1/model.onnx": b"1", "2/model.onnx": b"2", "model.yaml": b"version_policy: {all: true}"}
    shelf.set(URL, packed(files))
    found = resolve(deployer, deployment())
    assert [wiring.config.version for wiring in found.versions] == ["2", "1"]


def test_a_prefix(deployer: Deployer, shelf: Shelf) -> None:
    shelf.set(f"{PREFIX}1/model.onnx", b"one")
    shelf.set(f"{PREFIX}", b"")
    shelf.set(f"{PREFIX}1/", b"")
    shelf.set(f"{PREFIX}model.yaml", b"slots: 2")
    del shelf.objects[URL]
    found = resolve(deployer, deployment(url=None, ModelDataSource=from_source(PREFIX)))
    assert Path(found.versions[0].artifact).read_bytes() == b"one"
    assert found.versions[0].config.slots == 2
    assert list(found.revisions) == [PREFIX]
    again = resolve(deployer, deployment(url=None, ModelDataSource=from_source(PREFIX)))
    assert again == found
    shelf.set(f"{PREFIX}1/model.onnx", b"two")
    other = resolve(deployer, deployment(url=None, ModelDataSource=from_source(PREFIX)))
    assert other.revisions != found.revisions
    assert Path(other.versions[0].artifact).read_bytes() == b"two"


def test_a_prefix_in_tritons_layout(deployer: Deployer, shelf: Shelf) -> None:
    for name, content in TRITON.items():
        shelf.set(f"s3://models/triton/{name}", content)
    asked = deployment(url=None, image=TRITON_IMAGE, ModelDataSource=from_source("s3://models/triton/"))
    assert resolve(deployer, asked).versions[0].container == "onnx"


def test_an_object_as_it_is(deployer: Deployer, shelf: Shelf) -> None:
    url = shelf.set("s3://models/churn.onnx", b"graph")
    (wiring,) = resolve(deployer, deployment(url=None, ModelDataSource=from_source(url, "S3Object"))).versions
    assert Path(wiring.artifact).name == "churn.onnx"


def test_a_compressed_source_is_an_archive(deployer: Deployer) -> None:
    asked = deployment(url=None, ModelDataSource=from_source(URL, "S3Object", "Gzip"))
    assert resolve(deployer, asked).versions[0].container == "onnx"


def test_the_environment_is_honoured(deployer: Deployer) -> None:
    variables = {
        "SAGEMAKER_MODEL_SERVER_WORKERS": "3",
        "SAGEMAKER_MODEL_SERVER_TIMEOUT": "20",
        "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS": "7",
        "SAGEMAKER_PROGRAM": "",
        "SAGEMAKER_SUBMIT_DIRECTORY": "",
        "SAGEMAKER_REGION": "us-east-1",
        "MINE": "x",
    }
    asked = deployment(Environment=variables, variants={"InitialInstanceCount": 2})
    config = resolve(deployer, asked).versions[0].config
    assert config.slots == 6
    assert config.batching.default_timeout_s == 7.0
    assert config.environment["MINE"] == "x"
    assert "SAGEMAKER_PROGRAM" not in config.environment


def test_instances_are_bounded(deployer: Deployer) -> None:
    many = deployment(variants={"InitialInstanceCount": 1000})
    assert resolve(deployer, many).versions[0].config.slots == 64
    workers = deployment(Environment={"SAGEMAKER_MODEL_SERVER_WORKERS": "100"}, variants={"InitialInstanceCount": 3})
    assert resolve(deployer, workers).versions[0].config.slots == 100


# ---------------------------------------------------------------------- many models

MANY = "s3://models/many/"
VARIABLES = {"SERVING_PINNED_MODELS": "a.tar.gz, /b.tar.gz,,a.tar.gz", "SERVING_PREWARMED_MODELS": "c/d.onnx"}


@pytest.mark.parametrize(
    "members",
    [
        {"url": MANY},
        {"url": MANY.rstrip("/")},
        {"url": None, "ModelDataSource": from_source(MANY)},
        {"url": None, "ModelDataSource": from_source(MANY.rstrip("/"))},
        {
            "url": MANY,
            "MultiModelConfig": {"ModelCacheSetting": "Enabled"},
            "Environment": {"SAGEMAKER_MULTI_MODEL": "true"},
        },
    ],
)
def test_a_multi_model_endpoint_is_a_prefix(deployer: Deployer, shelf: Shelf, members: Mapping[str, Any]) -> None:
    shelf.objects.clear()
    found = resolve(deployer, deployment(Mode="MultiModel", **members), "churn")
    (wiring,) = found.versions
    assert (wiring.name, wiring.variant, wiring.container, wiring.artifact) == ("churn", "blue", "onnx", "")
    assert wiring.targets == TargetsWiring(MANY)
    assert (found.artifact, found.bytes, found.revisions) == (None, 0, {})
    assert found.told("/x") == "/x"
    assert asyncio.run(deployer.resolve_here("churn", deployment(Mode="MultiModel", **members))) == found
    assert not shelf.asked


def test_what_models_of_an_endpoint_have_in_common(deployer: Deployer) -> None:
    asked = deployment(
        url=MANY,
        image=TRITON_IMAGE,
        Mode="MultiModel",
        Environment={**VARIABLES, "EMPTY": ""},
        MultiModelConfig={"ModelCacheSetting": "Disabled"},
        variants={"InitialInstanceCount": 3},
    )
    (wiring,) = resolve(deployer, asked).versions
    assert wiring.container == ""
    assert wiring.targets == TargetsWiring(MANY, False, ("a.tar.gz", "b.tar.gz"), ("c/d.onnx",))
    assert (wiring.config.name, wiring.config.slots, wiring.config.environment) == ("e", 3, VARIABLES)


@pytest.mark.parametrize(
    ("image", "kind"),
    [("onnx", "onnx"), ("xgboost", "xgboost"), ("sklearn", "sklearn"), ("lightgbm", "lightgbm"), (TRITON_IMAGE, "")],
)
def test_images_of_many_models(deployer: Deployer, image: str, kind: str) -> None:
    (wiring,) = resolve(deployer, deployment(url=MANY, image=image, Mode="MultiModel")).versions
    assert wiring.container == kind


def test_many_models_in_the_only_one_of_several_containers(deployer: Deployer) -> None:
    model = {"ModelName": "m", "Containers": [container(MANY, Mode="MultiModel")]}
    assert resolve(deployer, deployment(model=model)).versions[0].targets == TargetsWiring(MANY)


def test_many_models_in_a_folder_of_this_machine(shelf: Shelf, tmp_path: Path) -> None:
    url = (tmp_path / "models").as_uri()
    allowed = make(shelf, tmp_path, allow_paths=(tmp_path / "models",))
    asked = deployment(url=url, Mode="MultiModel")
    assert resolve(allowed, asked).versions[0].targets == TargetsWiring(f"{url}/")
    assert "is not below a folder from which files may be read" in refusal(make(shelf, tmp_path), asked).message


def test_what_is_kept_needs_nothing_for_many_models(deployer: Deployer) -> None:
    kept = resolve(deployer, deployment())
    many = deployment(url=MANY, Mode="MultiModel", revisions={MANY: "x"})
    assert asyncio.run(deployer.keep([many, deployment(revisions=kept.revisions)]))
    assert artifact(kept).root.exists()


# ---------------------------------------------------------------------- what is refused

TWO = {"ProductionVariants": [variant(), variant(VariantName="green")]}
PIPELINE = {"ModelName": "m", "Containers": [container(), container()]}

REFUSED: list[tuple[Deployment, str]] = [
    (deployment(config=TWO), "the endpoint config has 2 production variants"),
    (deployment(config={"ShadowProductionVariants": [variant()]}), "ShadowProductionVariants: shadow variants are not"),
    (
        deployment(config={"AsyncInferenceConfig": {"OutputConfig": {}}}),
        "AsyncInferenceConfig: asynchronous inference is",
    ),
    (deployment(config={"ExplainerConfig": {"Clarify": {}}}), "ExplainerConfig: explainers are not built yet"),
    (deployment(config={"DataCaptureConfig": {"EnableCapture": True}}), "DataCaptureConfig: data capture is not built"),
    (deployment(variants={"ServerlessConfig": {"MaxConcurrency": 1}}), "has ServerlessConfig: serverless variants are"),
    (deployment(variants={"ManagedInstanceScaling": {"Status": "ENABLED"}}), "ManagedInstanceScaling: scaling of"),
    (deployment(variants={"InstancePools": [{}]}), "has InstancePools: instance pools are not built yet"),
    (deployment(variants={"AcceleratorType": "ml.eia1.medium"}), "asks for the accelerator ml.eia1.medium"),
    (deployment(variants={"ModelName": None}), "names no model; endpoints of inference components are not built yet"),
    (deployment(variants={"ModelName": "other"}), "names the model 'other', which was not there"),
    (deployment(model=PIPELINE), "the model 'm' has 2 containers: inference pipelines are not built yet"),
    (
        deployment(Mode="MultiModel", Environment={"SAGEMAKER_MULTI_MODEL": "false"}),
        "SAGEMAKER_MULTI_MODEL is 'false', and the container's Mode is MultiModel",
    ),
    (deployment(Environment=VARIABLES), "SERVING_PINNED_MODELS is set, and the container's Mode is not MultiModel"),
    (
        deployment(url=MANY, Mode="MultiModel", Environment={"SERVING_PINNED_MODELS": "../a"}),
        "SERVING_PINNED_MODELS: The target model '../a' has a part that is empty, . or ..",
    ),
    (deployment(url=None, Mode="MultiModel"), "the model 'm' has no model data: ModelDataUrl or ModelDataSource was"),
    (deployment(url="models/", Mode="MultiModel"), "has the model data models/; s3://BUCKET/PREFIX/ was expected"),
    (
        deployment(url=None, Mode="MultiModel", ModelDataSource=from_source(URL, "S3Object")),
        "has Mode MultiModel and an S3DataSource with S3DataType S3Object; its models lie below a prefix, S3Prefix",
    ),
    (
        deployment(url=MANY, Mode="MultiModel", Environment={"SAGEMAKER_MODEL_SERVER_WORKERS": "0"}),
        "SAGEMAKER_MODEL_SERVER_WORKERS is '0'; a whole",
    ),
    (
        deployment(url=MANY, Mode="MultiModel", variants={"ServerlessConfig": {"MaxConcurrency": 1}}),
        "has ServerlessConfig: serverless variants are",
    ),
    (
        deployment(url=MANY, Mode="MultiModel", config={"AsyncInferenceConfig": {"OutputConfig": {}}}),
        "AsyncInferenceConfig: asynchronous inference is",
    ),
    (deployment(AdditionalModelDataSources=[{}]), "has AdditionalModelDataSources"),
    (deployment(InferenceSpecificationName="x"), "has InferenceSpecificationName x"),
    (deployment(url=None), "the model 'm' has no model data: ModelDataUrl or ModelDataSource was expected"),
    (deployment(image=None), "the model 'm' names no Image, which tells the container that serves it"),
    (deployment(image="pytorch-inference:2.0"), "the image 'pytorch-inference:2.0' is SageMaker's PyTorch container"),
    (deployment(image="mine:1"), "the image 'mine:1' is not known; known are lightgbm, onnx, sklearn, xgboost"),
    (deployment(ModelDataSource=from_source(PREFIX)), "has both ModelDataUrl and ModelDataSource; give one of them"),
    (
        deployment(url=None, ModelDataSource=from_source("s3://b/p")),
        "the S3Prefix s3://b/p, which does not end in /; write s3://b/p/",
    ),
    (
        deployment(url=None, ModelDataSource=from_source(PREFIX, "S3Prefix", "Gzip")),
        "CompressionType Gzip and S3DataType S3Prefix; an archive is one object, S3Object",
    ),
    (
        deployment(url=None, ModelDataSource=from_source(PREFIX, ManifestS3Uri="s3://b/manifest")),
        "has ManifestS3Uri in its S3DataSource, which is not built yet",
    ),
    (
        deployment(Environment={"SAGEMAKER_MULTI_MODEL": "true"}),
        "SAGEMAKER_MULTI_MODEL is 'true', and the container's Mode is not MultiModel",
    ),
    (
        deployment(Environment={"SAGEMAKER_PROGRAM": "serve.py", "SAGEMAKER_SUBMIT_DIRECTORY": "s3://b/source.tar.gz"}),
        "SAGEMAKER_PROGRAM is 'serve.py' and SAGEMAKER_SUBMIT_DIRECTORY is 's3://b/source.tar.gz': inference scripts are",
    ),
    (deployment(Environment={"SAGEMAKER_MODEL_SERVER_WORKERS": "0"}), "SAGEMAKER_MODEL_SERVER_WORKERS is '0'; a whole"),
    (
        deployment(Environment={"SAGEMAKER_MODEL_SERVER_WORKERS": "many"}),
        "WORKERS is 'many'; a whole number from 1 to 1024",
    ),
    (deployment(Environment={"SAGEMAKER_MODEL_SERVER_WORKERS": "-2"}), "SAGEMAKER_MODEL_SERVER_WORKERS is '-2'"),
    (deployment(Environment={"SAGEMAKER_MODEL_SERVER_WORKERS": "9" * 999}), "a whole number from 1 to 1024"),
    (deployment(Environment={"SAGEMAKER_MODEL_SERVER_WORKERS": "²"}), "SAGEMAKER_MODEL_SERVER_WORKERS is '²'"),
    (
        deployment(Environment={"SAGEMAKER_MODEL_SERVER_TIMEOUT": "1.5"}),
        "SAGEMAKER_MODEL_SERVER_TIMEOUT is '1.5'; a whole",
    ),
    (
        deployment(Environment={"SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS": "86401"}),
        "TIMEOUT_SECONDS is '86401'; a whole",
    ),
    (
        deployment(Environment={"SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv"}),
        "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT is 'text/csv': the onnx container answers application/json",
    ),
    (
        deployment(Environment={"SAGEMAKER_INFERENCE_OUTPUT": "labels"}),
        "SAGEMAKER_INFERENCE_OUTPUT is 'labels': only the xgboost container has it, this one is onnx",
    ),
    (deployment(url="s3://models/absent.tar.gz"), "s3://models/absent.tar.gz: there is no such object"),
    (
        deployment(url=None, ModelDataSource=from_source("s3://models/absent/")),
        "s3://models/absent/: there is no object below it",
    ),
]


@pytest.mark.parametrize(("asked", "expected"), REFUSED, ids=[expected[:60] for _, expected in REFUSED])
def test_what_cannot_be_is_refused_in_one_sentence(deployer: Deployer, asked: Deployment, expected: str) -> None:
    message = refusal(deployer, asked).message
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("image", "content", "expected"),
    [
        ("onnx", b"not a tar", f"{URL}"),
        ("onnx", b"", f"{URL}"),
        ("onnx", packed(ONNX)[:40], f"{URL}"),
        ("onnx", packed({"../escape.onnx": b"x"}), f"{URL}: the member '../escape.onnx'"),
        ("onnx", packed({"notes.txt": b"x"}), f"{URL} holds no model"),
        ("onnx", packed({}), f"{URL} is empty"),
        ("xgboost", packed(ONNX), f"the image 'xgboost' is for xgboost models, but {URL} is a model for onnx"),
        (
            "onnx",
            packed({"xgboost-model": b"x"}),
            f"the image 'onnx' is for onnx models, but {URL} is a model for xgboost",
        ),
        ("sklearn", packed({"a/model.onnx": b"x"}), f"is for sklearn models, but {URL}/a is a model for onnx"),
        ("xgboost", packed(ONNX | {"model.yaml": b"container: onnx"}), f"but {URL} is a model for onnx"),
        (
            "onnx",
            packed({"a/model.onnx": b"a", "b/model.onnx": b"b"}),
            f"{URL} holds 2 models (a, b); one was expected",
        ),
        ("onnx", packed(ONNX | {"model.yaml": b"slotz: 3"}), f"{URL}/model.yaml: Object contains unknown field"),
        (
            "onnx",
            packed(ONNX | {"model.yaml": b"", "config.pbtxt": b""}),
            f"{URL} holds both model.yaml and config.pbtxt",
        ),
    ],
)
def test_what_is_in_the_object_cannot_be_served(
    deployer: Deployer, shelf: Shelf, tmp_path: Path, image: str, content: bytes, expected: str
) -> None:
    shelf.set(URL, content)
    assert expected in refusal(deployer, deployment(image=image)).message
    assert not list((tmp_path / "artifacts").glob(".part-*"))


def test_an_object_of_another_kind(deployer: Deployer, shelf: Shelf) -> None:
    url = shelf.set("s3://models/churn.onnx", b"graph")
    asked = deployment(url=None, image="xgboost", ModelDataSource=from_source(url, "S3Object"))
    assert (
        f"the image 'xgboost' is for xgboost models, but {url} is a model for onnx" == refusal(deployer, asked).message
    )


def test_keys_that_no_disk_can_hold(deployer: Deployer, shelf: Shelf) -> None:
    for key in ("../x", "a//b", "./x", "a/../../x", "x" * 300):
        shelf.objects = {f"{PREFIX}{key}": b"x"}
        message = refusal(deployer, deployment(url=None, ModelDataSource=from_source(PREFIX))).message
        assert f"{PREFIX}{key} cannot be a file of a model" in message
    shelf.objects = {f"{PREFIX}a": b"x", f"{PREFIX}a/b": b"y"}
    message = refusal(deployer, deployment(url=None, ModelDataSource=from_source(PREFIX))).message
    assert "is an object and a folder of others" in message


def test_scripts(deployer: Deployer, shelf: Shelf) -> None:
    """The SDK names a script for models that have none; one that is there is not passed over."""
    named = {"SAGEMAKER_PROGRAM": "inference.py", "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code"}
    assert "inference.py, which is not in" in resolve(deployer, deployment(Environment=named)).warnings[0]
    shelf.set(URL, packed(ONNX | {"code/inference.py": b"def model_fn(): ..."}))
    message = refusal(deployer, deployment(Environment=named)).message
    assert (
        f"{URL} holds code/inference.py, which SAGEMAKER_PROGRAM names: inference scripts are not built yet" in message
    )
    (warning,) = resolve(deployer, deployment()).warnings
    assert warning == f"{URL} holds code/inference.py, which is not run: SAGEMAKER_PROGRAM does not name it"


def test_larger_than_allowed(shelf: Shelf, tmp_path: Path) -> None:
    size = len(shelf.objects[URL])
    message = refusal(make(shelf, tmp_path, max_archive_bytes=size - 1), deployment()).message
    assert f"{URL} has {size} bytes; up to {size - 1} are allowed" in message
    assert "fetch" not in "".join(shelf.asked)
    shelf.set(URL, packed({"model.onnx": b"0" * 10_000}))
    assert (
        f"{URL} inflates to more than 5000 bytes"
        in refusal(make(shelf, tmp_path, max_archive_bytes=5000), deployment()).message
    )


def test_a_disk_with_too_little_room(
    deployer: Deployer, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = shelf.objects[URL]
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=len(content) - 1))
    message = refusal(deployer, deployment()).message
    assert message == f"{URL} has {len(content)} bytes, and {len(content) - 1} are free on the server's disk"
    assert not any(verb.startswith("fetch") for verb in shelf.asked)


def test_what_cannot_be_written_is_told_without_the_servers_folders(
    deployer: Deployer, shelf: Shelf, tmp_path: Path
) -> None:
    def fail(url: str, target: Path, **_: object) -> None:
        raise ArtifactError(f"{url} cannot be written to {target}: No space left on device")

    shelf.fetch = fail  # type: ignore[assignment]
    message = refusal(deployer, deployment()).message
    assert "cannot be written to the server's disk" in message
    assert str(tmp_path) not in message


def test_a_disk_that_takes_nothing(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("in the way")
    message = refusal(make(shelf, tmp_path), deployment()).message
    assert f"{URL} cannot be kept on the server's disk: " in message


def test_a_store_that_is_down(deployer: Deployer, shelf: Shelf) -> None:
    shelf.down = True
    assert isinstance(refusal(deployer, deployment()), ObjectStoreUnavailable)


def test_a_download_that_takes_too_long(deployer: Deployer, shelf: Shelf) -> None:
    shelf.gate.clear()

    async def check() -> None:
        asked = deployment(variants={"ModelDataDownloadTimeoutInSeconds": 0.05})
        with pytest.raises(ArtifactError, match=r"within 0.05 s \(ModelDataDownloadTimeoutInSeconds\)"):
            await deployer.resolve("e", asked)
        shelf.gate.set()
        # What was begun goes on, and is there for the next.
        assert (await deployer.resolve("e", deployment())).versions
        assert len([one for one in shelf.asked if one.startswith("fetch")]) == 1

    asyncio.run(check())


def test_reasons_are_no_longer_than_aws_allows() -> None:
    assert reason("short") == "short"
    assert len(reason("x" * 5000)) == 1024
    assert reason("x" * 1024) == "x" * 1024


# ---------------------------------------------------------------------- what stays on disk


def test_it_is_fetched_once_for_all_who_want_it(deployer: Deployer, shelf: Shelf) -> None:
    shelf.gate.clear()

    async def check() -> None:
        waiting = [asyncio.ensure_future(deployer.resolve(f"e{number}", deployment())) for number in range(5)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        shelf.gate.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert all(isinstance(one, Resolved) for one in found[1:])

    asyncio.run(check())
    assert [one for one in shelf.asked if one.startswith("fetch")] == [f"fetch {URL}"]


def test_what_is_here_needs_no_store(shelf: Shelf, tmp_path: Path) -> None:
    first = resolve(make(shelf, tmp_path), deployment())
    shelf.down = True
    shelf.asked.clear()
    later = make(shelf, tmp_path)
    assert resolve(later, deployment(revisions=first.revisions)) == first
    assert asyncio.run(later.resolve_here("e", deployment(revisions=first.revisions))) == first
    assert asyncio.run(later.resolve_here("e", deployment(revisions={URL: "another"}))) is None
    assert asyncio.run(later.resolve_here("e", deployment())) is None
    assert not shelf.asked


def test_the_same_object_is_not_fetched_again(deployer: Deployer, shelf: Shelf) -> None:
    assert resolve(deployer, deployment()) == resolve(deployer, deployment())
    assert shelf.asked == [f"head {URL}", f"fetch {URL}", f"head {URL}"]


def test_an_object_replaced_while_it_is_read_is_read_again(deployer: Deployer, shelf: Shelf) -> None:
    def replace(url: str) -> None:
        shelf.before_fetch = lambda url: None
        shelf.set(url, packed({"model.onnx": b"new"}))

    shelf.before_fetch = replace
    found = resolve(deployer, deployment())
    assert Path(found.versions[0].artifact).read_bytes() == b"new"
    assert found.revisions == {URL: shelf.info(URL).etag}


def test_an_object_that_never_stands_still(deployer: Deployer, shelf: Shelf, tmp_path: Path) -> None:
    def replace(url: str) -> None:
        shelf.set(url, packed({"model.onnx": shelf.objects[url]}))

    shelf.before_fetch = replace
    assert isinstance(refusal(deployer, deployment()), ObjectChanged)
    assert not list((tmp_path / "artifacts").iterdir())


def test_a_prefix_of_which_an_object_goes_while_it_is_read(deployer: Deployer, shelf: Shelf) -> None:
    shelf.objects = {f"{PREFIX}model.onnx": b"a", f"{PREFIX}model.yaml": b"slots: 1"}

    def take_away(url: str) -> None:
        shelf.before_fetch = lambda url: None
        shelf.objects.pop(f"{PREFIX}model.yaml")

    shelf.before_fetch = take_away
    found = resolve(deployer, deployment(url=None, ModelDataSource=from_source(PREFIX)))
    assert not (artifact(found).root / "model.yaml").exists()


def test_another_revision_is_not_served_in_place_of_the_one_wanted(deployer: Deployer, shelf: Shelf) -> None:
    message = refusal(deployer, deployment(revisions={URL: "gone"})).message
    assert f"{URL} is no longer what it was when the endpoint was deployed (its ETag was gone)" in message
    del shelf.objects[URL]
    assert isinstance(refusal(deployer, deployment(revisions={URL: "gone"})), ObjectMissing)


def test_what_a_crash_left_does_not_count(shelf: Shelf, tmp_path: Path) -> None:
    first = resolve(make(shelf, tmp_path), deployment())
    facts = artifact(first).root.with_name("artifact.json")
    for damage in (b"", b"{}", b"\xff", facts.read_bytes().replace(b"archive", b"object")):
        facts.write_bytes(damage)
        artifact(first).root.joinpath("model.onnx").write_bytes(b"half")
        again = resolve(make(shelf, tmp_path), deployment(revisions=first.revisions))
        assert again == first
        assert Path(again.versions[0].artifact).read_bytes() == b"a graph"


def test_two_fetches_of_the_same_leave_what_is_in_use(deployer: Deployer, shelf: Shelf, tmp_path: Path) -> None:
    """One asks for whatever is there, the other for the revision that is there."""
    both = threading.Barrier(2)

    def meet(url: str) -> None:
        both.wait(20)

    shelf.before_fetch = meet

    async def check() -> None:
        asked = (deployment(), deployment(revisions={URL: shelf.info(URL).etag}))
        waiting = [asyncio.ensure_future(deployer.resolve("e", one)) for one in asked]
        first, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        inode = artifact(await first.pop()).root.stat().st_ino
        one, other = await asyncio.gather(*waiting)
        assert one == other
        assert artifact(one).root.stat().st_ino == inode

    asyncio.run(check())
    assert [one for one in shelf.asked if one.startswith("fetch")] == [f"fetch {URL}"] * 2
    assert not list((tmp_path / "artifacts").glob(".part-*"))


def test_unused_artifacts_are_removed(deployer: Deployer, shelf: Shelf, tmp_path: Path) -> None:
    kept = resolve(deployer, deployment())
    shelf.set(URL, packed({"model.onnx": b"newer"}))
    further = resolve(deployer, deployment())
    gone = resolve(deployer, deployment(url=shelf.set("s3://models/b.tar.gz", packed({"model.onnx": b"b"}))))
    (tmp_path / "artifacts" / ".part-x").mkdir()
    (tmp_path / "artifacts" / ".gone-x").mkdir()
    keys = [(artifact(further).source, artifact(further).revision)]
    assert asyncio.run(deployer.keep([deployment(revisions=kept.revisions), deployment(url=None)], keys))
    assert not artifact(gone).root.exists()
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == {
        artifact(kept).root.parent.name,
        artifact(further).root.parent.name,
    }
    assert asyncio.run(deployer.keep([]))
    assert not list((tmp_path / "artifacts").iterdir())


def test_nothing_is_removed_while_something_is_brought_in(deployer: Deployer, shelf: Shelf) -> None:
    shelf.gate.clear()
    begun = threading.Event()
    shelf.before_fetch = lambda url: begun.set()

    async def check() -> Resolved:
        bringing = asyncio.ensure_future(deployer.resolve("e", deployment()))
        assert await asyncio.to_thread(begun.wait, 20)
        assert not await deployer.keep([])
        shelf.gate.set()
        return await bringing

    assert artifact(asyncio.run(check())).root.exists()


def test_bringing_in_waits_while_something_is_removed(deployer: Deployer) -> None:
    async def check() -> Resolved:
        await deployer.resolve("e", deployment())
        removing = asyncio.ensure_future(deployer.keep([]))
        await asyncio.sleep(0)
        found = await deployer.resolve("e", deployment())
        assert await removing
        return found

    assert artifact(asyncio.run(check())).root.exists()


def test_artifacts_are_where_their_facts_say(shelf: Shelf, tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path, shelf, Limits())
    source = Source(URL, "archive")
    found = artifacts.fetch(source, None, 10.0)
    assert artifacts.have(source, found.revision) == found
    assert artifacts.have(Source(URL, "object"), found.revision) is None
    assert found.told(f"{found.root}/model.onnx and {found.root.parent}/x") == f"{URL}/model.onnx and {URL}/x"
