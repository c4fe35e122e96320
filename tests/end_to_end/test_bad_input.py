"""Every bad input gets one line and exit code 2 from the real command, and leaves earlier results alone."""

import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from commands import TIMEOUT, argv, call_warm, contents, environment, succeed, write_table

# Starting 40 processes takes a while; the first test waits for all the ground to be laid.
pytestmark = pytest.mark.timeout(900)

GOOD = ("--data.path=table.csv", "--data.target=kind", "--trainer.max_epochs=1", "--model.hidden_sizes=[8]")
OLD = "lightning_logs/version_0/checkpoints/best.ckpt"


@dataclass(frozen=True)
class Case:
    """A command that must be refused.

    Attributes:
        sentence: What is wrong.
        command: Verb and flags.
        words: What the one line must say, whatever the case of its letters.
        empty: Start in a folder without any run.
    """

    sentence: str
    command: tuple[str, ...]
    words: tuple[str, ...]
    empty: bool = False


def _fit(*flags):
    return ("fit", *GOOD, *flags)


def _table(name, *flags, target="kind"):
    return ("fit", f"--data.path={name}", f"--data.target={target}", "--trainer.max_epochs=1", *flags)


CASES = [
    Case("no_such_file", _table("tabel.csv"), ("no file", "'tabel.csv'", "there: 'table.csv'")),
    Case("no_such_bundled_table", ("fit", "--data.path=irys"), ("'irys'", "'iris'")),
    Case("a_directory", _table("folder.csv"), ("directory", "folder.csv")),
    Case("an_empty_file", _table("empty.csv"), ("empty", "header")),
    Case("a_header_only", _table("header.csv"), ("header", "no rows")),
    Case("a_row_with_too_few_fields", _table("few.csv"), ("line 12", "4 fields", "3 came")),
    Case("a_row_with_too_many_fields", _table("many.csv"), ("line 12", "4 fields", "5 came")),
    Case("a_wrong_target", _table("table.csv", target="knid"), ("'knid'", "it has 'kind'", "'size'")),
    Case("no_target", ("fit", "--data.path=table.csv"), ("--data.target", "'kind'")),
    Case("a_target_with_gaps", _table("gaps.csv"), ("missing in 7 rows", "--data.drop_missing_target=true")),
    Case("a_target_with_one_class", _table("one_class.csv"), ("one class", "'big'")),
    Case("more_classes_than_rows_allow", _table("names.csv"), ("200 classes", "200 rows")),
    Case("too_few_rows_to_split", _table("tiny.csv"), ("too few", "val")),
    Case("an_infinite_feature", _table("infinite.csv"), ("'size'", "infinite", "row 31")),
    Case("an_infinite_target", _table("infinite.csv", target="size"), ("'size'", "infinite", "row 31")),
    Case("no_steps_per_execution", _fit("--steps_per_execution=0"), ("steps_per_execution", "at least 1", "0")),
    Case("words_of_steps_per_execution", _fit("--steps_per_execution=many"), ("steps_per_execution", "auto", "many")),
    Case("a_batch_size_of_0", _fit("--data.batch_size=0"), ("batch_size", "at least 1", "0")),
    Case("a_batch_larger_than_the_data", _fit("--data.batch_size=5000"), ("batch_size=5000", "140", '"full"')),
    Case("a_negative_learning_rate", _fit("--model.lr=-1"), ("lr", "above 0", "-1")),
    Case("a_learning_rate_that_is_no_number", _fit("--model.lr=abc"), ("--model.lr", "float", "abc")),
    Case("an_abbreviated_flag", _fit("--trainer.max_epoch=5"), ("--trainer.max_epoch ", "--trainer.max_epochs?")),
    Case("a_misspelt_flag", _fit("--model.hiden_sizes=[4]"), ("--model.hiden_sizes ", "--model.hidden_sizes?")),
    Case("a_misspelt_flag_of_predict", ("predict", "--ouput=a.csv"), ("--ouput ", "--output?")),
    Case("an_unknown_model", _fit("--model=MLPClasifier"), ("MLPClasifier", "MLPClassifier?")),
    Case("an_unknown_optimizer", _fit("--optimizer=SDG", "--optimizer.lr=0.1"), ("SDG", "SGD?")),
    Case("an_unknown_scheduler", _fit("--lr_scheduler=StepRL", "--lr_scheduler.step_size=1"), ("StepRL", "StepLR?")),
    Case("an_unknown_callback", _fit("--trainer.callbacks+=EarlyStoping"), ("EarlyStoping", "EarlyStopping")),
    Case("an_unknown_watcher", _fit("--watch=[fit,graphs]"), ("--watch", "graphs", "gradients or graph")),
    Case("a_missing_config", _fit("--config=absent.yaml"), ("--config", "absent.yaml")),
    Case("a_config_that_is_no_yaml", _fit("--config=broken.yaml"), ("broken.yaml", "line 3")),
    Case("a_config_with_a_misspelt_key", _fit("--config=misspelt.yaml"), ("max_epoch",)),
    Case("a_resume_from_a_truncated_checkpoint", _fit("--ckpt_path=truncated.ckpt"), ("truncated.ckpt", "damaged")),
    Case(
        "a_resume_from_another_table",
        ("fit", "--data.path=other.csv", "--data.target=kind", f"--ckpt_path={OLD}"),
        ("other.csv",),
    ),
    Case(
        "a_truncated_checkpoint",
        ("predict", "--ckpt_path=truncated.ckpt", "--data.predict_path=table.csv"),
        ("truncated.ckpt", "damaged"),
    ),
    Case(
        "a_checkpoint_that_lightning_did_not_write",
        ("predict", "--ckpt_path=foreign.ckpt", "--data.predict_path=table.csv"),
        ("foreign.ckpt", "no checkpoint of a Lightning run"),
    ),
    Case(
        "a_checkpoint_that_would_run_code",
        ("predict", "--ckpt_path=code.ckpt", "--data.predict_path=table.csv"),
        ("code.ckpt", "no checkpoint"),
    ),
    Case(
        "a_checkpoint_that_is_text",
        ("predict", "--ckpt_path=text.ckpt", "--data.predict_path=table.csv"),
        ("text.ckpt", "no checkpoint"),
    ),
    Case("no_such_checkpoint", ("validate", "--ckpt_path=absent.ckpt"), ("absent.ckpt", "best")),
    Case("the_best_of_no_run", ("test", "--ckpt_path=best"), ("--ckpt_path=best", "lightning_mods.fit"), empty=True),
    Case("the_last_of_no_run", ("validate", "--ckpt_path=last"), ("--ckpt_path=last",), empty=True),
    Case("predict_without_a_file", ("predict",), ("--data.predict_path",)),
    Case("predict_for_no_such_file", ("predict", "--data.predict_path=tabel.csv"), ("tabel.csv", "'table.csv'")),
    Case("predict_for_other_columns", ("predict", "--data.predict_path=other.csv"), ("other.csv", "lacks", "'weight'")),
    Case("predict_for_infinities", ("predict", "--data.predict_path=infinite.csv"), ("'size'", "infinite", "row 31")),
    Case("predict_for_a_ragged_file", ("predict", "--data.predict_path=few.csv"), ("line 12", "3 came")),
    Case(
        "predict_into_a_missing_folder",
        ("predict", "--data.predict_path=table.csv", "--output=absent/out.csv"),
        ("absent",),
    ),
    Case("test_on_other_columns", ("test", "--data.test_path=other.csv"), ("other.csv", "lacks", "'weight'")),
    Case("test_on_an_unknown_class", ("test", "--data.test_path=names.csv"), ("names.csv", "classes", "big")),
]


