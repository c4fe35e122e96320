"""skorch: a scikit-learn estimator around the network."""

import pandas as pd
import torch
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import nn

from benchmarks.compared.task import BATCH, EPOCHS, HIDDEN, LR, MOMENTUM, SEED


def train(train_csv, val_csv):
    torch.manual_seed(SEED)
    rows, val_rows = pd.read_csv(train_csv), pd.read_csv(val_csv)
    scaler = StandardScaler().fit(rows.drop(columns="target"))

    def scaled(table):
        return scaler.transform(table.drop(columns="target", errors="ignore")).astype("float32")

    net = NeuralNetClassifier(
        nn.Sequential(
            nn.Linear(30, HIDDEN[0]), nn.ReLU(), nn.Linear(HIDDEN[0], HIDDEN[1]), nn.ReLU(), nn.Linear(HIDDEN[1], 2)
        ),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        optimizer__momentum=MOMENTUM,
        lr=LR,
        batch_size=BATCH,
        max_epochs=EPOCHS,
        iterator_train__shuffle=True,
        train_split=predefined_split(Dataset(scaled(val_rows), val_rows["target"].to_numpy())),
    )
    net.fit(scaled(rows), rows["target"].to_numpy())
    return lambda path: net.predict_proba(scaled(pd.read_csv(path)))[:, 1]
