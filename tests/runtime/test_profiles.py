"""Profiles: kept whole beside the model, and never trusted where anything that they hold for has changed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.contract import BatchingConfig, ModelConfig, ModelSpec, TensorSpec
from serving.runtime import profiles
from serving.runtime.profiles import MOST_FILES, Files, Place, Profile

SPEC = ModelSpec(
    inputs=(TensorSpec("x", "FP32", (-1, 3), features=("a", "b", "c")),),
    outputs=(TensorSpec("y", "BYTES", (-1,)),),
    platform="p",
    batched=False,
    why_not_batched="it says so",
)
CONFIG = ModelConfig(name="m")


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    (path.parent / "weights.data").write_bytes(b"more")
    age(path.parent)
    return path


def age(folder: Path) -> None:
    """Waits for the next tick of the clock that files are dated with, so that what is written next is later."""
    newest = max(path.stat().st_ctime_ns for path in folder.rglob("*"))
    probe = folder.parent / "probe"
    while True:
        probe.write_bytes(b"")
        if probe.stat().st_ctime_ns > newest:
            return


def place(artifact: Path, config: ModelConfig = CONFIG, container: str = "onnx") -> Place:
    found = profiles.place(container, artifact, config)
    assert found is not None
    return found


def keep(artifact: Path) -> Profile:
    at = place(artifact)
    files = profiles.files(at)
    assert files is not None
    profile = Profile(SPEC, ((1, 0.5), (2, 0.75)), files)
    profiles.store(at, profile)
    return profile


def kept(artifact: Path, config: ModelConfig = CONFIG) -> Profile | None:
    return profiles.load(place(artifact, config))


def test_a_profile_comes_back_as_it_was(artifact: Path) -> None:
    profile = keep(artifact)
    assert kept(artifact) == profile
    assert sorted(path.name for path in artifact.parent.iterdir()) == [
        ".model.onnx.profile",
        "model.onnx",
        "weights.data",
    ]
    assert set(profile.files) == {"model.onnx", "weights.data"}


def test_a_name_and_a_version_are_no_settings(artifact: Path) -> None:
    profile = keep(artifact)
    assert kept(artifact, ModelConfig(name="other", version="7")) == profile


@pytest.mark.parametrize(
    "config", [ModelConfig(slots=2), ModelConfig(warmup=False), ModelConfig(batching=BatchingConfig(max_batch_size=2))]
)
def test_other_settings_are_proved_anew(artifact: Path, config: ModelConfig) -> None:
    keep(artifact)
    assert kept(artifact, config) is None


def test_another_container_proves_anew(artifact: Path) -> None:
    keep(artifact)
    assert profiles.load(place(artifact, container="other")) is None


def test_another_version_of_a_package_proves_anew(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(artifact)
    (tmp_path / "site" / "onnxruntime-999.dist-info").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    profiles._installed.cache_clear()
    assert kept(artifact) is None
    monkeypatch.undo()
    profiles._installed.cache_clear()
    assert kept(artifact) is not None


@pytest.mark.parametrize("name", ["model.onnx", "weights.data"])
def test_a_file_that_was_written_again_is_proved_anew(artifact: Path, name: str) -> None:
    keep(artifact)
    file = artifact.with_name(name)
    before = file.stat()
    age(artifact.parent)
    file.write_bytes(file.read_bytes()[::-1])
    # Whoever sets the time back cannot set back when the file was changed.
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert kept(artifact) is None


def test_a_file_that_is_gone_is_proved_anew(artifact: Path) -> None:
    keep(artifact)
    artifact.with_name("weights.data").unlink()
    assert kept(artifact) is None


def test_a_file_from_the_tick_of_the_profile_is_proved_anew(artifact: Path) -> None:
    profile = keep(artifact)
    late = artifact.parent.joinpath(".model.onnx.profile").stat().st_ctime_ns
    files: Files = {name: (*facts[:4], late) for name, facts in profile.files.items()}
    at = place(artifact)._replace(alone={"model.onnx": files["model.onnx"]})
    profiles.store(at, Profile(SPEC, (), {"model.onnx": files["model.onnx"]}))
    now = artifact.parent.joinpath(".model.onnx.profile").stat().st_ctime_ns
    assert (profiles.load(at) is not None) == (now > late)
    future = {"model.onnx": (*files["model.onnx"][:4], now + 10**9)}
    profiles.store(at._replace(alone=future), Profile(SPEC, (), future))
    assert profiles.load(at._replace(alone=future)) is None


def test_a_folder_is_a_model_of_all_its_files(artifact: Path) -> None:
    folder = artifact.parent
    profile = keep(folder)
    assert kept(folder) == profile
    assert (folder / ".folder.profile").is_file()
    (folder / "another").write_bytes(b"")
    assert kept(folder) is None


def test_files_further_down_count(artifact: Path) -> None:
    deeper = artifact.parent / "data" / "deeper"
    deeper.mkdir(parents=True)
    (deeper / "w").write_bytes(b"1")
    age(artifact.parent)
    assert set(keep(artifact).files) == {"model.onnx", "weights.data", "data/deeper/w"}
    age(artifact.parent)
    (deeper / "w").write_bytes(b"2")
    assert kept(artifact) is None


def test_a_model_among_many_files_is_not_remembered(artifact: Path) -> None:
    for number in range(MOST_FILES):
        artifact.with_name(f"{number}.onnx").write_bytes(b"")
    assert profiles.files(place(artifact)) is None


def test_a_loop_of_links_ends(artifact: Path) -> None:
    (artifact.parent / "again").symlink_to(artifact.parent)
    assert profiles.files(place(artifact)) is None


def test_no_artifact_has_no_place(tmp_path: Path) -> None:
    assert profiles.place("onnx", tmp_path / "none", CONFIG) is None


@settings(max_examples=40)
@given(st.data())
def test_a_damaged_profile_is_not_trusted(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("model")
    artifact = folder / "model.onnx"
    artifact.write_bytes(b"weights")
    age(folder)
    keep(artifact)
    file = folder / ".model.onnx.profile"
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    file.write_bytes(content)
    assert kept(artifact) is None


@pytest.mark.parametrize("content", [b"", b"serving profile 1\n", os.urandom(2 * profiles.MOST_BYTES)])
def test_what_is_no_profile_is_not_trusted(artifact: Path, content: bytes) -> None:
    artifact.with_name(".model.onnx.profile").write_bytes(content)
    assert kept(artifact) is None


def test_links_pipes_and_folders_are_no_profiles(artifact: Path, tmp_path: Path) -> None:
    profile = keep(artifact)
    file = artifact.with_name(".model.onnx.profile")
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert kept(artifact) is None
    profiles.store(place(artifact), profile)
    assert not file.is_symlink()
    assert kept(artifact) == profile
    file.unlink()
    os.mkfifo(file)
    assert kept(artifact) is None
    file.unlink()
    file.mkdir()
    assert kept(artifact) is None
    profiles.store(place(artifact), profile)
    assert [path.name for path in artifact.parent.iterdir() if path.name.startswith(".")] == [file.name]


def test_where_nothing_can_be_written_it_is_forgotten(artifact: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "serving.loading")
    at = place(artifact)._replace(folder="/proc/self")
    profiles.store(at, Profile(SPEC, (), {}))
    assert "is not kept" in caplog.text


def test_what_is_too_large_is_forgotten(artifact: Path) -> None:
    labels = tuple(str(number) for number in range(200_000))
    spec = msgspec.structs.replace(SPEC, outputs=(TensorSpec("y", "FP32", (-1, len(labels)), labels=labels),))
    profiles.store(place(artifact), Profile(spec, (), {}))
    assert not artifact.with_name(".model.onnx.profile").exists()
