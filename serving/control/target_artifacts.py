"""The models of multi-model endpoints on this machine's disk: each fetched when it is asked for, once for all workers.

What a target is: an object whose name ends in .tar.gz or .tgz is an archive. Any other is the model itself where a
container kind knows it as a file (`a.onnx`, `a.skops`, a booster under any name), and else an archive if it begins as gzip
does. Folders are no targets.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from serving.contract import ModelConfig
from serving.control import contents, environment
from serving.control.target_copies import BOOT, FULL_S, DiskFull, TargetCopies, revision_of, told
from serving.errors import (
    ArtifactError,
    BadRequest,
    ConfigurationError,
    LoadFailed,
    ObjectDenied,
    ObjectMissing,
    ObjectStoreUnavailable,
    ServingError,
    TargetMissing,
    Unavailable,
)
from serving.objects import repository
from serving.objects.archive import Archives, Limits
from serving.objects.disk_cache import Copy
from serving.objects.local import check_below
from serving.objects.target_url import target_url
from serving.objects.watch import MOST_FILES, fingerprint
from serving.runtime.turns import Turns, apart
from serving.runtime.wiring import EndpointWiring, Located
from serving.telemetry.accumulators import Histogram, Sample, freeze

if TYPE_CHECKING:
    from serving.objects.store import ObjectInfo, ObjectStore
    from serving.settings import Settings

T = TypeVar("T")


class _Note(NamedTuple):
    """The model in a copy as an endpoint of this wiring serves it: its kind, file below the copy's folder, and settings."""

    wiring: EndpointWiring
    container: str
    artifact: str
    config: ModelConfig


log = logging.getLogger("serving.targets")

FETCHES: Final = 16
LOOKS: Final = 32
"""Targets that are fetched, and objects that are asked about, at a time; they mostly wait."""

SLOW_S: Final = 5.0
"""What takes longer does not count any more, so that it holds up no other."""

LOOK_S: Final = 1.0
"""How long the object store may take to say whether a copy is up to date, before the copy is served unasked."""

DOWN_S: Final = 2.0
"""How long a store that did not say is not asked again about copies that are here."""

_MOST_NOTES: Final = 16
"""Endpoints that one copy is remembered for."""

_MOST_ALIKE: Final = 1024

RETRY_S: Final = 1.0
"""How long a store that cannot be reached is believed to stay so."""

TOLD_S: Final = 60.0
"""How often the log tells of one store that it could not be asked, or refused access."""


class Held:
    """A target on disk, where it stays until it is released."""

    __slots__ = ("_release", "located")

    def __init__(self, located: Located, release: Callable[[], None] | None = None) -> None:
        self.located = located
        self._release = release

    def release(self) -> None:
        """Nobody reads it any more. More than once is as good as once."""
        release, self._release = self._release, None
        if release is not None:
            release()


class _Fetch:
    """A fetch under way, and how many wait for it; its copy is held for them until the last has taken it."""

    __slots__ = ("began", "given_up", "task", "waiting")

    def __init__(self, task: asyncio.Future[Copy]) -> None:
        self.task = task
        self.waiting = 0
        self.given_up = False
        self.began = monotonic()


