"""Exports and predictions on full disks, two at once, over their own inputs, and into what is no ordinary file."""

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import warm
from commands import TIMEOUT, argv, call_warm, environment, start_warm
from export_cases import QUIET, SUFFIXES, TABLES, fitted_and_exported, needs, refused, succeed
from verbs_here import do

from lightning_mods.export.command import _turn_at
from lightning_mods.export.schema import digest, read_schema, schema_path
from lightning_mods.runs import RunError

pytestmark = QUIET
ROWS = "--data.predict_path=new.csv"


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    return fitted_and_exported(tmp_path_factory.mktemp("files") / "fit", *TABLES[-1])


@pytest.fixture(autouse=True)
def _here(fit, monkeypatch):
    monkeypatch.chdir(fit)


def kept(*names):
    return [Path(name).read_bytes() for name in names]


@contextlib.contextmanager
def small_files(size):
    """Let nothing write a file longer than `size`: the system then answers as it does where a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("file_format", ["pt2", "onnx", "torchscript"])
def test_an_export_that_finds_no_room_ends_in_one_line_and_leaves_the_old_file(file_format):
    needs(file_format)
    name = f"full.{SUFFIXES[file_format]}"
    Path(name).write_text("mine")
    Path(f"{name}.json").write_text("mine too")
    with small_files(20_000):
        said = refused(f"--format={file_format}", f"--output={name}", "--overwrite")
    assert "File too large" in said
    assert kept(name, f"{name}.json") == [b"mine", b"mine too"]


@pytest.mark.skipif(os.getuid() != 0 or sys.platform != "linux", reason="only root may mount a small disk")
def test_an_export_onto_a_full_disk_does_not_end_the_process():
    """In a process of its own: torch's writer of files called `abort` here."""
    disk = Path("disk").absolute()
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        (disk / "model.pt2").write_text("mine")
        done = call_warm("export", "--format=pt2", f"--output={disk}/model.pt2", "--overwrite", cwd=".")
        assert done.returncode == 2, done.stderr
        assert done.stderr == "export: No space left on device; what was there before is left as it was.\n"
        assert [path.name for path in disk.iterdir()] == ["model.pt2"]
        assert (disk / "model.pt2").read_text() == "mine"
    finally:
        subprocess.run(["umount", disk], check=True)
        disk.rmdir()


def test_a_model_and_its_schema_are_put_in_place_by_one_process_at_a_time(tmp_path):
    order = []

    def other():
        with _turn_at(tmp_path):
            order.append("other")

    thread = threading.Thread(target=other)
    with _turn_at(tmp_path):
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


def test_a_pair_of_two_exports_is_noticed():
    succeed("export", "--format=pt2", "--output=other.pt2")
    shutil.copy("other.pt2.json", "mixed.pt2.json")
    shutil.copy("good.pt2", "mixed.pt2")
    if digest(Path("good.pt2")) != digest(Path("other.pt2")):
        with pytest.raises(RunError, match=r"mixed\.pt2 is not the file that mixed\.pt2\.json describes"):
            read_schema(Path("mixed.pt2"))


def test_two_exports_to_one_place_leave_a_pair_that_belongs_together(tmp_path):
    words = ("export", "--format=pt2", "--output=both.pt2", "--overwrite")
    running = [start_warm(*words, cwd=".", out=tmp_path / f"out{i}", err=tmp_path / f"err{i}") for i in range(2)]
    for i, process in enumerate(running):
        assert warm.ended(process, TIMEOUT)
        assert process.exitcode == 0, (tmp_path / f"err{i}").read_text()
    assert read_schema(Path("both.pt2"))["sha256"] == digest(Path("both.pt2"))
    assert not list(Path().glob(".both*"))


