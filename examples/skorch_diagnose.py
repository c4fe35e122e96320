"""A network that skorch trains within a scikit-learn pipeline; `diagnose` reads skorch's history and gives the verdict.

python examples/skorch_diagnose.py
"""

import sys
from importlib.util import find_spec

if find_spec("skorch") is None:
    sys.stderr.write("skorch_diagnose.py needs skorch: pip install skorch\n")
    sys.exit(2)

import torch
from sklearn.datasets import load_breast_cancer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skorch import NeuralNetClassifier
from torch import nn

from callbacks.diagnosis.verdict import diagnose


def main() -> None:
    torch.manual_seed(0)
    x, y = load_breast_cancer(return_X_y=True)
    net = NeuralNetClassifier(
        nn.Sequential(nn.Linear(30, 256), nn.ReLU(), nn.Linear(256, 2)),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        optimizer__momentum=0.9,
        lr=0.2,
        max_epochs=40,
        batch_size=32,
        iterator_train__shuffle=True,
        verbose=0,
    )
    single = FunctionTransformer(lambda rows: rows.astype("float32"))
    make_pipeline(StandardScaler(), single, net).fit(x, y)
    found = diagnose(net.history[:, "train_loss"], net.history[:, "valid_loss"], val_metric=net.history[:, "valid_acc"])
    print(f"{found.fit} ({found.cause}): {found.reason}")
    for number, advice in enumerate(found.advice, 1):
        print(f"  {number}. {advice}")


if __name__ == "__main__":
    main()
