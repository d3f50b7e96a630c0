"""Versions, policies and changes on disk, without a server."""

from __future__ import annotations

import os
import shutil
import tarfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.contract import ModelConfig, VersionPolicy
from serving.errors import ArtifactError, ConfigurationError, ServingError
from serving.objects.archive import Archives
from serving.objects.catalogue import Catalogue, Entry, owners
from serving.objects.override import read_override
from serving.objects.repository import find, look
from serving.objects.staging import Changed, Staging
from serving.objects.versions import chosen, wanted
from serving.objects.watch import MOST_FILES, FileState, Fingerprint, Place, Watcher, fingerprint, inside
from tests.support.repositories import resolve


@pytest.fixture
def archives(tmp_path: Path) -> Archives:
    return Archives(tmp_path / "state")


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def versions(model: Path, *numbers: int, settings: str = "") -> Path:
    for number in numbers:
        put(model / str(number) / "model.onnx", str(number))
    if settings:
        put(model / "model.yaml", settings)
    return model


# ---------------------------------------------------------------------- policies


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (VersionPolicy(), ("10",)),
        (VersionPolicy(latest=2), ("10", "9")),
        (VersionPolicy(latest=99), ("10", "9", "2")),
        (VersionPolicy(specific=(2, 10, 7)), ("10", "2")),
        (VersionPolicy(specific=(7,)), ()),
        (VersionPolicy(all=True), ("10", "9", "2")),
    ],
)
def test_what_a_policy_chooses(policy: VersionPolicy, expected: tuple[str, ...]) -> None:
    assert chosen(policy, ("10", "9", "2")) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["10"]),
        ("version_policy: {latest: 2}", ["10", "9"]),
        ("version_policy: {specific: [2, 9]}", ["9", "2"]),
        ("version_policy: {all: true}", ["10", "9", "2"]),
    ],
)
def test_a_repository_has_the_versions_of_the_policy(
    tmp_path: Path, archives: Archives, text: str, expected: list[str]
) -> None:
    model = versions(tmp_path / "r" / "m", 2, 10, 9, settings=text or "slots: 1")
    found = find(tmp_path / "r", archives)
    assert [source.version for source in found] == expected
    assert [source.artifact for source in found] == [model / version / "model.onnx" for version in expected]
    assert all(source.config.version == source.version for source in found)
    assert resolve(model, None, archives).version == expected[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version_policy: {latest: 1, all: true}", "says more than one of latest, specific and all"),
        ("version_policy: {latest: 0}", "Expected int >= 1"),
        ("version_policy: {specific: [0]}", "Expected int >= 1"),
        ("version_policy: {specific: [one]}", "Expected int, got str"),
        ("version_policy: latest", "Expected object, got str"),
        ("version_policy: {newest: 1}", "unknown field newest"),
        ("version_policy: {specific: [7, 8]}", "version_policy names 7, 8; there is only 10, 9, 2"),
    ],
)
def test_a_policy_that_cannot_be_honoured(tmp_path: Path, archives: Archives, text: str, message: str) -> None:
    model = versions(tmp_path / "m", 2, 10, 9, settings=text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        look(model, None, archives)
    assert str(model) in caught.value.message


def test_specific_versions_that_are_not_there_are_warned_of(tmp_path: Path, archives: Archives) -> None:
    model = versions(tmp_path / "m", 1, settings="version_policy: {specific: [1, 5]}")
    assert resolve(model, None, archives).warnings == ("version_policy names 5, which is not there",)


def test_an_older_version_may_be_broken(tmp_path: Path, archives: Archives) -> None:
    model = versions(tmp_path / "m", 1, 2)
    put(model / "1" / "a.onnx")
    put(model / "1" / "b.onnx")
    (model / "1" / "model.onnx").unlink()
    assert resolve(model, None, archives).version == "2"
    put(model / "model.yaml", "version_policy: {all: true}")
    with pytest.raises(ArtifactError, match=r"holds 2 \.onnx files"):
        resolve(model, None, archives)


NUMBERS = st.integers(1, 6)
POLICIES = st.one_of(
    st.builds(VersionPolicy, latest=NUMBERS),
    st.builds(VersionPolicy, specific=st.sets(NUMBERS, min_size=1).map(tuple)),
    st.just(VersionPolicy(all=True)),
    st.just(VersionPolicy()),
)
CONTENTS = st.dictionaries(NUMBERS.map(str), st.sampled_from("abc"))


@given(policy=POLICIES, disk=CONTENTS, force=CONTENTS, failed=CONTENTS)
@settings(max_examples=500)
def test_nothing_broken_is_wanted_and_nothing_served_is_lost(
    policy: VersionPolicy, disk: dict[str, str], force: dict[str, str], failed: dict[str, str]
) -> None:
    def of(contents: dict[str, str]) -> dict[str, str]:
        return {version: version + content for version, content in contents.items()}

    there, now, bad = of(disk), of(force), of(failed)
    names = sorted(there, key=int, reverse=True)
    got = wanted(policy, names, there, now, bad)
    for wiring in got:
        version = wiring[0]
        # Either as it is on disk and not known to be broken, or as it is served.
        assert (there.get(version) == wiring != bad.get(version)) or now.get(version) == wiring
    if now:
        assert got
    good = [version for version in names if there[version] != bad.get(version)]
    if good == names and chosen(policy, names):
        assert got == tuple(there[version] for version in chosen(policy, names))
    order = [int(wiring[0]) for wiring in got]
    assert order == sorted(order, reverse=True) or got == tuple(now.values())


def test_an_older_version_stays_where_a_newer_one_is_broken() -> None:
    policy = VersionPolicy()
    assert wanted(policy, ["2", "1"], {"2": "2a", "1": "1a"}, {"1": "1a"}, {"2": "2a"}) == ("1a",)
    # Also one whose files are gone, and one that was replaced by something broken.
    assert wanted(policy, ["2"], {"2": "2a"}, {"1": "1a"}, {"2": "2a"}) == ("1a",)
    assert wanted(policy, ["1"], {"1": "1b"}, {"1": "1a"}, {"1": "1b"}) == ("1a",)


# ---------------------------------------------------------------------- what counts as a change


def change(model: Path) -> Path:
    return put(model / "1" / "model.onnx", "other")


def rewrite_with_the_same_size(model: Path) -> Path:
    file = model / "1" / "model.onnx"
    file.write_text("2")
    os.utime(file, ns=(1, 1))
    return file


def replace_with_the_same_time(model: Path) -> Path:
    file = model / "1" / "model.onnx"
    status = file.stat()
    new = put(model / "1" / ".new", "2")
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    return new.rename(file)


def add(model: Path) -> Path:
    return put(model / "2" / "model.onnx")


def configure(model: Path) -> Path:
    return put(model / "model.yaml", "slots: 2")


def take_away(model: Path) -> Path:
    (model / "1" / "extra").unlink()
    return model


@pytest.mark.parametrize(
    "work", [change, rewrite_with_the_same_size, replace_with_the_same_time, add, configure, take_away]
)
def test_a_change_is_seen(tmp_path: Path, work: Callable[[Path], Path]) -> None:
    model = versions(tmp_path / "m", 1)
    put(model / "1" / "extra")
    before = fingerprint(model)
    work(model)
    assert fingerprint(model) != before


def test_hidden_files_and_touched_folders_are_no_change(tmp_path: Path) -> None:
    model = versions(tmp_path / "m", 1)
    before = fingerprint(model)
    assert [state.path for state in before] == ["1/model.onnx"]
    put(model / "1" / ".model.onnx.cache", "converted")
    put(model / ".git" / "index")
    (model / "empty").mkdir()
    assert fingerprint(model) == before


def test_a_file_alone_has_its_weights_beside_it(tmp_path: Path) -> None:
    file = put(tmp_path / "net.onnx")
    put(tmp_path / "other.onnx")
    put(tmp_path / "net.onnx.data")
    assert [state.path for state in fingerprint(file)] == ["net.onnx", "net.onnx.data"]


def test_what_is_not_there_has_no_files(tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "gone") == ()


def test_a_file_that_leaves_while_it_is_looked_at_takes_nothing_with_it(tmp_path: Path) -> None:
    """Else a model beside which something is written all the time would seem to be gone."""
    model = put(tmp_path / "m" / "model.onnx").parent
    scratch = [model / f"scratch-{number}" for number in range(50)]
    ended = threading.Event()

    def churn() -> None:
        while not ended.is_set():
            for path in scratch:
                path.touch()
            for path in scratch:
                path.unlink()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(churn)
        try:
            for _ in range(500):
                assert "model.onnx" in {state.path for state in fingerprint(model)}
        finally:
            ended.set()


def test_links_lead_nowhere_but_versions_may_be_links(tmp_path: Path) -> None:
    model = versions(tmp_path / "m", 1)
    (model / "loop").symlink_to(model)
    put(tmp_path / "elsewhere" / "model.onnx")
    (model / "2").symlink_to(tmp_path / "elsewhere")
    (model / "dangling").symlink_to(tmp_path / "gone")
    assert [state.path for state in fingerprint(model)] == ["1/model.onnx", "2/model.onnx", "dangling"]
    assert [state.path for state in inside(fingerprint(model), "2")] == ["model.onnx"]


def test_a_folder_of_too_many_files_is_an_error_of_its_own(tmp_path: Path, archives: Archives) -> None:
    versions(tmp_path / "r" / "good", 1)
    model = versions(tmp_path / "r" / "big", 1)
    for number in range(MOST_FILES):
        (model / f"f{number}").touch()
    entries = Catalogue([], [tmp_path / "r"], archives, watched=True).read_all()
    big, good = entries[Place(model)], entries[Place(tmp_path / "r" / "good")]
    assert big.error is not None
    assert "holds more than 10000 files" in big.error.message
    assert good.found is not None


FILES = st.sampled_from(["", "a", "b", "c"])


def files(text: str) -> Fingerprint:
    return (FileState(text, 0, 0, 0),) if text else ()


@given(
    looks=st.lists(st.dictionaries(st.sampled_from("xyz"), FILES), max_size=12),
    first=st.dictionaries(st.sampled_from("xyz"), FILES),
)
@settings(max_examples=500)
def test_a_watcher_tells_each_change_once_it_has_settled(first: dict[str, str], looks: list[dict[str, str]]) -> None:
    def places(seen: dict[str, str]) -> dict[Place, Fingerprint]:
        return {Place(Path(name)): files(text) for name, text in seen.items() if text}

    taken, before = places(first), places(first)
    watcher = Watcher(taken)
    for seen in looks:
        now = places(seen)
        changed, gone = watcher.observe(now)
        for place in (*taken.keys(), *now.keys()):
            settled = now.get(place) == before.get(place)
            assert (place in changed) == (settled and place in now and now[place] != taken.get(place))
            assert (place in gone) == (settled and place not in now and place in taken)
        taken = {place: found for place, found in taken.items() if place not in gone} | {p: now[p] for p in changed}
        before = now


def test_what_changed_while_it_was_taken_is_told_again() -> None:
    place = Place(Path("m"))
    watcher = Watcher({place: files("a")})
    assert watcher.observe({place: files("b")}) == ([], [])
    assert watcher.observe({place: files("b")}) == ([place], [])
    watcher.again(place)
    assert watcher.observe({place: files("c")}) == ([], [])
    assert watcher.observe({place: files("c")}) == ([place], [])
    assert watcher.observe({place: files("c")}) == ([], [])


# ---------------------------------------------------------------------- the catalogue


def catalogue(tmp_path: Path, *models: str) -> Catalogue:
    return Catalogue(models, [tmp_path / "r"], Archives(tmp_path / "state"), watched=True)


def test_a_catalogue_has_what_is_given_and_what_is_in_repositories(tmp_path: Path) -> None:
    versions(tmp_path / "r" / "a", 1)
    put(tmp_path / "r" / "notes.txt")
    put(tmp_path / "r" / "broken" / "model.yaml", "slotz: 1")
    file = put(tmp_path / "b.onnx")
    entries = catalogue(tmp_path, str(file), f"c={file}").read_all()
    owned, others = owners(entries, {})
    assert list(owned) == ["b", "c", "a", "broken"]
    assert others == []
    assert isinstance(owned["broken"].error, ConfigurationError)
    assert [entry.is_model for entry in entries.values()].count(False) == 1


def test_of_two_models_of_one_name_the_one_that_had_it_keeps_it(tmp_path: Path) -> None:
    versions(tmp_path / "r" / "a", 1)
    versions(tmp_path / "r" / "b", 1, settings="name: a")
    entries = catalogue(tmp_path).read_all()
    first, second = Place(tmp_path / "r" / "a"), Place(tmp_path / "r" / "b")
    for before, winner, loser in (({}, first, second), ({"a": second}, second, first)):
        owned, ((entry, error),) = owners(entries, before)
        assert owned["a"].place == winner
        assert entry.place == loser
        assert isinstance(error, ConfigurationError)
        assert str(first.path) in error.message
        assert str(second.path) in error.message


def test_a_repository_that_is_a_model_is_an_error(tmp_path: Path) -> None:
    versions(tmp_path / "r", 1)
    with pytest.raises(ArtifactError, match="is itself a model"):
        catalogue(tmp_path).read_all()


def test_a_repository_that_is_gone_is_no_empty_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no such file or directory"):
        catalogue(tmp_path).scan()


def test_what_is_no_file_or_folder_is_looked_at_without_waiting(tmp_path: Path) -> None:
    for name in ("m.tar.gz", "m.onnx", "folder/model.onnx", "folder/model.yaml"):
        path = tmp_path / "repository" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path)
    (tmp_path / "repository" / "loop").symlink_to("loop")
    (tmp_path / "repository" / "round").mkdir()
    (tmp_path / "repository" / "round" / "1").symlink_to("..")
    made = Catalogue((), (tmp_path / "repository",), Archives(tmp_path / "state"), watched=True)
    errors = {place.path.name: str(entry.error) for place, entry in made.read_all().items() if entry.error}
    assert set(errors) == {"m.tar.gz", "folder", "round"}
    assert "m.tar.gz is not a plain file" in errors["m.tar.gz"]


