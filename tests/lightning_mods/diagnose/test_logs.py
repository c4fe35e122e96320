import gzip
import json
import random
import subprocess
import sys
from math import exp, inf, isnan, nan
from pathlib import Path

import pytest

from callbacks.diagnosis.verdict import diagnose
from lightning_mods.diagnose.command import diagnose_log, find_logs, read_log
from lightning_mods.diagnose.curves import ColumnRequest
from lightning_mods.diagnose.formats import LogError, number

EPOCHS = 30
TRAIN = [round(2 * exp(-e / 8) + 0.05, 6) for e in range(EPOCHS)]
VAL = [round(2 * exp(-e / 5) + 0.4 + 0.03 * max(0, e - 12), 6) for e in range(EPOCHS)]
ACCURACY = [round(0.9 - 0.5 * exp(-e / 5), 6) for e in range(EPOCHS)]
HISTORIES = Path(__file__).parents[4] / "shared" / "curves" / "lightning_logs.jsonl.gz"


def log_of(path, text, *, encoding="utf-8", **asked):
    path.write_text(text, encoding=encoding)
    return read_log(path, ColumnRequest(**asked))


def table(names, *columns, mark=","):
    lines = [mark.join(names), *(mark.join(map(str, row)) for row in zip(*columns, strict=True))]
    return "\n".join(lines) + "\n"


def assert_curves(log, metric=None):
    assert log.curves.train == pytest.approx(TRAIN)
    assert log.curves.val == pytest.approx(VAL)
    assert log.curves.metric == (None if metric is None else pytest.approx(metric))


def test_of_two_names_of_one_loss_the_usual_is_taken_as_in_a_fit(tmp_path):
    text = table(("epoch", "train_loss", "valid_loss", "val_loss"), range(EPOCHS), TRAIN, TRAIN, VAL)
    assert_curves(log_of(tmp_path / "log.csv", text))


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train_loss", "val_loss"),
        ("loss", "val_loss"),
        ("train/loss", "val/loss"),
        ("training_loss", "validation_loss"),
        ("Train Loss", "Valid Loss"),
        ("trainLoss", "valLoss"),
        ("TRAIN_LOSS", "VAL_LOSS"),
        ("loss", "eval_loss"),
        ("tr_loss", "dev_loss"),
        ("loss_train", "loss_val"),
        ("train.loss", "valid.loss"),
        ("train_loss_epoch", "val_loss_epoch"),
        ("train_ce_loss", "val_ce_loss"),
        ("train_loss", "val_loss/dataloader_idx_0"),
        ("train_loss", "test_loss"),
        ("train_mse", "val_mse"),
        ("trainloss", "valloss"),
        ("Training/Loss", "Validation/Loss"),
        ("train_BCELoss", "val_BCELoss"),
    ],
)
def test_the_losses_are_found_by_their_names(tmp_path, train, val):
    others = ["lr", "best_val_loss", "time"]
    text = table(["epoch", train, *others, val], range(EPOCHS), TRAIN, *[VAL[::-1]] * 3, VAL)
    log = log_of(tmp_path / "log.csv", text)
    assert (log.columns.train, log.columns.val) == ((train,), (val,))
    assert_curves(log)


@pytest.mark.parametrize(
    ("mark", "encoding", "pad"),
    [(",", "utf-8", ""), ("\t", "utf-8-sig", ""), (";", "utf-16", ""), ("|", "utf-8", " "), (",", "utf-8", "    ")],
)
def test_separators_byte_order_marks_and_padding_do_not_matter(tmp_path, mark, encoding, pad):
    names = [f"{pad}epoch", f'{pad}"train loss"', f'{pad}"val loss"']
    cells = [[f"{pad}{value}" for value in values] for values in (range(EPOCHS), TRAIN, VAL)]
    assert_curves(log_of(tmp_path / "log.txt", table(names, *cells, mark=mark), encoding=encoding))


def test_decimal_commas_and_spaces_between_columns_are_read(tmp_path):
    comma = table(["epoch", "loss", "val_loss"], range(EPOCHS), TRAIN, VAL, mark=";").replace(".", ",")
    assert_curves(log_of(tmp_path / "a.csv", comma))
    assert_curves(
        log_of(tmp_path / "b.txt", "# " + table(["epoch", "loss", "val_loss"], range(EPOCHS), TRAIN, VAL, mark="  "))
    )


