"""Tables in memory are read as files are: the same features from a frame and from the Parquet file of it."""

import copy
import json
import pickle
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from callbacks.host.lightning import Trainer
from datamodules import DataError, TabularDataModule
from lightning_mods import MLPRegressor

ROWS = 240


@pytest.fixture(scope="module")
def frame():
    """A column of each sort that pandas has, under an index that says nothing."""
    rng = np.random.default_rng(0)

    def gaps(values):
        return [None if i % 7 == 0 else v for i, v in enumerate(values)]

    amounts = rng.normal(size=ROWS)
    columns = {
        "amount": np.where(rng.random(ROWS) < 0.1, np.nan, amounts),
        "small": rng.integers(-9, 9, ROWS).astype(np.int8),
        "single": rng.normal(size=ROWS).astype(np.float32),
        "kind": pd.Categorical(gaps(rng.choice(["a", "b", "c"], ROWS)), categories=["c", "b", "a", "never"]),
        "flag": rng.random(ROWS) < 0.5,
        "maybe": pd.array(gaps(rng.random(ROWS) < 0.5), dtype="boolean"),
        "count": pd.array(gaps(rng.integers(0, 50, ROWS)), dtype="Int64"),
        "name": gaps(rng.choice(["red", "green"], ROWS)),
        "text": pd.array(rng.choice(["x", "y"], ROWS), dtype="string"),
        "price": [Decimal(f"{v:.2f}") for v in rng.normal(100, 3, ROWS)],
        "day": pd.date_range("2024-02-01", periods=ROWS, freq="9h"),
        "zoned": pd.date_range("2024-02-01", periods=ROWS, freq="9h", tz="Europe/Berlin"),
        "lasted": pd.to_timedelta(rng.integers(0, 9999, ROWS), unit="s"),
        "same": 7,
        "target": 3 * amounts + rng.normal(size=ROWS),
    }
    return pd.DataFrame(columns, index=rng.permutation(ROWS))


def batches(data):
    data.setup("fit")
    found = [*data.val_dataloader(), *data.test_dataloader(), *data.train_dataloader()]
    return [torch.cat([part[0] for part in found]), torch.cat([part[1] for part in found])]


def same(one, other):
    assert one.feature_names == other.feature_names
    for mine, theirs in zip(batches(one), batches(other), strict=True):
        assert torch.equal(mine, theirs)


@pytest.fixture(scope="module")
def from_file(frame, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    frame.to_parquet(path, index=False)
    return lambda **how: TabularDataModule(str(path), "target", bins=4, **how)


def kinds(frame):
    polars = pytest.importorskip("polars", reason="not installed: pip install polars")
    yield frame
    yield pa.Table.from_pandas(frame, preserve_index=False)
    yield polars.from_pandas(frame)
    yield pa.table(polars.from_pandas(frame)).combine_chunks().to_batches()[0]
    yield {name: frame[name] for name in frame}
    yield frame.reset_index(drop=True).convert_dtypes(dtype_backend="pyarrow")


def test_a_table_in_memory_gives_the_features_of_its_parquet_file(frame, from_file):
    for data in kinds(frame):
        same(TabularDataModule(data=data, target="target", bins=4), from_file())


def test_categories_of_numbers_are_categories_which_a_parquet_file_forgets(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"code": pd.Categorical(rng.integers(3, 6, 60)), "y": rng.normal(size=60)})
    frame.to_parquet(tmp_path / "t.parquet")
    data = TabularDataModule(data=frame, target="y")
    assert data.feature_names == ["code=3", "code=4", "code=5"]
    same(data, TabularDataModule(str(tmp_path / "t.parquet"), "y", categorical=["code"]))


def test_only_the_other_protocol_of_data_frames_is_enough(frame):
    class Bare:
        def __init__(self, held):
            self.held = held

        def __dataframe__(self, **how):
            return self.held.__dataframe__(**how)

    numbers = pa.Table.from_pandas(frame[["small", "single", "target"]], preserve_index=False)
    same(TabularDataModule(data=Bare(numbers), target="target"), TabularDataModule(data=numbers, target="target"))


def test_an_array_has_the_columns_of_one_in_an_npz_file(tmp_path):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(ROWS, 3)), rng.integers(0, 2, ROWS)
    np.savez(tmp_path / "table.npz", X=x, y=y)
    data = TabularDataModule(data=x, target=pd.Series(y, name="y"))
    same(data, TabularDataModule(str(tmp_path / "table.npz"), "y"))
    assert data.feature_names == ["X_0", "X_1", "X_2"]
    same(data, TabularDataModule(data={"X": x, "y": y}, target="y"))


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (lambda y: y, "target"),
        (lambda y: y.tolist(), "target"),
        (lambda y: y[:, None], "target"),
        (lambda y: pa.array(y), "target"),
        (lambda y: torch.tensor(y), "target"),
        (lambda y: pd.Series(y, name="cost"), "cost"),
        (lambda y: pd.DataFrame({"cost": y}), "cost"),
        (lambda y: pd.Series(y, name=5), "5"),
    ],
)
def test_a_target_beside_the_data_is_one_more_column_and_keeps_its_name(target, name):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(ROWS, 2)), rng.normal(size=ROWS)
    data = TabularDataModule(data=x, target=target(y))
    assert (data.target, data.hparams["target"]) == (name, name)
    same(data, TabularDataModule(data={"X": x, name: y}, target=name))


