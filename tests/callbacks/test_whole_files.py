"""Whole files are written so that no kill, no race and no strange target spoils one."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from callbacks.host.files import replacing


def test_an_error_while_writing_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("good")

    def fail(partial):
        partial.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        fail(partial)
    assert path.read_text() == "good"
    assert list(tmp_path.iterdir()) == [path]


def test_two_that_write_one_file_at_once_leave_the_whole_of_the_later(tmp_path):
    path = tmp_path / "a.txt"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        second.write_text("second")
        first.write_text("first")
        assert first.exists()
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(tmp_path):
    path = tmp_path / "a[1].txt"
    code = (
        "import os, sys, pathlib\nfrom callbacks.host.files import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as partial:\n    partial.write_text('half')\n"
        "    os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=60)
    assert len(list(tmp_path.iterdir())) == 1
    with replacing(path) as first:
        first.write_text("first")
        assert list(tmp_path.iterdir()) == [first]
        with replacing(path) as second:
            second.write_text("second")
        assert first.exists()
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_the_file_behind_it_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    real, link = tmp_path / "there" / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    with replacing(link) as partial:
        partial.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert real.stat().st_mode & 0o777 == 0o640


def test_a_pipe_is_written_into(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with replacing(pipe) as partial:
        partial.write_text("through")
    reader.join(10)
    assert read == ["through"]
    assert pipe.is_fifo()


def test_the_standard_output_is_written_into_wherever_it_goes(tmp_path):
    code = (
        "import pathlib\nfrom callbacks.host.files import replacing\nprint('before', flush=True)\n"
        "with replacing(pathlib.Path('/dev/stdout')) as partial:\n    partial.write_text('written')"
    )
    out = tmp_path / "out.txt"
    with out.open("w") as file:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=file, timeout=60)
    assert out.read_text() == "before\nwritten"
    assert Path("/dev/stdout").is_symlink()


def test_a_full_device_says_so():
    with pytest.raises(OSError, match="No space left"), replacing(Path("/dev/full")) as partial:
        partial.write_bytes(bytes(100_000))
    assert Path("/dev/full").is_char_device()
