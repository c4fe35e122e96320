"""What a fit says that was stopped by Ctrl-C."""

import signal

import pytest

from lightning_mods import MLPRegressor, fit


class Interrupted(MLPRegressor):
    """Somebody presses Ctrl-C in the first trial."""

    def on_train_epoch_end(self):
        raise KeyboardInterrupt


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fit_that_is_stopped_in_its_search_names_no_checkpoint(tmp_path, capsys):
    flags = ["--data.path=diabetes", f"--model={__name__}.Interrupted", f"--trainer.default_root_dir={tmp_path}"]
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit):
            fit.main([*flags, "--trainer.callbacks+=OptunaSearch"])
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning ignores it from then on
    said = capsys.readouterr().err
    assert "search: stopped; the same command goes on" in said
    assert "stopped before there was a checkpoint." in said
    assert "--ckpt_path" not in said
