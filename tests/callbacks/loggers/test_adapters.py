import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from callbacks.loggers import dispatch
from callbacks.loggers.base import Drawing, Histogram
from callbacks.loggers.files import FilesAdapter
from callbacks.loggers.services import CometAdapter, MLflowAdapter

PIXELS = np.zeros((4, 6, 3), np.uint8)
HISTOGRAM = Histogram(0.0, 1.0, [1.0, 3.0], 2.0, 1.5)
GRAPHS = {"forward": Drawing(lambda: None, lambda: "<svg/>"), "backward/0": Drawing(lambda: None, lambda: "<svg/>")}


class Numbers(Logger):
    """A logger of somebody else's that takes numbers."""

    def __init__(self):
        self.metrics, self.params = [], {}

    name = version = "x"

    def log_metrics(self, metrics, step=None):
        self.metrics.append((step, metrics))

    def log_hyperparams(self, params, *args, **kwargs):
        self.params |= params


class Shows(Numbers):
    """One that has the methods of an adapter."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def __getattr__(self, name):
        if name.startswith("write_"):
            return lambda *args: self.shown.append((name, args[0]))
        raise AttributeError(name)


class Broken(Shows):
    """One whose server is gone."""

    def __getattr__(self, name):
        if name.startswith("write_"):
            return self._fail
        raise AttributeError(name)

    def _fail(self, *args):
        raise OSError("gone")


def trainer_of(*loggers, folder, **kwargs):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return pl.Trainer(logger=list(loggers) or False, default_root_dir=folder, accelerator="cpu", **quiet, **kwargs)


def write_everything(trainer):
    dispatch.write_scalars(trainer, {"a/b": 0.5}, 1)
    dispatch.write_moment(trainer, 2, {"a/c": math.nan, "a/d": -math.inf}, {"weights/x": HISTOGRAM})
    dispatch.write_text(trainer, "fit/verdict", "good", 3)
    dispatch.write_image(trainer, "fit/curves", PIXELS, 3)
    dispatch.write_graphs(trainer, GRAPHS, 0)
    dispatch.write_charts(trainer, {"Fit": {"loss": ["train_loss"]}})
    dispatch.write_hyperparameters(trainer, {"lr": 0.1, "sizes": [1, 2]}, ["hp/val_loss"])


def lines_of(file):
    return file.read_text().splitlines()


def names_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


FILES = {"fit_verdict.txt", "fit_curves.png", "graphs/forward.svg", "graphs/backward_0.svg", "histograms.jsonl"}


def test_without_a_logger_all_of_it_is_files_of_strict_json(tmp_path):
    write_everything(trainer_of(folder=tmp_path))
    assert names_in(tmp_path) == FILES | {"scalars.jsonl", "hyperparameters.json"}

    def refuse(word):
        raise AssertionError(word)

    rows = [json.loads(line, parse_constant=refuse) for line in lines_of(tmp_path / "scalars.jsonl")]
    assert rows == [{"step": 1, "a/b": 0.5}, {"step": 2, "a/c": "NaN", "a/d": "-Infinity"}]
    (drawn,) = [json.loads(line) for line in lines_of(tmp_path / "histograms.jsonl")]
    known = {"low": 0.0, "high": 1.0, "counts": [1.0, 3.0], "sum": 2.0, "sum_squares": 1.5}
    assert drawn == {"step": 2, "weights/x": known}
    assert json.loads((tmp_path / "hyperparameters.json").read_text()) == {"lr": 0.1, "sizes": [1, 2]}


def test_a_logger_of_numbers_alone_has_files_beside_it_unless_another_one_shows_more(tmp_path):
    alone, beside, shows = Numbers(), Numbers(), Shows()
    write_everything(trainer_of(alone, folder=tmp_path / "alone"))
    assert names_in(tmp_path / "alone") == FILES
    assert alone.metrics[0] == (1, {"a/b": 0.5})
    assert alone.params == {"lr": 0.1, "sizes": [1, 2]}
    write_everything(trainer_of(shows, beside, folder=tmp_path / "both"))
    assert not (tmp_path / "both").exists()
    assert beside.metrics[0] == (1, {"a/b": 0.5})
    assert {what for what, _ in shows.shown} == {
        f"write_{kind}" for kind in ("scalars", "moment", "text", "image", "graphs", "charts", "hyperparameters")
    }


def test_where_one_fails_the_others_get_it_and_the_failure_is_told(tmp_path):
    shows = Shows()
    trainer = trainer_of(Broken(), shows, folder=tmp_path)
    with pytest.raises(OSError, match="gone"):
        dispatch.write_text(trainer, "a", "b", 0)
    assert shows.shown == [("write_text", "a")]


@pytest.mark.parametrize("loggers", [(), (Shows(),)])
def test_a_trying_run_shows_nothing(tmp_path, loggers):
    trainer = trainer_of(*loggers, folder=tmp_path, fast_dev_run=True)
    write_everything(trainer)
    assert not dispatch.are_shown(trainer)
    assert not names_in(tmp_path)


def test_a_table_and_tensorboard_side_by_side_each_have_it_all(tmp_path):
    loggers = [CSVLogger(tmp_path / "t", version="a"), TensorBoardLogger(tmp_path / "b", version="a")]
    trainer = trainer_of(*loggers, folder=tmp_path)
    dispatch.write_image(trainer, "gradients/flow", PIXELS, 0)
    assert (tmp_path / "t/lightning_logs/a/gradient_flow.png").exists()
    loggers[1].finalize("success")
    assert list((tmp_path / "b/lightning_logs/a").glob("events.*"))


def test_a_run_that_goes_on_keeps_its_lines(tmp_path):
    for fresh, expected in ((True, [0]), (False, [0, 0]), (True, [0])):
        FilesAdapter(tmp_path, None, fresh=fresh).write_scalars({"a": 1.0}, 0)
        rows = [json.loads(line)["step"] for line in lines_of(tmp_path / "scalars.jsonl")]
        assert rows == expected


def test_a_folder_that_is_not_on_this_machine_gets_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_everything(trainer_of(folder="memory://somewhere"))
    assert not names_in(tmp_path)


def test_lightnings_comet_logger_that_logs_nothing_is_named():
    stub = SimpleNamespace(experiment=SimpleNamespace(disabled=True))
    adapter = CometAdapter(stub)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"#21617.*OfflineCometLogger"):
        adapter.write_text("a", "b", 0)


def test_mlflow_parameters_that_changed_become_tags_and_odd_names_are_put_right(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    from pytorch_lightning.loggers import MLFlowLogger

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger(tracking_uri=str(tmp_path))
    logger.log_hyperparams({"lr": 0.1})
    adapter = MLflowAdapter(logger)
    adapter.write_hyperparameters({"lr": 0.3, "a:b": 1}, [])
    adapter.write_moment(2, {"net[0]": math.inf}, {})
    run = logger.experiment.get_run(logger.run_id).data
    assert run.params == {"lr": "0.1", "a_b": "1"}
    assert run.tags["now.lr"] == "0.3"
    assert list(run.metrics) == ["net_0_"]
