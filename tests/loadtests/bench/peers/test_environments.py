"""Environments are made once for each set of requirements, and say why when they cannot be made."""

from pathlib import Path

import pytest

from loadtests.bench.peers.environments import CannotInstall, environment, version


def test_an_environment_with_the_same_requirements_is_kept(tmp_path: Path) -> None:
    requirements = tmp_path / "some.txt"
    requirements.write_text("some==1.2\nother==3\n")
    home = tmp_path / "peers" / "some"
    home.mkdir(parents=True)
    (home / "installed.txt").write_text("some==1.2\nother==3\n")
    (home / "kept").touch()
    assert environment(requirements, tmp_path / "peers") == home
    assert (home / "kept").exists()
    assert version(requirements) == "1.2"


def test_what_cannot_be_installed_says_why(tmp_path: Path) -> None:
    requirements = tmp_path / "broken.txt"
    requirements.write_text("./no-such-folder\n")
    with pytest.raises(CannotInstall, match=r"broken could not be installed from broken.txt: .*no-such-folder"):
        environment(requirements, tmp_path / "peers")
    assert not (tmp_path / "peers" / "broken" / "installed.txt").exists()