def lightning_text(every=1, restart=0):
    lines = ["epoch,step,train_loss_epoch,train_loss_step,val_loss,val_acc"]
    for first in [0, EPOCHS - restart] if restart else [0]:
        for e in range(first, EPOCHS if first or not restart else EPOCHS - restart // 2):
            off = 1 if restart and not first and e >= EPOCHS - restart else 0  # what the killed run had written
            lines.append(f"{e},{10 * e + 4},,{TRAIN[e] + off},,")
            if e % every == every - 1:
                lines.append(f"{e},{10 * e + 9},,,{VAL[e] + off},{ACCURACY[e]}")
            lines.append(f"{e},{10 * e + 9},{TRAIN[e] + off},,,")
    return "\n".join(lines) + "\n"


def test_interleaved_rows_of_lightning_are_paired_by_epoch(tmp_path):
    log = log_of(tmp_path / "metrics.csv", lightning_text())
    assert_curves(log, ACCURACY)
    assert log.columns.train == ("train_loss_epoch",)
    assert (log.kind, log.curves.unit) == ("Lightning metrics", "epoch")


def test_several_rows_an_epoch_give_the_mean_of_training_and_the_last_of_validation(tmp_path):
    text = "epoch,step,train_loss,val_loss\n"
    for e in range(EPOCHS):
        text += f"{e},{10 * e + 2},{TRAIN[e] - 0.01},\n{e},{10 * e + 4},,9\n"
        text += f"{e},{10 * e + 7},{TRAIN[e] + 0.01},\n{e},{10 * e + 9},,{VAL[e]}\n"
    assert_curves(log_of(tmp_path / "metrics.csv", text))


def test_validation_every_third_epoch_leaves_the_others_empty(tmp_path):
    log = log_of(tmp_path / "metrics.csv", lightning_text(every=3))
    assert log.curves.train == pytest.approx(TRAIN)
    assert log.curves.val == [VAL[e] if e % 3 == 2 else None for e in range(EPOCHS)]


@pytest.mark.parametrize("with_step", [True, False])
def test_of_a_restarted_log_the_later_rows_win(tmp_path, with_step):
    text = lightning_text(restart=8)
    if not with_step:
        text = "\n".join(line.split(",")[0] + "," + ",".join(line.split(",")[2:]) for line in text.splitlines())
    assert_curves(log_of(tmp_path / "metrics.csv", text), ACCURACY)


@pytest.mark.parametrize("order", ["shuffled", "reversed"])
def test_rows_out_of_order_are_sorted(tmp_path, order):
    header, *rows = lightning_text().splitlines()
    rows = rows[::-1] if order == "reversed" else random.Random(0).sample(rows, len(rows))
    assert_curves(log_of(tmp_path / "metrics.csv", "\n".join([header, *rows])), ACCURACY)


def test_without_an_epoch_column_an_evaluation_is_a_point(tmp_path):
    lines = [line.partition(",")[2] for line in lightning_text().splitlines()]
    log = log_of(tmp_path / "metrics.csv", "\n".join(lines))
    assert_curves(log, ACCURACY)
    assert log.curves.unit == "evaluation"
    assert log.curves.places[:2] == [9, 19]


def test_many_evaluations_of_few_epochs_are_points_of_their_own(tmp_path):
    text = "epoch,step,train_loss,val_loss\n"
    text += "".join(f"{e // 15},{10 * e},{TRAIN[e]},\n{e // 15},{10 * e + 5},,{VAL[e]}\n" for e in range(EPOCHS))
    log = log_of(tmp_path / "metrics.csv", text)
    assert_curves(log)
    assert log.curves.unit == "evaluation"


def test_without_any_count_rows_are_points(tmp_path):
    log = log_of(tmp_path / "a.csv", table(["train_loss", "val_loss"], TRAIN, VAL))
    assert_curves(log)
    assert log.curves.unit == "row"
    text = "train_loss,val_loss\n" + "".join(f",{v}\n{t},\n" for t, v in zip(TRAIN, VAL, strict=True))
    assert_curves(log_of(tmp_path / "b.csv", text))


def test_nan_is_a_hole_between_numbers_and_an_end_at_the_end(tmp_path):
    text = "epoch,loss,val_loss\n" + "".join(f"{e},{TRAIN[e]},nan\n{e},nan,{VAL[e]}\n" for e in range(EPOCHS))
    assert_curves(log_of(tmp_path / "holes.csv", text))
    text = table(["epoch", "loss", "val_loss"], range(10), [*TRAIN[:7], *["NaN"] * 3], [*VAL[:7], *["nan"] * 3])
    log = log_of(tmp_path / "end.csv", text)
    assert [isnan(value) for value in log.curves.val] == [False] * 7 + [True] * 3
    assert diagnose_log(log).diagnosis.fit == "diverged"


def test_missing_cells_stay_missing(tmp_path):
    gaps = ["NA" if e == 5 else "" if e == 6 else v for e, v in enumerate(VAL)]
    log = log_of(tmp_path / "a.csv", table(["epoch", "loss", "val_loss"], range(EPOCHS), TRAIN, gaps))
    assert log.curves.val == [None if e in (5, 6) else v for e, v in enumerate(VAL)]


def test_epochs_from_one_are_counted_from_zero_and_that_is_said(tmp_path):
    log = log_of(tmp_path / "a.csv", table(["epoch", "loss", "val_loss"], range(1, EPOCHS + 1), TRAIN, VAL))
    assert_curves(log)
    assert log.notes == ("epochs are counted from 0, which is the log's 1",)


@pytest.mark.parametrize("shape", ["plain", "wrapped", "pandas", "single"])
def test_keras_history_is_read(tmp_path, shape):
    history = {"loss": TRAIN, "accuracy": ACCURACY[::-1], "val_loss": VAL, "val_accuracy": ACCURACY}
    found = {
        "plain": history,
        "wrapped": {"history": history, "epoch": list(range(EPOCHS)), "params": {"epochs": EPOCHS, "steps": 9}},
        "pandas": {name: {str(i): v for i, v in enumerate(values)} for name, values in history.items()},
        "single": {name: [[v] for v in values] for name, values in history.items()},
    }[shape]
    log = log_of(tmp_path / "history.json", json.dumps(found))
    assert_curves(log, ACCURACY)
    assert log.curves.unit == "epoch"


def test_a_history_with_fewer_validations_is_spread_over_its_epochs(tmp_path):
    log = log_of(tmp_path / "h.json", json.dumps({"loss": TRAIN, "val_loss": VAL[1::2]}))
    assert log.curves.val == [v if e % 2 else None for e, v in enumerate(VAL)]


def test_keras_csv_logger_is_read(tmp_path):
    names = ["epoch", "accuracy", "loss", "val_accuracy", "val_loss"]
    log = log_of(tmp_path / "training.log", table(names, range(EPOCHS), ACCURACY[::-1], TRAIN, ACCURACY, VAL))
    assert_curves(log, ACCURACY)
    assert log.kind == "Keras log"


def trainer_state(per_epoch=1.0):
    history = []
    for e in range(EPOCHS):
        for part in (1, 2):
            change = 0.01 * (-1) ** part
            row = {"grad_norm": 1.0, "learning_rate": 1e-5, "loss": TRAIN[e] + change, "step": 20 * e + 10 * part}
            history.append({"epoch": round((e + part / 2) * per_epoch, 2), **row})
        row = {"eval_accuracy": ACCURACY[e], "eval_loss": VAL[e], "eval_runtime": 1.1, "step": 20 * e + 20}
        history.append({"epoch": round((e + 1) * per_epoch, 2), **row})
    end = {"epoch": EPOCHS * per_epoch, "step": 20 * EPOCHS}
    history.append({**end, "total_flos": 1e15, "train_loss": 0.4, "train_runtime": 9.0})
    history.append({**end, "eval_loss": min(VAL), "eval_accuracy": 0.1})  # the best weights, loaded at the end
    return json.dumps({"best_metric": None, "global_step": 20 * EPOCHS, "log_history": history}, indent=2)


@pytest.mark.parametrize(("per_epoch", "unit"), [(1.0, "epoch"), (0.13, "evaluation")])
def test_a_trainer_state_is_paired_by_evaluation(tmp_path, per_epoch, unit):
    log = log_of(tmp_path / "trainer_state.json", trainer_state(per_epoch))
    assert_curves(log, ACCURACY)
    assert (log.columns.train, log.columns.val, log.columns.metric) == (("loss",), ("eval_loss",), "eval_accuracy")
    assert log.curves.unit == unit


def test_the_parts_of_a_yolo_loss_are_summed(tmp_path):
    parts = ["box", "cls", "dfl"]
    names = ["epoch", *(f"train/{p}_loss" for p in parts), "metrics/mAP50(B)", "metrics/mAP50-95(B)"]
    names += [*(f"val/{p}_loss" for p in parts), "lr/pg0"]
    third = [[value / 3 for value in values] for values in (TRAIN, VAL)]
    columns = [range(1, EPOCHS + 1), *[third[0]] * 3, ACCURACY[::-1], ACCURACY, *[third[1]] * 3, [0.01] * EPOCHS]
    padded = [[f"{value:23.8g}" for value in column] for column in columns]
    log = log_of(tmp_path / "results.csv", table([name.rjust(23) for name in names], *padded))
    assert log.curves.train == pytest.approx(TRAIN, rel=1e-6)
    assert log.curves.val == pytest.approx(VAL, rel=1e-6)
    assert log.columns.metric == "metrics/mAP50-95(B)"
    assert log.kind == "YOLO results"


def test_json_lines_may_be_nested_lack_keys_and_end_torn(tmp_path):
    rows = []
    for e in range(EPOCHS):
        rows.append({"_step": 2 * e, "epoch": e, "train": {"loss": TRAIN[e]}, "histogram": {"bins": [1, 2]}})
        rows.append({"_step": 2 * e + 1, "epoch": e, "val": {"loss": VAL[e], "acc": ACCURACY[e]}, "note": "x"})
    log = log_of(tmp_path / "history.jsonl", "\n".join(map(json.dumps, rows)) + '\n{"_step": 99, "tra')
    assert_curves(log, ACCURACY)
    assert log.columns.val == ("val/loss",)
    assert log.notes == ("1 of 61 lines are no JSON and were left out",)


def test_json_lines_that_end_in_infinity_have_diverged(tmp_path):
    rows = [
        {"epoch": e, "loss": inf if e > 7 else TRAIN[e], "val_loss": "Infinity" if e > 7 else VAL[e]} for e in range(10)
    ]
    log = log_of(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert log.curves.val[-1] == inf
    assert diagnose_log(log).diagnosis.fit == "diverged"


@pytest.mark.parametrize("form", ["json", "csv"])
def test_stages_named_in_a_column_are_told_apart(tmp_path, form):
    rows = [(e, stage, v) for e in range(EPOCHS) for stage, v in (("train", TRAIN[e]), ("val", VAL[e]))]
    text = table(["epoch", "phase", "loss"], *zip(*rows, strict=True))
    if form == "json":
        text = "\n".join(json.dumps({"mode": stage, "epoch": e, "loss": v}) for e, stage, v in rows)
    assert_curves(log_of(tmp_path / "log", text))


def test_a_table_exported_from_a_dashboard_is_read(tmp_path):
    run = "good-river-12 - "
    names = ["Step", f"{run}train_loss", f"{run}train_loss__MIN", f"{run}val_loss", f"{run}val_loss__MAX"]
    text = table([f'"{name}"' for name in names], range(EPOCHS), TRAIN, TRAIN, VAL, VAL)
    assert_curves(log_of(tmp_path / "wandb_export.csv", text))


def test_columns_may_be_named_whatever_their_case(tmp_path):
    text = table(["t", "a", "b", "err"], range(EPOCHS), TRAIN, VAL, ACCURACY)
    log = log_of(tmp_path / "x.csv", text, train=["A"], val=["b"], metric="err", epoch="t")
    assert_curves(log, ACCURACY)
    assert (log.columns.metric_mode, log.columns.epoch) == ("min", "t")


def test_training_alone_is_unknown_because_validation_is_missing(tmp_path):
    judged = diagnose_log(log_of(tmp_path / "x.csv", table(["epoch", "loss"], range(EPOCHS), TRAIN)))
    assert (judged.diagnosis.fit, judged.diagnosis.cause) == ("unknown", "no_validation")
    assert "--val" in judged.log.notes[0]


def test_the_verdict_is_that_of_diagnose_on_the_curves(tmp_path):
    log = log_of(tmp_path / "metrics.csv", lightning_text())
    plain = diagnose(TRAIN, VAL, val_metric=ACCURACY, baseline_loss=2.0, framework=log.kind)
    assert diagnose_log(log, 2.0).diagnosis == plain


@pytest.mark.parametrize(
    ("content", "asked", "says"),
    [
        (b"", {}, "empty"),
        (b" \n", {}, "empty"),
        (b"# \n#\n", {}, "neither"),
        (b'epoch,"loss\n0,1\n1,2\n', {}, "header only"),
        (b"epoch,train_loss,val_loss\n", {}, "header only"),
        (b"0,1.5,2.5\n1,1.4,2.4\n", {}, "columns' names"),
        (bytes(range(256)), {}, "neither"),
        (b"a\0b", {}, "neither"),
        (b"[1, 2]", {}, "another shape"),
        (b'{"a": {"b": "c"}}', {}, "this holds a"),
        (b"{}", {}, "nothing"),
        (b'{"a": [1, 2', {}, "JSON"),
        (b"a,b\n1,2\n", {}, "no loss is found.*a, b"),
        (b"loss,val_a_loss,val_b_loss\n1,2,3\n2,3,4\n", {}, "--val; name one of val_a_loss, val_b_loss"),
        (b"loss,val_loss\n1,2\n", {"val": ["val_los"]}, "did you mean val_loss"),
        (b"loss,val_loss,x\n1,2,abc\n", {"val": ["x"]}, "column of numbers; it holds `abc`"),
        (b"loss,val_loss,x\n1,2,\n", {"metric": "x"}, "empty cells only"),
    ],
)
def test_what_is_no_log_is_said_in_one_line(tmp_path, content, asked, says):
    path = tmp_path / "log"
    path.write_bytes(content)
    with pytest.raises(LogError, match=says) as error:
        read_log(path, ColumnRequest(**asked))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cell", "means"),
    [
        ("1e-3", 0.001),
        ("0,5", 0.5),
        ("tensor(0.25, grad_fn=<NllLossBackward0>)", 0.25),
        ("-Infinity", -inf),
        ([2], 2.0),
        ("N/A", None),
        (None, None),
        ("abc", "abc"),
        (True, "True"),
    ],
)
def test_cells_are_numbers_empty_or_words(cell, means):
    assert number(cell) == means


def test_nan_in_a_cell_is_kept():
    assert isnan(number(nan))
    assert isnan(number("NaN"))


def test_folders_and_patterns_stand_for_the_logs_in_them(tmp_path):
    for name in (
        "a/metrics.csv",
        "b/c/results.csv",
        "d/checkpoint-9/trainer_state.json",
        "d/checkpoint-10/trainer_state.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "other.csv").touch()
    found = {path.relative_to(tmp_path).as_posix(): sure for path, sure in find_logs([str(tmp_path)]).items()}
    sure = ["a/metrics.csv", "b/c/results.csv", "d/checkpoint-10/trainer_state.json"]
    assert found == {**dict.fromkeys(sure, True), "a/other.csv": False}
    assert find_logs([f"{tmp_path}/*/metrics.csv"]) == {tmp_path / "a" / "metrics.csv": True}
    assert find_logs([str(tmp_path), f"{tmp_path}/a/*.csv"])[tmp_path / "a" / "other.csv"]
    (tmp_path / "e").mkdir()
    for nothing in ("e", "nope", "*.nope"):
        with pytest.raises(LogError, match="there is no"):
            find_logs([str(tmp_path / nothing)])


@pytest.mark.skipif(not HISTORIES.exists(), reason=f"the histories are not there: {HISTORIES.name}")
def test_real_logs_of_lightning_all_get_a_verdict(tmp_path):
    fits = []
    with gzip.open(HISTORIES, "rt") as file:
        for number_, line in enumerate(file):
            run = json.loads(line)
            rows = [(s, e, v, "") for s, e, v in run["train"]] + [(s, e, "", v) for s, e, v in run["val"]]
            rows.sort(key=lambda row: row[:2])
            lines = [f"step,epoch,{run['train_key']},{run['val_key']}", *(",".join(map(str, row)) for row in rows)]
            log = log_of(tmp_path / f"{number_}.csv", "\n".join(lines))
            last = {epoch: value for _, epoch, value in run["val"]}
            assert [value for value in log.curves.val if value is not None] == [last[e] for e in sorted(last)]
            fits.append(diagnose_log(log).diagnosis.fit)
    assert len(fits) == 177
    assert fits.count("unknown") < 18  # a tenth: some are noise


def test_reading_text_needs_no_torch():
    heavy = {"torch", "numpy", "tensorboard", "matplotlib", "pytorch_lightning"}
    code = f"import sys, lightning_mods.diagnose; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
