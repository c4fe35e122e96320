"""What a fit of a command line leaves in TensorBoard where it has more than the plain way."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from verbs_here import succeed

pytestmark = pytest.mark.filterwarnings("default")  # Lightning's CLI and jsonargparse warn of each other
QUICK = ("--watch=[]", "--reference=false", "--trainer.max_epochs=2", "--data.path=wine")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def events():
    (run,) = Path("lightning_logs").iterdir()
    return EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()


def hyperparameters():
    content = events().PluginTagToContent("hparams")["_hparams_/session_start_info"]
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}


def test_what_a_calibrated_model_scores_is_a_result_and_no_point_of_the_curve():
    _, said = succeed("fit", *QUICK, "--calibrate")
    after = float(said.partition("log loss ")[2].split(" to ")[1].split(",")[0])
    found = events()
    assert [event.step for event in found.Scalars("val_loss")] == [0, 1]
    assert found.Scalars("hp/val_loss")[-1].value == pytest.approx(after, rel=1e-3)


def test_the_hyperparameters_are_those_of_the_optimizer_that_was_asked_for():
    succeed("fit", *QUICK, "--optimizer=Adam", "--optimizer.lr=0.003")
    found = hyperparameters()
    assert (found["optimizer"], found["lr"]) == ("Adam", 0.003)
    assert not {"momentum", "nesterov", "lr_schedule"} & found.keys()


def test_the_hyperparameters_of_an_ensemble_are_those_of_its_members():
    succeed("fit", *QUICK, "--ensemble=2", "--model.lr=0.02")
    found = hyperparameters()
    assert (found["members"], found["lr"], found["hidden_sizes"]) == (2, 0.02, "[128, 128]")
    assert not {"member", "settings"} & found.keys()
