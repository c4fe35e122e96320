"""The flags that the verbs have of their own, and the defaults that are not Lightning's."""

import re
from argparse import SUPPRESS
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from callbacks.diagnosis.names import STAGES, words
from callbacks.search.plan import Plan
from lightning_mods.cli.command_line import UsageError


@dataclass(frozen=True)
class Reference:
    """Lists the flags of a verb."""

    text: str  # what `--help` prints
    all_flags: str  # what `--help=all` prints
    known: tuple[str, ...]  # the names of all flags, also of those that the text does not show


ABOUT = {
    "fit": "Train an MLP on a table; with no flags at all, on the digits that scikit-learn brings.",
    "validate": "Evaluate a checkpoint on the validation set.",
    "test": "Evaluate a checkpoint on the test set.",
    "predict": "Predict the rows of a file with a checkpoint and write a table; the file may be larger than memory.",
    "export": "Write the model of a checkpoint, with its preprocessing, as a file for other programs.",
    "study": "Search learning rate, batch size and any other flag of `fit` with Optuna; the same command goes on.",
}
EXAMPLES = {
    "fit": "--data.path=table.csv --data.target=price --trainer.max_epochs=50 --model.lr=0.01",
    "validate": "--ckpt_path=best",
    "test": "--ckpt_path=best --data.test_path=more.csv",
    "predict": "--ckpt_path=best --data.predict_path=new.csv --output=predictions.csv",
    "export": "--ckpt_path=best --format=onnx --output=model.onnx",
    "study": "--data.path=table.csv --data.target=price --study.n_trials=50 --space.model.dropout=0..0.5",
}

SPACE_HELP = (
    "What to search, one flag a name: --space.model.dropout=0..0.5, --space.model.weight_decay='log 1e-6..1e-2', "
    "--space.model.hidden_sizes='[[64],[128,128]]', --space.data.batch_size='pow2 16..512', --space.optimizer.lr=…; "
    "any flag of model, data, trainer, optimizer and lr_scheduler. A range includes its bounds; two whole numbers "
    "make a range of whole numbers unless the flag is a float. Without more, the learning rate (log 0.02..2; 1e-4..1 "
    "with --recipe=plain) and the batch size (powers of two from 8 to 1024, at most half of the training rows) are "
    "searched. A flag that is given by hand, --model.lr=0.1, is fixed and not searched."
)

# Names that end like these are to be high; all others are losses and errors.
_HIGH = ("acc", "accuracy", "f1", "auroc", "auc", "r2", "precision", "recall", "score", "map", "iou", "dice")
_BEHIND = STAGES | {"epoch", "step"}  # may stand behind it


