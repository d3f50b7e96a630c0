"""Objects of a real S3 (SeaweedFS), reached directly and through a proxy that misbehaves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from serving.errors import (
    ArtifactError,
    MissingExtra,
    ObjectChanged,
    ObjectDenied,
    ObjectMissing,
    ObjectStoreUnavailable,
)
from serving.objects import download
from serving.objects.s3 import S3Objects
from serving.objects.store import ObjectInfo, ObjectStore, Patience, open_store
from serving.settings import Aws
from tests.support.proxy import Proxy
from tests.support.s3 import S3

PART_BYTES = 2 * 1024 * 1024
LARGE = 5 * PART_BYTES + 1_000_001
"""Bytes of an object that is fetched in parts, more than there are at once, and the last one not full."""

QUICK = Patience(connect_s=1.0, silence_s=0.3, answer_s=5.0, fetch_s=20.0, retries=2, backoff_s=0.02)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects of 4 MiB count as large, so that the tests need not move much."""
    monkeypatch.setattr(download, "PART_BYTES", PART_BYTES)
    monkeypatch.setattr(download, "WHOLE_BYTES", 2 * PART_BYTES)


@pytest.fixture(scope="module")
def bucket(s3: S3) -> str:
    """A bucket of this module's own."""
    return s3.bucket()


@pytest.fixture(scope="module")
def store(s3: S3) -> ObjectStore:
    """The store as servers have it."""
    return open_store(s3.aws, [])


