"""scikit-learn's `MLPClassifier`, an epoch a `partial_fit`: its `fit` cannot validate on rows that it is given."""

import numpy as np
from sklearn.metrics import accuracy_score, log_loss
from sklearn.neural_network import MLPClassifier

from benchmarks.speed.contenders import LogProbabilities
from benchmarks.speed.shapes import CLASSES, HIDDEN, MOMENTUM, Job
from benchmarks.speed.stopwatch import Stopwatch


def fit(job: Job, watch: Stopwatch) -> LogProbabilities:
    x, y, val_x, val_y = job.rows()
    classes = np.arange(CLASSES)
    watch.start()
    model = MLPClassifier(
        HIDDEN,
        solver="sgd",
        alpha=0.0,
        batch_size=job.shape.batch,
        learning_rate_init=job.shape.lr,
        momentum=MOMENTUM,
        nesterovs_momentum=False,
        random_state=job.seed,
    )
    for _ in range(job.shape.epochs):
        model.partial_fit(x, y, classes=classes)
        probabilities = model.predict_proba(val_x)
        log_loss(val_y, probabilities, labels=classes)
        accuracy_score(val_y, probabilities.argmax(1))
        watch.lap()
    watch.stop()
    return model.predict_log_proba  # type: ignore[no-any-return]