@dataclass(frozen=True)
class StudyFlags:
    """How to search.

    Args:
        name: The study's name; its folder is `studies/NAME` under --trainer.default_root_dir.
        storage: What holds the trials: a file ending in `.journal`, sqlite:///FILE or postgresql://USER@HOST/DB; by
            default study.journal in the study's folder. The same command started again, also on another machine that
            reaches the storage, goes on with the same study.
        n_trials: Trials of the whole study, over all starts and processes.
        timeout: Seconds after which no further trial is started; none for no limit.
        workers: Processes to start here, each with one thread; 1 trains in this process.
        sampler: Who chooses the next trial: tpe, gp, random, cmaes, qmc or grid.
        pruner: Who ends hopeless trials early: halving (the best third goes on behind the third epoch, and of these
            behind the seventh, the 19th, …; of trials that are trained together by their best epochs so far),
            hyperband, median, percentile (goes on with the best quarter), wilcoxon (for seeds and folds) or none.
        metric: Name of the logged metric, of which a trial counts its best epoch; a list for several objectives: then
            the best epoch is by the first, and the study ends with a Pareto front.
        direction: `minimize` or `maximize`, one for each metric; by default told by its name.
        seeds: Fits of each trial, with seeds counting up from --seed_everything on the same split of the data; the
            objective is their mean.
        folds: Fits of each trial, each validating on another share of the rows that are not for testing; the objective
            is their mean. 0 validates on the validation rows alone.
        prune_hopeless: End a trial at once when it diverges, or learns nothing while others do.
        fused: Train trials together that differ in lr, momentum, weight_decay or dropout alone, as one batched model:
            `auto` wherever each of them comes out as it would alone (an MLP of ours with plain SGD, no callbacks, and
            pruner halving or none), `false` never.
        refit: Fit the best trial anew when the study is done, as `fit` does, with its checkpoints and verdict.
        seed: Of the sampler. One process repeats a study exactly.
    """

    name: str = "study"
    storage: str | None = None
    n_trials: int = 30
    timeout: float | None = None
    workers: int = 1
    sampler: str = "tpe"
    pruner: str = Plan.pruner
    metric: str | list[str] = "val_loss"
    direction: str | list[str] | None = None
    seeds: int = 1
    folds: int = 0
    prune_hopeless: bool = True
    fused: bool | Literal["auto"] = "auto"
    refit: bool = False
    seed: int = 0

    @property
    def metrics(self) -> list[str]:
        """Name the objectives."""
        return [self.metric] if isinstance(self.metric, str) else list(self.metric)

    @property
    def directions(self) -> list[str]:
        """Tell for each of the metrics whether to `minimize` or `maximize` it."""
        if self.direction is None:
            return ["maximize" if is_high(name) else "minimize" for name in self.metrics]
        return [self.direction] if isinstance(self.direction, str) else list(self.direction)

    @property
    def fits(self) -> int:
        """Count the fits of each trial."""
        return self.seeds * max(self.folds, 1)

    def folder(self, root: Path) -> Path:
        """Return the folder of the study's results."""
        return root / "studies" / self.name

    def place(self, root: Path) -> str:
        """Return the storage, by default a journal in the study's folder."""
        return self.storage or str(self.folder(root) / "study.journal")

    def check(self) -> None:
        """Raise a UsageError for a number or name that cannot be."""
        if not self.name or self.name in (".", "..") or any(sign in self.name for sign in "/\\"):
            raise UsageError(f"--study.name is the name of a folder, such as `wide_nets`, not {self.name!r}.")
        for flag, number in (("n_trials", self.n_trials), ("workers", self.workers), ("seeds", self.seeds)):
            if number < 1:
                raise UsageError(f"--study.{flag} must be at least 1, not {number}.")
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise UsageError(f"--study.metric needs one name, or several different ones; got {self.metric!r}.")
        if len(self.directions) != len(self.metrics) or not {*self.directions} <= {"minimize", "maximize"}:
            needed, got = ", ".join(self.metrics), ", ".join(self.directions)
            raise UsageError(f"--study.direction needs `minimize` or `maximize` for each of {needed}; got {got}.")
        if self.folds < 0 or self.folds == 1:
            raise UsageError(f"--study.folds must be 0 or at least 2, not {self.folds}.")
        if self.storage is not None and re.fullmatch(r"sqlite(\+\w+)?:(//)?/?(:memory:)?", self.storage):
            raise UsageError(f"--study.storage={self.storage} is gone when it is closed; name a file, sqlite:///FILE.")
        if self.pruner == "wilcoxon" and self.fits < 2:
            raise UsageError("--study.pruner=wilcoxon compares the fits of a trial; give --study.seeds=6 or more.")


def is_high(metric: str) -> bool:
    """Whether a metric of this name is good when it is high: `val_acc`, `acc/val`, `Validation/F1`."""
    said = [word for word in words(metric.partition("/dataloader_idx_")[0]) if word not in _BEHIND]
    return bool(said) and said[-1] in _HIGH


