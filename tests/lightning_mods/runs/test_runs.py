import os

import pytest

from lightning_mods.runs import RUN_MARK, FoundCheckpoint, RunError, find_checkpoint, newest_run, run_of


def make_run(root, name, *, age, mark=RUN_MARK, checkpoints=("best", "last")):
    run = root / "lightning_logs" / name
    (run / "checkpoints").mkdir(parents=True)
    config = run / "config.yaml"
    config.write_text(f"# {mark}\n")
    os.utime(config, (1e9 - age, 1e9 - age))
    for which in checkpoints:
        (run / "checkpoints" / f"{which}.ckpt").write_bytes(b"")
    return run


def test_best_and_last_are_those_of_the_run_that_began_last(tmp_path):
    make_run(tmp_path, "version_0", age=100)
    newest = make_run(tmp_path, "version_1", age=50)
    make_run(tmp_path, "version_2", age=75)
    assert newest_run(tmp_path) == newest
    assert find_checkpoint("best", tmp_path) == FoundCheckpoint(newest / "checkpoints" / "best.ckpt")
    assert find_checkpoint("last", tmp_path) == FoundCheckpoint(newest / "checkpoints" / "last.ckpt")


def test_a_newest_run_without_a_checkpoint_hides_no_older_one_and_is_named(tmp_path):
    older = make_run(tmp_path, "version_0", age=100)
    newer = make_run(tmp_path, "version_1", age=50, checkpoints=())
    assert newest_run(tmp_path) == older
    assert find_checkpoint("last", tmp_path) == FoundCheckpoint(older / "checkpoints" / "last.ckpt", newer)


def test_a_run_that_is_left_alone_with_no_checkpoint_has_none(tmp_path):
    make_run(tmp_path, "version_0", age=0, checkpoints=("last",))
    assert find_checkpoint("best", tmp_path) is None


def test_other_peoples_configs_are_no_runs(tmp_path):
    make_run(tmp_path, "version_0", age=0, mark="pytorch_lightning==2.6.6")
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe")
    assert newest_run(tmp_path) is None
    assert newest_run(tmp_path / "nowhere") is None


def test_a_path_is_taken_as_it_is_and_its_run_is_known(tmp_path):
    run = make_run(tmp_path, "version_0", age=0)
    best = run / "checkpoints" / "best.ckpt"
    assert find_checkpoint(str(best), tmp_path / "elsewhere") == FoundCheckpoint(best)
    assert run_of(best) == run
    moved = tmp_path / "moved.ckpt"
    moved.write_bytes(b"")
    assert run_of(moved) is None


@pytest.mark.parametrize(("which", "says"), [("gone.ckpt", "there is no file"), (".", "is a folder")])
def test_a_path_to_no_file_is_an_error(tmp_path, which, says):
    with pytest.raises(RunError, match=says):
        find_checkpoint(str(tmp_path / which), tmp_path)
