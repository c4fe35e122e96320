"""Logs that nobody wrote: each ends in a verdict or in one line."""

import json
import os
import struct

import pytest

from lightning_mods.diagnose import main

HEADER = "epoch,step,train_loss,val_loss\n"
ROWS = "".join(f"{e},{e * 10},{1 / (e + 1)},{1.1 / (e + 1)}\n" for e in range(20))


def ends(path, *flags, capsys):
    """The exit code of `diagnose`, and what it wrote."""
    try:
        main([str(path), *flags])
        code = 0
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr()
    if code:
        assert code == 2
        assert len(said.err.splitlines()) == 1, said.err
        assert str(path) in said.err
    return code, said.out + said.err


CASES = {
    "a_number_of_5000_digits": '{"loss": [%s, 1], "val_loss": [1, 2]}' % ("9" * 5000),
    "a_whole_number_of_400_digits": '{"loss": [%s, 1], "val_loss": [1, 2]}' % ("9" * 400),
    "rows_numbered_by_5000_digits": '{"loss": {"%s": 1, "1": 2}, "val_loss": {"1": 1, "2": 2}}' % ("9" * 5000),
    "a_depth": "[" * 100_000,
    "a_tensor_that_never_ends": HEADER + "0,0,tensor(" + "a" * 100_000 + ",1\n" + ROWS,
    "epochs_far_apart": HEADER + ROWS + "1e18,1,1,1\n-1e18,2,1,1\n",
    "losses_whose_sum_is_too_large": HEADER + "".join(f"1,{i},1.7e308,1\n" for i in range(30)) + ROWS,
    "losses_that_are_none": HEADER + "".join(f"{e},{e},nan,inf\n" for e in range(20)),
    "100_000_columns_of_one_name": ",".join(["x"] * 100_000) + "\n" + ",".join(["1"] * 100_000) + "\n",
    "a_cell_of_a_megabyte": HEADER + ROWS + f"20,200,{'9' * 1_000_000},1\n",
    "a_quote_that_never_ends": HEADER + ROWS + '20,"' + "x\n" * 100_000,
    "one_name_of_control_characters": HEADER.replace("step", "\x1b[31mred") + ROWS,
}


@pytest.mark.parametrize("text", CASES.values(), ids=CASES)
def test_a_log_that_nobody_wrote_ends_in_a_verdict_or_a_line(tmp_path, capsys, text):
    (tmp_path / "log.csv").write_text(text)
    _, said = ends(tmp_path / "log.csv", capsys=capsys)
    assert "\x1b" not in said


def test_a_surrogate_in_a_name_is_written_as_its_escape(tmp_path, capsys):
    rows = [{"epoch": e, "\ud800": "x", "train_loss": 1 / (e + 1), "val_loss": 1.0} for e in range(20)]
    (tmp_path / "log.json").write_text(json.dumps(rows))
    code, said = ends(tmp_path / "log.json", "--val=\ud800", capsys=capsys)
    assert code == 2
    assert "\\ud800" in said


def test_a_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("callbacks.host.inputs._PATIENCE", 0.2)
    os.mkfifo(tmp_path / "log.csv")
    assert "Nothing came out of it" in ends(tmp_path / "log.csv", capsys=capsys)[1]


def test_of_a_device_without_end_a_part_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lightning_mods.diagnose.formats._MOST", 1_000_000)
    assert ends("/dev/zero", capsys=capsys)[0] == 2


def test_of_a_log_that_is_too_large_the_part_that_was_read_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lightning_mods.diagnose.formats._MOST", 2_000_000)
    rows = "".join(f"{i // 10000},{i},{1 / (i + 1)},{1 / (i + 1)}\n" for i in range(100_000))
    (tmp_path / "log.csv").write_text(HEADER + rows)
    code, said = ends(tmp_path / "log.csv", capsys=capsys)
    assert code == 0
    assert "Note: only the first 2 of 5 MB were read." in said


@pytest.mark.parametrize("damage", ["cut", "noise", "length"])
def test_a_damaged_event_file_is_read_as_far_as_it_goes(tmp_path, capsys, damage):
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path))
    for epoch in range(20):
        writer.add_scalar("train_loss", 1 / (epoch + 1), epoch)
        writer.add_scalar("val_loss", 1.1 / (epoch + 1), epoch)
    writer.close()
    file = next(tmp_path.glob("*tfevents*"))
    content = file.read_bytes()
    changed = {
        "cut": content[:-7],
        "noise": content + bytes(range(256)),
        "length": content + struct.pack("<Q", 1 << 62) + b"abcd",
    }
    file.write_bytes(changed[damage])
    code, said = ends(file, capsys=capsys)
    assert code == 0
    assert "val val_loss" in said
