"""The package's face costs nothing until a name is used, and errors stay on one line."""

import subprocess
import sys
from pathlib import Path

import pytest

import datamodules
from datamodules.errors import DataError, nearest, shortened


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import datamodules", ["torch", "numpy", "pandas"]),
        ("from datamodules import DataError", ["torch", "numpy", "pandas"]),
        ("from datamodules import TabularDataModule; TabularDataModule('iris')", ["pandas", "sklearn", "pyarrow"]),
    ],
)
def test_what_is_not_used_is_not_imported(statement, absent):
    code = f"import sys\n{statement}\nprint([m for m in {absent} if m in sys.modules])"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "[]"


def test_the_face_knows_its_names():
    assert {"DataError", "TabularDataModule"} <= set(dir(datamodules))
    assert datamodules.DataError is DataError
    with pytest.raises(AttributeError, match="has no attribute 'Tabular'; it has"):
        _ = datamodules.Tabular


def test_a_data_error_is_a_value_error_of_one_line():
    assert str(DataError("a\n  b\tc")) == "a b c"
    assert issubclass(DataError, ValueError)


def test_the_nearest_name_comes_first_and_long_lists_are_cut():
    assert nearest("Taget", ["zeta", "target", "age"]).startswith("'target'")
    assert shortened(range(5), 3) == "0, 1, 2 and 2 more"
    assert shortened(["a"], 3) == "a"
