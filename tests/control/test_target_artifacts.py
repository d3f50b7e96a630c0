"""Targets on disk: fetched once for all, believed as long as they may be, removed when room is wanted, and never from under a reader."""

from __future__ import annotations

import asyncio
import gzip
import io
import logging
import os
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serving.contract import ModelConfig
from serving.control import target_artifacts, target_copies
from serving.control.copy_index import CopyIndex
from serving.control.target_artifacts import Held, TargetArtifacts
from serving.errors import BadRequest, LoadFailed, ServingError, TargetMissing, Unavailable
from serving.objects.store import open_store
from serving.runtime.wiring import EndpointWiring, TargetsWiring
from serving.settings import Aws, Settings
from tests.control.shelf import Shelf, packed
from tests.support import onnx_models
from tests.support.s3 import S3

PREFIX = "s3://models/many/"
A, B, C = (f"{PREFIX}{name}.tar.gz" for name in "abc")
COPY_BYTES = 3 * 4096
"""What a copy of a small model takes while it is made, or somewhat more."""


def endpoint(kind: str = "onnx", prefix: str = PREFIX, name: str = "many", **config: Any) -> EndpointWiring:
    return EndpointWiring(name, "blue", kind, "", ModelConfig(name=name, **config), TargetsWiring(prefix))


MANY = endpoint()


@pytest.fixture
def shelf() -> Shelf:
    found = Shelf()
    for url in (A, B, C):
        found.set(url, packed({"model.onnx": url.encode()}))
    return found


@pytest.fixture
def artifacts(shelf: Shelf, tmp_path: Path) -> TargetArtifacts:
    return make(shelf, tmp_path)


def make(shelf: Any, state_dir: Path, boot: Path = target_copies.BOOT, **settings: Any) -> TargetArtifacts:
    return TargetArtifacts(Settings(state_dir=state_dir, **settings), shelf, boot)


async def located(artifacts: TargetArtifacts, target: str = "a.tar.gz", wiring: EndpointWiring = MANY) -> Held:
    held = await artifacts.locate(wiring, target)
    assert held is not None
    return held


def refusal(artifacts: TargetArtifacts, target: str, wiring: EndpointWiring = MANY) -> ServingError:
    """Why a target cannot be had, in words of the user."""
    with pytest.raises(ServingError) as caught:
        asyncio.run(artifacts.locate(wiring, target))
    assert "/targets" not in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value


def read(held: Held) -> bytes:
    return Path(held.located.wiring.artifact).read_bytes()


def asked(shelf: Shelf, verb: str) -> list[str]:
    return [one.removeprefix(f"{verb} ") for one in shelf.asked if one.startswith(f"{verb} ")]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - threads change it
            await asyncio.sleep(0.001)


def copies(state_dir: Path) -> list[Path]:
    return sorted(path for path in (state_dir / "targets").iterdir() if path.name != "index")


# ---------------------------------------------------------------- what is found


def test_a_target(artifacts: TargetArtifacts, shelf: Shelf) -> None:
    held = asyncio.run(located(artifacts))
    found, wiring = held.located, held.located.wiring
    assert (wiring.name, wiring.variant, wiring.container, wiring.targets) == ("many", "blue", "onnx", None)
    assert (wiring.config.name, wiring.config.container) == ("many:a.tar.gz", "onnx")
    assert read(held) == A.encode()
    assert (found.revision, found.bytes) == (shelf.info(A).etag, len(A))
    assert found.downloading_s > 0
    assert shelf.asked == [f"fetch {A}"]