class _Touch:
    """An object whose unpickling runs a command."""

    def __reduce__(self):
        return os.system, ("touch owned",)


def _lay_ground(folder):
    """A folder with a finished run, its predictions, and everything that is wrong."""
    write_table(folder / "table.csv", 200)
    (folder / "folder.csv").mkdir()
    (folder / "empty.csv").write_text("")
    (folder / "header.csv").write_text("size,weight,colour,kind\n")
    write_table(folder / "few.csv", 50, change=lambda i, row: row[:3] if i == 10 else row)
    write_table(folder / "many.csv", 50, change=lambda i, row: [*row, "x"] if i == 10 else row)
    write_table(folder / "gaps.csv", 200, change=lambda i, row: [*row[:3], ""] if i < 7 else row)
    write_table(folder / "one_class.csv", 200, change=lambda i, row: [*row[:3], "big"])
    write_table(folder / "names.csv", 200, change=lambda i, row: [*row[:3], f"name{i}"])
    write_table(folder / "tiny.csv", 4, change=lambda i, row: [*row[:3], ["big", "small"][i % 2]])
    write_table(folder / "infinite.csv", 200, change=lambda i, row: ["inf", *row[1:]] if i == 30 else row)
    write_table(folder / "other.csv", 200, columns=("size", "wait", "colour", "kind"))
    (folder / "broken.yaml").write_text("data:\n  path: [table.csv\nmodel: }")
    (folder / "misspelt.yaml").write_text("trainer:\n  max_epoch: 5\n")
    torch.save({"weights": torch.zeros(3)}, folder / "foreign.ckpt")
    (folder / "code.ckpt").write_bytes(pickle.dumps(_Touch()))
    (folder / "text.ckpt").write_text("These are my notes on the run.\n")
    succeed("fit", *GOOD, cwd=folder)
    succeed("predict", "--data.predict_path=table.csv", cwd=folder)
    whole = (folder / OLD).read_bytes()
    (folder / "truncated.ckpt").write_bytes(whole[: len(whole) // 2])


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str
    before: dict[str, bytes]
    after: dict[str, bytes]


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ground") / "folder"
    folder.mkdir()
    _lay_ground(folder)
    return folder


@pytest.fixture(scope="module")
def outcomes(ground, request):
    """Each case's outcome as a future: the commands run two at a time while the tests look at the first ones."""
    asked = {item.callspec.params.get("case") for item in request.session.items if hasattr(item, "callspec")}

    def outcome(case):
        folder = ground.parent / case.sentence
        if case.empty:
            folder.mkdir()
            shutil.copy(ground / "table.csv", folder)
        else:
            shutil.copytree(ground, folder)
        before = contents(folder)
        done = call_warm(*case.command, cwd=folder)
        return Outcome(done.returncode, done.stdout, done.stderr, before, contents(folder))

    with ThreadPoolExecutor(2) as pool:
        yield {case.sentence: pool.submit(outcome, case) for case in CASES if case in asked}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.sentence)
def test_is_refused_in_one_line_and_changes_nothing(case, outcomes):
    found = outcomes[case.sentence].result()
    lines = [line for line in found.err.splitlines() if line.strip()]
    assert found.code == 2, found.err
    assert len(lines) == 1, found.err
    assert "Traceback" not in found.err + found.out
    assert len(lines[0]) < 500, lines[0]
    for word in case.words:
        assert word.casefold() in lines[0].casefold()
    changed = {name for name in found.before if found.after.get(name) != found.before[name]}
    assert not changed
    assert found.after.keys() == found.before.keys()


# ------------------------------------------------------------------ no space left

KIB = 1024


def _can_mount():
    """Whether this process may mount a small disk of its own that nobody else sees."""
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("unshare"):
        return False
    tried = subprocess.run(
        ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=64k none /mnt"], capture_output=True, timeout=30
    )
    return tried.returncode == 0


needs_mount = pytest.mark.skipif(not _can_mount(), reason="needs root and `unshare -m` to mount a small disk")


@dataclass(frozen=True)
class FullDisk:
    code: int
    err: str
    before: dict[str, bytes]
    after: dict[str, bytes]


def _on_a_full_disk(ground, folder, free, command):
    """Run a command where `disk/` is a copy of an earlier run's folder with only `free` bytes left.

    The disk is gone with its namespace, so what is on it is copied before and after the command.
    """
    shutil.copytree(ground, folder)
    (folder / "disk").mkdir()
    script = f"""
        set -e
        mount -t tmpfs -o size={4096 * KIB} none disk
        cp -r lightning_logs predictions.csv disk
        room=$(df --output=avail -B1 disk | tail -1)
        head -c $((room - {free})) /dev/zero > disk/filler
        mkdir before after
        cp -r disk/lightning_logs disk/predictions.csv before
        code=0
        "$@" || code=$?
        rm disk/filler
        cp -r disk/. after
        exit $code
    """
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *argv(*command)],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    return FullDisk(done.returncode, done.stderr, contents(folder / "before"), contents(folder / "after"))


