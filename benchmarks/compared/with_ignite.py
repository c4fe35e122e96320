"""Ignite: engines that run a step, with handlers on their events."""

import pandas as pd
import torch
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from ignite.metrics import Accuracy, Loss
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.compared.task import BATCH, EPOCHS, HIDDEN, LR, MOMENTUM, SEED


def train(train_csv, val_csv):
    torch.manual_seed(SEED)
    rows, val_rows = pd.read_csv(train_csv), pd.read_csv(val_csv)
    scaler = StandardScaler().fit(rows.drop(columns="target"))

    def scaled(table):
        x = scaler.transform(table.drop(columns="target", errors="ignore"))
        return torch.as_tensor(x, dtype=torch.float32)

    def loader(table, **options):
        y = torch.as_tensor(table["target"].to_numpy())
        return DataLoader(TensorDataset(scaled(table), y), batch_size=BATCH, **options)

    model = nn.Sequential(
        nn.Linear(30, HIDDEN[0]), nn.ReLU(), nn.Linear(HIDDEN[0], HIDDEN[1]), nn.ReLU(), nn.Linear(HIDDEN[1], 2)
    )
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    trainer = create_supervised_trainer(model, optimizer, criterion)
    evaluator = create_supervised_evaluator(model, metrics={"accuracy": Accuracy(), "loss": Loss(criterion)})
    train_loader, val_loader = loader(rows, shuffle=True), loader(val_rows)

    @trainer.on(Events.EPOCH_COMPLETED)
    def log(engine):
        seen = dict(evaluator.run(train_loader).metrics)
        unseen = dict(evaluator.run(val_loader).metrics)
        print(
            f"epoch {engine.state.epoch}: train loss {seen['loss']:.4f}, "
            f"validation loss {unseen['loss']:.4f}, accuracy {unseen['accuracy']:.4f}"
        )

    trainer.run(train_loader, max_epochs=EPOCHS)
    model.eval()
    return lambda path: model(scaled(pd.read_csv(path))).softmax(dim=1)[:, 1].tolist()
