"""A trainer of anybody's with both monitors: they end with one report, whichever of them ends last."""

import pytest
import pytorch_lightning as pl
from foreign_modules import LIGHTNINGS_WARNINGS, Memorises, NoValidation, fit

from callbacks import FitMonitor, GradientMonitor

pytestmark = LIGHTNINGS_WARNINGS


def closing_lines(err):
    """What is said at the end: all but the lines in which a monitor speaks of a moment."""
    return [line for line in err.splitlines() if not line.startswith("FitMonitor: epoch") and " at step " not in line]


@pytest.mark.parametrize("kinds", [(FitMonitor, GradientMonitor), (GradientMonitor, FitMonitor)])
def test_both_monitors_speak_once_at_the_end(tmp_path, capsys, kinds):
    fit(tmp_path, Memorises, epochs=20, callbacks=[kind() for kind in kinds])
    lines = closing_lines(capsys.readouterr().err)
    assert lines[0].startswith("verdict      ")
    assert sum(line.startswith("health       ") for line in lines) == 1
    assert not any(line.startswith("GradientMonitor:") for line in lines)
    numbers = [line.strip().partition(". ")[0] for line in lines if line.startswith("  ")]
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]


def test_one_that_is_not_to_close_leaves_the_other_its_own_words(tmp_path, capsys):
    fit(tmp_path, Memorises, epochs=5, callbacks=[FitMonitor(closing=False), GradientMonitor()])
    lines = closing_lines(capsys.readouterr().err)
    assert [line[:17] for line in lines] == ["GradientMonitor: "]


class Stops(pl.Callback):
    def __init__(self, error):
        self.error = error

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 8:
            raise self.error


@pytest.mark.parametrize("kinds", [(FitMonitor, GradientMonitor), (GradientMonitor, FitMonitor)])
@pytest.mark.parametrize("module", [Memorises, NoValidation])
def test_a_person_who_interrupts_gets_one_report(tmp_path, capsys, kinds, module):
    with pytest.raises(SystemExit):
        fit(tmp_path, module, epochs=20, callbacks=[*(kind() for kind in kinds), Stops(KeyboardInterrupt())])
    lines = closing_lines(capsys.readouterr().err)
    spoken = [line for line in lines if line.startswith(("health  ", "GradientMonitor: ")) and " over " in line]
    assert len(spoken) == 1


def test_an_error_of_the_users_leaves_what_was_found(tmp_path, capsys):
    with pytest.raises(RuntimeError):
        fit(tmp_path, Memorises, epochs=20, callbacks=[FitMonitor(), GradientMonitor(), Stops(RuntimeError("oh"))])
    assert "GradientMonitor: nothing wrong over" in capsys.readouterr().err
