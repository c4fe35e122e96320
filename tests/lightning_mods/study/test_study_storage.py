"""`study` on a server and on a database that another process holds."""

import sqlite3

import optuna
import pytest

from callbacks.search import storage as storages
from callbacks.search.storage import open_storage
from lightning_mods import study

# Lightning 2.6 itself calls names that jsonargparse 5 will drop.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(?s).*(JSONARGPARSE_DEPRECATION|was deprecated in v4.49.0):DeprecationWarning"
)

IRIS = ("--data.path=iris", "--trainer.max_epochs=2", "--model.hidden_sizes=[8]")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_study_on_a_server_goes_on_with_the_same_command(postgresql, capsys):
    flags = [*IRIS, "--study.name=on_a_server", f"--study.storage={postgresql}"]
    study.main([*flags, "--study.n_trials=2"])
    study.main([*flags, "--study.n_trials=3"])
    found = optuna.load_study(study_name="on_a_server", storage=open_storage(postgresql))
    assert [trial.user_attrs["place"] for trial in found.trials] == [0, 1, 2]
    assert {trial.state.name for trial in found.trials} <= {"COMPLETE", "PRUNED"}
    assert "3/3 trials" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        study.main([*flags, "--space.model.dropout=0..0.5"])
    assert end.value.code == 2
    assert "another space" in capsys.readouterr().err


def test_a_locked_sqlite_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(storages, "BUSY_SECONDS", 0.2)
    flags = [*IRIS, "--study.n_trials=1", "--study.storage=sqlite:///trials.db"]
    open_storage("sqlite:///trials.db")
    holder = sqlite3.connect("trials.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(SystemExit) as end:
        study.main(flags)
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "database is locked" in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["trials.db"]
    holder.execute("ROLLBACK")
    holder.close()
    study.main(flags)
    assert len(optuna.load_study(study_name="study", storage="sqlite:///trials.db").trials) == 1