def test_an_archive_that_was_only_touched_is_the_same_model(tmp_path: Path) -> None:
    inner = put(tmp_path / "in" / "model.onnx")
    (tmp_path / "r").mkdir()
    archive = tmp_path / "r" / "m.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(inner, "model.onnx")
    whole = catalogue(tmp_path)
    place = Place(archive)

    def read() -> Entry:
        return whole.read(place, whole.scan()[place])

    before = read()
    os.utime(archive)
    after = read()
    assert before.files != after.files
    assert before.found == after.found


def test_a_thousand_models_are_looked_at_quickly(tmp_path: Path) -> None:
    for number in range(1000):
        versions(tmp_path / "r" / f"m{number}", 1, settings="slots: 1")
    whole = catalogue(tmp_path)
    assert len(whole.scan()) == 1000
    started = time.process_time()
    whole.scan()
    # About 30 ms of one core; ten times that is still nothing beside a poll's seconds.
    assert time.process_time() - started < 0.3


# ---------------------------------------------------------------------- copies


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return Staging(tmp_path / "staged")


def test_a_copy_is_what_the_model_was(tmp_path: Path, staging: Staging) -> None:
    model = versions(tmp_path / "m", 1)
    put(model / "1" / "deep" / "weights.bin", "weights")
    put(model / "1" / ".cache", "hidden")
    seen = inside(fingerprint(model), "1")
    staging.take(model / "1", seen, model / "1" / "model.onnx")
    copy = staging.place(model / "1", seen)
    assert (copy / "deep" / "weights.bin").read_text() == "weights"
    assert sorted(path.name for path in copy.rglob("*")) == ["deep", "model.onnx", "weights.bin"]
    (model / "1" / "model.onnx").write_text("other")
    assert (copy / "model.onnx").read_text() == "1"
    assert staging.place(model / "1", inside(fingerprint(model), "1")) != copy


