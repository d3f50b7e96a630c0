"""One server per transport, which all tests of the package share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.frontends.http2 import targets
from tests.frontends.http2.targets import TRANSPORTS, Target


@pytest.fixture(scope="package", params=TRANSPORTS)
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server of `echo`; it must end cleanly, whatever was done to it."""
    with targets.running(request.param, tmp_path_factory.mktemp("http2")) as running:
        yield running
