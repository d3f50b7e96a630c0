"""The calls that `serving samples` prints, run as printed."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from serving.cli.samples import samples as command
from serving.samples import fraud, speech
from tests.support.server import Server

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the machine has no curl")


@pytest.fixture(scope="module")
def calls(samples: Path, sample_server: Server) -> list[str]:
    """Each printed call as a shell script of its own."""
    output = CliRunner().invoke(command, [str(samples), "--url", sample_server.url]).output
    return output.split("these calls:")[1].strip().split("\n\n")


def run(call: str) -> str:
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", call], text=True, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_four_calls_are_printed(calls: list[str]) -> None:
    assert ["curl" in call for call in calls[:5]] == [True, True, False, True, False]


def test_json_by_curl(calls: list[str]) -> None:
    scores = [row["score"] for row in json.loads(run(calls[0]))["predictions"]]
    np.testing.assert_allclose(scores, fraud.ANSWERS, atol=fraud.TOLERANCE)


def test_csv_by_curl(calls: list[str]) -> None:
    np.testing.assert_allclose(list(map(float, run(calls[1]).split(","))), fraud.ANSWERS, atol=fraud.TOLERANCE)


def test_csv_by_boto3(calls: list[str]) -> None:
    np.testing.assert_allclose(list(map(float, run(calls[2]).split(","))), fraud.ANSWERS, atol=fraud.TOLERANCE)


@pytest.mark.parametrize("number", [3, 4])
def test_the_kind_of_a_file(calls: list[str], number: int) -> None:
    label, score = run(calls[number]).split()
    assert label == "yaml"
    assert float(score) > 0.95


@pytest.mark.skipif(importlib.util.find_spec("silero_vad") is None, reason=f"silero-vad is missing: {speech.INSTALL}")
def test_a_voice_is_heard_in_parts(calls: list[str]) -> None:
    events = run(calls[5]).strip().split("\n\n")
    heard = [json.loads(event.removeprefix("data: "))["output"] for event in events]
    assert len(heard) == 16
    assert max(heard) > 0.98
    np.testing.assert_allclose([float(line) for line in run(calls[6]).split()], heard, atol=0.05)


def curl(url: str, *arguments: str) -> str:
    return subprocess.run(
        ["curl", "-sS", *arguments, url], text=True, capture_output=True, check=True, timeout=60
    ).stdout


def test_a_body_that_curl_announces_with_expect(sample_server: Server, tmp_path: Path) -> None:
    # curl asks before it sends a body of over a megabyte.
    body = tmp_path / "body.json"
    rows = fraud.table(20_000, seed=3)[0].tolist()
    body.write_text(json.dumps({"instances": rows}))
    assert body.stat().st_size > 1024 * 1024
    answer = curl(
        f"{sample_server.url}/endpoints/fraud/invocations",
        "-H", "Content-Type: application/json", "-H", "Accept: application/json", "-H", "Expect: 100-continue",
        "--data-binary", f"@{body}",
    )  # fmt: skip
    assert len(json.loads(answer)["predictions"]) == len(rows)


def test_a_chunked_body_and_a_compressed_answer(sample_server: Server) -> None:
    rows = fraud.table(2_000, seed=3)[0].tolist()
    chunked = subprocess.run(
        ["curl", "-sS", "--compressed", "-H", "Content-Type: application/json", "-H", "Accept: application/json",
         "-H", "Transfer-Encoding: chunked", "--data-binary", "@-", f"{sample_server.url}/endpoints/fraud/invocations"],
        input=json.dumps(rows), text=True, capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    assert len(json.loads(chunked.stdout)["predictions"]) == len(rows)


def test_the_page_and_the_metrics(sample_server: Server) -> None:
    page = curl(sample_server.url + "/")
    assert "fraud" in page
    assert "file-type" in page
    assert "sagemaker_invocations_total" in curl(sample_server.url + "/metrics")
    assert curl(sample_server.url + "/ping", "-w", "%{http_code}") == "200"
