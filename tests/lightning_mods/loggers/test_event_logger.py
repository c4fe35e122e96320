import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_mods.loggers import tensorboard as event_logger
from lightning_mods.loggers.tensorboard import EventLogger


def scalars(logger):
    found = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_all_that_was_logged_is_there_at_the_end(tmp_path):
    logger = EventLogger(tmp_path, prefix="mine")
    for step in range(5):
        logger.log_metrics({"a": step / 2, "b": -step}, step)
    logger.finalize("success")
    assert scalars(logger) == {
        "mine-a": [(step, step / 2) for step in range(5)],
        "mine-b": [(step, -step) for step in range(5)],
    }


def test_it_goes_on_after_the_file_was_closed(tmp_path):
    logger = EventLogger(tmp_path)
    for step in range(3):
        logger.log_metrics({"a": float(step)}, step)
        logger.finalize("success")
    found = scalars(logger)  # files of one second are read by name, the tenth of a process before the ninth
    assert {tag: sorted(points) for tag, points in found.items()} == {"a": [(0, 0.0), (1, 1.0), (2, 2.0)]}


def test_what_has_waited_for_a_second_is_written(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(event_logger.time, "monotonic", lambda: now[0])
    logger = EventLogger(tmp_path)
    for step, seconds in enumerate((0.0, 0.9, 0.2, 0.1)):
        now[0] += seconds
        logger.log_metrics({"a": 1.0}, step)
    logger.experiment.flush()
    assert [step for step, _ in scalars(logger)["a"]] == [0, 1, 2]


def test_dicts_and_what_is_no_number_go_as_with_lightnings_logger(tmp_path):
    logger = EventLogger(tmp_path)
    logger.log_metrics({"both": {"x": 1.0, "y": 2.0}}, 0)
    with pytest.raises((ValueError, TypeError)):
        logger.log_metrics({"a": object()}, 0)


def test_the_epoch_has_one_point_a_step_and_none_for_the_results_of_a_test(tmp_path):
    logger = EventLogger(tmp_path)
    for epoch in range(2):
        logger.log_metrics({"val_loss": 1.0, "epoch": epoch}, epoch)
        logger.log_metrics({"train_loss": 2.0, "epoch": epoch}, epoch)
    logger.log_metrics({"test_loss": 3.0, "epoch": 2}, 40)  # as Lightning does after a fit
    logger.finalize("success")
    found = scalars(logger)
    assert found.pop("epoch") == [(0, 0.0), (1, 1.0)]
    assert found == {name: [(0, n), (1, n)] for n, name in ((1, "val_loss"), (2, "train_loss"))} | {
        "test_loss": [(40, 3.0)]
    }
