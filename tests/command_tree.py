"""The tree of commands, built once for all command lines of a process, of which only tests have more than one."""

from functools import cache

import typer
import typer.testing

from sora_cli.cli import app

typer.main.get_command = typer.testing._get_command = cache(typer.main.get_command)  # type: ignore[attr-defined]
typer.main.get_command(app)
