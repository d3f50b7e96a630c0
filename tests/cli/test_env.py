"""`serving env`: what any shell takes from it, and what it leaves as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serving.cli.env import env as command
from serving.processes import presence
from serving.processes.presence import Presence

PLAIN = Presence(pid=os.getpid(), url="http://127.0.0.1:8081", region="eu-west-1", account_id="123456789012")
WITH_S3 = Presence(
    pid=os.getpid(),
    url="http://127.0.0.1:8081",
    region="eu-west-1",
    account_id="123456789012",
    access_key_id="key'; touch pwned; '",
    secret_access_key='se$(id)cret "quoted" \\ `x`',
    s3_endpoint_url="http://127.0.0.1:8333",
)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No keys, no servers of the person who runs the tests."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "SERVING_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def env(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def values(*arguments: str | Path) -> dict[str, str | None]:
    result = env(*arguments, "--shell", "json")
    assert result.exit_code == 0, result.output
    found: dict[str, str | None] = json.loads(result.stdout)
    return found


def test_a_server_with_its_own_s3(tmp_path: Path) -> None:
    presence.write(tmp_path, WITH_S3)
    assert values("--state-dir", tmp_path) == {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:8081",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:8333",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": WITH_S3.access_key_id,
        "AWS_SECRET_ACCESS_KEY": WITH_S3.secret_access_key,
    }


@pytest.mark.parametrize("shell", ["sh", "bash", "dash"])
@pytest.mark.parametrize("quoted", [False, True])
def test_a_shell_takes_every_value_as_it_is(tmp_path: Path, shell: str, quoted: bool) -> None:
    presence.write(tmp_path, WITH_S3)
    serving = f"{sys.executable} -m serving.cli.main env --state-dir {tmp_path}"
    call = f'eval "$({serving})"' if quoted else f"eval $({serving})"
    script = f"{call}; {sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    environ = {**os.environ, "AWS_SESSION_TOKEN": "of other keys"}
    done = subprocess.run([shell, "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True)
    taken = json.loads(done.stdout)
    expected = values("--state-dir", tmp_path)
    assert {name: taken.get(name) for name in expected} == expected
    assert "AWS_SESSION_TOKEN" not in taken
    assert not (tmp_path / "pwned").exists()


def test_fish_quotes(tmp_path: Path) -> None:
    presence.write(tmp_path, WITH_S3)
    lines = env("--state-dir", tmp_path, "--shell", "fish").stdout.splitlines()
    assert lines[0] == "set -gx AWS_ENDPOINT_URL 'http://127.0.0.1:8081';"
    assert lines[-2] == r"set -gx AWS_ACCESS_KEY_ID 'key\'; touch pwned; \'';"
    assert lines[-1] == r"""set -gx AWS_SECRET_ACCESS_KEY 'se$(id)cret "quoted" \\ `x`';"""


def test_without_keys_there_are_placeholders_and_s3_is_awss(tmp_path: Path) -> None:
    presence.write(tmp_path, PLAIN)
    found = values("--state-dir", tmp_path)
    assert found["AWS_ACCESS_KEY_ID"] == found["AWS_SECRET_ACCESS_KEY"] == "serving"
    # Or S3 calls would go to AWS_ENDPOINT_URL, which is no S3.
    assert found["AWS_ENDPOINT_URL_S3"] == "https://s3.eu-west-1.amazonaws.com"


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"])
def test_the_environments_keys_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    presence.write(tmp_path, PLAIN)
    monkeypatch.setenv(name, "mine")
    assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} & set(
        values("--state-dir", tmp_path)
    )


def test_keys_in_a_file_stay(tmp_path: Path) -> None:
    presence.write(tmp_path, PLAIN)
    file = tmp_path / "home" / ".aws" / "credentials"
    file.parent.mkdir(parents=True)
    file.write_text("[default]\naws_access_key_id = mine\naws_secret_access_key = mine\n")
    assert "AWS_ACCESS_KEY_ID" not in values("--state-dir", tmp_path)


def test_the_environments_s3_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    presence.write(tmp_path, PLAIN)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000")
    assert values("--state-dir", tmp_path)["AWS_ENDPOINT_URL_S3"] == "http://minio:9000"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://other:9000/")
    assert values("--state-dir", tmp_path)["AWS_ENDPOINT_URL_S3"] == "http://other:9000"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", PLAIN.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", PLAIN.url)
    assert values("--state-dir", tmp_path)["AWS_ENDPOINT_URL_S3"] == "https://s3.eu-west-1.amazonaws.com"


def test_the_server_that_runs_here_is_meant_whatever_was_set_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    presence.write(tmp_path, WITH_S3)
    monkeypatch.setenv("SERVING_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9999")
    assert values()["AWS_ENDPOINT_URL"] == "http://127.0.0.1:8081"


def test_a_remote_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = values("--state-dir", tmp_path, "--url", "https://models.example:8443/")
    assert found["AWS_ENDPOINT_URL"] == "https://models.example:8443"
    assert found["AWS_REGION"] == "us-east-1"
    monkeypatch.setenv("AWS_REGION", "ap-south-1")
    assert values("--url", "https://models.example:8443")["AWS_DEFAULT_REGION"] == "ap-south-1"


@pytest.mark.parametrize(
    ("listens", "called"), [("http://0.0.0.0:80", "http://127.0.0.1:80"), ("http://[::]:80", "http://[::1]:80")]
)
def test_a_server_on_all_addresses_is_called_on_loopback(tmp_path: Path, listens: str, called: str) -> None:
    presence.write(tmp_path, Presence(pid=os.getpid(), url=listens, region="us-east-1", account_id="123456789012"))
    assert values("--state-dir", tmp_path)["AWS_ENDPOINT_URL"] == called


def test_no_server(tmp_path: Path) -> None:
    result = env("--state-dir", tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: no server runs on the state directory {tmp_path}; start one with `serving up`, or name one with "
        "--state-dir or --url\n"
    )


@pytest.mark.parametrize("url", ["", "x", "ftp://x", "http://", "http://a:99999", "http://a:b", "http://a?b=c"])
def test_what_is_no_url(url: str) -> None:
    result = env("--url", url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is not a URL" in result.stderr
    assert len(result.stderr.splitlines()) == 1
