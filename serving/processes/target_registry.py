"""The models that `POST /models` named: what each is called, and where its files are.

A name is taken from the moment it is asked for, so that it is loaded once; it is listed once its model is loaded.
Source: SageMaker's contract for multi-model containers.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import Final, NamedTuple

from serving.errors import InsufficientMemory, ModelExists, TargetMissing

MOST: Final = 100_000
"""Names at a time."""

PAGE: Final = 100
"""Models on a page, where nothing else is asked for."""

MOST_ON_PAGE: Final = 10_000


class Named(NamedTuple):
    """One model."""

    name: str
    url: str


class Page(NamedTuple):
    """Some of the models, in the order of their names, and what asks for those that follow, or ""."""

    models: list[Named]
    next_token: str


class TargetRegistry:
    """Names and URLs."""

    def __init__(self) -> None:
        self._urls: dict[str, str] = {}
        self._loaded: list[str] = []

    def add(self, name: str, url: str) -> None:
        """Takes a name. Raises `ModelExists`, and `InsufficientMemory` where there are as many as there may be."""
        if name in self._urls:
            what = "loaded already" if self.loaded(name) else "being loaded or unloaded"
            raise ModelExists(f"model '{name}' is {what}")
        if len(self._urls) >= MOST:
            raise InsufficientMemory(f"{len(self._urls)} models are loaded, and no more may be; unload others")
        self._urls[name] = url

    def settle(self, name: str) -> None:
        """A name that was taken is loaded."""
        insort(self._loaded, name)

    def withhold(self, name: str) -> Named:
        """The model is about to be unloaded and not listed any more. Raises `TargetMissing`."""
        found = self.get(name)
        self._loaded.remove(name)
        return found

    def forget(self, name: str) -> None:
        """The name is free."""
        del self._urls[name]

    def loaded(self, name: str) -> bool:
        """Whether a model of that name is there."""
        place = bisect_right(self._loaded, name)
        return place > 0 and self._loaded[place - 1] == name

    def get(self, name: str) -> Named:
        """A model that is loaded. Raises `TargetMissing`."""
        if not self.loaded(name):
            raise missing(name)
        return Named(name, self._urls[name])

    def url(self, name: str) -> str:
        """Where the files of a model are, loaded or being loaded. Raises `TargetMissing`."""
        if name not in self._urls:
            raise missing(name)
        return self._urls[name]

    def page(self, token: str = "", limit: int = PAGE) -> Page:
        """The models that follow on the page that gave `token`; what was added or removed since costs no other its place."""
        start = bisect_right(self._loaded, token) if token else 0
        names = self._loaded[start : start + min(limit, MOST_ON_PAGE)]
        more = start + len(names) < len(self._loaded)
        return Page([Named(name, self._urls[name]) for name in names], names[-1] if more else "")

    def __len__(self) -> int:
        return len(self._loaded)

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded)


def missing(name: str) -> TargetMissing:
    """The error of a name that no model has."""
    # Believed by nobody: it may be added at any moment, and asking again costs nothing.
    return TargetMissing(f"model '{name[:80]}' is not loaded", retry_after_s=0.0)
