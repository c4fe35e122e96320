import json

from two_ranks import run_ranks

# Rank 1 logs another loss, by which it would never prune; rank 0 has the study.
SCRIPT = """
import json, os, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import optuna
import pytorch_lightning as pl
from callbacks import TrialPruning
from foreign_modules import Plain, loader

folder, rank = Path(sys.argv[1]), int(os.environ.get("LOCAL_RANK", 0))

class Ranks(Plain):
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", 9.0 if rank == 0 else 0.0)

def broken(value, step):
    raise OSError("disk full")

if __name__ == "__main__":
    pl.seed_everything(1)
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=1))
    study.add_trial(optuna.create_trial(value=1.0, intermediate_values={0: 1.0, 1: 1.0}))
    raised = []
    for how in ("prune", "broken"):
        trial = study.ask() if rank == 0 else None
        if trial and how == "broken":
            trial.report = broken
        trainer = pl.Trainer(max_epochs=5, accelerator="cpu", devices=2, strategy="ddp", logger=False,
                             default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False,
                             enable_checkpointing=False, callbacks=[TrialPruning(trial)])
        try:
            trainer.fit(Ranks(), loader(shuffle=True), loader())
        except Exception as error:
            raised.append(f"{type(error).__name__}: {error}")
    steps = rank == 0 and study.trials[1].intermediate_values
    (folder / f"rank{rank}.json").write_text(json.dumps({"raised": raised, "steps": steps}))
"""


def test_two_ranks_do_what_rank_zero_decides(tmp_path):
    run_ranks(tmp_path, SCRIPT, tmp_path)
    zero, one = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    pruned = "TrialPruned: MedianPruner: val_loss 9 at step 1"
    assert zero["raised"] == [pruned, "OSError: disk full"]
    assert one["raised"] == [pruned, "RuntimeError: TrialPruning failed on rank zero (OSError: disk full)."]
    assert zero["steps"] == {"0": 9.0, "1": 9.0}
