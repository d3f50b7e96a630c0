"""`serving samples`: makes the sample models and prints the calls to paste."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from serving.errors import MissingExtra, ServingError


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, help="The server that the calls go to.")
def samples(directory: Path, url: str) -> None:
    """Makes the sample models in DIRECTORY, where they are not there yet, and prints the calls to paste."""
    # numpy takes longer to import than everything else that the other commands need.
    from serving.samples import file_type, fraud, speech

    try:
        for sample in (fraud, file_type):
            made = sample.make(directory)
            click.echo(f"{directory / sample.NAME}: {'made' if made else 'already there'}")
        with_speech = _make_speech(directory)
    except (ServingError, OSError) as error:
        raise click.ClickException(str(error)) from error
    url, python, example = url.rstrip("/"), _python(), shlex.quote(str(directory / file_type.NAME / "model.yaml"))
    click.echo(f"\nServed by `serving up --model-repository {shlex.quote(str(directory))}` they answer these calls:\n")
    click.echo(fraud.calls(url, python))
    click.echo(file_type.calls(url, python, example), nl=False)
    if with_speech:
        click.echo(f"\n{speech.calls(url, python)}", nl=False)


def _make_speech(directory: Path) -> bool:
    """Makes the one sample that needs a package which no extra brings; tells whether it is there."""
    from serving.samples import speech

    try:
        made = speech.make(directory)
    except MissingExtra as error:
        click.echo(f"{directory / speech.NAME}: left out; {error}")
        return False
    click.echo(f"{directory / speech.NAME}: {'made' if made else 'already there'}")
    return True


def _python() -> str:
    """This interpreter as one would type it here."""
    executable = Path(sys.executable)
    here = Path.cwd()
    return shlex.quote(str(executable.relative_to(here) if executable.is_relative_to(here) else executable))
