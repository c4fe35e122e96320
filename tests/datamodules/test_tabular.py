"""The data module as a whole: what it promises to a trainer, to the CLI and to a search."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

from datamodules import DataError, TabularDataModule, preparation


def tensors(dm, stage):
    rows = dm._work.rows(stage)
    return rows.x, rows.y


def ready(*args, **kwargs):
    dm = TabularDataModule(*args, **kwargs)
    dm.prepare_data()
    dm.setup("fit")
    return dm


def test_arguments_read_back_as_given():
    given = {"path": "iris", "target": "target", "task": "auto", "batch_size": 8, "seed": 3, "memory_map": False}
    given |= {"val_fraction": 0.2, "test_fraction": 0.1, "val_path": None, "test_path": None, "predict_path": "p.csv"}
    given |= {"categorical": ["a"], "drop": ["b"], "drop_missing_target": True, "bins": 16}
    dm = TabularDataModule(**given)
    for name in given.keys() - {"task"}:
        assert getattr(dm, name) == given[name]
    assert dict(dm.hparams) == given


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"val_fraction": 1.0}, "val_fraction must be at least 0 and below 1"),
        ({"test_fraction": -0.1}, "test_fraction must be at least 0"),
        ({"val_fraction": float("nan")}, "val_fraction must be"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "leave no training rows"),
        ({"batch_size": 0}, 'a whole number of at least 1, "auto" or "full"; got 0'),
        ({"batch_size": "big"}, "got 'big'"),
        ({"batch_size": True}, "got True"),
        ({"batch_size": 2.5}, "got 2.5"),
        ({"task": "ranking"}, "--data.task must be one of 'auto', 'classification', 'regression'; got 'ranking'"),
        ({"bins": -1}, "--data.bins must be 0 \\(none\\) or a whole number from 2 to 256; got -1"),
        ({"bins": 1}, "got 1"),
        ({"bins": 257}, "got 257"),
        ({"bins": True}, "got True"),
        ({"bins": 2.5}, "got 2.5"),
        ({"memory_map": "yes"}, "--data.memory_map must be one of"),
    ],
)
def test_a_wrong_argument_is_refused_at_once(kwargs, message):
    with pytest.raises(DataError, match=message):
        TabularDataModule("iris", **kwargs)


@pytest.mark.parametrize(("name", "task", "classes"), [("iris", "classification", 3), ("diabetes", "regression", None)])
def test_everything_can_be_asked_right_after_init(name, task, classes):
    dm = TabularDataModule(name)
    assert dm.task == task
    assert dm._work.known is None  # the task cost a look at the target alone
    assert dm.num_classes == classes
    assert dm.in_features == len(dm.feature_names)
    assert (dm.class_names is None) == (dm.class_counts is None) == (classes is None)
    assert (dm.target_mean is None) == (dm.target_std is None) == (classes is not None)
    assert dm.n_train == (sum(dm.class_counts) if classes else 310)


def test_target_statistics_are_those_of_the_training_rows():
    dm = ready("diabetes")
    y = tensors(dm, "train")[1].double()
    assert dm.target_mean == pytest.approx(y.mean().item())
    assert dm.target_std == pytest.approx(y.std(correction=0).item())


def test_batches_hold_float32_features_and_targets_in_their_own_units(mixed):
    x, y = next(iter(ready("iris").train_dataloader()))
    assert (x.dtype, y.dtype, x.shape[1]) == (torch.float32, torch.int64, 4)
    x, y = next(iter(ready(mixed(), "amount").train_dataloader()))
    assert (x.dtype, y.dtype) == (torch.float32, torch.float32)
    assert y.mean().item() == pytest.approx(1, abs=3)


def test_a_target_that_float32_would_blur_is_float64(write):
    path = write("t.csv", "x,y\n" + "".join(f"{i % 13},{1e9 + i % 7 + 0.25}\n" for i in range(100)))
    assert tensors(ready(path, "y"), "train")[1].dtype == torch.float64


def test_features_and_targets_belong_to_the_same_row(write):
    path = write(
        "t.csv", "x,c,y\n" + "".join(f"{i * i % 997},k{i * i % 997 % 2},{i * i % 997}.5\n" for i in range(600))
    )
    dm = ready(path, "y")
    for stage in ("train", "val", "test"):
        x, y = tensors(dm, stage)
        scale = dm.learned.encoding.columns[0]
        np.testing.assert_allclose(x[:, 0] * scale.scale + scale.mean + 0.5, y, rtol=1e-4, atol=1e-3)
        assert torch.equal(x[:, 2], (y - 0.5) % 2)


def test_nothing_is_learned_from_rows_held_out(write):
    def table(held_out_value):
        dm = TabularDataModule(write("a.csv", base), "y", seed=1)
        lines = base.splitlines()
        for row in [*dm._work.splits.val, *dm._work.splits.test]:
            cells = lines[row + 1].split(",")
            lines[row + 1] = f"{held_out_value},{cells[1]}"
        return ready(write("b.csv", "\n".join(lines)), "y", seed=1)

    base = "x,y\n" + "\n".join(f"{i % 17},{'ab'[i % 2]}" for i in range(200))
    one, other = table("5"), table("-1000000")
    assert one.learned.to_plain() == other.learned.to_plain()
    assert torch.equal(tensors(one, "train")[0], tensors(other, "train")[0])


CYCLES = (("year", 2), ("week", 3))
WAVES = [f"when {wave} {k} of the {cycle}" for cycle, n in CYCLES for k in range(1, n + 1) for wave in ("sin", "cos")]


def test_every_column_of_a_mixed_table_goes_where_it_should(mixed):
    dm = TabularDataModule(mixed(), "kind", drop=["amount"])
    assert dm.feature_names == [
        "size", "gappy", "gappy is missing", "junky", "junky is missing", "colour=blue", "colour=green", "colour=red",
        "colour is infrequent", "colour is missing", "flag=False", "flag=True", "when", *WAVES,
    ]  # fmt: skip
    assert {k: v.split(":")[0] for k, v in dm.learned.encoding.dropped.items()} == {
        "amount": "as asked",
        "id": "only counts the rows",
        "who": "text or identifier",
        "same": "constant",
    }


def test_the_description_tells_what_became_of_the_table(mixed):
    text = TabularDataModule(mixed(), "kind", drop=["amount"]).description
    for part in (
        "mixed.csv, 400 rows",
        "target: 'kind', classification, 2 classes: big, small",
        "23 from 3 number and 2 category columns and 1 of dates; gaps in gappy, junky, colour",
        "when: dates",
        "junky: numbers; 14 cells such as '?' count as missing",
        "rare categories share one feature in colour (1 of 4)",
        "rows: 280 train, 60 validation, 60 test (stratified by class, seed 0)",
        "batch size: 32 (auto)",
    ):
        assert part in text


def test_a_class_too_small_to_share_is_told(write):
    path = write("t.csv", "x,y\n" + "".join(f"{i % 7},{'ab'[i % 2] if i else 'rare'}\n" for i in range(60)))
    assert "too few rows to share out, all in training: class 'rare'" in TabularDataModule(path, "y").description


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"drop": ["siez"]}, "--data.drop names 'siez'; .* has 'size'"),
        ({"categorical": ["flga"]}, "--data.categorical names 'flga'; .* has 'flag'"),
        ({"drop": ["kind"]}, "--data.drop names the target 'kind'"),
        ({"categorical": ["kind"]}, "--data.categorical names the target 'kind'; say --data.task=classification"),
        ({"drop": ["flag"], "categorical": ["flag"]}, "both name 'flag'"),
        ({"target": None}, "Give --data.target=NAME; it has 'id', 'size'"),
        ({"target": "kidn"}, "no column 'kidn' for a target; it has 'kind'"),
        ({"batch_size": 281}, "batch_size=281 exceeds the 280 training rows"),
    ],
)
def test_what_the_table_does_not_have_is_an_error(mixed, kwargs, message):
    with pytest.raises(DataError, match=message):
        ready(mixed(), **{"target": "kind", **kwargs})


def test_missing_targets_are_an_error_until_the_user_lets_them_go(write):
    path = write("t.csv", "x,y\n" + "".join(f"{i % 7},{'' if i % 10 == 0 else i % 3 / 2}\n" for i in range(60)))
    with pytest.raises(DataError, match=r"missing in 6 rows; --data.drop_missing_target=true drops them"):
        ready(path, "y")
    dm = ready(path, "y", drop_missing_target=True)
    assert sum(len(tensors(dm, s)[1]) for s in ("train", "val", "test")) == 54
    assert not tensors(dm, "train")[1].isnan().any()
    assert "6 without a target left out" in dm.description


def test_infinities_in_a_used_column_are_an_error_and_in_a_dropped_one_are_not(write):
    path = write("t.csv", "x,z,y\n" + "".join(f"{'inf' if i == 5 else i % 7},{i % 5},{i % 2}\n" for i in range(60)))
    with pytest.raises(DataError, match=r"'x' has 1 infinite value, the first in row 6 .*--data.drop=\[x\]"):
        ready(path, "y")
    assert ready(path, "y", drop=["x"]).feature_names == ["z"]


@pytest.mark.parametrize(
    ("rows", "batch_size", "resolved"),
    [(20, "auto", 8), (20, "full", 14), (60, "auto", 32), (20_000, "auto", 64), (20_000, 7, 7), (150_000, "auto", 512)],
)
def test_the_batch_size_is_what_was_asked_for_or_a_sensible_power_of_two(write, rows, batch_size, resolved):
    path = write("t.csv", "x,y\n" + "".join(f"{i % 7},{i % 2}\n" for i in range(rows)))
    assert TabularDataModule(path, "y", batch_size=batch_size).resolved_batch_size == resolved


def test_a_search_may_change_the_batch_size_of_a_copy_and_shares_the_work():
    dm = ready("iris", batch_size=16)
    other = copy.copy(dm)
    other.batch_size = 64
    assert len(next(iter(other.train_dataloader()))[1]) == 64
    assert len(next(iter(dm.train_dataloader()))[1]) == 16
    assert other.train_dataloader().dataset is dm.train_dataloader().dataset
    other.batch_size = -1
    with pytest.raises(DataError, match="got -1"):
        other.train_dataloader()


def test_a_module_travels_to_a_spawned_process(mixed):
    dm = ready(mixed(), "kind", val_path=mixed("v.csv", 50, 1))
    other = pickle.loads(pickle.dumps(dm))  # noqa: S301 - our own bytes
    assert torch.equal(tensors(other, "val")[0], tensors(dm, "val")[0])
    assert other.description == dm.description


def test_the_table_is_read_once_however_much_is_asked(mixed, monkeypatch):
    opened = []
    real = preparation.open_table
    monkeypatch.setattr(preparation, "open_table", lambda path, *a, **k: opened.append(path) or real(path, *a, **k))
    dm = TabularDataModule(mixed(), "kind")
    again = copy.copy(dm)
    _ = dm.task, dm.in_features, again.description, again.task, dm.class_counts
    dm.setup("fit")
    again.setup("fit")
    _ = list(again.train_dataloader()), dm.val_dataloader(), dm.baseline("val")
    assert len(opened) == 1


@pytest.mark.parametrize(("target", "held_out"), [("kind", []), ("amount", []), ("kind", ["v.csv"])])
def test_a_csv_is_opened_and_parsed_once_for_the_task_and_a_fit(mixed, monkeypatch, target, held_out):
    opened, parsed = [], []
    open_table, open_csv = preparation.open_table, pyarrow.csv.open_csv
    monkeypatch.setattr(
        preparation, "open_table", lambda path, *a, **k: opened.append(path) or open_table(path, *a, **k)
    )
    monkeypatch.setattr(pyarrow.csv, "open_csv", lambda *args, **kwargs: parsed.append(1) or open_csv(*args, **kwargs))
    dm = TabularDataModule(mixed(), target, val_path=mixed(held_out[0], 50, 1) if held_out else None)
    _ = dm.task
    dm.prepare_data()
    dm.setup("fit")
    _ = dm.description, dm.baseline("test"), list(dm.train_dataloader())
    assert len(opened) == len(parsed) == 1 + len(held_out)


def test_a_target_that_is_not_there_is_refused_before_the_table_is_read(mixed, monkeypatch):
    monkeypatch.setattr(pyarrow.csv, "open_csv", None)
    with pytest.raises(DataError, match="has no column 'kin'"):
        _ = TabularDataModule(mixed(), "kin").task


@pytest.mark.parametrize("stage", ["val", "test"])
def test_without_a_share_or_a_file_there_is_no_loader(stage):
    dm = ready("iris", val_fraction=0, test_fraction=0)
    assert getattr(dm, f"{stage}_dataloader")() == []
    assert dm.n_train == 150
    assert np.isnan(dm.baseline(stage)["accuracy"])


def test_files_of_their_own_replace_the_shares(mixed):
    dm = ready(
        mixed(), "kind", val_path=mixed("v.csv", 50, 1), test_path=mixed("w.csv", 30, 2), drop_missing_target=True
    )
    assert (dm.n_train, len(tensors(dm, "val")[1]), len(tensors(dm, "test")[1])) == (400, 50, 30)
    assert "400 train, 50 validation, 30 test" in dm.description


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x,y\n1,c\n", "classes in 'y' that the training rows lack: 'c'"),
        ("z,y\n1,a\n", "lacks the column 'x'"),
        ("x,z\n1,a\n", "no column 'y' for a target"),
        ("x,y\nfoo,a\n", "'x' held numbers in the training rows"),
        ("x,y\n1,\n", "missing in 1 row;"),
        ("x,y\n", "a header but no rows"),
        ("x,y\ninf,a\n", "'x' has 1 infinite value"),
    ],
)
def test_a_file_to_validate_on_must_fit_the_training_table(write, content, message):
    path = write("t.csv", "x,y\n" + "".join(f"{i % 7},{'ab'[i % 2]}\n" for i in range(60)))
    with pytest.raises(DataError, match=message):
        ready(path, "y", val_path=write("v.csv", content))


def test_prediction_keeps_the_order_of_rows_and_needs_no_target(mixed, write):
    dm = TabularDataModule(mixed(), "kind", drop=["amount"])
    dm.setup("fit")
    lines = Path(dm.path).read_text().splitlines()
    columns = [c.split(",") for c in lines[:6]]
    # columns in another order, rows reversed, no target
    order = [3, 1, 6, 2, 4, 5]
    body = [columns[0], *reversed(columns[1:])]
    dm.predict_path = write("p.csv", "\n".join(",".join(r[i] for i in order) for r in body))
    (x,) = list(dm.predict_dataloader())
    dm.predict_path = write("q.csv", "\n".join(lines[:6]))
    assert torch.equal(x, next(iter(dm.predict_dataloader())).flip(0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x\n", "a header but no rows"),
        ("z\n1\n", "lacks the column 'x'"),
        ("x\nfoo\n", "1 cells are text, such as 'foo'"),
    ],
)
def test_a_file_that_cannot_be_predicted_for_is_an_error(write, content, message):
    path = write("t.csv", "x,y\n" + "".join(f"{i % 7},{'ab'[i % 2]}\n" for i in range(60)))
    dm = ready(path, "y", predict_path=write("p.csv", content))
    with pytest.raises(DataError, match=message):
        list(dm.predict_dataloader())
    with pytest.raises(DataError, match=r"--data.predict_path=FILE"):
        ready(path, "y").predict_dataloader()


def test_the_seed_is_lightnings_unless_one_is_given(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert TabularDataModule("iris").learned.seed == 7
    assert TabularDataModule("iris", seed=2).learned.seed == 2
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert TabularDataModule("iris").learned.seed == 0


def test_the_baseline_is_measured_on_the_stage_asked_for():
    dm = ready("breast_cancer")
    y = tensors(dm, "test")[1]
    assert dm.class_names == ["benign", "malignant"]
    assert dm.baseline("test")["accuracy"] == pytest.approx((y == 0).double().mean().item())
    reg = ready("diabetes")
    y = tensors(reg, "val")[1].double()
    assert reg.baseline("val")["mae"] == pytest.approx((y - reg.target_mean).abs().mean().item(), rel=1e-5)
    with pytest.raises(DataError, match="stage must be one of 'val', 'test'; got 'train'"):
        reg.baseline("train")


@pytest.mark.parametrize(
    ("columns", "features"),
    [
        ({"a b.c": [1.0, 5.0] * 20}, ["a b.c"]),
        ({"größe": ["S", "L"] * 20}, ["größe=L", "größe=S"]),
        ({"big": [2**60, 2**61] * 20}, ["big"]),
        ({"flag": [True, None, False, None] * 10}, ["flag=False", "flag=True", "flag is missing"]),
        ({"u": pa.array([1, 200] * 20, pa.uint8()), "d": pa.array([0.5, 1.5] * 20, pa.float16())}, ["u", "d"]),
    ],
)
def test_unusual_columns_are_encoded(tmp_path, columns, features):
    path = tmp_path / "t.parquet"
    pa.parquet.write_table(pa.table({**columns, "y": ["p", "p", "q", "q"] * 10}), path)
    dm = ready(str(path), "y")
    assert dm.feature_names == features
    assert all(torch.isfinite(tensors(dm, s)[0]).all() for s in ("train", "val", "test"))


def test_a_table_of_twenty_equal_rows_of_each_class_works(write):
    dm = ready(write("t.csv", "x,y\n" + "1,a\n2,b\n" * 10), "y")
    assert [len(tensors(dm, s)[1]) for s in ("train", "val", "test")] == [14, 3, 3]


def test_a_table_with_nothing_but_its_target_is_an_error(write):
    with pytest.raises(DataError, match="no column left to learn from"):
        ready(write("t.csv", "y\n" + "a\nb\n" * 20), "y")


def test_what_was_learned_is_plain_and_survives_json_and_a_safe_torch_load(mixed, tmp_path):
    dm = ready(mixed(), "amount", drop=["kind"])
    state = dm.state_dict()
    assert json.loads(json.dumps(state)) == state
    torch.save(state, tmp_path / "s.pt")
    assert torch.load(tmp_path / "s.pt", weights_only=True) == state
    assert TabularDataModule("iris").state_dict() == {}


def test_a_loaded_state_predicts_without_the_training_file(mixed):
    old = ready(mixed(), "kind")
    new = TabularDataModule("gone.csv", "kind", predict_path=old.path)
    new.load_state_dict(json.loads(json.dumps(old.state_dict())))
    new.prepare_data()
    new.setup("predict")
    (x,) = list(new.predict_dataloader())
    old.predict_path = old.path
    assert torch.equal(x, next(iter(old.predict_dataloader())))
    assert (new.task, new.in_features, new.class_counts) == (old.task, old.in_features, old.class_counts)


@pytest.mark.parametrize("memory_map", [False, True])
def test_a_loaded_state_tests_on_the_rows_it_was_not_trained_on(mixed, memory_map):
    old = ready(mixed(), "kind", seed=5, test_fraction=0.3)
    new = TabularDataModule(old.path, "kind", memory_map=memory_map)
    new.load_state_dict(old.state_dict())
    new.setup("test")
    new.test_dataloader()
    for mine, theirs in zip(tensors(new, "test"), tensors(old, "test"), strict=True):
        assert torch.equal(mine, theirs)


def test_a_loaded_state_tests_on_a_file_without_the_training_file(mixed):
    old = ready(mixed(), "kind")
    new = TabularDataModule("gone.csv", "kind", test_path=mixed("w.csv", 30, 2))
    new.load_state_dict(old.state_dict())
    assert sum(len(y) for _, y in new.test_dataloader()) == 30
    assert new.baseline("test")["auroc"] == 0.5


def test_a_state_that_comes_after_setup_is_followed_all_the_same(mixed):
    old = ready(mixed(), "kind", seed=5)
    new = ready(old.path, "kind", seed=6)
    assert not torch.equal(tensors(new, "train")[0], tensors(old, "train")[0])
    new.load_state_dict(old.state_dict())
    assert torch.equal(tensors(new, "train")[0], tensors(old, "train")[0])


@pytest.mark.parametrize("before_setup", [True, False])
def test_a_table_that_changed_since_the_checkpoint_is_an_error(mixed, before_setup):
    state = ready(mixed(), "kind").state_dict()
    new = TabularDataModule(mixed(rows=399), "kind")
    if before_setup:
        new.load_state_dict(state)
        with pytest.raises(
            DataError, match="has changed: the checkpoint was trained when it had 400 rows, now it has 399"
        ):
            new.setup("fit")
    else:
        new.setup("fit")
        with pytest.raises(
            DataError, match="has changed: the checkpoint was trained when it had 400 rows, now it has 399"
        ):
            new.load_state_dict(state)


def test_a_state_of_another_task_or_version_is_an_error(mixed):
    dm = ready(mixed(), "amount")
    with pytest.raises(DataError, match="trained with the target 'kind'"):
        dm.load_state_dict(ready(mixed(), "kind").state_dict())
    with pytest.raises(DataError, match="has version 99; 1 is needed"):
        dm.load_state_dict({**dm.state_dict(), "version": 99})
