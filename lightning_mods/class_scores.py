"""`ClassScores`: accuracy, F1 and AUROC of predicted classes, from one set of probabilities."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_f1_score
from torchmetrics.utilities import dim_zero_cat


class ClassScores(Metric):
    """`accuracy`, `f1` (mean over classes) and `auroc` (one against the rest, mean over the classes that occur).

    One metric for three: each of torchmetrics' costs as much as a training step of a small network to update, to
    compute and to reset. Its AUROC also counts a class without rows as 0, and a small validation set often lacks one.

    Args:
        num_classes: Number of classes, C. Updated with probabilities `[B, C]` and class numbers `[B]`.
    """

    full_state_update = False
    predictions: list[Tensor]
    classes: list[Tensor]

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("predictions", default=[], dist_reduce_fx="cat")
        self.add_state("classes", default=[], dist_reduce_fx="cat")

    def update(self, predictions: Tensor, classes: Tensor) -> None:
        """Keep the rows of a batch."""
        self.predictions.append(predictions)
        self.classes.append(classes)

    def compute(self) -> dict[str, Tensor]:
        """The three, each a scalar."""
        probabilities, classes = dim_zero_cat(self.predictions), dim_zero_cat(self.classes)
        found = probabilities.argmax(dim=1)
        f1 = multiclass_f1_score(found, classes, self.num_classes, average="macro", validate_args=False)
        return {
            "accuracy": (found == classes).float().mean(),
            "f1": f1,
            "auroc": class_mean_auroc(probabilities, classes),
        }


def class_mean_auroc(probabilities: Tensor, classes: Tensor) -> Tensor:
    """Area under the ROC curve of each class against the rest, averaged over the classes that occur.

    Exact, not binned. The area is the share of pairs of a row of the class and another row that are in the right
    order, ties counting half (Mann and Whitney 1947, https://doi.org/10.1214/aoms/1177730491), from ranks.

    Args:
        probabilities: Shape `[N, C]`.
        classes: Numbers of the true classes, shape `[N]`.

    Returns:
        A scalar; NaN where all rows are of one class, as there is nothing to rank, or where a probability is NaN.
    """
    if probabilities.isnan().any():
        return probabilities.new_tensor(float("nan"))
    rows = len(classes)
    counts = torch.bincount(classes, minlength=probabilities.shape[1]).tolist()
    by_class = torch.split(classes.argsort(), counts)
    areas = []
    for own, values in zip(by_class, probabilities.t(), strict=True):
        n = len(own)
        if 0 < n < rows:
            column, mine = values.sort().values, values[own]  # one class at a time: all at once take its memory tenfold
            # Of each row of the class among all, from 1; those that are equal share the mean of their ranks.
            ranks = torch.searchsorted(column, mine) + torch.searchsorted(column, mine, right=True) + 1
            areas.append((int(ranks.sum()) / 2 - n * (n + 1) / 2) / (n * (rows - n)))
    return torch.tensor(sum(areas) / len(areas) if areas else float("nan"), device=probabilities.device)
