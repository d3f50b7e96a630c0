"""URLs of objects, and the machine's own files as objects."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import ArtifactError, ConfigurationError, ObjectChanged, ObjectMissing
from serving.objects.location import Location, locate
from serving.objects.store import ObjectInfo, ObjectStore, open_store
from serving.settings import Aws

ENDPOINT = "http://127.0.0.1:8333"


@pytest.mark.parametrize(
    ("url", "bucket", "key"),
    [
        ("s3://models/fraud/model.tar.gz", "models", "fraud/model.tar.gz"),
        ("s3://models/a%20b+c d", "models", "a%20b+c d"),
        ("s3://models/a?b#c", "models", "a?b#c"),
        ("s3://models//lead//ing/", "models", "/lead//ing/"),
        ("s3://models/ü/模型", "models", "ü/模型"),
        ("s3://models/", "models", ""),
        ("s3://models", "models", ""),
        ("s3://my.dotted.bucket/k", "my.dotted.bucket", "k"),
        ("https://models.s3.amazonaws.com/a/b", "models", "a/b"),
        ("https://models.s3.eu-west-1.amazonaws.com/a%20b+c", "models", "a b+c"),
        ("https://my.dotted.bucket.s3.eu-west-1.amazonaws.com/k", "my.dotted.bucket", "k"),
        ("https://models.s3-us-west-2.amazonaws.com/k", "models", "k"),
        ("https://models.s3.dualstack.us-east-2.amazonaws.com/k", "models", "k"),
        ("https://s3.us-gov-west-1.amazonaws.com/models/k", "models", "k"),
        ("https://s3-eu-central-1.amazonaws.com/models/a//b", "models", "a//b"),
        ("https://s3.cn-north-1.amazonaws.com.cn/models/%C3%BC", "models", "ü"),
        ("https://s3.amazonaws.com:443/models/k", "models", "k"),
        (f"{ENDPOINT}/models/a%2Fb", "models", "a/b"),
    ],
)
def test_a_url_names_a_bucket_and_a_key(url: str, bucket: str, key: str) -> None:
    assert locate(url, ENDPOINT) == Location(bucket, key)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "s3://BUCKET/KEY was expected"),
        ("s3:/models/k", "s3://BUCKET/KEY was expected"),
        ("s3://", "'' is no bucket's name"),
        ("s3:///k", "'' is no bucket's name"),
        ("s3://ab/k", "'ab' is no bucket's name"),
        ("s3://../k", "'..' is no bucket's name"),
        ("s3://mod els/k", "'mod els' is no bucket's name"),
        ("s3://models?x/k", "'models?x' is no bucket's name"),
        ("s3://user:secret@models/k", "is no bucket's name"),
        ("s3://arn:aws:s3:us-east-1:123456789012:accesspoint/x/k", "is no bucket's name"),
        ("s3://models/" + "k" * 1025, "more than 1024 bytes"),
        ("gs://models/k", "is not in S3"),
        ("/etc/passwd", "is not in S3"),
        ("https://example.com/models/k", "is not in S3"),
        ("https://models.s3.amazonaws.com.example.com/k", "is not in S3"),
        ("https://models.s3.eu-west-1.amazonaws.com:8443/k", "is not in S3"),
        ("https://models.s3.eu-west-1.amazonaws.com:99999/k", "is not in S3"),
        ("https://[::1/k", "is not in S3"),
        ("http://models.s3.amazonaws.com/k", "is not in S3"),
        ("http://127.0.0.1:83333/models/k", "is not in S3"),
        ("https://models.s3.amazonaws.com/k?versionId=1", "neither versions, signatures"),
        ("https://models.s3.amazonaws.com/%ff", "is not UTF-8"),
    ],
)
def test_a_bad_url_is_refused_with_what_was_expected(url: str, message: str) -> None:
    with pytest.raises(ArtifactError) as failure:
        locate(url, ENDPOINT)
    assert message in failure.value.message
    assert len(failure.value.message) < 600


def test_what_is_secret_in_a_url_is_not_told() -> None:
    for url in (
        "https://user:hush@example.com/k",
        "https://models.s3.amazonaws.com/k?X-Amz-Signature=hush",
        "ftp://user:hush@example.com/k#hush",
    ):
        with pytest.raises(ArtifactError) as failure:
            locate(url)
        assert "hush" not in failure.value.message


@given(st.text(min_size=1, max_size=200))
def test_any_key_is_taken_as_it_stands(key: str) -> None:
    assert len(key.encode("utf-8", "surrogatepass")) > 1024 or locate(f"s3://models/{key}").key == key


@given(st.text(max_size=60))
def test_any_text_is_a_location_or_a_clear_error(text: str) -> None:
    for url in (text, f"s3://{text}", f"https://{text}", f"https://b.s3.amazonaws.com{text}", f"{ENDPOINT}/{text}"):
        # Nothing but an `ArtifactError` may come.
        with suppress(ArtifactError):
            assert locate(url, ENDPOINT).bucket


@pytest.mark.parametrize("given", [Aws(access_key_id="key"), Aws(secret_access_key="secret")])
def test_half_a_key_is_refused_at_start(given: Aws) -> None:
    with pytest.raises(ConfigurationError, match=r"AWS_.* is set and AWS_.* is not"):
        open_store(given, [])


# ---------------------------------------------------------------- files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder from which `file://` may be read."""
    root = tmp_path / "allowed"
    root.mkdir()
    return root