def test_a_model_that_changes_while_it_is_copied_is_not_taken(tmp_path: Path, staging: Staging) -> None:
    model = versions(tmp_path / "m", 1)
    seen = fingerprint(model)
    put(model / "1" / "model.onnx", "longer")
    with pytest.raises(Changed, match="changed while they were copied"):
        staging.take(model, seen, model / "1" / "model.onnx")
    shutil.rmtree(model)
    with pytest.raises(Changed):
        staging.take(model, seen, model / "1" / "model.onnx")
    assert not staging.place(model, seen).exists()
    assert [path.name for path in staging.directory.iterdir()] == [".lock"]


def test_two_servers_that_copy_the_same_model_at_once_share_the_copy(tmp_path: Path) -> None:
    model = tmp_path / "m"
    model.mkdir()
    for number in range(300):
        put(model / f"{number}.bin", "weights")
    put(model / "model.onnx")
    seen = fingerprint(model)
    for attempt in range(4):
        servers = [Staging(tmp_path / f"staged-{attempt}") for _ in range(2)]
        begin = threading.Barrier(2)

        def take(server: Staging, begin: threading.Barrier = begin) -> Path:
            begin.wait()
            server.take(model, seen, model / "model.onnx")
            return server.place(model, seen)

        with ThreadPoolExecutor(2) as pool:
            copies = set(pool.map(take, servers))
        (copy,) = copies
        assert len(list(copy.iterdir())) == 301
        assert sorted(path.name for path in copy.parent.iterdir()) == sorted([".lock", copy.name])


