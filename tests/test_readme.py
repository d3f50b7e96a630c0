"""README's calls, executed as they stand but for the port."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import Server, running, wait_until

README = (Path(__file__).parent.parent / "README.md").read_text()
URL = "http://127.0.0.1:8080"


def block(language: str, containing: str) -> str:
    """The only fenced block of a language that contains a text."""
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if containing in text]
    assert len(found) == 1
    return str(found[0])


@pytest.mark.parametrize(
    ("command", "text", "scores"),
    [
        (["bash", "-c"], block("sh", "curl"), [0.9994, 0.0006]),
        ([sys.executable, "-c"], block("python", 'endpoint_url="'), [0.9994]),
    ],
    ids=["curl", "boto3"],
)
def test_the_calls(sample_server: Server, command: list[str], text: str, scores: list[float]) -> None:
    assert URL in text
    done = subprocess.run(
        [*command, text.replace(URL, sample_server.url)], capture_output=True, text=True, check=True, timeout=60
    )
    predictions = json.loads(done.stdout)["predictions"]
    assert [row["score"] for row in predictions] == pytest.approx(scores, abs=1e-4)


def test_the_deployment(samples: Path, tmp_path: Path) -> None:
    """The line for the shell and what a notebook runs after it, in a shell that has nothing set."""
    state_dir = tmp_path / "state"
    program = block("python", "create_endpoint(").replace(".samples", str(samples))
    shell = block("sh", "eval").replace(".venv/bin/serving", f"{sys.executable} -m serving.cli.main")
    assert "--state-dir .state" in shell
    (tmp_path / "notebook.py").write_text(program)
    with running("--with-s3", "--s3-port", "0", state_dir=state_dir) as server:
        wait_until(lambda: "ready\n" in server.output, 10, "the lines of a start")
        assert f"eval $(serving env --state-dir {state_dir})" in server.output
        done = subprocess.run(
            ["env", "-i", "bash", "-c", f"{shell.replace('.state', str(state_dir))}\n{sys.executable} notebook.py"],
            capture_output=True,
            text=True,
            check=True,
            timeout=90,
            cwd=tmp_path,
        )
    assert float(done.stdout) == pytest.approx(0.9994, abs=1e-4)


def test_what_it_names_is_there() -> None:
    root = Path(__file__).parent.parent
    for name in re.findall(r"\]\((docs/[^)]+)\)", README):
        assert (root / name).is_file(), name
