"""A hybrid network of PennyLane: a layer of four simulated qubits between two linear ones, on the irises.

python examples/quantum_layer.py
"""

import sys
from importlib.util import find_spec

if find_spec("pennylane") is None:
    sys.stderr.write("quantum_layer.py needs PennyLane: pip install pennylane\n")
    sys.exit(2)

import pennylane as qml
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from callbacks import FitMonitor, GradientLogger, GradientMonitor, GraphLogger
from datamodules import TabularDataModule

QUBITS = 4


def quantum_layer() -> nn.Module:
    """Angles in, expectations out, each `[B, 4]`; two layers of trained rotations between."""

    @qml.qnode(qml.device("default.qubit", wires=QUBITS))
    def circuit(inputs: Tensor, weights: Tensor) -> list[object]:
        qml.AngleEmbedding(inputs, wires=range(QUBITS))
        qml.StronglyEntanglingLayers(weights, wires=range(QUBITS))
        return [qml.expval(qml.PauliZ(wire)) for wire in range(QUBITS)]

    return qml.qnn.TorchLayer(circuit, {"weights": (2, QUBITS, 3)})


class HybridModule(pl.LightningModule):
    """Four features, four qubits, three kinds of iris."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(4, QUBITS), nn.Tanh(), quantum_layer(), nn.Linear(QUBITS, 3))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = functional.cross_entropy(self.network(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        logits = self.network(batch[0])
        self.log("val_loss", functional.cross_entropy(logits, batch[1]))
        self.log("val_accuracy", (logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def main() -> None:
    pl.seed_everything(0)
    watchers = [FitMonitor(), GradientMonitor(), GradientLogger(every=1), GraphLogger()]
    trainer = pl.Trainer(max_epochs=6, callbacks=watchers, log_every_n_steps=1, enable_progress_bar=False)
    trainer.fit(HybridModule(), TabularDataModule("iris", batch_size=16, seed=0))
    print("reached", {k: round(float(v), 4) for k, v in trainer.callback_metrics.items()})


if __name__ == "__main__":
    main()