def test_what_another_server_left_is_not_removed_once_it_is_taken(tmp_path: Path, staging: Staging) -> None:
    model = put(tmp_path / "m" / "model.onnx").parent
    seen = fingerprint(model)
    staging.take(model, seen, model / "model.onnx")
    other = Staging(staging.directory)
    other.take(model, seen, model / "model.onnx")
    staging.keep([])
    assert staging.place(model, seen).is_dir()
    other.close()
    staging.keep([])
    assert not staging.place(model, seen).exists()


def test_a_link_out_of_a_model_stays_a_link(tmp_path: Path, staging: Staging) -> None:
    secret = put(tmp_path / "secret", "secret")
    model = put(tmp_path / "m" / "model.onnx").parent
    (model / "weights").symlink_to("../secret")
    (model / "same").symlink_to("model.onnx")
    seen = fingerprint(model)
    staging.take(model, seen, model / "model.onnx")
    copy = staging.place(model, seen)
    assert (copy / "weights").readlink() == secret
    assert not (copy / "same").is_symlink()


def test_copies_that_nobody_uses_are_removed_unless_another_server_may(tmp_path: Path, staging: Staging) -> None:
    places = []
    for name in ("a", "b"):
        model = put(tmp_path / name / "model.onnx").parent
        seen = fingerprint(model)
        staging.take(model, seen, model / "model.onnx")
        places.append(staging.place(model, seen))
    other = Staging(staging.directory)
    model = tmp_path / "a"
    other.take(model, fingerprint(model), model / "model.onnx")
    other.keep([])
    staging.keep([places[0]])
    assert all(place.is_dir() for place in places)
    other.close()
    staging.keep([places[0]])
    assert [place.is_dir() for place in places] == [True, False]
    staging.close()


