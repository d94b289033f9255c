"""The command line. Exit code 0: done; 1: the work failed; 2: the call is wrong. Errors are one line; `--debug` shows more."""

from __future__ import annotations

import logging
import sys

import typer

from lilliput.cli import compressing, look, sensitive, work  # noqa: F401 - commands register themselves
from lilliput.cli.options import app, called
from lilliput.errors import LilliputError

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    called.set(tuple(words))
    # It says with every fit how numbers are held, which the recipe says.
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    try:
        code = app(words, standalone_mode=False, prog_name="lilliput")
    except BaseException as error:
        if debug and not isinstance(error, SystemExit):
            raise
        code = _explain(error)
    if code == INTERRUPTED:  # the framework has caught it already
        code = _explain(KeyboardInterrupt())
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: BaseException) -> int:
    """Print an error as one line and return the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, typer.Exit):
        return int(error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return _complain("stopped. What was finished is stored: the same command goes on from there.", 1)
    if isinstance(error, LilliputError):
        return _complain(str(error), error.exit_code)
    if isinstance(error, typer.exceptions.TyperException):
        return _complain(f"{error.format_message()} See `lilliput --help`.", 2)
    if isinstance(error, OSError):
        return _complain(f"{error.filename or 'system'}: {error.strerror or error}", 1)
    return _complain(f"internal error: {type(error).__name__}: {error} (`--debug` shows where)"[:400], 1)


def _complain(line: str, code: int) -> int:
    sys.stderr.write(f"lilliput: {' '.join(line.split())}\n")
    return code