def test_an_output_that_is_read_is_refused_before_any_work():
    Path("rows.csv").write_bytes(Path("new.csv").read_bytes())
    Path("link.csv").symlink_to("rows.csv")
    Path("hard.csv").hardlink_to("rows.csv")
    Path("run.yaml").write_text("output: run.yaml\n")
    checkpoint = str(next(Path().rglob("best.ckpt")))
    files = ("rows.csv", "train.csv", "run.yaml", checkpoint, "good.pt2", "good.pt2.json")
    before = kept(*files)
    rows = "--data.predict_path=rows.csv"
    for exported in ([], ["--exported=good.pt2"]):
        for output in ("rows.csv", "link.csv", "hard.csv"):
            said = refused(rows, f"--output={output}", *exported, verb="predict")
            assert said.startswith(f"predict: --output={output} is the file that --data.predict_path=rows.csv is read")
        assert "is the file that --config=run.yaml" in refused(rows, "--config=run.yaml", *exported, verb="predict")
    for output in ("good.pt2", "good.pt2.json"):
        assert "is read from" in refused(rows, f"--output={output}", "--exported=good.pt2", verb="predict")
    assert "--ckpt_path=" in refused(rows, f"--output={checkpoint}", verb="predict")
    assert "--data.path=train.csv" in refused(rows, "--output=train.csv", verb="predict")
    assert "--ckpt_path=" in refused(f"--output={checkpoint}", "--format=onnx", "--overwrite")
    assert kept(*files) == before


def broken(value, names=("weight", "bias")):
    """The best checkpoint with weights that are no numbers, as a run leaves that diverged."""
    content = torch.load(next(Path().rglob("best.ckpt")), weights_only=True)
    for name, tensor in content["state_dict"].items():
        if name.endswith(names):
            tensor.fill_(value)
    torch.save(content, "broken.ckpt")
    return "--ckpt_path=broken.ckpt"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_whose_weights_are_no_numbers_is_refused(value):
    said = refused(broken(value), ROWS, "--output=nan.csv", verb="predict")
    assert "broken.ckpt holds weights that are NaN or infinite, in " in said
    assert "broken.ckpt holds weights that are NaN or infinite" in refused(broken(value), "--format=pt2")


@pytest.mark.parametrize("verb", ["validate", "test", "fit"])
def test_weights_that_are_no_numbers_are_neither_evaluated_nor_trained_on(verb):
    said = refused(broken(float("nan")), *(["--data.test_path=train.csv"] if verb == "test" else []), verb=verb)
    assert "broken.ckpt holds weights that are NaN or infinite, in " in said


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such files")
def test_predictions_go_into_a_pipe_and_what_is_said_does_not():
    words = argv("predict", ROWS, "--output=/dev/stdout", "--exported=good.pt2")
    done = subprocess.run(words, env=environment("."), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "prediction"
    assert done.stdout.count("\n") == Path("new.csv").read_text().count("\n")
    assert done.stderr.splitlines()[-1].endswith("predictions in /dev/stdout")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such files")
def test_a_pipe_that_nobody_reads_ends_without_a_traceback():
    read, write = os.pipe()
    os.close(read)
    words = argv("predict", ROWS, "--output=/dev/stdout", "--exported=good.pt2")
    done = subprocess.run(words, env=environment("."), stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.stderr.count("\n") == 1
    assert "Broken pipe" in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("flag", "said"), [('output: "a\\0b"', "--output needs a path"), ("exported: ~nobody9/x", "user")]
)
def test_a_path_that_cannot_be_is_said_in_one_line(flag, said):
    Path("odd.yaml").write_text(f"{flag}\n")
    exported = [] if "exported" in flag else ["--exported=good.pt2"]
    assert said in refused(ROWS, "--config=odd.yaml", *exported, verb="predict")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such files")
def test_what_is_no_file_is_no_exported_model():
    os.mkfifo("pipe.pt2")
    for name, what in ((".", "is a folder"), ("/", "is a folder"), ("pipe.pt2", "is no ordinary file")):
        assert what in refused(f"--exported={name}", ROWS, verb="predict")
    assert "/dev/zero is no ordinary file" in refused("--exported=/dev/zero", ROWS, verb="predict")


def test_a_link_keeps_its_place():
    Path("there.csv").write_text("old")
    Path("here.csv").symlink_to("there.csv")
    assert do("predict", ROWS, "--output=here.csv", "--exported=good.pt2")[0] == 0
    assert Path("here.csv").is_symlink()
    assert Path("there.csv").read_text().startswith("prediction\n")
    assert schema_path(Path("good.pt2")).is_file()
