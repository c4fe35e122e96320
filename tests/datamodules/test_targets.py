"""The target column tells the task, and says so in one line when it cannot be one."""

import contextlib
import re

import numpy as np
import pyarrow as pa
import pytest

from datamodules import TabularDataModule
from datamodules.errors import DataError
from datamodules.readers.table import Table
from datamodules.targets import check_learnable, check_target, in_order, read_known_target, read_target


def table_of(values, name="y"):
    whole = pa.table({name: values, "other column": pa.nulls(len(values))})
    return Table("t.csv", tuple(whole.column_names), lambda columns: iter(whole.select(list(columns)).to_batches()))


def read(values, task="auto"):
    return read_target(table_of(values), "y", task)


@pytest.mark.parametrize(
    ("values", "task", "names"),
    [
        (["b", "a"] * 5, "classification", ("a", "b")),
        ([True, False] * 5, "classification", ("False", "True")),
        (pa.array(["x", "y"] * 5).dictionary_encode(), "classification", ("x", "y")),
        ([10, 9, 2] * 5, "classification", ("2", "9", "10")),
        (["10", "9", "2"] * 5, "classification", ("2", "9", "10")),
        ([0.0, 1.0] * 5, "classification", ("0", "1")),
        (["0.0", "1.0"] * 5, "classification", ("0", "1")),
        ([0.5, 1.5] * 9, "regression", None),
        (list(range(21)) * 9, "regression", None),
        ([1, 2, 3], "regression", None),
        (["1.5", "2", "3"], "regression", None),
    ],
)
def test_the_task_follows_from_the_column(values, task, names):
    target = read(values)
    assert (target.task, target.class_names) == (task, names)


def test_codes_point_at_the_names():
    target = read(["b", "a", None, "b"] * 3)
    assert target.values[:4].tolist() == [1, 0, -1, 1]
    assert target.missing.sum() == 3
    assert target.counts.tolist() == [3, 6]


def test_amounts_keep_their_gaps_as_nan():
    target = read([1.5, None, 2.5])
    np.testing.assert_array_equal(target.values, [1.5, np.nan, 2.5])
    assert target.missing.tolist() == [False, True, False]


@pytest.mark.parametrize("text", [True, False])
def test_whole_numbers_too_large_for_a_float_stay_apart(text):
    big = [2**53, 2**53 + 1] * 5
    target = read([str(v) for v in big] if text else big)
    assert target.class_names == (str(2**53), str(2**53 + 1))
    assert target.counts.tolist() == [5, 5]


def test_the_user_may_call_whole_numbers_amounts_and_many_of_them_classes():
    assert read([0, 1] * 5, "regression").task == "regression"
    assert len(read(list(range(30)) * 2, "classification").class_names) == 30


@pytest.mark.parametrize(
    ("values", "task", "message"),
    [
        ([0.1 * i for i in range(50)], "classification", "50 different numbers .* no classes"),
        (["a", "b"] * 5, "regression", "needs numbers; the target 'y' holds 'a'"),
        ([None, None], "auto", "no target in any of 2 rows"),
        ([1.0, float("inf"), 2.5], "auto", "has 1 infinite values, the first in row 2"),
        (pa.array([1, 2], pa.timestamp("s")), "auto", "holds dates or times"),
        ([[1], [2]], "auto", "neither numbers nor names"),
        ([], "auto", "a header but no rows"),
        ([str(i) for i in range(99)] + ["n.a."], "auto", "numbers but for 1 cells such as 'n.a.'"),
    ],
)
def test_a_column_that_is_no_target_is_an_error(values, task, message):
    with pytest.raises(DataError, match=message):
        read(values, task)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a"] * 9, "one class, 'a', in all 9 rows"),
        (["a", None, "a"], "one class, 'a', in all 2 rows"),
        ([2.5] * 9, "is 2.5 in all 9 rows"),
        ([f"n{i}" for i in range(9)], "9 classes in 9 rows"),
    ],
)
def test_nothing_to_learn_is_an_error(values, message):
    with pytest.raises(DataError, match=message):
        check_learnable(read(values), "y")


def test_no_target_for_a_file_lists_the_columns():
    with pytest.raises(DataError, match=r"--data.target=NAME; it has 'y', 'other column'"):
        check_target(table_of([1]), None)


def test_a_wrong_target_lists_the_nearest_columns_first():
    with pytest.raises(DataError, match=r"no column 'other colum' .* it has 'other column', 'y'"):
        check_target(table_of([1]), "other colum")


def test_another_file_is_read_with_the_classes_that_are_known():
    target = read_known_target(table_of(["b", None]), "y", "classification", ("a", "b"))
    assert target.values.tolist() == [1, -1]
    assert target.class_names == ("a", "b")


@pytest.mark.parametrize(
    ("values", "task", "message"),
    [
        (["c", "a"], "classification", "classes in 'y' that the training rows lack: 'c'; known are 'a', 'b'"),
        (["c", "a"], "regression", "must be numbers; it holds 'c'"),
        ([], "classification", "a header but no rows"),
    ],
)
def test_another_file_must_hold_what_was_trained_on(values, task, message):
    with pytest.raises(DataError, match=message):
        read_known_target(table_of(pa.array(values, pa.string())), "y", task, ("a", "b"))


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (["10", "9"], ["9", "10"]),
        (["1.5", "-2", "10"], ["-2", "1.5", "10"]),
        (["b", "a", "10"], ["10", "a", "b"]),
        ([str(2**53 + 1), str(2**53)], [str(2**53), str(2**53 + 1)]),
    ],
)
def test_classes_stand_in_numeric_order_if_they_are_numbers_else_alphabetically(names, ordered):
    assert in_order(names) == ordered


@pytest.mark.parametrize("far", [1e300, -1e19, 2e18])
def test_a_target_whose_squares_leave_float32_is_told_which_row_holds_it(far):
    with pytest.raises(DataError, match=r"needs numbers up to 1e\+18.*row 31 holds.*larger units"):
        read([0.5, 1.5, 2.5] * 10 + [far])
    with pytest.raises(DataError, match="row 2 holds"):
        read_known_target(table_of([0.5, far]), "y", "regression", None)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([f"{i}e-200" for i in range(30)], "standard deviation of at least 1e-15.*smaller units"),
        (["0.5"] * 29 + ["0.25"], "is 0.5 in all 20 training rows: nothing to learn"),
    ],
)
def test_a_target_that_is_one_number_to_the_training_is_refused(tmp_path, values, why):
    rows = [f"{i * 7 % 30 / 2},{value}" for i, value in enumerate(values)]
    (tmp_path / "t.csv").write_text("\n".join(["x,y", *rows]) + "\n")
    said = []
    for seed in range(20):  # the one other row is not always held out
        with contextlib.suppress(DataError):
            _ = TabularDataModule(str(tmp_path / "t.csv"), "y", seed=seed, val_fraction=0.2).learned
            continue
        with pytest.raises(DataError) as caught:
            _ = TabularDataModule(str(tmp_path / "t.csv"), "y", seed=seed, val_fraction=0.2).learned
        said.append(str(caught.value))
    assert said
    assert all(re.search(why, line) for line in said)