@pytest.mark.parametrize(
    ("name", "content", "kind", "file"),
    [
        ("a.tgz", packed({"model.onnx": b"1"}), "onnx", "model.onnx"),
        ("no-suffix", packed({"model.onnx": b"1"}), "onnx", "model.onnx"),
        ("inside.tar.gz", packed({"fraud/model.onnx": b"1"}), "onnx", "model.onnx"),
        (
            "versions.tar.gz",
            packed({"1/model.onnx": b"1", "3/model.onnx": b"1", "2/model.onnx": b"1"}),
            "onnx",
            "model.onnx",
        ),
        ("plain.onnx", b"graph", "onnx", "plain.onnx"),
        ("team/x.y/plain.onnx", b"graph", "onnx", "plain.onnx"),
        (f"{'x' * 300}.onnx", b"graph", "onnx", "model.onnx"),
        ("plain.skops", b"zip", "sklearn", "plain.skops"),
        ("packed.joblib", gzip.compress(b"pickle"), "sklearn", "packed.joblib"),
        ("booster.ubj", b"{L\x00", "xgboost", "booster.ubj"),
        ("booster.json", b'{"learner":{}}', "xgboost", "booster.json"),
        ("forest", b"tree\nversion=v4\nnum_class=1\n", "lightgbm", "forest"),
        (
            "triton.tar.gz",
            packed({"m/config.pbtxt": b'name: "m" platform: "onnxruntime_onnx"', "m/1/model.onnx": b"g"}),
            "onnx",
            "model.onnx",
        ),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_forms_of_targets(
    artifacts: TargetArtifacts, shelf: Shelf, name: str, content: bytes, kind: str, file: str, named: bool
) -> None:
    shelf.set(PREFIX + name, content)
    wiring = asyncio.run(located(artifacts, name, endpoint(kind if named else ""))).located.wiring
    assert (wiring.container, Path(wiring.artifact).name) == (kind, file)
    assert wiring.config.name == f"many:{name}"
    if name.startswith("versions"):
        assert wiring.config.version == "3"


def test_a_models_settings_and_its_endpoints(artifacts: TargetArtifacts, shelf: Shelf) -> None:
    shelf.set(A, packed({"model.onnx": b"g", "model.yaml": b"slots: 3\nenvironment: {OWN: x}\nname: other"}))
    variables = {"MINE": "y", "SAGEMAKER_MODEL_SERVER_TIMEOUT": "7"}
    config = asyncio.run(located(artifacts, wiring=endpoint(environment=variables, slots=2))).located.wiring.config
    assert (config.name, config.slots, config.batching.default_timeout_s) == ("many:a.tar.gz", 6, 7.0)
    assert config.environment == {"OWN": "x", **variables}


def test_two_endpoints_share_a_copy(artifacts: TargetArtifacts, shelf: Shelf) -> None:
    async def check() -> None:
        first, second = await located(artifacts), await located(artifacts, wiring=endpoint("", name="others"))
        assert second.located.wiring.config.name == "others:a.tar.gz"
        assert second.located.wiring.artifact == first.located.wiring.artifact
        # The endpoint was updated.
        third = await located(artifacts, wiring=endpoint(slots=4))
        assert third.located.wiring.config.slots == 4

    asyncio.run(check())
    assert shelf.asked == [f"fetch {A}"]


# ---------------------------------------------------------------- what cannot be had


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def link() -> tarfile.TarInfo:
    member = tarfile.TarInfo("model.onnx")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("x.tar.gz", b"", "is empty"),
        ("x.tar.gz", b"no archive at all", "is not a gzip file"),
        ("x.tar.gz", packed({"model.onnx": os.urandom(5000)})[:2000], "is cut short"),
        ("x.tar.gz", packed({"model.onnx": os.urandom(5000)})[:-4] + b"\1\2\3\4", "is damaged"),
        ("x.tar.gz", gzip.compress(b"no tar" * 200), "is not a tar inside"),
        ("x.tar.gz", archive((tarfile.TarInfo("../../evil"), b"x")), "leaves the archive's directory"),
        ("x.tar.gz", archive((tarfile.TarInfo("/evil"), b"x")), "has an absolute path"),
        ("x.tar.gz", archive((link(), b"")), "is a link"),
        ("x.tar.gz", gzip.compress(bytes(80_000_000)), "as a bomb does"),
        ("x.tar.gz", packed({"readme.txt": b"hello"}), "holds no model"),
        ("x.tar.gz", packed({"xgboost-model": b"{L\x00"}), "the endpoint many is for onnx models, but"),
        ("x.ubj", b"{L\x00", "the endpoint many is for onnx models, but"),
        ("x.tar.gz", packed({"model.onnx": b"", "model.yaml": b"slots: -1"}), "slots"),
        (
            "x.tar.gz",
            packed({"model.tar.gz": packed({"model.onnx": b"x"})}),
            "model.tar.gz; the model's own files were",
        ),
        ("x.tar.gz", packed({"a/model.onnx": b"a", "b/model.onnx": b"b"}), "holds 2 models (a, b); one was expected"),
        ("x.txt", b"hello", "is neither a gzipped tar nor a model's file"),
        ("x", b"", "is neither a gzipped tar nor a model's file"),
    ],
)
def test_what_is_broken_is_told_and_leaves_nothing(
    artifacts: TargetArtifacts, shelf: Shelf, tmp_path: Path, name: str, content: bytes, why: str
) -> None:
    url = shelf.set(PREFIX + name, content)
    error = refusal(artifacts, name)
    assert type(error) is LoadFailed
    assert why in error.message
    assert url in error.message
    assert copies(tmp_path) == []
    assert artifacts.disk_bytes == 0
    # It is put right, and the next who asks has it.
    shelf.set(url, packed({"model.onnx": b"x"}))
    if name.endswith(".tar.gz"):
        asyncio.run(located(artifacts, name))


