"""What is written otherwise than meant is said: codes, separators, names that differ in case."""

import pytest

from datamodules import DataError, TabularDataModule
from datamodules.readers import table


@pytest.fixture
def told(write):
    """Describe a table with a column `x` of these cells; `y`, the target, alternates between some names."""

    def describe(cells, targets=("a", "b"), **kwargs):
        cells = [cells(i) for i in range(60)] if callable(cells) else cells * (60 // len(cells))
        rows = [f'"{cell}",{i % 7 + i / 100},"{targets[i % len(targets)]}"' for i, cell in enumerate(cells)]
        path = write("t.csv", "\n".join(["x,z,y", *rows]) + "\n")
        dm = TabularDataModule(path, "y", test_path=path, **kwargs)
        dm.setup("fit")
        return dm.description.replace("\n    ", " "), dm

    return describe


def numbers(i):
    return f"{i * 37 % 60 / 7:.3f}"


@pytest.mark.parametrize("share", [2, 5, 30])
def test_infinities_among_numbers_are_one_line_however_many_there_are(told, share):
    with pytest.raises(DataError, match=r"column 'x' has \d+ infinite values?, the first in row 1 .*--data.drop"):
        told(lambda i: ["inf", "-Infinity", "1e400"][i // share % 3] if i % share == 0 else numbers(i))


def test_a_number_column_whose_gaps_are_spelt_in_capitals_is_numbers(told):
    text, dm = told(lambda i: "NAN" if i % 3 == 0 else numbers(i))
    assert "2 number and 0 category columns; gaps in x" in text
    assert dm.learned.encoding.columns[0].kind == "numeric"


@pytest.mark.parametrize("number", ["1,{:03}", "{}.000,5", "{}%", "{} %", "${}", "{},5", "€ {}", "{} 000"])
def test_numbers_with_signs_or_separators_are_read_and_it_is_said_how(told, number):
    text, dm = told(lambda i: number.format(i * 7 % 59 + 1))
    assert "x: numbers written with" in text
    (column,) = [column for column in dm.learned.encoding.columns if column.name == "x"]
    assert (column.kind, column.junk, column.indicator) == ("numeric", False, False)


@pytest.mark.parametrize("cell", ["10.0.0.{}", "v{}", "2.{}.1", "a{}%"])
def test_addresses_and_versions_are_text_or_identifiers(told, cell):
    text, _ = told(lambda i: cell.format(i + 1))
    assert "left out: x (text or identifier" in text


def test_codes_with_leading_zeros_are_numbers_and_it_is_said_what_would_keep_them(told):
    text, _ = told(lambda i: f"{i * 991 % 5000:05d}")
    assert "x: numbers, of '00000' too; if it is a code, --data.categorical=[x]" in text
    assert "if it is a code" not in told(numbers)[0]


@pytest.mark.parametrize("cells", [["Red", "red", "blue", "blue"], ["a  b", "a b", "c", "c"]])
def test_categories_that_differ_in_case_or_spaces_alone_are_named(told, cells):
    text, _ = told(cells)
    assert f"x: taken as different are {cells[0]!r}, {cells[1]!r}" in text


@pytest.mark.parametrize("targets", [("01", "02"), ("1e0", "2"), ("+1", "-1"), ("-0", "1"), ("007", "7")])
def test_a_class_is_called_what_the_file_calls_it(told, targets):
    assert {*told(numbers, targets)[1].class_names} == {*targets}


def test_classes_that_differ_in_case_or_look_like_numbers_are_named(told):
    assert "y: taken as different are 'Yes', 'yes'" in told(numbers, ("Yes", "yes", "no"))[0]
    assert "y: names; if '10%' is meant as a number" in told(numbers, ("10%", "20%"))[0]


@pytest.mark.parametrize("memory_map", [True, False])
def test_names_that_begin_after_the_first_chunk_are_counted_from_the_first_row_on(told, monkeypatch, memory_map):
    cells = [str(i % 3) for i in range(20)] + ["x", "y"] * 20
    whole = told(cells, memory_map=memory_map)[1].learned.encoding.columns[0]
    monkeypatch.setattr(table, "CHUNK_ROWS", 10)
    assert told(cells, memory_map=memory_map)[1].learned.encoding.columns[0] == whole
    assert set(whole.categories) == {"0", "1", "2", "x", "y"}


def test_a_category_of_numbers_with_gaps_knows_that_they_are_missing(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    code = [None if i % 4 == 0 else i % 3 for i in range(60)]
    pq.write_table(pa.table({"x": code, "y": ["a", "b"] * 30}), tmp_path / "t.parquet")
    dm = TabularDataModule(str(tmp_path / "t.parquet"), "y", categorical=["x"])
    assert dm.feature_names == ["x=0", "x=1", "x=2", "x is missing"]