@pytest.fixture(scope="module")
def large(s3: S3, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """A large object: its URL and content."""
    path = tmp_path_factory.mktemp("large") / "object"
    content = os.urandom(1024 * 1024) * (LARGE // 1024 // 1024 + 1)
    content = content[: LARGE - 8] + b"the end."
    path.write_bytes(content)
    return s3.put(bucket, "large", path), content


@pytest.fixture
def proxy(s3: S3) -> Iterator[Proxy]:
    """A proxy before S3."""
    with Proxy(s3.port) as proxy:
        yield proxy


@pytest.fixture
def far(s3: S3, proxy: Proxy) -> ObjectStore:
    """The store through the proxy, of little patience."""
    return open_store(msgspec.structs.replace(s3.aws, endpoint_url=proxy.url), [], QUICK)


def left(folder: Path) -> list[str]:
    """The names of what lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------- content


@pytest.mark.parametrize("size", [5, LARGE])
def test_what_comes_is_told_before_any_of_it_is_written(
    s3: S3, bucket: str, store: ObjectStore, large: tuple[str, bytes], tmp_path: Path, size: int
) -> None:
    url = large[0] if size == LARGE else s3.put(bucket, "told", b"12345")
    told: list[ObjectInfo] = []
    info = store.fetch(url, tmp_path / "target", accept=told.append, sync=False)
    assert told == [info]
    assert (info.url, info.etag) == (url, store.head(url).etag)
    (tmp_path / "target").unlink()

    def refuse(info: ObjectInfo) -> None:
        raise ArtifactError("no room")

    with pytest.raises(ArtifactError, match=r"^no room$"):
        store.fetch(url, tmp_path / "target", accept=refuse)
    assert left(tmp_path) == []


@pytest.mark.parametrize("size", [0, 1, 4096, 8 * 1024 * 1024, 8 * 1024 * 1024 + 1, 20_000_000])
def test_what_is_put_is_what_is_fetched(store: ObjectStore, bucket: str, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "source").write_bytes(content)
    url = f"s3://{bucket}/round/{size}"
    put = store.put(url, tmp_path / "source")
    assert (put.url, put.size) == (url, size)
    assert store.head(url) == put
    assert store.fetch(url, tmp_path / "out", etag=put.etag) == put
    assert (tmp_path / "out").read_bytes() == content
    assert left(tmp_path) == ["out", "source"]


def test_a_large_object_comes_in_parts_of_one_version(
    far: ObjectStore, proxy: Proxy, large: tuple[str, bytes], tmp_path: Path
) -> None:
    url, content = large
    info = far.fetch(url, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content
    first, *parts = proxy.requests
    assert "range:" not in first.lower()
    assert len(parts) == -(-LARGE // PART_BYTES)
    for part in parts:
        assert "\r\nrange: bytes=" in part.lower()
        assert f"\r\nif-match: {info.etag}" in part.lower()


def test_an_object_replaces_a_file_at_once(store: ObjectStore, s3: S3, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a longer text that was there before")
    with (tmp_path / "out").open() as before:
        store.fetch(s3.put(bucket, "short", b"new"), tmp_path / "out")
        assert before.read().startswith("a longer")
    assert (tmp_path / "out").read_text() == "new"


def test_content_that_is_marked_as_compressed_stays_as_it_is(
    store: ObjectStore, s3: S3, bucket: str, tmp_path: Path
) -> None:
    s3.client.put_object(Bucket=bucket, Key="gzip", Body=b"not gzip at all", ContentEncoding="gzip")
    store.fetch(f"s3://{bucket}/gzip", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"not gzip at all"


def test_an_https_url_of_aws_names_the_object_at_the_endpoint(
    store: ObjectStore, s3: S3, bucket: str, tmp_path: Path
) -> None:
    url = s3.put(bucket, "a b/+", b"x")
    for given in (f"https://{bucket}.s3.eu-west-1.amazonaws.com/a%20b/%2B", f"{s3.url}/{bucket}/a%20b/+"):
        assert store.fetch(given, tmp_path / "out").url == url


def test_many_threads_fetch_together(store: ObjectStore, s3: S3, bucket: str, tmp_path: Path) -> None:
    bodies = {f"together/{number}": os.urandom(1000 * number) for number in range(40)}
    for key, body in bodies.items():
        s3.put(bucket, key, body)

    def fetch(key: str) -> bool:
        target = tmp_path / key.replace("/", "-")
        store.fetch(f"s3://{bucket}/{key}", target)
        return target.read_bytes() == bodies[key]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(fetch, list(bodies) * 3))
    assert len(left(tmp_path)) == len(bodies)


def fetch_in_a_process(s3: S3, before: str, after: str, *arguments: object) -> str:
    """What a process prints that fetches the URL `sys.argv[1]` to `sys.argv[2]` with something done before and after."""
    program = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from serving.objects.store import open_store; from serving.settings import Aws\n"
        "url, target, small, *aws = sys.argv[1:]\n"
        "store = open_store(Aws(endpoint_url=aws[0], access_key_id=aws[1], secret_access_key=aws[2]), [])\n"
        f"store.fetch(small, Path(target))\n{before}\n"
        f"try: store.fetch(url, Path(target))\nexcept Exception as error: print(type(error).__name__, error)\n{after}"
    )
    aws = (s3.aws.endpoint_url, s3.aws.access_key_id, s3.aws.secret_access_key)
    command = [sys.executable, "-c", program, *map(str, (*arguments, *aws))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_memory_is_bounded_whatever_the_size(s3: S3, bucket: str, tmp_path: Path) -> None:
    with (tmp_path / "source").open("wb") as file:
        file.truncate(100_000_000)
    url, small = s3.put(bucket, "huge", tmp_path / "source"), s3.put(bucket, "small", b"x")
    # Not by getrusage: its peak begins with that of the process that started this one.
    peak = (
        "def peak(): return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "Path('/proc/self/clear_refs').write_text('5'); before = peak()"
    )
    told = fetch_in_a_process(s3, peak, "print(peak() - before)", url, tmp_path / "out", small)
    assert 0 < int(told) < 40_000, "KiB more than for a small object"
    assert (tmp_path / "out").stat().st_size == 100_000_000


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize(
    "key",
    [
        "a b",
        "a%20b",
        "100%",
        "%",
        "a%2Fb",
        "a+b",
        "ü/模型",
        "a?b",
        "a#b",
        "a&b=c",
        "*",
        "{x}",
        "~x",
        "'\"",
        ".x",
        "x.",
    ],
)
def test_a_key_is_taken_literally(store: ObjectStore, s3: S3, bucket: str, tmp_path: Path, key: str) -> None:
    key = f"odd/{key}"
    url = s3.put(bucket, key, key.encode())
    assert store.fetch(url, tmp_path / "out").url == url
    assert (tmp_path / "out").read_text() == key
    assert url in {info.url for info in store.list(f"s3://{bucket}/odd/")}
    store.put(url, tmp_path / "out")
    store.delete(url)
    with pytest.raises(ObjectMissing):
        store.head(url)


@pytest.mark.parametrize("key", ["/lead", "a//b", "a///b/c", "//", "a b//%41+ü//c"])
def test_empty_parts_of_a_key_are_asked_for(
    far: ObjectStore, proxy: Proxy, s3: S3, bucket: str, tmp_path: Path, key: str
) -> None:
    # SeaweedFS drops them, AWS does not: what counts is what it is asked for, under a signature that it accepts.
    key += "/x"
    s3.put(bucket, key, b"x")
    far.fetch(f"s3://{bucket}/{key}", tmp_path / "out")
    assert proxy.requests[0].split(" ")[:2] == ["GET", f"/{bucket}/{quote(key)}"]


@pytest.mark.parametrize("key", ["a/", "a/./b", "a/../b", "..", "a\nb", "a\x00b", "/a/./b//c", "a//"])
def test_a_key_that_cannot_be_read_is_refused_by_name(
    far: ObjectStore, proxy: Proxy, bucket: str, tmp_path: Path, key: str
) -> None:
    with pytest.raises(ArtifactError, match="copy the object to another key") as failure:
        far.fetch(f"s3://{bucket}/{key}", tmp_path / "out")
    assert f"s3://{bucket}/{key}" in failure.value.message
    assert proxy.requests == []
    assert left(tmp_path) == []


def test_a_bucket_is_no_object(store: ObjectStore, bucket: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="names a bucket"):
        store.fetch(f"s3://{bucket}", tmp_path / "out")


# ---------------------------------------------------------------- lists


def test_a_list_has_all_pages(far: ObjectStore, proxy: Proxy, s3: S3) -> None:
    bucket = s3.bucket()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: s3.put(bucket, f"many/{number:04}", b"x"), range(1005)))
    objects = far.list(f"s3://{bucket}/many")
    assert next(objects).url == f"s3://{bucket}/many/0000"
    assert len(proxy.requests) <= 2, "pages are read as they are wanted"
    assert [info.url for info in objects] == [f"s3://{bucket}/many/{number:04}" for number in range(1, 1005)]


def test_a_list_is_of_a_folder_and_without_its_markers(store: ObjectStore, s3: S3) -> None:
    bucket = s3.bucket()
    for key in ("m/", "m/empty/", "m/sub/", "m/sub/x", "m/__init__.py", "m2/x", "m.txt"):
        s3.put(bucket, key, b"" if key.endswith(("/", ".py")) else b"content")
    found = {info.url.removeprefix(f"s3://{bucket}/"): info for info in store.list(f"s3://{bucket}/m")}
    assert sorted(found) == ["m/__init__.py", "m/sub/x"]
    assert found["m/sub/x"] == store.head(f"s3://{bucket}/m/sub/x")
    assert sorted(info.url for info in store.list(f"s3://{bucket}")) == [
        f"s3://{bucket}/{key}" for key in ("m.txt", "m/__init__.py", "m/sub/x", "m2/x")
    ]
    assert list(store.list(f"s3://{bucket}/none/")) == []


def test_a_list_with_a_key_that_cannot_be_read_says_so(store: ObjectStore, s3: S3) -> None:
    bucket = s3.bucket()
    s3.put(bucket, "line\nbreak", b"x")
    with pytest.raises(ArtifactError, match="control characters"):
        list(store.list(f"s3://{bucket}"))


# ---------------------------------------------------------------- what is not there, and who may not


def test_what_is_missing_is_named(store: ObjectStore, s3: S3, bucket: str, tmp_path: Path) -> None:
    for url in (f"s3://{bucket}/absent", "s3://no-such-bucket/absent"):
        for call in (lambda url=url: store.fetch(url, tmp_path / "out"), lambda url=url: store.head(url)):
            with pytest.raises(ObjectMissing, match=f"{url} does not exist"):
                call()
    with pytest.raises(ObjectMissing, match="there is no bucket no-such-bucket"):
        store.fetch("s3://no-such-bucket/absent", tmp_path / "out")
    with pytest.raises(ObjectMissing, match="there is no bucket no-such-bucket"):
        list(store.list("s3://no-such-bucket/"))
    (tmp_path / "file").touch()
    with pytest.raises(ObjectMissing, match="there is no bucket no-such-bucket"):
        store.put("s3://no-such-bucket/new", tmp_path / "file")
    assert left(tmp_path) == ["file"]
    store.delete(f"s3://{bucket}/absent")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"secret_access_key": "wrong-secret"},
            r"access denied \(403.*AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY must be",
        ),
        ({"access_key_id": "WRONGKEY"}, r"access denied \(403.*AWS_ACCESS_KEY_ID"),
        ({"session_token": "wrong-token"}, r"access denied \(403.*AWS_SESSION_TOKEN must be"),
        ({"access_key_id": None, "secret_access_key": None}, r"access denied \(403.*no key was given for http://127"),
    ],
)
def test_who_may_not_is_told_what_to_set(s3: S3, bucket: str, tmp_path: Path, given: dict[str, Any], told: str) -> None:
    url = s3.put(bucket, "denied", b"x")
    store = open_store(msgspec.structs.replace(s3.aws, **given), [])
    (tmp_path / "source").touch()
    for call in (
        lambda: store.head(url),
        lambda: store.fetch(url, tmp_path / "out"),
        lambda: list(store.list(f"s3://{bucket}/")),
        lambda: store.put(url, tmp_path / "source"),
        lambda: store.delete(url),
    ):
        with pytest.raises(ObjectDenied, match=told) as failure:
            call()
        for secret in ("wrong-secret", "wrong-token", s3.aws.secret_access_key, "Signature="):
            assert str(secret) not in failure.value.message
    assert left(tmp_path) == ["source"]


def test_the_environment_changes_nothing(s3: S3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = s3.put(bucket, "environment", b"x")
    for name, value in {
        "AWS_SESSION_TOKEN": "of another",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        "http_proxy": "http://127.0.0.1:1",
        "HTTP_PROXY": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    assert open_store(s3.aws, [], QUICK).fetch(url, tmp_path / "out").size == 1


def test_a_missing_library_is_told_when_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingExtra, match=r"pip install 'serving\[control\]'"):
        open_store(Aws(), []).head("s3://models/key")


# ---------------------------------------------------------------- changes


def test_another_etag_than_expected_is_a_change(store: ObjectStore, s3: S3, bucket: str, tmp_path: Path) -> None:
    url = s3.put(bucket, "etag", b"old")
    etag = store.head(url).etag
    s3.put(bucket, "etag", b"new")
    with pytest.raises(ObjectChanged, match=f"{url} was replaced"):
        store.fetch(url, tmp_path / "out", etag=etag)
    assert left(tmp_path) == []


def test_an_object_that_is_replaced_while_it_is_read_is_not_mixed(
    proxy: Proxy, s3: S3, bucket: str, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(b"1" * LARGE)
    url = s3.put(bucket, "replaced", tmp_path / "source")
    (tmp_path / "source").write_bytes(b"2" * LARGE)
    proxy.when(PART_BYTES // 2, lambda: s3.put(bucket, "replaced", tmp_path / "source"))
    with pytest.raises(ObjectChanged, match=f"{url} was replaced"):
        open_store(msgspec.structs.replace(s3.aws, endpoint_url=proxy.url), []).fetch(url, tmp_path / "out")
    assert left(tmp_path) == ["source"]


def test_an_object_that_goes_after_it_was_seen_is_missing(
    far: ObjectStore, s3: S3, bucket: str, tmp_path: Path
) -> None:
    url = s3.put(bucket, "gone", b"x")
    etag = far.head(url).etag
    far.delete(url)
    with pytest.raises(ObjectMissing):
        far.fetch(url, tmp_path / "out", etag=etag)


def test_a_large_object_that_is_deleted_while_it_is_read_leaves_nothing(
    proxy: Proxy, s3: S3, bucket: str, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(b"1" * LARGE)
    url = s3.put(bucket, "deleted", tmp_path / "source")
    proxy.when(PART_BYTES // 2, lambda: s3.client.delete_object(Bucket=bucket, Key="deleted"))
    with pytest.raises((ObjectMissing, ObjectStoreUnavailable), match=url):
        open_store(msgspec.structs.replace(s3.aws, endpoint_url=proxy.url), []).fetch(url, tmp_path / "out")
    assert left(tmp_path) == ["source"]


# ---------------------------------------------------------------- a bad network


@pytest.mark.parametrize("after", [0, 100, 1_000_000, PART_BYTES - 1])
def test_a_read_goes_on_where_it_was_cut(
    far: ObjectStore, proxy: Proxy, large: tuple[str, bytes], tmp_path: Path, after: int
) -> None:
    url, content = large
    proxy.cut(after, times=2)
    far.fetch(url, tmp_path / "out")
    assert proxy.cuts == 2
    assert (tmp_path / "out").read_bytes() == content


def test_a_store_that_cuts_every_answer_gives_up_in_time(
    far: ObjectStore, proxy: Proxy, large: tuple[str, bytes], tmp_path: Path
) -> None:
    proxy.cut(50)
    with pytest.raises(ObjectStoreUnavailable, match=large[0]):
        far.fetch(large[0], tmp_path / "out")
    assert proxy.cuts <= (QUICK.retries + 1) * 4 * (QUICK.retries + 1)
    assert left(tmp_path) == []


def test_a_slow_store_is_left_after_the_time_that_was_given(
    far: ObjectStore, proxy: Proxy, large: tuple[str, bytes], tmp_path: Path
) -> None:
    far.head(large[0])
    proxy.throttle(1_000_000)
    with pytest.raises(ObjectStoreUnavailable, match=rf"{large[0]} was not there after 0.5 s: \d+ of {LARGE} bytes"):
        far.fetch(large[0], tmp_path / "out", timeout_s=0.5)
    assert left(tmp_path) == []


def test_a_silent_store_is_unavailable_and_back_when_it_speaks(
    far: ObjectStore, proxy: Proxy, large: tuple[str, bytes], tmp_path: Path
) -> None:
    url, content = large
    proxy.hang()
    for call in (
        lambda: far.head(url),
        lambda: far.fetch(url, tmp_path / "out"),
        lambda: list(far.list(url.removesuffix("large"))),
    ):
        with pytest.raises(ObjectStoreUnavailable, match=r"cannot be reached at http://127.*did not answer in time"):
            call()
    assert left(tmp_path) == []
    proxy.behave()
    far.fetch(url, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content


def test_a_store_that_is_down_is_unavailable_and_back_when_it_is_up(
    far: ObjectStore, proxy: Proxy, s3: S3, bucket: str, tmp_path: Path
) -> None:
    url = s3.put(bucket, "down", b"x")
    (tmp_path / "source").write_text("y")
    far.head(url)
    proxy.refuse()
    for call in (
        lambda: far.head(url),
        lambda: far.fetch(url, tmp_path / "out"),
        lambda: list(far.list(f"s3://{bucket}/")),
        lambda: far.put(url, tmp_path / "source"),
        lambda: far.delete(url),
    ):
        with pytest.raises(
            ObjectStoreUnavailable, match=r"cannot be reached at http://127.*connection refused.*AWS_END"
        ):
            call()
    proxy.behave()
    assert far.put(url, tmp_path / "source").size == 1
    assert left(tmp_path) == ["source"]


def test_a_store_that_goes_in_the_middle_is_unavailable(
    far: ObjectStore, proxy: Proxy, large: tuple[str, bytes], tmp_path: Path
) -> None:
    proxy.when(PART_BYTES, proxy.refuse)
    with pytest.raises(ObjectStoreUnavailable, match=large[0]):
        far.fetch(large[0], tmp_path / "out")
    assert left(tmp_path) == []


def test_an_upload_that_fails_changes_nothing(
    far: ObjectStore, proxy: Proxy, s3: S3, bucket: str, tmp_path: Path
) -> None:
    url = s3.put(bucket, "kept", b"kept")
    (tmp_path / "source").write_bytes(b"x" * 17_000_000)
    proxy.cut(300)
    with pytest.raises(ObjectStoreUnavailable, match=url):
        far.put(url, tmp_path / "source")
    assert s3.client.get_object(Bucket=bucket, Key="kept")["Body"].read() == b"kept"


def test_a_full_disk_is_told_and_nothing_is_left(s3: S3, bucket: str, large: tuple[str, bytes], tmp_path: Path) -> None:
    limit = "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))"
    small = s3.put(bucket, "small", b"x")
    told = fetch_in_a_process(s3, limit, "", large[0], tmp_path / "out", small)
    assert told == f"ArtifactError {large[0]} cannot be written to {tmp_path}/out: File too large\n"
    assert (tmp_path / "out").read_bytes() == b"x"
    assert left(tmp_path) == ["out"]


def test_clients_are_kept_and_bounded(s3: S3, bucket: str) -> None:
    remote = S3Objects(s3.aws, QUICK)
    first = remote._client(bucket, "", reading=True)
    for number in range(100):
        assert remote._client(bucket, "", reading=True) is first
        remote._client(f"{bucket}-{number}", "", reading=True)
    assert len(remote._clients) <= 32
