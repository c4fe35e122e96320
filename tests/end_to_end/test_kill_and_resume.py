"""kill -9 at any moment, the same command with `--ckpt_path=last`: the weights are those of the uninterrupted run."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import warm
from commands import TIMEOUT, argv, environment, start_warm, succeed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# A kill and a resume is a process start each; on a busy machine that takes a while.
pytestmark = pytest.mark.timeout(900)

EPOCHS = 6
FIT = (
    *("--data.path=digits", "--data.batch_size=4", f"--trainer.max_epochs={EPOCHS}"),
    *("--model.hidden_sizes=[32,32]", "--model.dropout=0.2"),
)
PLATEAU = ("--lr_scheduler=ReduceLROnPlateau", "--lr_scheduler.monitor=val_loss", "--lr_scheduler.patience=0")
STEPPED = (
    *("--optimizer=SGD", "--optimizer.lr=0.03", "--optimizer.momentum=0.9"),
    *("--lr_scheduler=StepLR", "--lr_scheduler.step_size=2"),
)
ENSEMBLE = ("--ensemble=3",)
# The user's own checkpoint, written in the middle of an epoch (314 steps): 6 * 314 = 1884 = 12 * 157.
IN_MID_EPOCH = (
    *("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=157"),
    *("--trainer.callbacks.save_last=true", "--data.batch_size=4"),
)


def _newest(folder, pattern):
    """When the newest file of that name below `folder` was written, or None."""
    times = [path.stat().st_mtime_ns for path in Path(folder).glob(f"lightning_logs/*/checkpoints/{pattern}")]
    return max(times, default=None)


def _killed(folder, flags, moment):
    """Start the fit and kill it; whether the kill came before it ended by itself.

    Args:
        folder: Where it runs.
        flags: All of its flags.
        moment: Called with the process; returns when it is to be killed.
    """
    log = folder / f"log{len(list(folder.glob('log*')))}"
    process = start_warm("fit", *flags, cwd=folder, out=log, err=log)
    try:
        moment(process)
    finally:
        process.kill()
        over = warm.ended(process, TIMEOUT)
    assert over
    assert process.exitcode in (0, -signal.SIGKILL), log.read_text()
    return process.exitcode != 0


def _after_start(seconds):
    """Kill so many seconds after the start: while the table is read, or the first epochs run."""
    return lambda process: time.sleep(seconds)


def _after_checkpoint(folder, seconds, over=lambda process: warm.ended(process, 0)):
    """Kill so many seconds after the first checkpoint that this process writes, or when it is `over`."""
    before = _newest(folder, "last*.ckpt")

    def wait(process):
        end = time.monotonic() + TIMEOUT
        while _newest(folder, "last*.ckpt") == before and not over(process):
            assert time.monotonic() < end, "no checkpoint was written"
            time.sleep(0.005)
        time.sleep(seconds)

    return wait


def _load(folder, name):
    runs = sorted(Path(folder).glob(f"lightning_logs/version_*/checkpoints/{name}"), key=lambda p: p.stat().st_mtime_ns)
    return torch.load(runs[-1], weights_only=True)


def _same(a, b, where=""):
    """Whether two nests of tensors and plain values are the same, bit for bit; says where they are not."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            _same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            _same(one, other, f"{where}[{i}]")
    else:
        assert a == b, f"{where}: {a} is not {b}"


def _same_training(whole, resumed):
    for key in ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers"):
        _same(whole[key], resumed[key], key)


def _curve(folder, tag):
    runs = sorted(Path(folder).glob("lightning_logs/version_*"), key=lambda p: int(p.name.partition("_")[2]))
    events = EventAccumulator(str(runs[-1])).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


@pytest.mark.parametrize(
    ("flags", "seed"), [(PLATEAU, 1), (STEPPED, 2), (ENSEMBLE, 4)], ids=["plateau", "stepped", "ensemble"]
)
def test_a_fit_killed_again_and_again_ends_with_the_weights_of_one_left_alone(flags, seed, tmp_path):
    draw = random.Random(seed)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    root = ("--trainer.default_root_dir=.",)
    succeed("fit", *FIT, *flags, *root, cwd=whole)
    again = (*FIT, *flags, *root, "--ckpt_path=last")

    kills = 0
    # In the start, in the first epoch, then in whatever epoch the resumed run is.
    kills += _killed(killed, (*FIT, *flags, *root), _after_start(draw.uniform(0.1, 1.5)))
    kills += _killed(killed, again, _after_checkpoint(killed, draw.uniform(0, 0.3)))
    kills += _killed(killed, again, _after_start(draw.uniform(0.1, 1.5)))
    kills += _killed(killed, again, _after_checkpoint(killed, draw.uniform(0.2, 1.0)))
    kills += _killed(killed, again, _after_checkpoint(killed, draw.uniform(0.2, 1.0)))
    assert kills >= 4
    succeed("fit", *again, cwd=killed)

    for name in ("last.ckpt", "best.ckpt"):
        _same_training(_load(whole, name), _load(killed, name))
    for tag in ("train_loss", "val_loss", "lr"):
        assert _curve(whole, tag) == _curve(killed, tag), tag


def test_a_checkpoint_in_the_middle_of_an_epoch_resumes_to_the_same_weights(tmp_path):
    draw = random.Random(3)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    succeed("fit", *FIT, *IN_MID_EPOCH, cwd=whole)
    again = (*FIT, *IN_MID_EPOCH, "--ckpt_path=last")
    kills = sum(_killed(killed, again, _after_checkpoint(killed, draw.uniform(0, 0.4))) for _ in range(3))
    assert kills >= 2
    succeed("fit", *again, cwd=killed)
    _same_training(_load(whole, "last.ckpt"), _load(killed, "last.ckpt"))


@pytest.mark.skipif(not hasattr(os, "kill"), reason="needs signals")
def test_a_fit_stopped_by_ctrl_c_says_how_to_go_on_and_does(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
    succeed("fit", *FIT, cwd=whole)
    process = subprocess.Popen(
        # A shell starts what it puts into the background with Ctrl-C ignored, and so would we have inherited it.
        ["env", "--default-signal=INT", *argv("fit", *FIT)],
        cwd=stopped,
        env=environment(stopped),
        stderr=subprocess.PIPE,
        text=True,
    )
    _after_checkpoint(stopped, 0.3, lambda process: process.poll() is not None)(process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=TIMEOUT)
    assert process.returncode not in (0, 2)
    assert "--ckpt_path=last" in said
    assert "Traceback" not in said
    succeed("fit", *FIT, "--ckpt_path=last", cwd=stopped)
    _same_training(_load(whole, "last.ckpt"), _load(stopped, "last.ckpt"))