def test_a_script_in_the_archive(artifacts: TargetArtifacts, shelf: Shelf) -> None:
    shelf.set(A, packed({"model.onnx": b"x", "code/inference.py": b"pass"}))
    error = refusal(artifacts, "a.tar.gz", endpoint(environment={"SAGEMAKER_PROGRAM": "inference.py"}))
    assert "inference scripts are not built yet" in error.message


def test_a_missing_object_is_told_in_sagemakers_words(artifacts: TargetArtifacts) -> None:
    error = refusal(artifacts, "team/none.tar.gz")
    assert type(error) is TargetMissing
    assert error.message == (
        "Failed to download model data(bucket: models, key: many/team/none.tar.gz). Please ensure that there is an object "
        "located at the URL and that the role passed to CreateModel has permissions to download the model."
    )


def test_names_and_endpoints_that_cannot_be(artifacts: TargetArtifacts, shelf: Shelf) -> None:
    assert type(refusal(artifacts, "../a.tar.gz")) is BadRequest
    assert type(refusal(artifacts, "a.tar.gz", endpoint(prefix=""))) is TargetMissing
    assert not shelf.asked


def test_a_store_that_is_down(artifacts: TargetArtifacts, shelf: Shelf) -> None:
    shelf.down = True
    error = refusal(artifacts, "a.tar.gz")
    assert type(error) is Unavailable
    assert error.retry_after_s
    assert error.message == f"{A} cannot be fetched now, for its object store does not answer as it should; try again"
    shelf.down = False
    asyncio.run(located(artifacts))


