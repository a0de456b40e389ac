"""The command line itself: its root, and what becomes of errors."""

import signal
import sys
from typing import Annotated

import typer

from visdeploy import __version__
from visdeploy.errors import CheckFailedError, MissingDependencyError, VisdeployError
from visdeploy.torch_library import cmake_folder

app = typer.Typer(
    name="visdeploy",
    help="From PyTorch training to production throughput in one file that proves its answers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; every expected failure is one sentence and its exit code."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    # By default it would end the process where it stands, and what is half written would stay.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        app(arguments)
    except (VisdeployError, OSError) as error:
        if debug:
            raise
        print(f"error: {_sentence(error)}", file=sys.stderr)
        sys.exit(1 if isinstance(error, CheckFailedError) else 3 if isinstance(error, MissingDependencyError) else 2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    cmake_dir: Annotated[
        bool, typer.Option("--cmake-dir", help="Print the folder that find_package(visdeploy) of CMake looks for.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if version:
        print(f"visdeploy {__version__}")
        raise typer.Exit
    if cmake_dir:
        print(cmake_folder())
        raise typer.Exit


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and not isinstance(error, VisdeployError):
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