class TargetArtifacts:
    """Locates targets; lives on one loop. Only it uses the folder `targets` of the state directory."""

    def __init__(self, settings: Settings, objects: ObjectStore, boot: Path = BOOT) -> None:
        limits = Limits(max_bytes=settings.max_archive_bytes)
        self._directory = settings.state_dir / "targets"
        self._copies = TargetCopies(self._directory, objects, limits, settings.model_cache_disk_bytes, boot)
        self._objects = objects
        self._roots = settings.allow_paths
        self._refresh_s = settings.model_refresh_s
        self._limit_s = settings.model_load_limit_s
        self._opening: asyncio.Future[None] | None = None
        self._fetching = Turns(FETCHES, SLOW_S)
        self._looking = Turns(LOOKS, SLOW_S)
        self._fetches: dict[str, _Fetch] = {}
        self._looks: dict[str, asyncio.Future[ObjectInfo]] = {}
        self._down: dict[str, float] = {}
        self._tell_at: dict[tuple[str, type[Exception]], float] = {}
        self._notes: dict[bytes, _Note] = {}
        self._removing: set[asyncio.Future[None]] = set()
        self._outcomes: Counter[str] = Counter()
        self._seconds = Histogram()

    @property
    def disk_bytes(self) -> int:
        """What copies take of the disk, with those in the making."""
        return self._copies.used

    @property
    def fetching(self) -> int:
        """How many are being fetched."""
        return len(self._fetches)

    async def open(self) -> None:
        """Finds the copies of an earlier start; the first `locate` does it too."""
        if self._opening is None:
            self._opening = asyncio.ensure_future(asyncio.to_thread(self._copies.open))
        try:
            await asyncio.shield(self._opening)
        except OSError as error:
            self._opening = None
            raise LoadFailed(
                f"models cannot be kept in {self._directory}: {error.strerror or error}", retry_after_s=FULL_S
            ) from error

    async def locate(self, wiring: EndpointWiring, target: str, revision: str = "") -> Held | None:
        """A target of a multi-model endpoint on disk, fetched unless it is; None where its revision is still `revision`.

        A copy is served unasked for `model_refresh_s` since the object store was last asked, and as long as that cannot be
        reached. Raises `BadRequest`, `TargetMissing`, `LoadFailed` or `Unavailable`.
        """
        prefix = wiring.targets.prefix if wiring.targets is not None else ""
        if not prefix:
            raise TargetMissing(f"The endpoint {wiring.name} has no model {target}: none of that name was loaded")
        url = target_url(prefix, target)
        if self._opening is None or not self._opening.done():
            await self.open()
        with _answerable(url):
            return await self._located(wiring, target, url, revision)

    async def locate_path(
        self, wiring: EndpointWiring, target: str, path: str | Path, revision: str = ""
    ) -> Held | None:
        """The model at an absolute path of this machine, below `allow_paths`, as `locate`; archives alone are copied.

        Raises `BadRequest`, `TargetMissing`, `LoadFailed` or `Unavailable`.
        """
        place = await asyncio.to_thread(self._allowed, path)
        with _answerable(str(place)):
            if (archive := await asyncio.to_thread(_archive, place)) is not None:
                await self.open()
                return await self._located(wiring, target, f"file://{quote(str(archive))}", revision)
            located = await apart(partial(self._in_place, wiring, target, place), "look")
        return None if revision and located.revision == revision else Held(located)

    def samples(self) -> list[Sample]:
        """The metrics of the disk."""
        copies = self._copies
        found = [
            Sample("serving_target_disk_bytes", "gauge", (), copies.used),
            Sample("serving_target_disk_budget_bytes", "gauge", (), copies.budget),
            Sample("serving_target_disk_copies", "gauge", (), len(copies)),
            Sample("serving_target_download_seconds", "histogram", (), freeze(self._seconds)),
        ]
        for name, label, counts in (
            ("serving_target_located", "outcome", self._outcomes),
            ("serving_target_disk_removed", "reason", copies.removed),
        ):
            found += [Sample(name, "counter", ((label, key),), value) for key, value in counts.items()]
        return found

    # ------------------------------------------------------------------ copies

    async def _located(self, wiring: EndpointWiring, target: str, url: str, revision: str) -> Held | None:
        held = await self._held(wiring, url, revision)
        if held is None:
            self._outcomes["unchanged"] += 1
            return None
        copy, seconds = held
        if revision and copy.revision == revision:
            self._let_go(copy)
            self._outcomes["unchanged"] += 1
            return None
        try:
            note = _remembered(copy, wiring)
            if note is None:
                note = await apart(partial(self._noted, copy, wiring), "look")
        except BaseException as error:
            self._let_go(copy)
            if isinstance(error, ServingError) and not copy.notes:
                # It is of no use to any endpoint.
                await asyncio.to_thread(self._copies.discard, copy, "broken")
            raise
        self._outcomes["downloaded" if seconds else "disk"] += 1
        located = Located(self._own(copy, note, target), copy.revision, copy.content_bytes, seconds)
        return Held(located, partial(self._let_go, copy))

    async def _held(self, wiring: EndpointWiring, url: str, revision: str) -> tuple[Copy, float] | None:
        """The copy of an object as it is now, held, and the seconds of its fetch; None: the object is still that revision."""
        copy = self._copies.find(url)
        if copy is None:
            if revision and revision_of(await self._look(url)) == revision:
                return None
        elif await self._is_current(copy) and self._copies.hold(copy):
            if self._copies.files(copy).exists():
                return copy, 0.0
            # Others removed it, as those do that tidy up /tmp.
            await asyncio.to_thread(self._copies.discard, copy, "lost")
            self._let_go(copy)
        try:
            return await self._fetched(url, wiring)
        except (ObjectDenied, ObjectStoreUnavailable) as error:
            copy = self._copies.find(url)
            if copy is None or not self._copies.hold(copy):
                self._tell(url, error)
                raise
            if isinstance(error, ObjectStoreUnavailable):
                self._note_down(url, error.message)
            else:
                self._tell(url, error)
            return copy, 0.0

    async def _is_current(self, copy: Copy) -> bool:
        """Whether the copy may be served: the store says so, did so lately, or cannot be reached."""
        now = monotonic()
        if now < max(copy.looked_at + self._refresh_s, self._down.get(_store(copy.url), 0.0)):
            return True
        try:
            async with asyncio.timeout(LOOK_S):
                info = await self._look(copy.url)
        except ObjectMissing:
            await asyncio.to_thread(self._copies.discard, copy, "missing")
            raise
        except ObjectStoreUnavailable as error:
            self._note_down(copy.url, error.message)
            return True
        except ObjectDenied as error:
            # Of this object alone: where objects may not be listed, S3 says so of every one that is missing.
            self._tell(copy.url, error)
            return True
        except TimeoutError:
            self._note_down(copy.url, f"{copy.url}: no answer within {LOOK_S:g} s")
            return True
        return revision_of(info) == copy.revision

    async def _look(self, url: str) -> ObjectInfo:
        """What the store says of an object now; it is asked once for all who want to know."""
        look = self._looks.get(url)
        if look is None:
            began = monotonic()
            work = partial(self._objects.head, url)
            look = self._looks[url] = asyncio.ensure_future(self._in_turn(self._looking, work, "look"))
            look.add_done_callback(lambda done: self._looked(url, began, done))
        return await asyncio.shield(look)

    def _looked(self, url: str, began: float, done: asyncio.Future[ObjectInfo]) -> None:
        del self._looks[url]
        if done.cancelled() or done.exception() is not None:
            return
        if self._down.pop(_store(url), None) is not None:
            log.info("%s can be reached again", _store(url))
        copy = self._copies.find(url)
        if copy is not None and copy.revision == revision_of(done.result()):
            copy.looked_at = began

    async def _fetched(self, url: str, wiring: EndpointWiring) -> tuple[Copy, float]:
        """One fetch for all who want the same; one who leaves takes nobody's away."""
        while True:
            fetch = self._fetches.get(url)
            if fetch is None:
                work = partial(self._made, url, wiring)
                fetch = _Fetch(asyncio.ensure_future(self._in_turn(self._fetching, work, "fetch")))
                self._fetches[url] = fetch
                fetch.task.add_done_callback(partial(self._fetch_ended, url, fetch))
            fetch.waiting += 1
            try:
                copy = await asyncio.shield(fetch.task)
                if self._copies.hold(copy):
                    return copy, monotonic() - fetch.began
            finally:
                fetch.waiting -= 1
                self._give_up(fetch)

    def _made(self, url: str, wiring: EndpointWiring) -> Copy:
        """On a thread: the copy, and what the first who asked will want to know of it."""
        copy = self._copies.make(url, self._limit_s)
        with suppress(ServingError, OSError):
            # Who asked finds the error again.
            self._noted(copy, wiring)
        return copy

    def _fetch_ended(self, url: str, fetch: _Fetch, done: asyncio.Future[Copy]) -> None:
        del self._fetches[url]
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._seconds.observe(monotonic() - fetch.began)
            self._give_up(fetch)
        else:
            self._outcomes[type(error).__name__] += 1

    def _give_up(self, fetch: _Fetch) -> None:
        """Takes the fetch's own hold back, once nobody waits."""
        if fetch.waiting or fetch.given_up or not fetch.task.done() or fetch.task.cancelled():
            return
        fetch.given_up = True
        if fetch.task.exception() is None:
            self._let_go(fetch.task.result())

    async def _in_turn(self, turns: Turns, work: Callable[[], T], name: str) -> T:
        async with turns.turn():
            return await apart(work, name)

    def _let_go(self, copy: Copy) -> None:
        if self._copies.release(copy):
            self._later(partial(self._copies.remove, copy))
        elif not copy.holds and not copy.measured:
            copy.measured = True
            self._later(partial(self._copies.measure, copy))

    def _later(self, work: Callable[[], None]) -> None:
        removing = asyncio.ensure_future(asyncio.to_thread(work))
        self._removing.add(removing)
        removing.add_done_callback(self._removing.discard)

    def _tell(self, url: str, error: ArtifactError) -> None:
        """Logs what is the operator's to know and to mend, and no caller's."""
        about, now = (_store(url), type(error)), monotonic()
        if now >= self._tell_at.get(about, 0.0):
            self._tell_at[about] = now + TOLD_S
            log.warning("%s", error.message)

    def _note_down(self, url: str, why: str) -> None:
        store = _store(url)
        if store not in self._down:
            log.warning("%s; copies on disk are served as they are until %s can be reached", why, store)
        self._down[store] = monotonic() + DOWN_S

    # ------------------------------------------------------------------ the model in a copy; on a thread

    def _noted(self, copy: Copy, wiring: EndpointWiring) -> _Note:
        """The model in a copy, remembered as long as that is here."""
        place = self._copies.place(copy)
        try:
            found = self._model(self._copies.files(copy), wiring)
        except ServingError as error:
            raise type(error)(told(error.message, copy.url, place)) from error
        note = _Note(wiring, found.container, os.path.relpath(found.artifact, place), found.config)
        # Most of an endpoint's models are alike, and thousands of them are remembered.
        if len(self._notes) >= _MOST_ALIKE:
            self._notes.clear()
        note = self._notes.setdefault(msgspec.msgpack.encode((wiring, *note[1:])), note)
        others = [other for other in copy.notes if other.wiring.name != wiring.name]
        copy.notes = (note, *others[: _MOST_NOTES - 1])
        return note

    def _own(self, copy: Copy, note: _Note, target: str) -> EndpointWiring:
        """The wiring of the target whose copy it is."""
        endpoint = note.wiring
        return EndpointWiring(
            endpoint.name,
            endpoint.variant,
            note.container,
            f"{self._directory}/{copy.place}/{note.artifact}",
            msgspec.structs.replace(note.config, name=f"{endpoint.name}:{target}"),
        )

    def _model(self, place: Path, wiring: EndpointWiring) -> EndpointWiring:
        """The wiring of the model at `place`, a folder or a file; its name is the endpoint's."""
        common, model = wiring.config, place
        if place.is_dir():
            contents.script_warnings(place, str(place), common.environment, triton=False)
            model = contents.place(place, common.environment, triton=False)
            if (model / repository.PACKED).is_file():
                raise ArtifactError(f"{model} holds {repository.PACKED}; the model's own files were expected there")
        archives = Archives(self._directory, Limits())
        whose = f"the endpoint {wiring.name} is"
        source = contents.look(model, "model", wiring.container, whose, archives).served()[0]
        config = environment.configured(source.config, common.environment, source.container, common.slots)
        return EndpointWiring(
            wiring.name,
            wiring.variant,
            source.container,
            str(source.artifact),
            msgspec.structs.replace(config, name=wiring.name),
        )

    # ------------------------------------------------------------------ models that lie on this machine; on a thread

    def _allowed(self, path: str | Path) -> Path:
        """The path without links. Raises `BadRequest` where it may not be read, `TargetMissing` where nothing is there."""
        shown = ascii(str(path))
        if "\0" in str(path) or not Path(path).is_absolute():
            raise BadRequest(f"{shown} is no absolute path; the path of a model's file or folder was expected")
        try:
            place = Path(path).resolve()
        except (OSError, RuntimeError) as error:
            raise BadRequest(f"{shown} cannot be read: its links lead nowhere") from error
        try:
            check_below(place, self._roots, shown)
        except ArtifactError as error:
            raise BadRequest(error.message) from error
        if not place.exists():
            raise TargetMissing(f"{shown} does not exist")
        return place

    def _in_place(self, wiring: EndpointWiring, target: str, place: Path) -> Located:
        files = fingerprint(place)
        if len(files) > MOST_FILES:
            raise ArtifactError(f"{place} holds more than {MOST_FILES} files, which no model does")
        base = place if place.is_dir() else place.parent
        for state in files:
            check_below((base / state.path).resolve(), self._roots, ascii(str(base / state.path)))
        revision = hashlib.blake2b(repr((str(place), files)).encode("utf-8", "backslashreplace"), digest_size=16)
        own = self._model(place, wiring)
        own = msgspec.structs.replace(own, config=msgspec.structs.replace(own.config, name=f"{wiring.name}:{target}"))
        return Located(own, revision.hexdigest(), sum(state.size for state in files))


