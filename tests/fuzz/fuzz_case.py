"""One case of the fuzzing: files and a command line, its run in a child with limits, and what was wrong."""

import base64
import json
import os
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import zlib
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import import_module
from pathlib import Path

import warm

SECONDS, MEMORY = 30, 4 << 30
CORPUS = Path(__file__).parent / "corpus"
GOOD = b"what was there before\n"


@dataclass(frozen=True)
class Case:
    """A verb with its flags in a folder that holds `files`, and links to what a good run has left (`beside`)."""

    verb: str
    args: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    beside: tuple[str, ...] = ()  # names of `fuzz_seeds.good_run`

    def to_json(self):
        """Return the case as text that `from_json` reads."""
        files = {name: base64.b64encode(zlib.compress(data, 9)).decode() for name, data in self.files.items()}
        # Lone surrogates stand for the bytes of a name that is no UTF-8; JSON writes them as escapes.
        return json.dumps({"verb": self.verb, "args": self.args, "beside": self.beside, "files": files}, indent=1)

    @classmethod
    def from_json(cls, text):
        """Return the case that was written as `text`."""
        read = json.loads(text)
        files = {name: zlib.decompress(base64.b64decode(data)) for name, data in read["files"].items()}
        return cls(read["verb"], tuple(read["args"]), files, tuple(read["beside"]))

    def keep(self):
        """Add the case to the corpus, which every later run begins with; return its path."""
        text = self.to_json()
        path = CORPUS / f"{self.verb}-{sha256(text.encode()).hexdigest()[:12]}.json"
        path.write_text(text + "\n", encoding="utf-8")
        return path


@dataclass(frozen=True)
class Outcome:
    """How a case ended."""

    code: int | None  # None where it was ended after `SECONDS`; negative for a signal
    out: str
    err: str
    seconds: float
    kept: bool  # what was there before is there still
    drafts: tuple[str, ...]  # names of files that are half written


def run(case, good):
    """Run a case in a child; `good` is the folder of the good run."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place, "here")
        folder.mkdir()
        for name in case.beside:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(good / name, folder / name)
        for name, data in case.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        (folder / "out.csv").write_bytes(GOOD)
        # The texts of `--help` are made once, not in every child.
        (Path(place) / ".cache" / "lightning_mods").mkdir(parents=True)
        (good / "help").mkdir(exist_ok=True)
        (Path(place) / ".cache" / "lightning_mods" / "help").symlink_to(good / "help")
        env = {"PATH": os.environ["PATH"], "HOME": place, "OMP_NUM_THREADS": "1", "TMPDIR": place, "COLUMNS": "120"}
        out, err = Path(place, "out"), Path(place, "err")
        start = time.monotonic()
        child = warm.start(_in_child, case.verb, list(case.args), str(folder), env, str(out), str(err))
        if not warm.ended(child, SECONDS):
            child.kill()
            child.join()
        seconds = time.monotonic() - start
        texts = [p.read_bytes().decode("utf-8", "backslashreplace") if p.exists() else "" for p in (out, err)]
        drafts = [p.name for p in Path(place).rglob(".*") if p.name.endswith(".partial") or p.name.startswith(".draft")]
        kept = (folder / "out.csv").is_file() and (folder / "out.csv").read_bytes() == GOOD
        code = None if seconds >= SECONDS else child.exitcode
        return Outcome(code, *texts, seconds, kept, tuple(drafts))


def _in_child(verb, args, folder, env, out, err):
    warm.become(folder, env, out, err)
    here = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10
    resource.setrlimit(resource.RLIMIT_AS, (here + MEMORY, here + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    code = 1
    try:
        import_module(f"lightning_mods.{verb}").main(args)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:  # noqa: BLE001  # it is what the interpreter would print
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]|\x1b(?!\[)")


def faults(case, outcome):
    """Return what is wrong with an end; nothing where it is a result, or one line that names a file or a flag."""
    found = []
    if outcome.code is None:
        found.append(f"not ended after {SECONDS} s")
    elif outcome.code < 0:
        found.append(f"killed by signal {-outcome.code}")
    elif outcome.code not in (0, 2):
        found.append(f"exit code {outcome.code}")
    if "Traceback (most recent call last)" in outcome.err:
        found.append("traceback")
    if _CONTROL.search(outcome.err + outcome.out):
        found.append("control characters on the terminal")
    if outcome.code == 2:
        lines = [line for line in outcome.err.splitlines() if line.startswith(f"{case.verb}: ")]
        logs = len(case.files) if case.verb == "diagnose" else 1
        if not 1 <= len(lines) <= max(logs, 1):
            found.append(f"{len(lines)} lines of error")
        found += [f"names no file and no flag: {line}" for line in lines if not _names_something(case, line)]
    if outcome.code != 0 and not outcome.kept:
        found.append("what was there before is gone")
    if outcome.drafts:
        found.append(f"half-written {', '.join(outcome.drafts)}")
    return found


def _names_something(case, line):
    names = [*case.files, *case.beside, *(arg.partition("=")[2] for arg in case.args if "=" in arg)]
    return "--" in line or any(name and (name in line or Path(name).name in line) for name in names)


def place_of(outcome):
    """Return where an end came from, to tell faults apart: the last of our own lines in a traceback, and its error."""
    frames = re.findall(r'File ".*?/((?:callbacks|datamodules|lightning_mods)/[^"]+)", line (\d+)', outcome.err)
    last = (outcome.err.strip().splitlines() or [""])[-1]
    alike = re.sub(r"'.*?'|[-\d.]+|\S*/\S*", "…", last)[:120]  # without what differs from case to case
    return f"{':'.join(frames[-1]) if frames else '-'} {alike}"
