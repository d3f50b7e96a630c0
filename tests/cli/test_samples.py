"""`serving samples`: makes both models, and prints calls that a shell understands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from serving.cli.samples import samples as command
from serving.samples import fraud
from tests.support.server import Server


def test_a_second_run_makes_nothing_and_prints_the_same_calls(samples: Path) -> None:
    first = CliRunner().invoke(command, [str(samples), "--url", "http://127.0.0.1:18080/"])
    assert first.exit_code == 0
    assert first.output.count("already there") == len(list(samples.iterdir()))
    assert " http://127.0.0.1:18080/endpoints/fraud/invocations " in first.output
    assert first.output.count('endpoint_url="http://127.0.0.1:18080"') == len(list(samples.iterdir()))
    assert CliRunner().invoke(command, [str(samples), "--url", "http://127.0.0.1:18080"]).output == first.output


def test_the_calls_are_shell(samples: Path, tmp_path: Path) -> None:
    spaced = tmp_path / "with a space"
    spaced.symlink_to(samples)
    output = CliRunner().invoke(command, [str(spaced)]).output
    calls = output.split("these calls:")[1]
    (tmp_path / "curl").write_text('#!/bin/sh\necho curl "$#"\n')
    (tmp_path / "curl").chmod(0o755)
    python = calls.split("\n")
    assert subprocess.run(["bash", "-n"], input=calls, text=True, check=False).returncode == 0
    # With a curl that only counts its arguments, no server is needed to see that each call reaches it whole.
    shell = "\n".join(line for line in python if line.startswith("curl"))
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(["bash"], input=shell, text=True, capture_output=True, check=True, env={"PATH": path})
    assert done.stdout.split("\n") == ["curl 9", "curl 7", ""]


def test_a_directory_that_cannot_be_made_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(command, [str(tmp_path / "file" / "below")])
    assert result.exit_code == 1
    assert str(tmp_path / "file") in result.output
    assert len(result.output.splitlines()) == 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="the machine has no curl")
def test_the_printed_calls_get_the_known_answers(samples: Path, sample_server: Server) -> None:
    output = CliRunner().invoke(command, [str(samples), "--url", sample_server.url]).output
    calls = output.split("these calls:")[1].partition("# is somebody speaking")[0]
    done = subprocess.run(["bash", "-e"], input=calls, text=True, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    by_curl, csv_by_curl, by_boto3, kind_by_curl, kind_by_boto3 = filter(None, done.stdout.split("\n"))
    scores = [row["score"] for row in json.loads(by_curl)["predictions"]]
    for found in (scores, csv_by_curl.split(","), by_boto3.split(",")):
        np.testing.assert_allclose(np.asarray(found, float), fraud.ANSWERS, atol=fraud.TOLERANCE)
    for kind in (kind_by_curl, kind_by_boto3):
        label, score = kind.split()
        assert label == "yaml"
        assert float(score) > 0.95