def _remembered(copy: Copy, wiring: EndpointWiring) -> _Note | None:
    for note in copy.notes:
        if note.wiring is wiring or note.wiring == wiring:
            return note  # type: ignore[no-any-return]
    return None


def _archive(place: Path) -> Path | None:
    """The archive that a path of this machine stands for; None where the model lies there itself."""
    if place.is_dir():
        packed = place / repository.PACKED
        return packed if packed.is_file() and not repository.is_model(place) else None
    return place if place.name.endswith(repository.ARCHIVE_SUFFIXES) or not repository.is_candidate(place) else None


def _store(url: str) -> str:
    """The part of a URL that is up or down as a whole: its bucket."""
    return "/".join(url.split("/", 3)[:3])


@contextmanager
def _answerable(url: str) -> Iterator[None]:
    """Raises what makes a target's artifact unusable as what is answered for it."""
    try:
        yield
    except (ObjectMissing, ObjectDenied) as error:
        raise TargetMissing(_missing(url)) from error
    except ObjectStoreUnavailable as error:
        text = f"{url} cannot be fetched now, for its object store does not answer as it should; try again"
        raise Unavailable(text, retry_after_s=RETRY_S) from error
    except DiskFull as error:
        raise LoadFailed(error.message, retry_after_s=FULL_S) from error
    except (ArtifactError, ConfigurationError) as error:
        raise LoadFailed(error.message) from error
    except OSError as error:
        raise LoadFailed(f"{url} cannot be read on the server's disk: {error.strerror or error}") from error


def _missing(url: str) -> str:
    """SageMaker's own words."""
    where = f"url: {url}"
    if url.startswith("s3://"):
        bucket, _, key = url.removeprefix("s3://").partition("/")
        where = f"bucket: {bucket}, key: {key}"
    return (
        f"Failed to download model data({where}). Please ensure that there is an object located at the URL and that the role "
        "passed to CreateModel has permissions to download the model."
    )