# Those of Lightning's flags that `--help` lists.
TRAINER_HELP = {
    "max_epochs": "Passes over the training rows; where you say nothing 10 to 40, by their number (recipe plain: 30).",
    "max_time": "Time after which training stops, as DD:HH:MM:SS.",
    "max_steps": "Optimizer steps after which training stops; -1 for no limit.",
    "gradient_clip_val": "Largest norm of the gradient, 0 for none; by default 0.3 (recipe plain: none).",
    "accumulate_grad_batches": "Mini-batches whose gradients make one step.",
    "accelerator": "What to compute on: cpu, gpu, tpu, mps, or auto for what there is.",
    "devices": "How many devices, or which, such as [0,1]; auto for all there are.",
    "num_nodes": "Machines that train together.",
    "strategy": "How devices train together: auto, ddp, fsdp, deepspeed, …",
    "precision": "Of the numbers: 32, 64, bf16-mixed, 16-mixed, …",
    "logger": "tensorboard (where nothing is said), csv, wandb, comet, mlflow, visdom, a list of these, or false.",
    "callbacks": "More callbacks: --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=val_loss.",
    "default_root_dir": "Folder that holds the runs; by default that in which the command runs.",
    "enable_progress_bar": "Whether to show the progress.",
    "enable_checkpointing": "Whether to keep checkpoints.",
    "check_val_every_n_epoch": "Epochs from one validation to the next.",
    "limit_train_batches": "Mini-batches an epoch: a number, or a share such as 0.1.",
    "overfit_batches": "Mini-batches to train on again and again, to see that a model can learn them.",
    "fast_dev_run": "Run one batch of everything to try out the code; nothing is kept.",
    "deterministic": "Whether to refuse operations whose result may differ from run to run.",
}
BY_RECIPE = ("max_epochs", "gradient_clip_val")  # whose default is none of Lightning's
_LOOKS = ("accelerator", "devices", "precision", "default_root_dir", "enable_progress_bar")
_DATA_OF = {
    "predict": ("predict_path", "batch_size", "encoding", "max_expansion"),
    "export": (),
    "validate": ("path", "val_path", "batch_size", "encoding", "memory_map", "max_expansion"),
    "test": ("path", "test_path", "batch_size", "encoding", "memory_map", "max_expansion"),
}


# What flags are called in scikit-learn, Keras, fastai and other commands, by their last word.
_HABITS = {
    "model.lr": "lr eta learning_rate learning_rate_init base_lr",
    "trainer.max_epochs": "epochs n_epochs num_epochs num_train_epochs max_iter epoch",
    "trainer.max_steps": "steps n_steps iterations",
    "data.batch_size": "bs batch batchsize batch_size train_batch_size",
    "model.weight_decay": "wd decay l2 alpha weight_decay",
    "model.hidden_sizes": "hidden layers hidden_layers hidden_layer_sizes hidden_size",
    "model.dropout": "drop_rate dropout_rate ps",
    "model.activation": "act nonlinearity",
    "data.path": "csv file table dataset input train train_path data_path",
    "data.target": "label y y_name label_column target_column y_names",
    "data.weight": "sample_weight sample_weights weights weight weight_column",
    "data.val_fraction": "val_split validation_split validation_fraction valid_pct",
    "data.test_fraction": "test_split test_size",
    "seed_everything": "seed random_state random_seed manual_seed",
    "trainer.devices": "gpus n_gpus ngpus num_gpus",
    "trainer.accelerator": "gpu device cuda",
    "trainer.gradient_clip_val": "clip clipnorm clip_grad grad_clip max_grad_norm",
    "trainer.default_root_dir": "out outdir output_dir logdir log_dir save_dir",
    "trainer.precision": "fp16 bf16 amp",
    "ckpt_path": "checkpoint ckpt weights_path resume model_path",
    "optimizer": "opt optim solver",
    "model.lr_schedule": "scheduler lr_schedule",
    "patience": "early_stopping n_iter_no_change",
    "ensemble": "n_estimators members",
    "data.predict_path": "predict new",
    "data.folds": "folds kfold k_fold cv n_splits n_folds",
    "study.n_trials": "trials n_trials",
}
HABITS = {word: flag for flag, words in _HABITS.items() for word in words.split()}


def trainer_flags(verb: str) -> list[str]:
    """Name the flags of Lightning's Trainer that the help of a verb lists."""
    return list(TRAINER_HELP) if verb in ("fit", "study") else [*_LOOKS] if verb != "export" else ["default_root_dir"]


def is_listed(verb: str, section: str, name: str) -> bool:
    """Return whether the help of a verb lists an argument of the model or the data module, if these are ours."""
    if verb in ("fit", "study"):
        return name not in ("predict_path", *LINKED)
    return section == "data" and name in _DATA_OF[verb]


