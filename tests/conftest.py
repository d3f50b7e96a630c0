"""Fixtures that any test may ask for: the sample models, real servers, and a PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import settings

from serving.errors import MissingExtra
from serving.samples import file_type, fraud, speech
from tests.support import server as support
from tests.support.postgres import database_url, postgres  # noqa: F401 - fixtures
from tests.support.s3 import S3
from tests.support.server import Server

# The same cases on every run, however slow the machine.
settings.register_profile("repeatable", deadline=None, derandomize=True)
# `make soak`: other cases on every run, and many.
settings.register_profile("long", deadline=None, max_examples=5_000)
settings.load_profile("repeatable")


class StartServer(Protocol):
    """Starts a real server with these arguments of `serving up`, and waits until it is ready."""

    def __call__(self, *arguments: str | Path, env: dict[str, str] | None = None) -> Server: ...


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with the samples in it, made once; `speech` where its package is installed."""
    directory = tmp_path_factory.mktemp("samples")
    fraud.make(directory)
    file_type.make(directory)
    with suppress(MissingExtra):
        speech.make(directory)
    return directory


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts as many servers as a test wants; each is ended after the test and must leave no process behind."""
    with ExitStack() as stack:
        count = 0

        def start(*arguments: str | Path, env: dict[str, str] | None = None) -> Server:
            nonlocal count
            count += 1
            return stack.enter_context(support.running(*arguments, state_dir=tmp_path / f"state-{count}", env=env))

        yield start


@pytest.fixture(scope="session")
def sample_server(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server of both samples that all tests share; they must leave it as they found it."""
    state_dir = tmp_path_factory.mktemp("sample-server") / "state"
    with support.running("--model-repository", samples, state_dir=state_dir) as server:
        yield server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """One S3 that all tests share; each takes buckets of its own."""
    with S3(tmp_path_factory.mktemp("s3")) as running:
        yield running
