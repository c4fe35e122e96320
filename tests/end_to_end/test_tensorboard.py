"""What a run leaves in TensorBoard: read back from its events, and seen in the page that TensorBoard serves."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from commands import succeed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

pytestmark = pytest.mark.timeout(600)

EPOCHS = 4
RATES = {16: 0.05, 64: 0.02}
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "tensorboard_screenshot.py"


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    """Two fits of iris, version_0 and version_1, with different batch sizes and learning rates."""
    folder = tmp_path_factory.mktemp("board")
    for size, lr in RATES.items():
        flags = (f"--data.batch_size={size}", f"--model.lr={lr}", f"--trainer.max_epochs={EPOCHS}")
        done = succeed("fit", "--data.path=iris", *flags, cwd=folder)
        assert "tensorboard --logdir lightning_logs" in done.stdout
    return folder / "lightning_logs"


@pytest.fixture(scope="module", params=[0, 1], ids=["batches_of_16", "batches_of_64"])
def events(request, logdir):
    return EventAccumulator(str(logdir / f"version_{request.param}"), size_guidance={"scalars": 0}).Reload()


def _curve(events, tag):
    return {event.step: event.value for event in events.Scalars(tag)}


@pytest.mark.parametrize("tag", ["train_loss", "val_loss", "val_accuracy", "lr"])
def test_every_batch_size_has_one_point_an_epoch(tag, events):
    assert [event.step for event in events.Scalars(tag)] == list(range(EPOCHS))


def test_the_curve_of_the_epoch_is_a_line(events):
    assert [(event.step, event.value) for event in events.Scalars("epoch")] == [(n, n) for n in range(EPOCHS)]


def test_one_chart_holds_both_losses(events):
    (tag,) = events.PluginTagToContent("custom_scalars")
    layout = Layout.FromString(events.Tensors(tag)[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}
    assert charts["loss"] == ["train_loss", "val_loss"]
    for tags in charts.values():
        assert set(tags) <= set(events.Tags()["scalars"])


def _hyperparameters(events, kind):
    content = HParamsPluginData.FromString(events.PluginTagToContent("hparams")[f"_hparams_/{kind}"])
    return getattr(content, kind)


def test_the_hyperparameters_are_those_of_the_run(events, logdir):
    start = _hyperparameters(events, "session_start_info")
    size = start.hparams["batch_size"].number_value
    assert RATES[size] == start.hparams["lr"].number_value
    assert start.hparams["path"].string_value == "iris"
    assert start.hparams["hidden_sizes"].string_value == "[128, 128]"


def test_no_hyperparameter_is_left_open(events):
    found = _hyperparameters(events, "session_start_info").hparams
    assert found["task"].string_value == "classification"
    assert found["target"].string_value == "target"
    assert found["memory_map"].bool_value is False
    assert not {name for name, value in found.items() if value.string_value in ("auto", "None", "null")}


def test_the_results_are_those_of_the_best_epoch(events):
    losses = _curve(events, "val_loss")
    best = min(losses, key=losses.__getitem__)
    for name in ("val_loss", "val_accuracy"):
        assert events.Scalars(f"hp/{name}")[-1].value == _curve(events, name)[best]


def test_every_result_of_the_table_has_a_real_value(events):
    named = [info.name.tag for info in _hyperparameters(events, "experiment").metric_infos]
    assert {"hp/val_loss", "hp/val_accuracy", "hp/test_accuracy"} <= set(named)
    assert "hp_metric" not in events.Tags()["scalars"]
    for tag in named:
        values = [event.value for event in events.Scalars(tag)]
        assert values
        assert -1 not in values


def test_the_configuration_can_be_read_as_text(events):
    (tag,) = [tag for tag in events.Tags()["tensors"] if tag.startswith("settings")]
    text = events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
    assert "MLPClassifier" in text
    assert "batch_size:" in text


def test_the_verdict_is_the_first_of_the_texts(events):
    texts = sorted(tag for tag in events.Tags()["tensors"] if tag.endswith("/text_summary"))  # as TensorBoard sorts
    assert texts[0] == "fit/verdict/text_summary"
    assert len(texts) == 3


# ------------------------------------------------------------------ seen in the page

seen = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")), reason="needs chromium and chromedriver"
)


@pytest.fixture(scope="module")
def camera():
    """The script that takes the README's pictures, as a module."""
    spec = importlib.util.spec_from_file_location("tensorboard_screenshot", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _is_a_picture(path):
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 20_000


@seen
def test_the_page_draws_both_losses_of_both_runs_on_one_chart(camera, logdir, tmp_path):
    wanted = tuple(f"{tag} (version_{run})" for tag in ("train_loss", "val_loss") for run in (0, 1))
    text = camera.shot(logdir, "custom_scalars", tmp_path / "shot.png", wanted=("Matches (4)", *wanted))
    assert text.index("Fit") < text.index("Matches (4)")
    assert _is_a_picture(tmp_path / "shot.png")


@seen
def test_the_page_shows_the_hyperparameters_with_their_results(camera, logdir, tmp_path):
    columns = ("lr", "batch_size", "hp/val_loss")
    text = camera.shot(
        logdir, "hparams", tmp_path / "shot.png", wanted=("version_0", "version_1", "hp/val_loss"), columns=columns
    )
    lines = text.splitlines()
    for run, lr in enumerate(RATES.values()):
        loss = EventAccumulator(str(logdir / f"version_{run}")).Reload().Scalars("hp/val_loss")[-1].value
        assert any(_is_number(line, lr) for line in lines), text
        assert any(_is_number(line, loss) for line in lines), text
    assert not any(_is_number(line, -1) for line in lines)
    assert _is_a_picture(tmp_path / "shot.png")


@seen
def test_the_page_begins_its_texts_with_the_verdict(camera, logdir, tmp_path):
    text = camera.shot(logdir, "text", tmp_path / "shot.png", wanted=("settings", "fit/verdict", "verdict   "))
    lines = text.splitlines()
    assert lines.index("fit") < lines.index("gradients") < lines.index("settings")
    assert _is_a_picture(tmp_path / "shot.png")


def _is_number(line, value):
    try:
        return float(line) == pytest.approx(value, rel=1e-3)  # the table shows five digits
    except ValueError:
        return False
