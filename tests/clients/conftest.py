"""Runs notebooks with stock SageMaker SDKs, each SDK in an environment of its own, against one real server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import notebook as support
from tests.support.notebook import Models, Notebook, Rows

ENVIRONMENTS = Path(__file__).parents[2] / ".clients"
ENDS_WITHIN_S = 120.0

ALONE = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
"""Keeps the SDKs, which report their use to AWS, to this machine; port 9 throws away whatever comes, if it is open."""

Run = Callable[..., dict[str, Any]]
"""Runs SDK/NAME.py with these archives (names of `models`, or files), and gives what it reports."""


@pytest.fixture(scope="session")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """A server that all notebooks share; each takes names of its own and leaves no endpoint behind."""
    with support.opened(tmp_path_factory.mktemp("notebook") / "state") as opened:
        yield opened


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models.make(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def rows() -> Rows:
    return support.rows()


@pytest.fixture
def run(request: pytest.FixtureRequest, models: Models, rows: Rows, tmp_path: Path) -> Run:
    """Runs a notebook in a clean environment: a home of its own, and nothing set but what `serving env` says."""

    def call(sdk: str, name: str, *archives: str | Path) -> dict[str, Any]:
        python = ENVIRONMENTS / sdk / "bin" / "python"
        if not python.exists():
            pytest.skip(f"the environment .clients/{sdk} is missing: run `make test-clients`")
        # Only now: a skipped test starts no server.
        notebook: Notebook = request.getfixturevalue("notebook")
        report, asked, home = tmp_path / "report.json", tmp_path / "rows.npy", tmp_path / "home"
        home.mkdir()
        np.save(asked, rows)
        script = Path(__file__).parent / sdk / f"{name}.py"
        files = (each if isinstance(each, Path) else models.archive(each) for each in archives)
        command = [python, "-W", "ignore", script, *files, asked, report]
        code, printed = _bounded(
            list(map(str, command)),
            tmp_path,
            {"HOME": str(home), "PATH": os.defpath, "LC_ALL": "C.UTF-8", **ALONE, **notebook.variables},
        )
        assert code == 0, f"{sdk}/{name}.py ended with {code}:\n{printed}\nand the server:\n{notebook.server.output}"
        found: dict[str, Any] = json.loads(report.read_text())
        return found

    return call


def _bounded(command: list[str], directory: Path, variables: dict[str, str]) -> tuple[int | str, str]:
    """Runs a program in a process group of its own; gives its exit status and all that it printed."""
    log = directory / "printed"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code: int | str
        try:
            code = process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            code = f"no end within {ENDS_WITHIN_S} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return code, log.read_text(errors="replace")


@pytest.fixture
def answers(models: Models, rows: Rows) -> Callable[[str], Rows]:
    """What a model's own library answers."""
    return lambda name: models.answer(name, rows)
