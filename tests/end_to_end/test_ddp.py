"""Two processes share the rows, and agree on weights and metrics."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import TIMEOUT, environment, write_table

HERE = Path(__file__).parent
ROWS = 401
FIT = (
    *("--data.path=table.csv", "--data.target=kind", "--data.batch_size=16"),
    *("--trainer.max_epochs=2", "--model.hidden_sizes=[8]"),
    *("--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.accelerator=cpu"),
    *("--trainer.callbacks+=watchers.RankRecorder", "--trainer.callbacks.folder=."),
)
STARTERS = {
    "lightning_starts_both": [sys.executable, "-m", "lightning_mods.fit"],
    "torchrun_starts_both": [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
        *("-m", "lightning_mods.fit"),
    ],
}


def _run(command, folder):
    """Run a command of several processes; one that hangs takes no signal but KILL."""
    guard = ["timeout", "-k", "5", str(TIMEOUT)]
    done = subprocess.run(
        [*guard, *command], cwd=folder, env=environment(folder, PYTHONPATH=_path()), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def _path():
    import os

    return os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="module", params=STARTERS.values(), ids=STARTERS.keys())
def ranks(request, tmp_path_factory):
    """What each of two ranks saw in a fit, the output, and the folder."""
    if not shutil.which("timeout"):
        pytest.skip("needs coreutils' `timeout` to end ranks that hang")
    folder = tmp_path_factory.mktemp("ddp")
    write_table(folder / "table.csv", ROWS)
    done = _run([*request.param, *FIT], folder)
    found = [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in (0, 1)]
    return found, done, folder


def test_there_are_two_ranks(ranks):
    (one, other), _, folder = ranks
    assert one["world"] == other["world"] == 2
    assert len(list(folder.glob("lightning_logs/*"))) == 1


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux tells what a process listens on")
def test_ranks_that_lightning_starts_listen_on_this_machine_alone(ranks, request):
    (one, other), *_ = ranks
    if "lightning" in request.node.callspec.id:  # where torchrun serves the store is torchrun's to say
        assert {*one["listens"], *other["listens"]} == {"0100007F"}  # 127.0.0.1


def test_the_ranks_see_disjoint_rows_and_together_all_of_them(ranks):
    (one, other), done, _ = ranks
    rows = next(line for line in done.stderr.splitlines() if line.startswith("rows:"))
    n_train = int(rows.split()[1])
    assert len(one["epochs"]) == len(other["epochs"]) == 2
    for mine, theirs in zip(one["epochs"], other["epochs"], strict=True):
        assert not set(mine) & set(theirs)
        assert len(set(mine)) == len(mine) == len(theirs)
        assert len(mine) + len(theirs) in (n_train, n_train - 1)
    assert one["epochs"][0] != one["epochs"][1]


def test_the_ranks_end_with_equal_weights(ranks):
    (one, other), _, _ = ranks
    assert one["weights"] == other["weights"]


def test_the_ranks_agree_on_every_metric(ranks):
    (one, other), _, _ = ranks
    assert {"train_loss", "val_loss", "val_accuracy"} <= one["metrics"].keys()
    assert one["metrics"] == other["metrics"]


def test_the_ranks_are_told_the_reference_of_the_first(ranks):
    (one, other), done, _ = ranks
    assert one["reference"] == other["reference"]
    assert one["reference"] is not None
    assert "reference" in done.stdout


def test_one_process_finds_the_same_validation_metrics_in_the_last_checkpoint(ranks):
    (one, _), _, folder = ranks
    (folder / "alone").mkdir(exist_ok=True)
    flags = ("--ckpt_path=last", "--trainer.callbacks+=watchers.RankRecorder", "--trainer.callbacks.folder=alone")
    _run([sys.executable, "-m", "lightning_mods.validate", "--trainer.accelerator=cpu", *flags], folder)
    alone = json.loads((folder / "alone" / "rank_0.json").read_text())
    assert alone["world"] == 1
    found = {name: value for name, value in one["metrics"].items() if name.startswith("val_")}
    assert alone["metrics"] == pytest.approx(found, abs=1e-6)


def test_the_summary_is_printed_once(ranks):
    _, done, _ = ranks
    assert done.stdout.count("look at it") == 1
    assert done.stderr.count("target: 'kind'") == 1
