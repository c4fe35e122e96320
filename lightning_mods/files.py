"""Files that are whole or not there."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(target: Path, suffix: str = ".partial") -> Iterator[Path]:
    """Give a path beside `target` to write to, and move it there when the block ends well.

    A kill, an error or a full disk in between leaves the file that was there. All attempts use one name: what a
    killed process left is overwritten, not gathered.

    Args:
        target: Where it belongs.
        suffix: What the name of the path beside it ends in, for a writer that looks at that.
    """
    partial = target.with_name(f".{target.name}{suffix}")
    try:
        yield partial
        partial.replace(target)
    except BaseException:
        with suppress(OSError):  # the first error is the one to report
            partial.unlink()
        raise
