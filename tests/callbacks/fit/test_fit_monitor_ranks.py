import json

import pytest
from foreign_modules import train_at
from two_ranks import run_ranks

# Every rank logs another loss, as a module without `sync_dist=True` does; rank 1 logs no metric at all.
SCRIPT = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import pytorch_lightning as pl
from callbacks import FitMonitor
from foreign_modules import LogsLate, Memorises, loader, train_at

late, folder = sys.argv[1] == "late", Path(sys.argv[2])

class Ranks(Memorises):
    def log_train(self, batch_idx):
        if not late:
            self.log("train_loss", train_at(self.current_epoch) + self.global_rank, on_step=False, on_epoch=True)

    def on_train_epoch_end(self):
        if late:
            self.log("train_loss", train_at(self.current_epoch) + self.global_rank)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        if self.global_rank == 0:
            self.log("val_accuracy", 1.0 / (1 + self.current_epoch), rank_zero_only=True)

if __name__ == "__main__":
    pl.seed_everything(1)
    monitor = FitMonitor(stop=True)
    trainer = pl.Trainer(max_epochs=40, accelerator="cpu", devices=2, strategy="ddp", logger=False,
                         default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False,
                         callbacks=[monitor])
    trainer.fit(Ranks(), loader(shuffle=True), loader())
    state = {"state": monitor.state_dict(), "epochs": trainer.current_epoch, "last": monitor.last_word}
    (folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(state))
"""


@pytest.mark.parametrize("when", ["in time", "late"])
def test_two_ranks_agree_stop_together_and_one_of_them_speaks(tmp_path, when):
    done = run_ranks(tmp_path, SCRIPT, when, tmp_path)
    zero, one = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert zero["state"]["reader"]["record"]["curves"] == one["state"]["reader"]["record"]["curves"]
    assert zero["epochs"] == one["epochs"] < 40
    assert zero["state"]["verdict"] == one["state"]["verdict"] == "overfit"
    curves = zero["state"]["reader"]["record"]["curves"]
    assert curves["train_loss"] == pytest.approx([train_at(e) + 0.5 for e in range(zero["epochs"])])
    assert curves["metric"][:3] == pytest.approx([1, 1 / 2, 1 / 3])
    assert done.stderr.count("verdict      overfit") == 1
    assert json.loads((tmp_path / "checkpoints" / "diagnosis.json").read_text())["fit"] == "overfit"
