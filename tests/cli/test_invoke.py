"""`serving invoke` against a real server: answers on stdout, errors on one line."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from serving.cli.invoke import invoke as command
from serving.samples import fraud
from tests.support.server import Server

BODY = json.dumps({"instances": fraud.ROWS})


def invoke(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(command, list(arguments), input=stdin)


def close(scores: object) -> bool:
    return bool(np.allclose(np.asarray(scores, float), fraud.ANSWERS, atol=fraud.TOLERANCE))


def test_json_from_an_argument_and_from_standard_input(sample_server: Server) -> None:
    for result in (
        invoke("fraud", "--url", sample_server.url, "--data", BODY, "--accept", "application/json"),
        invoke("fraud", "--url", f"{sample_server.url}/", "--accept", "application/json", stdin=BODY),
    ):
        assert result.exit_code == 0, result.output
        assert close([row["score"] for row in json.loads(result.output)["predictions"]])
        assert result.output.endswith("\n")


def test_files_by_their_suffix(sample_server: Server, tmp_path: Path) -> None:
    csv = tmp_path / "rows.csv"
    csv.write_text("\n".join(",".join(str(value) for value in row) for row in fraud.ROWS))
    result = invoke("fraud", "--url", sample_server.url, "--data", f"@{csv}", "--accept", "text/csv")
    assert result.exit_code == 0, result.output
    assert close(result.output.split(","))
    np.save(tmp_path / "rows.npy", np.array(fraud.ROWS, np.float32))
    result = invoke(
        "fraud", "--url", sample_server.url, "--data", f"@{tmp_path}/rows.npy", "--accept", "application/json"
    )
    assert result.exit_code == 0, result.output
    assert "0.99" in result.output


def test_open_inference(sample_server: Server) -> None:
    tensor = {"name": "features", "datatype": "FP32", "shape": [2, 4], "data": [*fraud.ROWS[0], *fraud.ROWS[1]]}
    result = invoke("fraud", "--v2", "--url", sample_server.url, "--data", json.dumps({"inputs": [tensor]}))
    assert result.exit_code == 0, result.output
    assert close(json.loads(result.output)["outputs"][0]["data"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fraud", "--data", "{"), "Error: 424 Failed Dependency: "),
        (
            ("fraud", "--data", '{"instances": [[1, 2]]}'),
            "Error: 424 Failed Dependency: Unable to evaluate payload provided: input 'features'",
        ),
        (("fraud", "--v2", "--data", "{"), "Error: 400 "),
        (("nobody", "--data", BODY), "nobody"),
        (("a/../b", "--data", BODY), "Error: 4"),
        (("fraud", "--data", BODY, "--content-type", "image/png"), "image/png"),
        (("fraud", "--data", BODY, "--accept", "image/png"), "image/png"),
    ],
)
def test_what_the_server_refuses_is_one_line(sample_server: Server, arguments: tuple[str, ...], message: str) -> None:
    result = invoke(*arguments, "--url", sample_server.url)
    assert result.exit_code == 1
    assert message in result.output
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "@/gone.json"), "/gone.json cannot be read: No such file or directory"),
        (("--url", "ftp://x"), "ftp://x is not a URL such as http://127.0.0.1:8080"),
        (("--url", "http://127.0.0.1:99999"), "is not a URL"),
        (("--url", "http://127.0.0.1:1"), "nothing listens at http://127.0.0.1:1; is `serving up` running there?"),
    ],
)
def test_what_cannot_be_asked_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    result = invoke("fraud", *arguments, stdin="{}")
    assert result.exit_code == 1
    assert message in result.output
    assert len(result.output.splitlines()) == 1


def test_a_server_that_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        result = invoke("fraud", "--url", url, "--timeout", "0.2", "--data", "{}")
    assert result.exit_code == 1
    assert f"{url} gave no answer within 0.2 s" in result.output
