"""Models on disk: which layouts are found, what they are called, and what is refused."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.contract import BatchingConfig, ModelConfig, OnnxConfig, TensorConfig
from serving.errors import ArtifactError, ConfigurationError, ServingError
from serving.objects.archive import Archives
from serving.objects.configuration import read_model_yaml
from serving.objects.kinds import kind, kinds
from serving.objects.repository import ENDPOINT_NAME, ModelSource, find, given
from tests.support.repositories import resolve


@pytest.fixture
def archives(tmp_path: Path) -> Archives:
    return Archives(tmp_path / "state")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    directory = tmp_path / "place"
    directory.mkdir()
    return directory


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def pack(archive: Path, directory: Path) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "-czf", archive, "-C", directory, "."], check=True)
    return archive


def one(place: Path) -> tuple[Path, str, str]:
    return put(place / "fraud.onnx"), "fraud", "1"


def usual_name(place: Path) -> tuple[Path, str, str]:
    return put(place / "churn" / "model.onnx"), "churn", "1"


def folder(place: Path) -> tuple[Path, str, str]:
    put(place / "fraud" / "model.onnx")
    put(place / "fraud" / "labels.json")
    return place / "fraud", "fraud", "1"


def folder_of_one(place: Path) -> tuple[Path, str, str]:
    put(place / "fraud" / "net.onnx")
    put(place / "fraud" / "._net.onnx")
    return place / "fraud", "fraud", "1"


def named_in_yaml(place: Path) -> tuple[Path, str, str]:
    put(place / "a folder" / "model.onnx")
    put(place / "a folder" / "model.yaml", "name: fraud-2\nversion: 7\n")
    return place / "a folder", "fraud-2", "7"


def yaml_beside_the_file(place: Path) -> tuple[Path, str, str]:
    put(place / "f" / "model.yaml", "name: fraud\nversion: '3'\n")
    return put(place / "f" / "model.onnx"), "fraud", "3"


def triton(place: Path) -> tuple[Path, str, str]:
    put(place / "densenet_onnx" / "config.pbtxt", 'name: "densenet_onnx" platform: "onnxruntime_onnx"')
    put(place / "densenet_onnx" / "1" / "model.onnx")
    return place / "densenet_onnx", "densenet_onnx", "1"


def versions(place: Path) -> tuple[Path, str, str]:
    put(place / "m" / "config.pbtxt", 'backend: "onnxruntime"')
    for version in ("2", "10", "9", "010", "latest"):
        put(place / "m" / version / "model.onnx")
    (place / "m" / "11").mkdir()
    return place / "m", "m", "10"


def versions_without_config(place: Path) -> tuple[Path, str, str]:
    put(place / "m.v1" / "4" / "model.onnx")
    return place / "m.v1", "m.v1", "4"


def filename_in_pbtxt(place: Path) -> tuple[Path, str, str]:
    put(place / "m" / "config.pbtxt", 'default_model_filename: "net.onnx"')
    put(place / "m" / "1" / "net.onnx")
    put(place / "m" / "1" / "other.onnx")
    return place / "m", "m", "1"


def archive(place: Path) -> tuple[Path, str, str]:
    put(place / "in" / "model.onnx")
    put(place / "in" / "model.yaml", "slots: 2")
    return pack(place / "fraud.tar.gz", place / "in"), "fraud", "1"


def archive_of_usual_name(place: Path) -> tuple[Path, str, str]:
    put(place / "in" / "model.onnx")
    return pack(place / "churn" / "model.tar.gz", place / "in"), "churn", "1"


def archive_of_triton(place: Path) -> tuple[Path, str, str]:
    put(place / "in" / "net" / "config.pbtxt")
    put(place / "in" / "net" / "3" / "model.onnx")
    return pack(place / "model.tgz", place / "in"), "net", "3"


LAYOUTS = [one, usual_name, folder, folder_of_one, named_in_yaml, yaml_beside_the_file, triton, versions]
LAYOUTS += [versions_without_config, filename_in_pbtxt, archive, archive_of_usual_name, archive_of_triton]


@pytest.mark.parametrize("build", LAYOUTS)
def test_a_layout_is_found(place: Path, archives: Archives, build: Callable[[Path], tuple[Path, str, str]]) -> None:
    path, name, version = build(place)
    source = resolve(path, None, archives)
    assert (source.name, source.version, source.container) == (name, version, "onnx")
    assert (source.config.name, source.config.version, source.config.container) == (name, version, "onnx")
    assert source.origin == path
    assert source.artifact.is_file()
    assert source.artifact.suffix == ".onnx"
    assert resolve(path, "other", archives).name == resolve(path, "other", archives).config.name == "other"


def test_the_highest_version_is_the_one_that_is_loaded(place: Path, archives: Archives) -> None:
    path, _, _ = versions(place)
    assert resolve(path, None, archives).artifact == path / "10" / "model.onnx"


def test_a_relative_path_is_made_absolute(place: Path, archives: Archives, monkeypatch: pytest.MonkeyPatch) -> None:
    one(place)
    monkeypatch.chdir(place)
    assert resolve(Path("fraud.onnx"), None, archives).artifact == place / "fraud.onnx"


def no_model(place: Path) -> Path:
    put(place / "m" / "readme.txt")
    return place / "m"


def both_configurations(place: Path) -> Path:
    put(place / "m" / "model.yaml")
    put(place / "m" / "config.pbtxt")
    return put(place / "m" / "model.onnx").parent


def other_container(place: Path) -> Path:
    put(place / "m" / "model.yaml", "container: caffe")
    return put(place / "m" / "model.onnx").parent


def several_in_an_archive(place: Path) -> Path:
    put(place / "in" / "a" / "model.onnx")
    put(place / "in" / "b" / "model.onnx")
    return pack(place / "m.tar.gz", place / "in")


def broken_yaml_in_an_archive(place: Path) -> Path:
    put(place / "in" / "model.onnx")
    put(place / "in" / "model.yaml", "slotz: 1")
    return pack(place / "m.tar.gz", place / "in")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda place: place / "gone", "gone: there is no such file or directory"),
        (lambda place: put(place / "notes.txt"), r"notes\.txt is not a model: a model's file"),
        (lambda place: put(place / "m.zip"), r"m\.zip is not a model"),
        (no_model, "m holds no model: a model's file"),
        (both_configurations, r"both model\.yaml and config\.pbtxt"),
        (other_container, r"there is no container kind 'caffe'; installed: .*onnx"),
        (several_in_an_archive, r"m\.tar\.gz holds 2 models \(a, b\); one was expected"),
        (broken_yaml_in_an_archive, r"m\.tar\.gz/model\.yaml: Object contains unknown field slotz"),
        (
            lambda place: put(place / "m" / "a.onnx") and put(place / "m" / "b.onnx").parent,
            "name the one to serve model",
        ),
        (lambda place: put(place / "-x.onnx"), "'-x' cannot be a model's name, which is 1 to 63 letters"),
        (lambda place: put(place / ("n" * 64 + ".onnx")), "cannot be a model's name"),
        (lambda place: put(place / "é.onnx"), "cannot be a model's name"),
        (lambda place: put(place / "a b.onnx"), "'a b' cannot be a model's name"),
        (lambda place: put(place / "m.tar.gz", "text"), r"m\.tar\.gz is not a gzip file"),
    ],
)
def test_what_cannot_be_served_is_told_with_its_path(
    place: Path, archives: Archives, build: Callable[[Path], Path], message: str
) -> None:
    path = build(place)
    with pytest.raises(ServingError, match=message) as caught:
        resolve(path, None, archives)
    assert str(path) in caught.value.message
    assert str(archives.directory) not in caught.value.message


def names(sources: list[ModelSource] | tuple[ModelSource, ...]) -> list[str]:
    return [source.name for source in sources]


def test_a_repository_is_read_whole(place: Path, archives: Archives) -> None:
    put(place / "churn" / "model.onnx")
    triton(place)
    put(place / "alone.onnx")
    put(place / "README.md")
    assert names(find(place, archives)) == ["alone", "churn", "densenet_onnx"]
    put(place / "second.onnx")
    put(place / ".hidden" / "model.onnx")
    put(place.parent / "in" / "model.onnx")
    pack(place / "packed.tar.gz", place.parent / "in")
    assert names(find(place, archives)) == ["alone", "churn", "densenet_onnx", "packed", "second"]


def test_an_empty_repository_is_no_error(place: Path, archives: Archives) -> None:
    assert find(place, archives) == []


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda place: place / "gone", "there is no such file or directory"),
        (lambda place: put(place / "file"), "a directory of models was expected"),
        (
            lambda place: put(place / "m" / "model.onnx").parent,
            "is itself a model; serve it with --model, or its parent",
        ),
        (lambda place: put(place / "m" / "1" / "model.onnx").parents[1], "is itself a model"),
        (lambda place: put(place / "empty" / "x").parents[1], "empty holds no model"),
    ],
)
def test_what_is_no_repository_is_an_error(
    place: Path, archives: Archives, build: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        find(build(place), archives)


@pytest.mark.parametrize(
    ("text", "path", "name"),
    [
        ("a.onnx", "a.onnx", None),
        ("n=a.onnx", "a.onnx", "n"),
        ("n=k=v/m.onnx", "k=v/m.onnx", "n"),
        ("/k=v/m.onnx", "/k=v/m.onnx", None),
        ("bad name=x", "bad name=x", None),
        ("=x", "=x", None),
    ],
)
def test_a_model_argument(text: str, path: str, name: str | None) -> None:
    assert given(text) == (Path(path), name)


def test_a_model_argument_without_a_path() -> None:
    with pytest.raises(ConfigurationError, match="a path was expected after the ="):
        given("name=")


def test_endpoint_names_are_sagemakers() -> None:
    assert ENDPOINT_NAME.fullmatch("a-b--c1")
    assert not any(ENDPOINT_NAME.fullmatch(name) for name in ("a_b", "a.b", "-a", "a-", "", "a" * 64))


def test_kinds_come_from_the_entry_points() -> None:
    assert "onnx" in kinds()
    assert kind("onnx") is kinds()["onnx"]
    with pytest.raises(ConfigurationError, match=r"there is no container kind 'caffe'; installed: .*onnx"):
        kind("caffe")


# ---------------------------------------------------------------- model.yaml


def test_everything_in_model_yaml_is_read(place: Path) -> None:
    file = put(
        place / "model.yaml",
        """