@pytest.fixture
def store(root: Path) -> ObjectStore:
    """A store that allows `root`."""
    return open_store(Aws(), [root])


def test_a_file_is_fetched_whole(store: ObjectStore, root: Path, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (root / "a model +100%.bin").write_bytes(content)
    url = f"file://{root}/a%20model%20+100%25.bin"
    info = store.head(url)
    assert (info.url, info.size) == (url, len(content))
    assert store.fetch(url, tmp_path / "out", etag=info.etag) == info
    assert (tmp_path / "out").read_bytes() == content
    assert store.head(url.replace("file://", "FILE://localhost")).etag == info.etag


def test_what_comes_is_told_before_any_of_it_is_written(store: ObjectStore, root: Path, tmp_path: Path) -> None:
    (root / "model").write_bytes(b"12345")
    target = tmp_path / "target"
    told: list[tuple[int, bool]] = []
    store.fetch(
        (root / "model").as_uri(), target, accept=lambda info: told.append((info.size, target.exists())), sync=False
    )
    assert told == [(5, False)]
    target.unlink()

    def refuse(info: ObjectInfo) -> None:
        raise ArtifactError("no room")

    with pytest.raises(ArtifactError, match=r"^no room$"):
        store.fetch((root / "model").as_uri(), target, accept=refuse)
    assert not target.exists()


def test_an_empty_file_is_an_object(store: ObjectStore, root: Path, tmp_path: Path) -> None:
    (root / "empty").touch()
    assert store.fetch(f"file://{root}/empty", tmp_path / "out").size == 0
    assert (tmp_path / "out").read_bytes() == b""


def test_a_file_that_was_replaced_has_another_etag(store: ObjectStore, root: Path, tmp_path: Path) -> None:
    url = f"file://{root}/model"
    (root / "model").write_text("old")
    etag = store.head(url).etag
    (root / "new").write_text("new")
    (root / "new").rename(root / "model")
    with pytest.raises(ObjectChanged, match="was replaced"):
        store.fetch(url, tmp_path / "out", etag=etag)
    assert list(tmp_path.iterdir()) == [root]


@pytest.mark.parametrize("name", ["..%2Fsecret", "../secret", "link", "folder/secret", "%2e%2e/secret"])
def test_nothing_outside_the_allowed_folders_is_read(store: ObjectStore, root: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("hush")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)
    for url in (f"file://{root}/{name}", f"file://{tmp_path}/secret", f"file://{tmp_path}/absent"):
        with pytest.raises(ArtifactError, match="--allow-path") as failure:
            store.fetch(url, tmp_path / "out")
        assert not isinstance(failure.value, ObjectMissing)
        with pytest.raises(ArtifactError, match="--allow-path"):
            list(store.list(url))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_a_similar_name_is_not_allowed(store: ObjectStore, root: Path) -> None:
    beside = root.with_name(root.name + "-not")
    beside.mkdir()
    (beside / "file").touch()
    with pytest.raises(ArtifactError, match="--allow-path"):
        store.head(f"file://{beside}/file")


def test_without_allowed_folders_no_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"\(now: none\); --allow-path"):
        open_store(Aws(), []).head(f"file://{tmp_path}")


