"""The models that the front ends' tests ask, and a server of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import server as support
from tests.support.frontend_models import make_repository
from tests.support.server import Server


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All the models of `tests.support.frontend_models`."""
    return make_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the repository for one module of tests, with a home of its own; `/invocations` asks `linear`."""
    place = tmp_path_factory.mktemp("server")
    for name in ("home", "tmp"):
        (place / name).mkdir()
    env = {"HOME": str(place / "home"), "TMPDIR": str(place / "tmp")}
    arguments = ("--model-repository", repository, "--default-model", "linear")
    with support.running(*arguments, state_dir=place / "state", env=env) as running:
        yield running