name: fraud
container: onnx
version: "2"
slots: 3
warmup: false
inputs: [{name: x, features: [a, b]}]
outputs: [{name: y, labels: [good, bad], datatype: FP32, shape: [-1, 2]}]
batching: {max_batch_size: 16, preferred_batch_sizes: [4, 8], max_queue_delay_us: 100, default_timeout_s: 5}
onnx: {intra_op_threads: 2, providers: [CPUExecutionProvider], session_options: {session.disable_prepacking: "1"}}
""",
    )
    assert read_model_yaml(file) == ModelConfig(
        name="fraud",
        container="onnx",
        version="2",
        slots=3,
        warmup=False,
        inputs=(TensorConfig(name="x", features=("a", "b")),),
        outputs=(TensorConfig(name="y", labels=("good", "bad"), datatype="FP32", shape=(-1, 2)),),
        batching=BatchingConfig(
            max_batch_size=16, preferred_batch_sizes=(4, 8), max_queue_delay_us=100, default_timeout_s=5.0
        ),
        onnx=OnnxConfig(intra_op_threads=2, session_options={"session.disable_prepacking": "1"}),
    )


def test_an_empty_model_yaml_says_nothing(place: Path) -> None:
    assert read_model_yaml(put(place / "model.yaml", "# nothing\n")) == ModelConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slotz: 1", "unknown field slotz"),
        ("batching: {max_rows: 1}", r"unknown field max_rows - at \$\.batching"),
        ("slots: many", r"Expected int, got str - at \$\.slots"),
        ("slots: 0", r"Expected int >= 1 - at \$\.slots"),
        ("batching: {default_timeout_s: 0}", r"Expected float > 0\.0 - at \$\.batching\.default_timeout_s"),
        ("- a list", "Expected object, got array"),
        ("just text", "Expected object, got str"),
        ("a: [", "is not YAML"),
        ("a: \x01", "is not YAML"),
        ("!!python/object/apply:os.system [ls]", "is not YAML: could not determine a constructor"),
        ("[" * 5000, "is not YAML|Expected"),
        ("a: 2001-99-99", "is not YAML|unknown field"),
        ("a: &a {x: 1}\nb: {<<: [*a, *a]}", r"is not YAML: aliases \(\*name\) are not read here"),
        ("# " + "x" * 300_000, "is larger than 262144 bytes"),
    ],
)
def test_a_bad_model_yaml_is_an_error_with_file_and_key(place: Path, text: str, message: str) -> None:
    file = put(place / "model.yaml", text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_model_yaml(file)
    assert caught.value.message.startswith(str(file))
    assert "\n" not in caught.value.message


def test_a_model_yaml_that_is_not_text(place: Path) -> None:
    file = place / "model.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="is not YAML"):
        read_model_yaml(file)