def test_links_within_the_allowed_folders_are_followed(root: Path, tmp_path: Path) -> None:
    (root / "real").write_text("x")
    (root / "link").symlink_to("real")
    alias = tmp_path / "alias"
    alias.symlink_to(root)
    store = open_store(Aws(), [alias])
    assert store.head(f"file://{alias}/link").size == 1


def test_what_is_no_plain_file_is_refused(store: ObjectStore, root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(ArtifactError, match="no plain file"):
            store.head(f"file://{root}/{name}")
    with pytest.raises(ArtifactError, match="no plain file"):
        list(store.list(f"file://{root}"))


def test_a_loop_of_links_is_refused(store: ObjectStore, root: Path) -> None:
    (root / "loop").symlink_to("loop")
    with pytest.raises(ArtifactError, match=r"loop"):
        store.head(f"file://{root}/loop")


def test_a_missing_file_is_missing(store: ObjectStore, root: Path) -> None:
    (root / "file").touch()
    for name in ("absent", "file/below"):
        with pytest.raises(ObjectMissing, match="does not exist"):
            store.head(f"file://{root}/{name}")


def test_a_folder_lists_what_is_below_it(store: ObjectStore, root: Path) -> None:
    for name in ("b", "a/2", "a/1", "ü %.txt", "c#d"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(name)
    found = list(store.list(f"file://{root}"))
    assert [info.url for info in found] == [
        f"file://{root}/{name}" for name in ("a/1", "a/2", "b", "c%23d", "%C3%BC%20%25.txt")
    ]
    assert [store.head(info.url) for info in found] == found
    assert list(store.list(f"file://{root}/a/")) == found[:2]
    assert list(store.list(f"file://{root}/absent")) == []
    assert list(store.list(f"file://{root}/b")) == []


def test_a_name_that_is_not_utf8_makes_the_round_trip(store: ObjectStore, root: Path) -> None:
    (root / os.fsdecode(b"\xff")).write_text("x")
    (info,) = store.list(f"file://{root}")
    assert store.head(info.url) == info


def test_a_link_to_a_folder_is_not_walked(store: ObjectStore, root: Path) -> None:
    (root / "again").symlink_to(root)
    with pytest.raises(ArtifactError, match="link to a folder"):
        list(store.list(f"file://{root}"))


@pytest.mark.parametrize(
    "url", ["file://host/a", "file:a", "file://", "file:///a?b", "file:///a#b", "file:///a%00b", "file://[x/a"]
)
def test_a_bad_file_url_is_refused(store: ObjectStore, url: str) -> None:
    with pytest.raises(ArtifactError, match=r"file:///FOLDER/FILE|%3F|null character"):
        store.head(url)


def test_files_are_not_written(store: ObjectStore, root: Path) -> None:
    (root / "file").write_text("x")
    with pytest.raises(ArtifactError, match="only read"):
        store.put(f"file://{root}/new", root / "file")
    with pytest.raises(ArtifactError, match="only read"):
        store.delete(f"file://{root}/file")
    assert list(root.iterdir()) == [root / "file"]


def test_a_target_that_cannot_be_written_is_told(store: ObjectStore, root: Path, tmp_path: Path) -> None:
    (root / "file").write_text("x")
    with pytest.raises(ArtifactError, match=r"cannot be written to .*No such file or directory"):
        store.fetch(f"file://{root}/file", tmp_path / "absent" / "out")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtifactError, match="cannot be written"):
        store.fetch(f"file://{root}/file", tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["allowed", "folder"]
