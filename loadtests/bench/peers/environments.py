"""Makes the environment of each peer on demand, from the exact versions in its requirements file."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

INSTALL_LIMIT_S = 600


class CannotInstall(Exception):
    """A peer's environment could not be made; the message says why."""


def environment(requirements: Path, folder: Path) -> Path:
    """The environment for a requirements file, in `folder`, made when missing or changed. Raises `CannotInstall`."""
    name = requirements.stem
    home = (folder / name).resolve()
    wanted = requirements.read_text()
    stamp = home / "installed.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return home
    try:
        venv.create(home, clear=True, with_pip=True)
        command = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run(
            [*command, "-r", str(requirements)], check=True, capture_output=True, text=True, timeout=INSTALL_LIMIT_S
        )
    except subprocess.CalledProcessError as error:
        reason = (str(error.stderr or error.stdout).strip().splitlines() or ["it printed nothing"])[-1]
        raise CannotInstall(f"{name} could not be installed from {requirements.name}: {reason}") from error
    except subprocess.TimeoutExpired as error:
        raise CannotInstall(f"{name} was not installed within {INSTALL_LIMIT_S} s") from error
    stamp.write_text(wanted)
    return home


def version(requirements: Path) -> str:
    """The version of the peer itself, which its requirements file names first."""
    return requirements.read_text().splitlines()[0].partition("==")[2]