def test_a_column_of_mixed_types_is_read_as_text_would_be(write):
    cells = ["1.5", 2, 3.0, None, float("nan"), pd.NA, np.int64(7), "?", Decimal("4.5"), True, *range(90)]
    frame = pd.DataFrame({"m": cells, "y": np.arange(100.0) % 31})
    path = write("mixed.csv", "m,y\n" + "\n".join(f"{'' if pd.isna(m) else m},{y}" for m, y in frame.to_numpy()) + "\n")
    same(TabularDataModule(data=frame, target="y"), TabularDataModule(path, "y"))


def test_what_was_learned_is_the_same_and_the_data_are_nowhere_written(frame, from_file):
    data = TabularDataModule(data=frame, target="target", bins=4)
    assert data.learned == from_file().learned
    assert data.hparams["path"] == "<DataFrame>"
    assert "data" not in data.hparams
    json.dumps([dict(data.hparams), data.state_dict()])
    assert data.description.startswith("data: <DataFrame>, 240 rows")


def test_copies_share_the_table(frame):
    data = TabularDataModule(data=frame, target="target")
    for other in (data.like(batch_size=16), copy.copy(data), pickle.loads(pickle.dumps(data))):  # noqa: S301  # our own
        same(other, data)
    data.setup("fit")  # which lets go of the table
    same(data.like(seed=3), TabularDataModule(data=frame, target="target", seed=3))


def test_rows_of_another_frame_are_encoded_to_be_predicted(frame, from_file, tmp_path):
    data, new = TabularDataModule(data=frame, target="target", bins=4), frame.drop(columns="target").iloc[::-1]
    new.to_parquet(tmp_path / "new.parquet", index=False)
    (mine,) = data.predict_dataloader(new)
    (theirs,) = from_file(predict_path=str(tmp_path / "new.parquet")).predict_dataloader()
    assert torch.equal(mine, theirs)
    with pytest.raises(DataError, match="'<DataFrame>' lacks"):
        data.predict_dataloader(new.drop(columns="kind"))


def test_a_fit_does_not_go_on_with_another_frame(frame, tmp_path):
    def trained(data, **how):
        model = MLPRegressor(data.in_features, data.target_mean, data.target_std, hidden_sizes=[4])
        trainer = Trainer(
            max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
            enable_checkpointing=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(model, datamodule=data, weights_only=True, **how)
        return trainer

    path = tmp_path / "last.ckpt"
    trained(TabularDataModule(data=frame, target="target")).save_checkpoint(path)
    trained(TabularDataModule(data=frame.copy(), target="target"), ckpt_path=path)
    with pytest.raises(DataError, match=r"'<DataFrame>' has changed: .* it had 240 rows, now it has 239"):
        trained(TabularDataModule(data=frame.iloc[1:], target="target"), ckpt_path=path)


X = {"x": range(30)}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"data": X}, "Which column of '<dict>' shall be predicted"),
        ({"data": X, "target": "y"}, "'<dict>' has no column 'y' for a target"),
        ({"data": X, "target": [1, 2]}, "The target has 2 values, and '<dict>' has 30 rows"),
        ({"data": X, "target": pd.Series(range(30), name="x")}, "has a column 'x', and the target given beside it"),
        ({"data": X, "target": np.zeros((30, 2))}, "The target needs one column; it has 2"),
        ({"data": {"x": [1], "y": [1, 2]}, "target": "y"}, "all arrays need the same number of rows; found x: 1, y: 2"),
        ({"data": pd.DataFrame([[1, 2]], columns=["a", "a"]), "target": "a"}, "columns of the same name: 'a'"),
        ({"data": np.zeros(3), "target": [1, 2, 3]}, "an array of two dimensions; it is of type ndarray of shape (3,)"),
        ({"data": "table.csv", "target": "y"}, "needs a data frame, an Arrow table, a dict"),
        ({"data": {}, "target": "y"}, "'<dict>' has no columns"),
        ({"data": np.zeros((3, 1), complex), "target": [1, 2, 3]}, "column 'X_0' of '<ndarray>' has shape (3,)"),
        ({"data": {"x": [1, {}, "a"]}, "target": "x"}, "holds cells of the types dict, int, str; needed are numbers"),
        ({"path": "iris", "data": X, "target": "x"}, "give no `path` beside it"),
        ({"data": X, "target": "x", "memory_map": True}, "no memory_map=true"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(how, said):
    with pytest.raises(DataError) as refused:
        _ = TabularDataModule(**how).learned
    assert said in str(refused.value)


def test_the_table_of_a_checkpoint_from_memory_is_asked_for(tmp_path):
    with pytest.raises(DataError, match="The table was one in memory, <DataFrame>; give a file"):
        _ = TabularDataModule("<DataFrame>", "y").learned


def test_polars_categories_come_from_a_feather_file_too(tmp_path):
    polars = pytest.importorskip("polars", reason="not installed: pip install polars")
    rng = np.random.default_rng(0)
    columns = {"c": rng.choice(["a", "b"], 60), "x": rng.normal(size=60)}
    frame = polars.DataFrame(columns).with_columns(polars.col("c").cast(polars.Categorical))
    frame.write_ipc(tmp_path / "t.feather", compat_level=polars.CompatLevel.newest())
    same(TabularDataModule(data=frame, target="x"), TabularDataModule(str(tmp_path / "t.feather"), "x"))


def test_polars_writes_what_parquet_gives_back(tmp_path):
    polars = pytest.importorskip("polars", reason="not installed: pip install polars")
    rng = np.random.default_rng(0)
    columns = {"c": rng.choice(["a", "b"], 60), "x": rng.normal(size=60)}
    frame = polars.DataFrame(columns).with_columns(polars.col("c").cast(polars.Categorical))
    frame.write_parquet(tmp_path / "t.parquet")
    same(TabularDataModule(data=frame, target="x"), TabularDataModule(str(tmp_path / "t.parquet"), "x"))
