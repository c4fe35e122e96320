"""Files that are whole or not there."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a path beside `target` to write to, and move it there when the block ends well.

    A kill, an error or a full disk in between leaves the file that was there. All attempts use one name: what a
    killed process left is overwritten, not gathered.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        yield partial
        partial.replace(target)
    except BaseException:
        with suppress(OSError):  # the first error is the one to report
            partial.unlink()
        raise
