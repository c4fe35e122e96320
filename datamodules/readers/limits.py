"""What a file may ask of this machine: memory, and how much may come out of a packed one."""

import os
from contextlib import suppress
from pathlib import Path

from datamodules.errors import DataError

MAX_EXPANSION = 100.0  # text shrinks to a tenth, a few columns of zeros to a fiftieth, a bomb to a thousandth
_HARMLESS = 2**28  # unpacked bytes that no machine minds


def available_memory() -> int:
    """Return the bytes of memory that this process can have now; all there is where the system does not say.

    A limit on the address space (`ulimit -v`) or of a container counts too.
    """
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError):
        found += _kilobytes("/proc/meminfo", "MemAvailable:")
    with suppress(OSError, ImportError):
        import resource  # not on Windows

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        used = _kilobytes("/proc/self/status", "VmSize:")
        found += [most - used[0]] if used and most != resource.RLIM_INFINITY else []
    with suppress(OSError, ValueError):  # "max" is no number
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, min(found))


def _kilobytes(file: str, name: str) -> list[int]:
    lines = Path(file).read_text().splitlines()
    return [int(line.split()[1]) * 1024 for line in lines if line.startswith(name)]


def check_memory(label: str, needed: float, instead: str) -> None:
    """Raise a DataError if `needed` bytes are more than can be had, with what can be done `instead`."""
    free = available_memory()
    if needed > free:
        sizes = f"{needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"
        raise DataError(f"{label!r} would take about {sizes}; {instead}.")


def check_expansion(file: Path, unpacked: int, most: float) -> None:
    """Raise a DataError if a packed file unpacks to more than `most` times its size, unless that is little; 0: never.

    A few kilobytes can unpack to gigabytes.
    """
    packed = file.stat().st_size
    if most and unpacked > max(_HARMLESS, most * packed):
        sizes = f"has {packed:,} bytes and unpacks to more than {most:g} times as many"
        raise DataError(f"{str(file)!r} {sizes}; if you trust it, unpack it, or give --data.max_expansion=0.")
