"""One training as plain data: what a fault or a twin changes is a field here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """A base's ordinary choices; `dataclasses.replace` makes a fault or a twin of them.

    Args:
        table: Name of the data, see `tables.py`.
        network: `mlp`, `cnn1d` or `cnn2d`.
        classes: 0 for regression.
        widths: Width of each hidden layer (channels of a convolution).
        functional: Activations and losses called as functions instead of modules.
        steps: Optimizer steps to train, rounded up to whole epochs.
        rows: Training rows kept; 0 for all.
        scaling: `standard`, `unit` (0 to 1), `symmetric` (-1 to 1), `raw`, `twice`.
        target_scaling: Of a regression's targets: `standard`, `symmetric`, `unit`, `raw`.
        misaligned: Inputs and targets of all rows no longer belong together.
        label_noise: Share of the targets, in training and validation, that is drawn anew.
        majority: Share of the first class (or of the lowest tenth of the targets) in training; 0 as it is.
        augmentation: Of the training rows, see `rows.py`.
        order: `shuffled`, `stored` (unshuffled, but the rows lie in random order), `sorted` (by target, unshuffled).
        bad_row: One training row: `` (none), `nan`, `zero`.
        norm: `none`, `batch`, `batch_after` (behind the activation), `group`.
        head: What is done to the last layer's output, see `networks.py`.
        initialisation: See `initialisation.py`.
        shifted_bias: Added to the bias that feeds the middle activation.
        detached: The middle layer's output is detached.
        left_out: Position of the hidden layer that the optimizer is not given, or -1.
        first_layer_lr: Factor of the first layer's rate; 0 freezes it on purpose.
        validates_in: `eval`, `train` (the mode is forced), `preview` (switches to and fro, correctly).
        zero_grad: False if gradients are never cleared.
        epochs_at_most: Cap on the epochs that `steps` leads to.
    """

    base: str
    table: str
    network: str
    classes: int
    widths: tuple[int, ...]
    loss: str
    optimizer: str
    lr: float
    batch_size: int
    steps: int
    functional: bool = False
    rows: int = 0
    scaling: str = "standard"
    target_scaling: str = "standard"
    misaligned: bool = False
    label_noise: float = 0.0
    majority: float = 0.0
    augmentation: str = ""
    order: str = "shuffled"
    bad_row: str = ""
    activation: str = "relu"
    norm: str = "none"
    dropout: float = 0.0
    head: str = "none"
    output_scale: float = 1.0
    initialisation: str = "default"
    shifted_bias: float = 0.0
    detached: bool = False
    left_out: int = -1
    first_layer_lr: float = 1.0
    sign: float = 1.0
    eps: float = 1e-8
    weight_decay: float = 0.0
    validates_in: str = "eval"
    zero_grad: bool = True
    accumulate: int = 1
    epochs_at_most: int = 60
