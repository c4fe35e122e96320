"""Keras 3 on the backend that KERAS_BACKEND names; many steps in one execution where the backend compiles them."""

import keras

from benchmarks.speed.contenders import LogProbabilities
from benchmarks.speed.shapes import CLASSES, HIDDEN, MOMENTUM, Job
from benchmarks.speed.stopwatch import Stopwatch

STEPS_PER_EXECUTION = {"jax": 32, "tensorflow": 32, "torch": 1}


class Laps(keras.callbacks.Callback):
    """Tells the stopwatch."""

    def __init__(self, watch: Stopwatch) -> None:
        super().__init__()
        self.watch = watch

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        self.watch.lap()


def fit(job: Job, watch: Stopwatch) -> LogProbabilities:
    x, y, val_x, val_y = job.rows()
    keras.utils.set_random_seed(job.seed)
    watch.start()
    layers = [keras.layers.Dense(width, activation="relu") for width in HIDDEN]
    model = keras.Sequential([keras.Input((x.shape[1],)), *layers, keras.layers.Dense(CLASSES)])
    model.compile(
        optimizer=keras.optimizers.SGD(job.shape.lr, momentum=MOMENTUM),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=STEPS_PER_EXECUTION[keras.backend.backend()],
    )
    model.fit(
        x,
        y,
        batch_size=job.shape.batch,
        epochs=job.shape.epochs,
        validation_data=(val_x, val_y),
        validation_batch_size=4096,  # as ours: its default, the training batch, would cost it more
        verbose=2,  # a line an epoch: its bar would cost it more
        callbacks=[Laps(watch)],
    )
    watch.stop()
    return lambda rows: model.predict(rows, batch_size=4096, verbose=0)  # type: ignore[no-any-return]