RECIPES = ("default", "plain")
MAX_EPOCHS = 30  # where no recipe says otherwise
# What a model may take from the data, by the name of its argument; a class without such an argument is left alone.
LINKED = ("in_features", "num_classes", "class_counts", "target_mean", "target_std")
Watcher = Literal["fit", "health", "gradients", "graph"]
WATCHERS: list[Watcher] = ["fit", "health", "gradients", "graph"]

# What `export` writes, and the suffix that the format's own readers ask for.
FORMATS = {"onnx": ".onnx", "torchscript": ".pt", "pt2": ".pt2", "aoti": ".pt2", "executorch": ".pte"}
_WATCH_HELP = (
    "Who looks on, e.g. [fit,health]: `fit` gives the verdict, `health` warns of what is broken, `gradients` and "
    "`graph` draw them for TensorBoard. [] for nobody."
)
_STEPS_HELP = (
    "Mini-batches from one that passes through Lightning's loop and every callback to the next; the others are trained "
    "in between, faster and with the same numbers. `auto`: as many as no callback has to see, on a CPU; 1: none; "
    "`graph`: on a GPU, as many, replayed from a CUDA graph (never run on one so far)."
)
_ENSEMBLE_HELP = (
    "Models to train together from different first weights, on the same mini-batches: predictions are their mean. "
    "train_loss and val_loss are the mean member's, all other metrics the ensemble's, by whose loss best.ckpt is kept. "
    "null for one model."
)
_RECIPE_HELP = (
    "What is set where you say nothing: `default`, the best that was measured over many tables: piecewise-linear bins "
    "of each number, gradient clipping, a cosine schedule, averaged weights, epochs, batch size and decay by the size "
    "of the table; or `plain`, SGD at a constant rate with nothing of these. --print_config shows all values; each is "
    "a flag: --data.bins=0, --trainer.gradient_clip_val=0, --model.lr_schedule=constant and --model.ema_epochs=0 turn "
    "them off."
)
_PATIENCE_HELP = (
    "Epochs without a lower validation loss after which training stops; 0 for never. `auto`: 20, or a fifth of "
    "--trainer.max_epochs if that is more, where the learning rate is constant; never where a schedule goes on to its "
    "end."
)
_IMPROVE_HELP = (
    "How often to fit again with what the verdict advises: each fit is a run of its own, what made it worse is undone, "
    "and the run with the lowest validation loss is what `best` means afterwards. It ends before when nothing more is "
    "expected to gain."
)
_REFERENCE_HELP = (
    "Whether boosted trees are fitted to the same rows first, for 20 seconds at most: they tell what loss can be had "
    "there, beside that of the trivial prediction. For our MLPs on a TabularDataModule."
)
_IMPORTANCE_HELP = (
    "Shuffle each column of the table among the {rows} rows, five times: how much worse predictions become says what "
    "the column counts for. The run's folder gets {file}.csv and {file}.png. For our MLPs on a TabularDataModule."
)
_IMPORTANCE_ON = {  # whose rows each verb shuffles
    "fit": ("validation", "importance"),
    "study": ("validation", "importance"),
    "validate": ("validation", "importance"),
    "test": ("test", "importance_test"),
}
_CALIBRATE_HELP = (
    "Divide a classifier's outputs by the temperature that gives the lowest log loss on the validation rows when "
    "training is over (Guo et al. 2017), so that it is as sure as it is often right; classes stay as they are. It is "
    "kept in best.ckpt and in exports."
)
_INTERVAL_HELP = (
    "For a regression: the share of rows, such as 0.9, whose truth shall lie between the columns prediction_low and "
    "prediction_high, by the errors on the fit's validation rows (split conformal)."
)
_OUTPUT_HELP = (
    "File for the predictions, written as its suffix says: .csv or .tsv (also .gz), .jsonl, or with types .parquet, "
    ".arrow or .feather; any other is CSV."
)
_KEEP_HELP = (
    "Columns of the predicted file to write before the predictions, as they stand there: --keep=id,name, or `all`. "
    "Text files keep each cell as it is written."
)
_ALLOW_MISSING_HELP = (
    "Whether a column used in training may be missing from the predicted file: then all its cells count as missing, "
    "and a line says so."
)
_GREEDY_HELP = (
    "`greedy`: keep the weights of the best trials while they train, and pick an ensemble among them by validation "
    "loss when the study is done (Caruana et al. 2004); ensemble.ckpt in the study's folder holds it for every verb."
)
_CHECKPOINT_HELP = "A checkpoint file, or `best` or `last` of the newest run under --trainer.default_root_dir."
_RESUME_HELP = " Training goes on from it; with `last` and no checkpoint yet it starts anew."
_TRUST_HELP = (
    "Whether files of others may name code: typed `false`, a configuration is loaded with our classes, some of "
    "Lightning's, torch's optimizers and schedulers, and plain values alone; typed `true`, `predict --exported` also "
    "runs files that are code. In a configuration it counts for nothing."
)
_EXPORTED_HELP = (
    "A file that `lightning_mods.export` wrote: it predicts instead of a checkpoint, an ONNX file without torch."
)


