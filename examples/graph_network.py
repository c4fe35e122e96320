"""A graph network of PyTorch Geometric: handwritten digits, each linked to the seven most like it.

python examples/graph_network.py
"""

import sys
from importlib.util import find_spec

if find_spec("torch_geometric") is None:
    sys.stderr.write("graph_network.py needs PyTorch Geometric: pip install torch_geometric\n")
    sys.exit(2)

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import kneighbors_graph
from torch import Tensor
from torch.nn import functional
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GCN
from torch_geometric.utils import from_scipy_sparse_matrix

from callbacks import FitMonitor, GradientLogger, GradientMonitor, GraphLogger, OptunaSearch


class GraphModule(pl.LightningModule):
    """Names the class of a node; its batch is a graph, and the labels of some of its nodes are known."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.lr, self.network = lr, GCN(64, hidden_channels=32, num_layers=2, out_channels=10, dropout=0.3)

    def loss(self, graph: Data, of: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy and accuracy over the nodes `of`."""
        logits = self.network(graph.x, graph.edge_index)[of]
        return functional.cross_entropy(logits, graph.y[of]), (logits.argmax(1) == graph.y[of]).float().mean()

    def training_step(self, graph: Data, batch_idx: int) -> Tensor:
        loss, _ = self.loss(graph, graph.known)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=1)
        return loss

    def validation_step(self, graph: Data, batch_idx: int) -> None:
        loss, accuracy = self.loss(graph, ~graph.known)
        self.log_dict({"val_loss": loss, "val_accuracy": accuracy}, batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def digits_graph() -> Data:
    """One label in ten is known."""
    images, labels = load_digits(return_X_y=True)
    edges = from_scipy_sparse_matrix(kneighbors_graph(images, 7))[0]
    x, y = torch.tensor(images / 16).float(), torch.tensor(labels)
    return Data(x=x, y=y, edge_index=edges, known=torch.arange(len(y)) % 10 == 0)


class GraphData(pl.LightningDataModule):
    """The one graph, to train and to validate on: trials of a search ask for loaders of their own."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader([digits_graph()], batch_size=1)

    val_dataloader = train_dataloader


def main() -> None:
    pl.seed_everything(0)
    search = OptunaSearch(n_trials=3, max_epochs=10, lr="log 1e-2..1", batch_size=None)  # one graph is one batch
    watchers = [search, FitMonitor(), GradientMonitor(), GradientLogger(every=1), GraphLogger()]
    trainer = pl.Trainer(max_epochs=30, callbacks=watchers, log_every_n_steps=1, enable_progress_bar=False)
    trainer.fit(GraphModule(), GraphData())
    print("reached", {k: round(float(v), 4) for k, v in trainer.callback_metrics.items()}, "with", search.found)


if __name__ == "__main__":
    main()
