"""Keras 3: layers, `compile`, `fit`."""

import keras
import pandas as pd

from benchmarks.compared.task import BATCH, EPOCHS, HIDDEN, LR, MOMENTUM, SEED


def train(train_csv, val_csv):
    keras.utils.set_random_seed(SEED)
    rows, val_rows = pd.read_csv(train_csv), pd.read_csv(val_csv)

    def features(table):
        return table.drop(columns="target", errors="ignore").to_numpy("float32")

    scale = keras.layers.Normalization()
    scale.adapt(features(rows))
    model = keras.Sequential(
        [
            keras.Input((30,)),
            scale,
            keras.layers.Dense(HIDDEN[0], activation="relu"),
            keras.layers.Dense(HIDDEN[1], activation="relu"),
            keras.layers.Dense(2),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.SGD(LR, momentum=MOMENTUM),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        features(rows),
        rows["target"].to_numpy(),
        batch_size=BATCH,
        epochs=EPOCHS,
        validation_data=(features(val_rows), val_rows["target"].to_numpy()),
        verbose=2,
    )
    return lambda path: keras.ops.softmax(model.predict(features(pd.read_csv(path)), verbose=0))[:, 1].tolist()
