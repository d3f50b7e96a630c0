"""Models packed for an upload: the same bytes each time, nothing from elsewhere, and the server reads it back."""

from __future__ import annotations

import os
import tarfile
import time
from pathlib import Path

import click
import pytest

from serving.cli.pack import Packed, pack
from serving.objects import repository
from serving.objects.archive import Archives


def model(directory: Path) -> Path:
    (directory / "1").mkdir(parents=True)
    (directory / "model.yaml").write_text("version: 3\n")
    (directory / "model.onnx").write_bytes(b"weights" * 1000)
    (directory / "1" / "Ünicode.txt").write_text("x")
    (directory / ".cache").write_text("of this machine")
    (directory / ".git").mkdir()
    (directory / ".git" / "config").write_text("secret")
    return directory


def packed(path: Path, target: Path) -> Packed:
    target.mkdir(exist_ok=True)
    return pack(path, target / "model.tar.gz")


def names(archive: Path) -> list[str]:
    with tarfile.open(archive) as tar:
        return tar.getnames()


def test_a_directory_is_the_same_archive_each_time(tmp_path: Path) -> None:
    one = packed(model(tmp_path / "a"), tmp_path / "1")
    other = model(tmp_path / "b")
    for path in other.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    two = packed(other, tmp_path / "2")
    assert one.file.read_bytes() == two.file.read_bytes()
    assert one.digest == two.digest
    assert names(one.file) == ["1/Ünicode.txt", "model.onnx", "model.yaml"]
    with tarfile.open(one.file) as tar:
        assert {(member.uid, member.uname, member.mtime, member.mode) for member in tar} == {(0, "", 0, 0o644)}
    (other / "model.onnx").write_bytes(b"others")
    assert packed(other, tmp_path / "3").digest != one.digest


def test_the_server_finds_in_it_what_was_packed(tmp_path: Path, samples: Path) -> None:
    for name in ("file-type", "fraud"):
        archive = packed(samples / name, tmp_path / name).file
        (source,) = repository.look(archive, name, Archives(tmp_path / "unpacked")).served()
        (direct,) = repository.look(samples / name, name, Archives(tmp_path / "direct")).served()
        assert source.container == direct.container


def test_a_file_is_packed_alone(tmp_path: Path) -> None:
    model(tmp_path / "m")
    (tmp_path / "m" / "fraud.onnx").write_bytes(b"x")
    assert names(packed(tmp_path / "m" / "fraud.onnx", tmp_path / "1").file) == ["fraud.onnx"]
    # A file that is called model is served by the model.yaml beside it.
    assert names(packed(tmp_path / "m" / "model.onnx", tmp_path / "2").file) == ["model.onnx", "model.yaml"]


def test_an_archive_stays_as_it_is(tmp_path: Path) -> None:
    archive = packed(model(tmp_path / "a"), tmp_path / "1").file
    assert packed(archive, tmp_path / "2").file == archive
    assert not list((tmp_path / "2").iterdir())
    assert packed(archive.parent, tmp_path / "2").file == archive
    (archive.parent / "notes.txt").write_text("not part of it")
    assert packed(archive.parent, tmp_path / "2").file == archive
    (archive.parent / "model.yaml").write_text("version: 4\n")
    with pytest.raises(click.ClickException, match=r"holds model\.tar\.gz, and beside it a model or settings of one"):
        packed(archive.parent, tmp_path / "2")


def test_a_link_inside_becomes_what_it_is_a_link_to(tmp_path: Path) -> None:
    directory = model(tmp_path / "m")
    (directory / "other.bin").symlink_to("model.onnx")
    archive = packed(directory, tmp_path / "1").file
    with tarfile.open(archive) as tar:
        assert all(member.isreg() for member in tar)
        found = tar.extractfile("other.bin")
        assert found is not None
        assert found.read() == b"weights" * 1000


def test_a_link_that_was_named_itself_is_followed(tmp_path: Path) -> None:
    model(tmp_path / "m")
    (tmp_path / "fraud.onnx").symlink_to(tmp_path / "m" / "model.onnx")
    (tmp_path / "folder").symlink_to(tmp_path / "m")
    assert names(packed(tmp_path / "fraud.onnx", tmp_path / "1").file) == ["fraud.onnx"]
    assert len(names(packed(tmp_path / "folder", tmp_path / "2").file)) == 3


def test_what_a_model_is_not_made_of_is_named(tmp_path: Path) -> None:
    for number, (spoil, message) in enumerate(
        (
            (lambda to: (to / "passwd").symlink_to("/etc/passwd"), "passwd is a link to /etc/passwd, outside"),
            (lambda to: (to / "up").symlink_to(".."), "up is a link to a directory"),
            (lambda to: (to / "loop").symlink_to("."), "loop is a link to a directory"),
            (lambda to: (to / "dangling").symlink_to("none"), "cannot be packed: No such file or directory"),
            (lambda to: (to / "self").symlink_to("self"), "self is a link that leads back to itself"),
            (lambda to: os.mkfifo(to / "pipe"), "pipe is not a plain file"),
            (lambda to: Path(os.fsdecode(bytes(to) + b"/\xff.bin")).write_text(""), "the name is not UTF-8"),
        )
    ):
        directory = model(tmp_path / f"m{number}")
        spoil(directory)
        started = time.monotonic()
        with pytest.raises(click.ClickException, match=message):
            packed(directory, tmp_path / "out")
        assert time.monotonic() - started < 5


def test_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(click.ClickException, match="empty holds no files"):
        packed(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(click.ClickException, match="none cannot be packed: No such file or directory"):
        packed(tmp_path / "none", tmp_path / "out")
