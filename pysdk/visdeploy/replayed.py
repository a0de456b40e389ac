"""Exported files that appear only when they answer as their bundle does."""

from collections.abc import Callable
from pathlib import Path

from visdeploy.bundle import Bundle
from visdeploy.errors import InputError
from visdeploy.report import Report
from visdeploy.verify import verify
from visdeploy.whole_file import whole_files


def write_replayed(
    bundle: Bundle, path: Path, write: Callable[[Path], None], progress: Callable[[str], None]
) -> Report:
    """Let `write` make a file, and what belongs beside it; put it in place once the golden images were replayed.

    Raises:
        InputError: The target cannot be written.
        CheckFailedError: The file answers differently; nothing is written.
    """
    try:
        with whole_files(path) as unproven:
            write(unproven)
            progress("replaying the golden images")
            report = verify(bundle, files=[unproven])
            report.require()
    except OSError as error:
        raise InputError(f"[export] out: cannot write {path} ({error.strerror})") from error
    return report