# ---------------------------------------------------------------------- settings given with a load


def test_an_override_in_our_words() -> None:
    got = read_override('{"slots": 3, "version_policy": {"latest": 2}}', "m")
    assert got.config == ModelConfig(name="m", slots=3, version_policy=VersionPolicy(latest=2))


def test_an_override_in_tritons_words() -> None:
    got = read_override(
        '{"backend": "onnxruntime", "max_batch_size": 4, "dynamic_batching": {}, "instance_group": [{"count": 2}],'
        ' "version_policy": {"specific": {"versions": [1, 3]}}}',
        "m",
    )
    assert (got.config.name, got.config.slots, got.config.batching.max_batch_size) == ("m", 2, 4)
    assert got.config.version_policy == VersionPolicy(specific=(1, 3))
    assert read_override('{"version_policy": {"latest": {"num_versions": 2}}}', "m").config.version_policy.latest == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config is not JSON"),
        ("{", "config is not JSON"),
        ("[" * 100_000, "config is not JSON"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ('{"slots": 0}', r"config: Expected int >= 1 - at \$\.slots"),
        ('{"slots": "two"}', "Expected int, got str"),
        ('{"nonsense": 1}', "config is not a Triton model configuration.*nonsense"),
        ('{"backend": "python"}', "backend is 'python'; only onnxruntime"),
        ('{"max_batch_size": "many"}', "not a Triton model configuration"),
        ('{"max_batch_size": 1, "input": 5}', "not a Triton model configuration"),
        ('{"version_policy": {"latest": 1, "all": true}}', "more than one"),
        ('{"version_policy": {"specific": {"versions": []}}}', "numbers from 1 were expected"),
        ('{"backend": "onnxruntime", "ensemble_scheduling": {}}', "ensemble_scheduling cannot be honoured"),
    ],
)
def test_a_bad_override(text: str, message: str) -> None:
    with pytest.raises(ServingError, match=message):
        read_override(text, "m")
