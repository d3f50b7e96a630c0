"""All models that a server was told of: those given by path and those of its repositories, as they are on disk now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from serving.errors import ArtifactError, ConfigurationError, ServingError, encodable
from serving.objects import repository
from serving.objects.archive import Archives
from serving.objects.pbtxt import TritonModel
from serving.objects.repository import Found
from serving.objects.watch import MOST_FILES, Fingerprint, Place, fingerprint


class Entry(msgspec.Struct, frozen=True):
    """One model on disk: `found` is what it holds, or `error` says why that cannot be told."""

    place: Place
    files: Fingerprint
    name: str
    found: Found | None
    error: ServingError | None

    @property
    def is_model(self) -> bool:
        """False for a file of a repository that is something else."""
        return self.found is not None or self.error is not None


class Catalogue:
    """The places where models are, each read when its files have changed. Its methods block: they run on a thread.

    `watched`: files may change, so each model's are listed; else they never are.
    """

    def __init__(
        self, models: Sequence[str], repositories: Sequence[Path], archives: Archives, *, watched: bool
    ) -> None:
        given = [repository.given(text) for text in models]
        self.given = tuple(Place(path.absolute(), name) for path, name in given)
        self._repositories = tuple(path.absolute() for path in repositories)
        self._archives = archives
        self._watched = watched

    def scan(self) -> dict[Place, Fingerprint]:
        """All that is there, told by `stat` alone. Raises `ArtifactError` where a repository cannot be read."""
        places = list(self.given)
        for directory in self._repositories:
            places += [Place(path) for path in sorted(repository.entries(directory))]
        return {place: fingerprint(place.path) if self._watched else () for place in dict.fromkeys(places)}

    def read(self, place: Place, files: Fingerprint, override: TritonModel | None = None) -> Entry:
        """The model at the place; `override` are settings in place of its own."""
        try:
            if len(files) > MOST_FILES:
                raise ArtifactError(f"{place.path} holds more than {MOST_FILES} files, which no model does")
            wanted = place in self.given or repository.is_candidate(place.path)
            found = repository.look(place.path, place.name, self._archives, override) if wanted else None
        except ServingError as error:
            return Entry(place, files, _called(place), None, error)
        except OSError as error:
            why = ArtifactError(f"{place.path} cannot be read: {error.strerror or error}")
            return Entry(place, files, _called(place), None, why)
        return Entry(place, files, found.name if found else "", found, None)

    def read_all(self) -> dict[Place, Entry]:
        """Everything, for the first time. Raises `ArtifactError` where a repository is none."""
        for directory in self._repositories:
            repository.check_repository(directory)
        return {place: self.read(place, files) for place, files in self.scan().items()}


def _called(place: Place) -> str:
    """What a model that cannot be read goes by; a path may hold bytes that are no text."""
    return place.name or encodable(repository.called(place.path))


def owners(
    entries: Mapping[Place, Entry], before: Mapping[str, Place]
) -> tuple[dict[str, Entry], list[tuple[Entry, ServingError]]]:
    """The entry that each name stands for, and each other one of that name with the error that it is.

    The one that had the name `before` keeps it, else the first has it.
    """
    owned: dict[str, Entry] = {}
    others: list[tuple[Entry, ServingError]] = []
    models = [entry for entry in entries.values() if entry.is_model]
    for entry in sorted(models, key=lambda entry: before.get(entry.name) != entry.place):
        other = owned.setdefault(entry.name, entry)
        if other is not entry:
            why = (
                f"two models are called '{entry.name}': {other.place.path} and {entry.place.path}; give one another "
                "name (--model NAME=PATH, or `name` in its model.yaml)"
            )
            others.append((entry, ConfigurationError(why)))
    return owned, others