def add_verb_arguments(parser: Any, verb: str) -> None:
    """Add the flags that are the verb's own."""
    add, is_fit, trains = parser.add_argument, verb == "fit", verb in ("fit", "study")
    # The configuration file that a fit leaves has these, and serves every verb; in that of a study's best trial, which
    # holds what `--help` shows, they are for the fit that follows.
    add("--watch", type=Watcher | list[Watcher], default=WATCHERS, help=_WATCH_HELP if trains else SUPPRESS)
    add("--trust", type=bool | None, default=None, help=_TRUST_HELP)
    add("--recipe", type=Literal[RECIPES], default="default", help=_RECIPE_HELP if trains else SUPPRESS)
    add("--patience", type=int | str, default="auto", help=_PATIENCE_HELP if trains else SUPPRESS)
    steps_help = _STEPS_HELP if trains else SUPPRESS
    add("--steps_per_execution", type=int | str, default="auto", help=steps_help)
    add("--reference", type=bool, default=True, help=_REFERENCE_HELP if trains else SUPPRESS)
    ensemble_help = {"fit": _ENSEMBLE_HELP, "study": _GREEDY_HELP}.get(verb, SUPPRESS)
    add("--ensemble", type=int | str | None, default=None, help=ensemble_help)
    add("--improve", type=int, default=0, help=_IMPROVE_HELP if is_fit else SUPPRESS)
    add("--calibrate", type=bool, default=False, help=_CALIBRATE_HELP if trains else SUPPRESS)
    rows, file = _IMPORTANCE_ON.get(verb, ("", ""))
    add(
        "--importance",
        type=bool,
        default=False,
        help=_IMPORTANCE_HELP.format(rows=rows, file=file) if rows else SUPPRESS,
    )
    if verb == "study":
        parser.add_class_arguments(StudyFlags, "study")
        add("--space", type=dict[str, Any], default={}, help=SPACE_HELP)
        # A configuration file that a fit wrote has it; a study starts anew or goes on by itself.
        add("--ckpt_path", type=str | None, default=None, help=SUPPRESS)
        return
    checkpoint_help = _CHECKPOINT_HELP + (_RESUME_HELP if is_fit else "")
    add("--ckpt_path", type=str | None, default=None if is_fit else "best", help=checkpoint_help)
    if verb == "predict":
        add("--output", type=str, default="predictions.csv", help=_OUTPUT_HELP)
        add("--keep", type=str | list[str] | None, default=None, help=_KEEP_HELP)
        add("--allow_missing", type=bool, default=False, help=_ALLOW_MISSING_HELP)
        add("--interval", type=float | None, default=None, help=_INTERVAL_HELP)
        add("--exported", type=str | None, default=None, help=_EXPORTED_HELP)
    if verb == "export":
        add("--format", type=str, default="onnx", help=f"What to write: {', '.join(FORMATS)}.")
        output_help = "The file; by default `model`, with the suffix of the format."
        add("--output", type=str | None, default=None, help=output_help)
        add("--overwrite", type=bool, default=False, help="Replace the file if it is there already.")