def test_what_may_not_be_read_is_as_good_as_missing(
    artifacts: TargetArtifacts, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the right to list, S3 refuses what is not there: it must be found soon after it is put there."""
    shelf.denied = True
    with caplog.at_level(logging.WARNING):
        errors = [refusal(artifacts, name) for name in ("a.tar.gz", "b.tar.gz")]
    assert all(type(error) is TargetMissing for error in errors)
    # Where the store is and what its keys are called is the operator's to know.
    assert errors[0].message.startswith("Failed to download model data(bucket: models, key: many/a.tar.gz)")
    assert not any("s3.internal" in error.message for error in errors)
    assert [record.message for record in caplog.records if "access denied" in record.message] == [
        f"{A}: access denied (403); the keys of https://s3.internal must be right"
    ]
    shelf.denied = False
    asyncio.run(located(artifacts))


def test_access_that_is_taken_away_costs_nothing_that_is_here(shelf: Shelf, tmp_path: Path) -> None:
    artifacts = make(shelf, tmp_path, model_refresh_s=1e-9)

    async def check() -> None:
        await located(artifacts)
        shelf.denied = True
        assert read(await located(artifacts)) == A.encode()
        # One object that is refused says nothing of the others: they are still looked at.
        shelf.denied = False
        shelf.set(B, packed({"model.onnx": b"new"}))
        assert read(await located(artifacts, "b.tar.gz")) == b"new"
        shelf.set(A, packed({"model.onnx": b"newer"}))
        assert read(await located(artifacts)) == b"newer"

    asyncio.run(check())


def test_what_the_disk_may_not_hold(shelf: Shelf, tmp_path: Path) -> None:
    shelf.set(A, packed({"model.onnx": os.urandom(50_000)}))
    shelf.set(B, packed({"model.onnx": bytes(500_000)}))
    artifacts = make(shelf, tmp_path, model_cache_disk_bytes=40_000)
    for name in ("a.tar.gz", "b.tar.gz"):
        error = refusal(artifacts, name)
        assert type(error) is LoadFailed
        assert (
            "more of the disk than the 40000 bytes that models may take there (model_cache_disk_bytes)" in error.message
        )
    assert copies(tmp_path) == []
    asyncio.run(located(artifacts, "c.tar.gz"))


def test_a_full_disk(artifacts: TargetArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(target_copies, "extract", full)
        error = refusal(artifacts, "a.tar.gz")
    assert type(error) is LoadFailed
    assert error.message == f"{A} cannot be kept: the server's disk is full"
    assert error.retry_after_s
    assert copies(tmp_path) == []
    asyncio.run(located(artifacts))


def test_a_folder_that_cannot_be_written(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "targets").write_text("")
    artifacts = make(shelf, tmp_path)
    with pytest.raises(LoadFailed, match="models cannot be kept in"):
        asyncio.run(artifacts.locate(MANY, "a.tar.gz"))
    (tmp_path / "targets").unlink()
    asyncio.run(located(artifacts))


# ---------------------------------------------------------------- who is asked, and how often


def test_one_fetch_for_all(artifacts: TargetArtifacts, shelf: Shelf, tmp_path: Path) -> None:
    shelf.gate.clear()

    async def check() -> None:
        waiting = [asyncio.ensure_future(located(artifacts)) for _ in range(200)]
        await until(lambda: asked(shelf, "fetch") or artifacts.fetching)
        waiting[0].cancel()
        shelf.gate.set()
        first, *found = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(first, asyncio.CancelledError)
        assert {type(one) for one in found} == {Held}

    asyncio.run(check())
    assert asked(shelf, "fetch") == [A]
    assert len(copies(tmp_path)) == 1


def test_one_whom_nobody_waits_for_any_more(artifacts: TargetArtifacts, shelf: Shelf) -> None:
    shelf.gate.clear()

    async def check() -> None:
        waiting = asyncio.ensure_future(located(artifacts))
        await until(lambda: artifacts.fetching)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        shelf.gate.set()
        await until(lambda: not artifacts.fetching)
        held = await located(artifacts)
        assert held.located.downloading_s == 0

    asyncio.run(check())
    assert asked(shelf, "fetch") == [A]


def test_several_at_a_time(artifacts: TargetArtifacts, shelf: Shelf) -> None:
    together = threading.Barrier(3)

    def meet(url: str) -> None:
        together.wait(20)

    shelf.before_fetch = meet

    async def check() -> None:
        await asyncio.gather(*(located(artifacts, name) for name in ("a.tar.gz", "b.tar.gz", "c.tar.gz")))

    asyncio.run(check())


def test_what_is_here_is_not_asked_about_for_a_while(shelf: Shelf, tmp_path: Path) -> None:
    async def check(artifacts: TargetArtifacts, looks: int) -> None:
        first = await located(artifacts)
        shelf.asked.clear()
        again = await located(artifacts)
        assert again.located == msgspec.structs.replace(first.located, downloading_s=0.0)
        assert asked(shelf, "head") == [A] * looks
        assert await artifacts.locate(MANY, "a.tar.gz", first.located.revision) is None
        assert not asked(shelf, "fetch")

    asyncio.run(check(make(shelf, tmp_path / "1"), 0))
    asyncio.run(check(make(shelf, tmp_path / "2", model_refresh_s=1e-9), 1))


def test_an_object_that_is_replaced_is_picked_up(shelf: Shelf, tmp_path: Path) -> None:
    artifacts = make(shelf, tmp_path, model_refresh_s=1e-9)

    async def check() -> None:
        old = await located(artifacts)
        shelf.set(A, packed({"model.onnx": b"new"}))
        new = await artifacts.locate(MANY, "a.tar.gz", old.located.revision)
        assert new is not None
        assert read(new) == b"new"
        assert read(old) == A.encode()
        old.release()
        await until(lambda: not Path(old.located.wiring.artifact).exists())
        old.release()
        assert read(new) == b"new"

    asyncio.run(check())


def test_a_revision_that_is_still_the_stores_is_not_fetched(artifacts: TargetArtifacts, shelf: Shelf) -> None:
    """The copy has gone meanwhile, and the model is in memory."""
    assert asyncio.run(artifacts.locate(MANY, "a.tar.gz", shelf.info(A).etag)) is None
    assert shelf.asked == [f"head {A}"]
    found = asyncio.run(artifacts.locate(MANY, "a.tar.gz", "older"))
    assert found is not None
    assert found.located.revision == shelf.info(A).etag


def test_an_object_that_is_deleted(shelf: Shelf, tmp_path: Path) -> None:
    artifacts = make(shelf, tmp_path, model_refresh_s=1e-9)

    async def check() -> None:
        held = await located(artifacts)
        del shelf.objects[A]
        with pytest.raises(TargetMissing, match="Failed to download model data"):
            await artifacts.locate(MANY, "a.tar.gz")
        assert read(held) == A.encode()
        held.release()
        await until(lambda: not copies(tmp_path))

    asyncio.run(check())


def test_a_store_that_went_down_costs_nothing_that_is_here(
    shelf: Shelf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    artifacts = make(shelf, tmp_path, model_refresh_s=1e-9)

    async def check() -> None:
        for name in ("a.tar.gz", "b.tar.gz"):
            await located(artifacts, name)
        shelf.down = True
        for name in ("a.tar.gz", "b.tar.gz", "a.tar.gz"):
            await located(artifacts, name)
        assert len(asked(shelf, "head")) == 1

    with caplog.at_level(logging.WARNING):
        asyncio.run(check())
    assert [record.message for record in caplog.records] == [
        f"{A}: the object store cannot be reached; copies on disk are served as they are until s3://models can be reached"
    ]
    assert type(refusal(artifacts, "c.tar.gz")) is Unavailable


def test_a_store_that_does_not_answer(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_artifacts, "LOOK_S", 0.01)
    artifacts = make(shelf, tmp_path, model_refresh_s=1e-9)
    answer = threading.Event()

    async def check() -> None:
        first = await located(artifacts)
        head = shelf.head

        def slow(url: str) -> Any:
            assert answer.wait(20)
            return head(url)

        shelf.head = slow  # type: ignore[method-assign]
        again = await located(artifacts)
        assert again.located.revision == first.located.revision
        answer.set()

    try:
        asyncio.run(check())
    finally:
        answer.set()


def test_a_copy_outlives_a_broken_new_fetch_of_a_store_that_is_down(shelf: Shelf, tmp_path: Path) -> None:
    artifacts = make(shelf, tmp_path, model_refresh_s=1e-9)

    async def check() -> None:
        await located(artifacts)
        shelf.set(A, packed({"model.onnx": b"new"}))

        def fall(url: str) -> None:
            shelf.down = True

        shelf.before_fetch = fall
        assert read(await located(artifacts)) == A.encode()

    asyncio.run(check())


# ---------------------------------------------------------------- the disk


def test_the_least_recently_used_make_room_and_what_is_read_stays(shelf: Shelf, tmp_path: Path) -> None:
    artifacts = make(shelf, tmp_path, model_cache_disk_bytes=2 * COPY_BYTES)

    async def check() -> None:
        a, b = await located(artifacts, "a.tar.gz"), await located(artifacts, "b.tar.gz")
        b.release()
        c = await located(artifacts, "c.tar.gz")
        assert read(a) == A.encode()
        assert read(c) == C.encode()
        assert len(copies(tmp_path)) == 2
        # Both are read: a third waits until one is not.
        waiting = asyncio.ensure_future(located(artifacts, "b.tar.gz"))
        await until(lambda: len(asked(shelf, "fetch")) == 4)
        assert not waiting.done()
        a.release()
        assert read(await waiting) == B.encode()
        assert len(copies(tmp_path)) == 2

    asyncio.run(check())
    assert artifacts.disk_bytes <= 2 * COPY_BYTES


def test_room_that_does_not_come(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_copies, "ROOM_S", 0.01)
    artifacts = make(shelf, tmp_path, model_cache_disk_bytes=COPY_BYTES)

    async def check() -> None:
        held = await located(artifacts, "a.tar.gz")
        with pytest.raises(Unavailable, match="has to wait for disk"):
            await artifacts.locate(MANY, "b.tar.gz")
        held.release()
        await located(artifacts, "b.tar.gz")

    asyncio.run(check())


def test_what_containers_keep_beside_a_model_counts(artifacts: TargetArtifacts) -> None:
    async def check() -> None:
        held = await located(artifacts)
        before = artifacts.disk_bytes
        Path(held.located.wiring.artifact).with_name(".model.trees").write_bytes(bytes(100_000))
        held.release()
        await until(lambda: artifacts.disk_bytes >= before + 100_000)

    asyncio.run(check())


def test_copies_survive_a_restart_of_the_server(shelf: Shelf, tmp_path: Path) -> None:
    first = asyncio.run(located(make(shelf, tmp_path)))
    again = make(shelf, tmp_path)
    shelf.down = True
    found = asyncio.run(located(again))
    assert found.located == msgspec.structs.replace(first.located, downloading_s=0.0)
    assert again.disk_bytes > 0


def test_copies_do_not_survive_a_restart_of_the_machine(shelf: Shelf, tmp_path: Path) -> None:
    boot = tmp_path / "boot_id"
    boot.write_text("one")
    asyncio.run(located(make(shelf, tmp_path, boot)))
    boot.write_text("two")
    later = make(shelf, tmp_path, boot)
    asyncio.run(later.open())
    assert copies(tmp_path) == []
    assert later.disk_bytes == 0


def test_what_a_crash_left_does_not_count(shelf: Shelf, tmp_path: Path) -> None:
    first = asyncio.run(located(make(shelf, tmp_path)))
    asyncio.run(located(make(shelf, tmp_path), "b.tar.gz"))
    directory = tmp_path / "targets"
    whole, broken = copies(tmp_path)
    index = directory / "index"
    boot, *lines = index.read_text().splitlines()
    # The machine's memory of the second was cut short, and something else was under way.
    index.write_text("\n".join([boot, "{}", *(line for line in lines if broken.name not in line), lines[-1][:30]]))
    (directory / "half").mkdir()
    (directory / "half.object").write_bytes(b"x")
    later = make(shelf, tmp_path)
    asyncio.run(later.open())
    assert copies(tmp_path) == [whole]
    shelf.asked.clear()
    assert asyncio.run(located(later)).located.revision == first.located.revision
    assert asked(shelf, "fetch") == []
    assert read(asyncio.run(located(later, "b.tar.gz"))) == B.encode()


def test_a_copy_of_which_files_were_removed_does_not_count(shelf: Shelf, tmp_path: Path) -> None:
    asyncio.run(located(make(shelf, tmp_path)))
    shutil.rmtree(copies(tmp_path)[0])
    assert read(asyncio.run(located(make(shelf, tmp_path)))) == A.encode()


def test_half_of_a_copy_does_not_count_though_a_full_disk_took_no_note_of_its_end(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CopyIndex, "gone", lambda index, place: None)
    monkeypatch.setattr(shutil, "rmtree", lambda path, **how: (path / "model.onnx").unlink())
    artifacts = make(shelf, tmp_path, model_refresh_s=1e-9)

    async def check() -> None:
        (await located(artifacts)).release()
        del shelf.objects[A]
        with pytest.raises(TargetMissing):
            await artifacts.locate(MANY, "a.tar.gz")

    asyncio.run(check())
    monkeypatch.undo()
    shelf.set(A, packed({"model.onnx": A.encode()}))
    again = make(shelf, tmp_path)
    assert read(asyncio.run(located(again))) == A.encode()
    assert len(copies(tmp_path)) == 1


def test_a_copy_that_others_removed_is_fetched_again(artifacts: TargetArtifacts, shelf: Shelf, tmp_path: Path) -> None:
    shelf.set(f"{PREFIX}plain.onnx", b"graph")

    async def check() -> None:
        for name, content in (("a.tar.gz", A.encode()), ("plain.onnx", b"graph")):
            (await located(artifacts, name)).release()
            shutil.rmtree(copies(tmp_path)[-1])
            assert read(await located(artifacts, name)) == content

    asyncio.run(check())
    assert len(copies(tmp_path)) == 2
    assert asked(shelf, "fetch") == [A, A, f"{PREFIX}plain.onnx", f"{PREFIX}plain.onnx"]


def test_half_of_the_disk_is_what_copies_may_take_unless_said(artifacts: TargetArtifacts, tmp_path: Path) -> None:
    asyncio.run(artifacts.open())
    budget = next(sample.value for sample in artifacts.samples() if sample.name == "serving_target_disk_budget_bytes")
    status = os.statvfs(tmp_path)
    assert isinstance(budget, int)
    assert abs(budget - status.f_bavail * status.f_frsize // 2) < 1 << 30


def test_metrics(artifacts: TargetArtifacts, shelf: Shelf) -> None:
    async def check() -> None:
        (await located(artifacts)).release()
        held = await located(artifacts)
        assert await artifacts.locate(MANY, "a.tar.gz", held.located.revision) is None
        with pytest.raises(TargetMissing):
            await artifacts.locate(MANY, "none")

    asyncio.run(check())
    counted = {(sample.name, sample.labels): sample.value for sample in artifacts.samples()}
    for outcome in ("downloaded", "disk", "unchanged", "ObjectMissing"):
        assert counted["serving_target_located", (("outcome", outcome),)] == 1, outcome
    assert counted["serving_target_disk_copies", ()] == 1


# ---------------------------------------------------------------- a real store


def test_targets_in_s3(s3: S3, tmp_path: Path) -> None:
    bucket = s3.bucket()
    model = onnx_models.echo(tmp_path / "model.onnx", "FP32")
    s3.put(bucket, "p/a.tar.gz", packed({"model.onnx": model.read_bytes()}))
    s3.put(bucket, "p/b c%20ü.onnx", model)
    artifacts = make(open_store(s3.aws, []), tmp_path, model_refresh_s=1e-9)
    wiring = endpoint(prefix=f"s3://{bucket}/p/")

    async def check() -> None:
        archived, plain = await located(artifacts, "a.tar.gz", wiring), await located(artifacts, "b c%20ü.onnx", wiring)
        assert read(archived) == read(plain) == model.read_bytes()
        assert await artifacts.locate(wiring, "a.tar.gz", archived.located.revision) is None
        s3.put(bucket, "p/a.tar.gz", packed({"model.onnx": b"other"}))
        newer = await artifacts.locate(wiring, "a.tar.gz", archived.located.revision)
        assert newer is not None
        assert read(newer) == b"other"
        with pytest.raises(TargetMissing, match="Failed to download model data"):
            await artifacts.locate(wiring, "none.tar.gz")
        with pytest.raises(TargetMissing, match="Failed to download model data"):
            await artifacts.locate(endpoint(prefix="s3://no-such-bucket/p/"), "a.tar.gz")

    asyncio.run(check())


# ---------------------------------------------------------------- files of this machine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "models"
    found.mkdir()
    (found / "a.onnx").write_bytes(b"graph")
    (found / "a.tar.gz").write_bytes(packed({"model.onnx": b"graph"}))
    (found / "fraud").mkdir()
    (found / "fraud" / "model.onnx").write_bytes(b"graph")
    (found / "packed").mkdir()
    (found / "packed" / "model.tar.gz").write_bytes(packed({"model.onnx": b"graph"}))
    return found


@pytest.fixture
def local(folder: Path, tmp_path: Path) -> TargetArtifacts:
    return make(open_store(Aws(), [folder]), tmp_path, allow_paths=(folder,))


def test_targets_in_a_folder(local: TargetArtifacts, folder: Path) -> None:
    (folder / "a b%.onnx").write_bytes(b"graph")
    wiring = endpoint(prefix=folder.as_uri() + "/")
    for name in ("a.onnx", "a.tar.gz", "a b%.onnx"):
        assert read(asyncio.run(located(local, name, wiring))) == b"graph"
    assert type(refusal(local, "none.onnx", wiring)) is TargetMissing
    (folder / "out.onnx").symlink_to("/etc/hostname")
    assert "is not below a folder from which" in refusal(local, "out.onnx", wiring).message


@pytest.mark.parametrize(
    ("name", "in_place"),
    [("a.onnx", True), ("fraud", True), ("fraud/model.onnx", True), ("a.tar.gz", False), ("packed", False)],
)
def test_models_named_by_their_path(local: TargetArtifacts, folder: Path, name: str, in_place: bool) -> None:
    async def check() -> None:
        held = await local.locate_path(MANY, "m", str(folder / name))
        assert held is not None
        assert held.located.wiring.config.name == "many:m"
        assert held.located.bytes == 5
        assert read(held) == b"graph"
        assert Path(held.located.wiring.artifact).is_relative_to(folder) == in_place
        assert await local.locate_path(MANY, "m", folder / name, held.located.revision) is None
        held.release()

    asyncio.run(check())


def test_a_model_named_by_its_path_that_changes(local: TargetArtifacts, folder: Path) -> None:
    async def check() -> None:
        held = await local.locate_path(MANY, "m", folder / "fraud")
        assert held is not None
        (folder / "fraud" / "model.onnx").write_bytes(b"another graph")
        assert await local.locate_path(MANY, "m", folder / "fraud", held.located.revision) is not None

    asyncio.run(check())


@pytest.mark.parametrize(
    ("path", "error", "why"),
    [
        ("models/a.onnx", BadRequest, "is no absolute path"),
        ("", BadRequest, "is no absolute path"),
        ("/etc/passwd", BadRequest, "is not below a folder from which"),
        ("{}/../../etc/passwd", BadRequest, "is not below a folder from which"),
        ("{}/a\0b", BadRequest, "is no absolute path"),
        ("{}/out", BadRequest, "is not below a folder from which"),
        ("{}/loop", BadRequest, "lead nowhere"),
        ("{}/none", TargetMissing, "does not exist"),
        ("{}/holds-a-link", LoadFailed, "is not below a folder from which"),
        ("{}/empty", LoadFailed, "holds no model"),
        ("{}/text.txt", LoadFailed, "is neither a gzipped tar nor a model's file"),
        ("{}/pipe", LoadFailed, "pipe"),
    ],
)
def test_paths_that_cannot_be(
    local: TargetArtifacts, folder: Path, path: str, error: type[ServingError], why: str
) -> None:
    (folder / "out").symlink_to("/etc/passwd")
    (folder / "loop").symlink_to("loop")
    (folder / "holds-a-link").mkdir()
    (folder / "holds-a-link" / "model.onnx").symlink_to("/etc/hostname")
    (folder / "empty").mkdir()
    (folder / "text.txt").write_text("hello")
    os.mkfifo(folder / "pipe")
    with pytest.raises(error) as caught:
        asyncio.run(local.locate_path(MANY, "m", path.format(folder)))
    assert why in caught.value.message


def test_no_folder_is_open_unless_it_is_said(artifacts: TargetArtifacts, folder: Path) -> None:
    with pytest.raises(BadRequest, match=r"\(now: none\); --allow-path names one"):
        asyncio.run(artifacts.locate_path(MANY, "m", folder / "a.onnx"))
