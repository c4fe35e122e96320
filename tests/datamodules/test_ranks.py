"""Two real processes: equal steps of different rows, every held-out row once, all predictions on each."""

import json

from two_ranks import run_alone, run_ranks

SCRIPT = """
import json, sys, warnings
import pytorch_lightning as pl, torch
from datamodules import TabularDataModule
warnings.filterwarnings("ignore")

class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.seen, self.held = torch.nn.Linear(4, 3), [], []
    def training_step(self, batch, i):
        self.seen.append((self.current_epoch, [round(v, 4) for v in batch[0].sum(1).tolist()]))
        return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])
    def validation_step(self, batch, i):
        self.held += [round(v, 4) for v in batch[0].sum(1).tolist()]
    def predict_step(self, batch, i):
        return self.layer(batch)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

if __name__ == "__main__":
    out, predict, ranks = sys.argv[1], sys.argv[2], int(sys.argv[3])
    net = Net()
    dm = TabularDataModule("iris", batch_size=16 // ranks, predict_path=predict, memory_map=True, val_fraction=0.14)
    one = {"strategy": "ddp"} if ranks > 1 else {}
    trainer = pl.Trainer(accelerator="cpu", devices=ranks, max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **one)
    trainer.fit(net, datamodule=dm)
    predictions = torch.cat(trainer.predict(net, datamodule=dm))
    found = {"seen": net.seen, "held": net.held, "weights": net.layer.weight.tolist(), "predicted": len(predictions)}
    open(f"{out}.{ranks}.{trainer.global_rank}", "w").write(json.dumps(found))
"""


def test_two_processes_train_as_one_would_with_the_double_batch(tmp_path):
    predict = tmp_path / "p.csv"
    names = [f"{part} {side} (cm)" for part in ("sepal", "petal") for side in ("length", "width")]
    predict.write_text(",".join(names) + "\n" + "5,3,1,0.2\n" * 7)
    run_ranks(tmp_path, SCRIPT, tmp_path / "out", predict, 2)
    run_alone(tmp_path, SCRIPT, tmp_path / "out", predict, 1)
    first, second, alone = (json.loads((tmp_path / f"out.{r}").read_text()) for r in ("2.0", "2.1", "1.0"))
    assert [len(rows) for _, rows in first["seen"]] == [len(rows) for _, rows in second["seen"]]
    both = [(e, a + b) for (e, a), (_, b) in zip(first["seen"], second["seen"], strict=True)]
    even = [(e, rows[: len(rows) // 2 * 2]) for e, rows in alone["seen"]]
    assert both == [(e, rows) for e, rows in even if rows]
    assert first["held"] + second["held"] != alone["held"]  # two epochs: each rank has its half twice
    assert sorted(first["held"] + second["held"]) == sorted(alone["held"])
    assert (first["predicted"], second["predicted"]) == (7, 7)
    assert first["weights"] == second["weights"]
