"""What is known of the data of a run, in plain numbers: what the first layer is given, the labels, and their order."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Inputs:
    """What the first layer was given in the first steps.

    Args:
        layer: Its name.
        rows: Rows seen.
        columns: Different inputs of a row: columns of a table, or all pixels.
        largest: The largest absolute value.
        rms: Root of the mean square.
        column_rms: The same of the column where it is largest; of pictures the same as `rms`.
        spread: Largest deviation of a column within a batch.
        unit_rows: Whether all rows have length 1.
        from_batch: Whether they stand in the batch as they are, instead of being made in the step.
    """

    layer: str
    rows: int
    columns: int
    largest: float
    rms: float
    column_rms: float
    spread: float
    unit_rows: bool = False
    from_batch: bool = True


@dataclass(frozen=True)
class Labels:
    """The classes that one epoch of training batches holds.

    Args:
        counts: Rows of each class that occurs.
        within: Mean impurity (chance that two rows differ) within a batch, over that of the epoch; 1 if shuffled.
        runs: Stretches of batches with the same commonest class.
        batches: How many batches that was.
        weighted: Whether the loss weighs classes or rows.
    """

    counts: dict[int, int]
    within: float = 1.0
    runs: int = 0
    batches: int = 0
    weighted: bool = False


@dataclass(frozen=True)
class Numbers:
    """The targets of a regression in one epoch.

    Args:
        rows: How many.
        within: Mean variance within a batch over that of the epoch; 1 if shuffled.
        trend: Rank correlation of the batches' means with time, -1 to 1.
        batches: How many batches that was.
        apart: Largest difference of the distribution functions of training and validation targets, 0 to 1.
        narrower: Distance of the quartiles in training over that in validation.
    """

    rows: int
    within: float = 1.0
    trend: float = 0.0
    batches: int = 0
    apart: float = 0.0
    narrower: float = 1.0


@dataclass(frozen=True)
class Contrast:
    """How training rows differ from validation rows.

    Args:
        rows: Rows of the smaller of the two samples.
        effects: Difference of the means of a statistic of a row, in its standard deviations, by the statistic's name.
        likeness: Correlation of the mean training picture with the mean validation picture; None of tables.
        reliable: The least correlation of the mean pictures of two halves of one sample.
        label_shift: Half the sum of the differences between the shares of the classes, 0 to 1.
    """

    rows: int
    effects: dict[str, float]
    likeness: float | None = None
    reliable: float = 0.0
    label_shift: float = 0.0


@dataclass(frozen=True)
class Neighbours:
    """How often near rows have the same label (or of numbers, how near their ranks are, 0 to 1), in equal samples.

    Args:
        rows: Rows of each sample.
        train: The share among training rows.
        val: The same among validation rows.
        chance: The same for labels dealt at random.
        density: Distance of a training row's nearest neighbour over that of a validation row's.
    """

    rows: int
    train: float
    val: float
    chance: float
    density: float = 1.0


@dataclass(frozen=True)
class Dependence:
    """Whether labels have to do with inputs, in a run that does not learn.

    Args:
        rows: Training rows compared.
        neighbours: Standard deviations by which labels agree with those of near rows beyond chance.
        column: The same for the single column that tells most.
        best_val_loss: Least validation loss so far over that of the best constant.
        epochs: Epochs trained.
    """

    rows: int
    neighbours: float
    column: float
    best_val_loss: float
    epochs: int
