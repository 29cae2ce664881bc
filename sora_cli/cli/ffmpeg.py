"""`sora-cli ffmpeg ...`: the ffmpeg that sora-cli itself uses, for scripts on machines that have no other."""

import os
from typing import Annotated

import typer

from sora_cli import media
from sora_cli.errors import Failed

PASSED_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": ["--help"]}


def ffmpeg(
    words: Annotated[list[str] | None, typer.Argument(metavar="ARGUMENTS...", help="Arguments of ffmpeg.")] = None,
) -> None:
    """Run the ffmpeg that sora-cli uses: the one in SORA_FFMPEG, or the one installed with imageio-ffmpeg."""
    command = [media.ffmpeg(), *(words or [])]
    try:
        os.execvp(command[0], command)  # signals and pipes are those of ffmpeg from here on
    except OSError as error:
        raise Failed(f"ffmpeg does not start ({command[0]}): {error.strerror}") from error