def _check_full(found):
    last = [line for line in found.err.splitlines() if line.strip()][-1]
    assert found.code == 2, found.err
    assert "Traceback" not in found.err
    assert "no space left" in last.casefold(), found.err
    for name, content in found.before.items():
        assert found.after[name] == content, name


@needs_mount
@pytest.mark.parametrize(
    ("free", "what"),
    [(0, "even_the_folder"), (12 * KIB, "the_events"), (64 * KIB, "the_checkpoint"), (400 * KIB, "a_later_checkpoint")],
)
def test_a_fit_that_finds_no_space_for(free, what, ground, tmp_path):
    flags = ("--model.hidden_sizes=[128,128]", "--trainer.max_epochs=3", "--trainer.default_root_dir=disk")
    found = _on_a_full_disk(ground, tmp_path / "here", free, _fit(*flags))
    _check_full(found)
    assert not [name for name in found.after if "partial" in name]


@needs_mount
def test_a_resumed_fit_that_finds_no_space_keeps_the_checkpoint_it_came_from(ground, tmp_path):
    flags = ("--trainer.max_epochs=3", "--trainer.default_root_dir=disk", "--ckpt_path=last")
    found = _on_a_full_disk(ground, tmp_path / "here", 0, _fit(*flags))
    found = FullDisk(
        found.code, found.err, {k: v for k, v in found.before.items() if k.endswith((".ckpt", ".csv"))}, found.after
    )
    _check_full(found)


@needs_mount
def test_a_predict_that_finds_no_space_keeps_the_earlier_predictions(ground, tmp_path):
    command = ("predict", "--data.predict_path=table.csv", "--output=disk/predictions.csv")
    found = _on_a_full_disk(ground, tmp_path / "here", 0, command)
    _check_full(found)
    assert found.after["predictions.csv"].count(b"\n") == 201
    assert not [name for name in found.after if "partial" in name]
