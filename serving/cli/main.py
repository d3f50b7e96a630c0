"""The `serving` command."""

from __future__ import annotations

import sys
from typing import ClassVar

import click

import serving
from serving.errors import ServingError


class Commands(click.Group):
    """Subcommands, imported only when called: `serving up` needs none of the others' libraries."""

    _modules: ClassVar = {
        name: name
        for name in (
            "up",
            "invoke",
            "samples",
            "check",
            "deploy",
            "endpoints",
            "models",
            "logs",
            "delete",
            "env",
        )
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of help."""
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in self._modules:
            return None
        module = __import__(f"serving.cli.{self._modules[cmd_name]}", fromlist=[cmd_name])
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(serving.__version__, prog_name="serving")
def commands() -> None:
    """Serve models over SageMaker's inference contracts and the Open Inference Protocol."""


def main() -> None:
    """Runs the command line; a fault of the operator's is one line and exit code 1."""
    try:
        commands(standalone_mode=False)
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and not isinstance(error, click.exceptions.NoArgsIsHelpError):
            called = error.ctx.command_path if error.ctx else "serving"
            click.echo(f"{called}: {error.format_message()} ({called} --help tells more)", err=True)
        else:
            error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except ServingError as error:
        click.echo(f"serving: {error.message}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
